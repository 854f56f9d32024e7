"""What both drivers of this directory share: a scratch directory that never stays, runs with a time limit, and the report.

A run is made in a process group of its own and is ended as a group.  The scratch directory lies in /dev/shm, because that is
where arenas live, and is removed by a small guardian process when the driver ends, however it ends.
"""

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.geteuid() == 0


class Outcome:
    """How a run ended: status as subprocess has it (negative: signal), both outputs as text."""

    def __init__(self, arguments, status, out, err):
        self.arguments, self.status, self.out, self.err = arguments, status, out, err

    def reports(self):
        """The lines that the library under test wrote."""
        return [line for line in self.err.splitlines() if line.startswith('bartender')]

    def __str__(self):
        name = ' '.join(str(argument) for argument in self.arguments)
        return (f'{name[:400]}\n  status {self.status}\n  stdout: {self.out[-1500:]!r}\n'
                f'  stderr: {self.err[-3000:]!r}')


class TimedOut(AssertionError):
    pass


def scratch_directory():
    """A fresh directory, removed when this process ends, also by SIGKILL: a guardian waits for our end of its pipe."""
    path = tempfile.mkdtemp(prefix='bartender-test-', dir='/dev/shm' if os.path.isdir('/dev/shm') else None)
    guardian = subprocess.Popen(['/bin/sh', '-c', 'trap "" INT TERM HUP; read line; rm -rf "$1"', 'sh', path],
                                stdin=subprocess.PIPE, start_new_session=True)

    def release():
        guardian.stdin.close()
        guardian.wait()

    atexit.register(release)
    return path


def stop_on_signals():
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(3))


def end_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def start(arguments, environment, directory=None, limits=(), **options):
    """Starts a program in a group of its own; `limits` are (resource, value) pairs for the program alone."""

    def prepare():
        import resource
        for which, value in limits:
            resource.setrlimit(which, (value, value))

    return subprocess.Popen([str(argument) for argument in arguments], env=environment, cwd=directory,
                            start_new_session=True, preexec_fn=prepare if limits else None, **options)


def run(arguments, environment, timeout_s=60, stdin=None, **options):
    """Runs to the end; a run past its time limit is a failure and is killed with its children."""
    # Files, not pipes: a daemon that outlives the program must not keep us waiting.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        source = subprocess.DEVNULL
        if stdin is not None:
            source = tempfile.TemporaryFile()
            source.write(stdin if isinstance(stdin, bytes) else stdin.encode())
            source.seek(0)
        process = start(arguments, environment, stdin=source, stdout=out, stderr=err, **options)
        timed_out = False
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            end_group(process)
            if stdin is not None:
                source.close()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors='backslashreplace'))
        outcome = Outcome(arguments, process.returncode, *texts)
    if timed_out:
        raise TimedOut(f'no end within {timeout_s} s: {outcome}')
    return outcome


def clean_environment(home):
    """The environment of every run: nothing of ours leaks in, nothing depends on the caller's settings."""
    return {'PATH': '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin', 'HOME': home, 'LANG': 'C.UTF-8', 'TERM': 'dumb',
            'TMPDIR': home}


def arenas_in(directory):
    """Paths of all files below `directory` that could be arenas; not those of an arena's far memory."""
    return sorted(os.path.join(base, name) for base, _, names in os.walk(directory) for name in names if not name.endswith('.far'))


def empty(directory):
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


class LineResult(unittest.TestResult):
    """One line a case as it ends; what failed is told again at the end."""

    def startTest(self, test):
        super().startTest(test)
        self.started_s = time.monotonic()
        self.sub_failures = 0

    def line(self, verdict, test, reason=''):
        spent_s = time.monotonic() - self.started_s
        print(f'{verdict:7} {spent_s:6.2f} s  {test.id().split(".", 1)[-1]}{reason}', flush=True)

    def addSuccess(self, test):
        self.passed = getattr(self, 'passed', 0) + 1
        self.line('ok', test)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.line('FAILED', test)

    def addError(self, test, error):
        super().addError(test, error)
        self.line('ERROR', test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.line('skipped', test, f': {reason}')

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.sub_failures += 1
            self.line('FAILED', subtest)


def main(module, pattern=None):
    """Runs all cases of `module` whose name has `pattern` and ends with the line `N passed, N failed`."""
    stop_on_signals()
    suite = unittest.TestLoader().loadTestsFromModule(module)
    cases = []

    def collect(part):
        for item in part:
            if isinstance(item, unittest.TestSuite):
                collect(item)
            elif pattern is None or re.search(pattern, item.id()):
                cases.append(item)

    collect(suite)
    result = LineResult()
    result.passed = 0
    unittest.TestSuite(cases).run(result)
    broken = result.failures + result.errors
    for test, trace in broken:
        print(f'\n--- {test.id()}\n{trace}')
    for test, reason in result.skipped:
        print(f'skipped: {test.id().split(".", 1)[-1]}: {reason}')
    print(f'{result.passed} passed, {len(broken)} failed', flush=True)
    sys.exit(1 if broken or result.passed == 0 else 0)
