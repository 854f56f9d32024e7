#!/usr/bin/python3
"""The Python module, with Debian's interpreter and numpy; preloaded and loaded by itself.

  python_test.py LIBBARTENDER.SO BARTENDER.PY
"""

import os
import signal
import sys
import textwrap
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'preload'))

# pylint: disable=wrong-import-position
import driver

LIBRARY, MODULE = (os.path.abspath(path) for path in sys.argv[1:3])
SCRATCH = driver.scratch_directory()


class Python(unittest.TestCase):
    preload = False

    def setUp(self):
        driver.empty(SCRATCH)
        self.environment = dict(driver.clean_environment(SCRATCH), PYTHONPATH=os.path.dirname(MODULE),
                                LIBBARTENDER=LIBRARY, PYTHONDONTWRITEBYTECODE='1',
                                BARTENDER_ARENA=os.path.join(SCRATCH, '%e%n.arena'))
        if self.preload:
            self.environment['LD_PRELOAD'] = LIBRARY
            del self.environment['LIBBARTENDER']

    def run_text(self, text, status=0):
        prefix = f'import bartender, numpy, os, signal\npath = {os.path.join(SCRATCH, "job.arena")!r}\n'
        outcome = driver.run([sys.executable, '-c', prefix + textwrap.dedent(text)], self.environment)
        self.assertEqual(outcome.status, status, outcome)
        return outcome

    def test_killed_and_restarted(self):
        self.run_text('''
            with bartender.open(path, size="256M") as a:
                x = a.array("state", (100, 50), "float64")
                assert x.shape == (100, 50) and x.dtype == "float64" and (x == 0).all()
                x[:] = numpy.arange(5000.0).reshape(100, 50)
                os.kill(os.getpid(), signal.SIGKILL)
            ''', -signal.SIGKILL)
        self.run_text('''
            with bartender.open(path) as a:
                x = a.array("state", (100, 50), "float64")
                assert (x == numpy.arange(5000.0).reshape(100, 50)).all()
                y = a.array("state")
                y[3, 4] = -1
                assert x[3, 4] == -1
            ''')
        self.run_text('''
            with bartender.open(path, create=False) as a:
                assert a.array("state")[3, 4] == -1
            ''')

    def test_mismatch_is_named(self):
        self.run_text('''
            a = bartender.open(path, size="64M")
            a.array("one", (3, 4), "int32")
            for shape, dtype, text in (((4, 3), "int32", "shape"), ((3, 4), "int64", "dtype"), (12, None, "shape")):
                try:
                    a.array("one", shape, dtype)
                except ValueError as error:
                    assert "'one'" in str(error) and text in str(error), error
                else:
                    assert False
            for call, kind in ((lambda: a.array("none"), KeyError), (lambda: a.remove("none"), KeyError),
                               (lambda: a.array("n" * 64, 3), ValueError), (lambda: a.array("", 3), ValueError),
                               (lambda: a.array("o", 3, object), TypeError),
                               (lambda: a.array("big", 10**9), bartender.BartenderError)):
                try:
                    call()
                except kind as error:
                    assert not kind is OSError or error.errno
                else:
                    assert False, kind
            assert a.names() == ["one"]
            ''')

    def test_names_and_remove(self):
        self.run_text('''
            with bartender.open(path, size="64M") as a:
                for i in range(20):
                    for k in range(10):
                        a.array(f"a{k}", (1000, 100), "f4")[:] = k
                    assert a.names() == [f"a{k}" for k in range(10)]
                    for k in range(10):
                        assert (a.array(f"a{k}") == k).all()
                        a.remove(f"a{k}")
                assert a.names() == []
            ''')

    def test_kinds(self):
        self.run_text('''
            kinds = [("u1", 7), ("complex128", ()), ("datetime64[ns]", (2, 2)), ("S5", 3), ("f8", (0, 3)),
                     (numpy.dtype([("a", "i4"), ("b", "f8")]), 5), (">i4", 2)]
            a = bartender.open(path, size="64M")
            for i, (kind, shape) in enumerate(kinds):
                x = a.array(f"{i}", shape, kind)
                assert x.dtype == numpy.dtype(kind), x.dtype
            a.array("5")["b"] = 2.5
            a.array("1")[()] = 3j
            del x
            a.close()
            a = bartender.open(path)
            assert (a.array("5", 5, kinds[5][0])["b"] == 2.5).all() and a.array("1")[()] == 3j
            ''')

    def test_transaction(self):
        self.run_text('''
            a = bartender.open(path, size="64M")
            x = a.array("x", 1000)
            with a.transaction() as t:
                t.add(x)
                x[:] = 1
            try:
                with a.transaction() as t:
                    t.add(x[10:20])
                    x[10:20] = 2
                    a.array("undone", 5)
                    raise RuntimeError("undo")
            except RuntimeError:
                pass
            assert (x == 1).all() and a.names() == ["x"]
            with a.transaction() as t:
                t.add(x)
                x[:] = 3
                os.kill(os.getpid(), signal.SIGKILL)
            ''', -signal.SIGKILL)
        self.run_text('''
            with bartender.open(path) as a:
                assert (a.array("x") == 1).all()
                a.persist(a.array("x"))
            ''')

    def test_arrays_outlive_the_with(self):
        self.run_text('''
            with bartender.open(path, size="64M") as a:
                x = a.array("x", 1000)
            x[:] = 4
            assert x.sum() == 4000
            try:
                a.names()
            except ValueError as error:
                assert "closed" in str(error)
            view = x[5:]
            del x
            view[:] = 5
            del view
            with bartender.open(path) as a:   # it was closed with the last view
                assert a.array("x")[999] == 5
            ''')

    def test_two_processes(self):
        self.run_text('''
            import errno, subprocess, sys
            a = bartender.open(path, size="64M")
            code = f"import bartender\\nbartender.open({path!r})"
            other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert other.returncode == 1 and "busy" in other.stderr and "in use by process" in other.stderr, other
            ''')


class PythonPreloaded(Python):
    preload = True


if __name__ == '__main__':
    driver.main(sys.modules['__main__'])
