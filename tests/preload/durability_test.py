#!/usr/bin/python3
"""Programs under BARTENDER_DURABILITY=lazy and strict: as they are without, on tmpfs and on a file of a disk.

    durability_test.py LIBRARY PROGRAM_DIRECTORY [BARTENDER_TOOL] [--only PATTERN]

The programs are those of compat_test.py, and Python and sqlite3 where they are installed.  On a disk a drain is an msync, so the
runs there route large sizes only.
"""

import argparse
import os
import shutil
import sys
import tempfile

import compat_test
import driver
from driver import arenas_in, run

LEVELS = ('lazy', 'strict')

# What goes through every door of the library: each function, threads, fork, thread exit, trimming, misuse.
PROGRAMS = ('zero_sizes', 'alignment', 'aliases', 'errno_kept', 'usable_size', 'realloc_contents', 'calloc_zero', 'operator_new',
            'statistics', 'preinit', 'tsd_destructors', 'live_threads', 'short_threads', 'remote_free', 'exit_allocations',
            'kernel_access', 'fork_snapshot', 'fork_from_thread', 'signals', 'foreign_pointers')
# Few large blocks each.
DISK_PROGRAMS = ('zero_sizes', 'usable_size', 'realloc_contents', 'calloc_zero', 'fork_snapshot', 'foreign_pointers')
PYTHON = '/usr/bin/python3'
PYTHON_TEXT = '''
import ctypes, hashlib, json, os, threading
def work(seed, out):
    data = {str(i): [(seed * i) % 97] * 20 for i in range(COUNT)}
    out[seed] = hashlib.sha256(json.dumps(data).encode() * 30).hexdigest()
out = {}
threads = [threading.Thread(target=work, args=(seed, out)) for seed in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(out.items()), os.environ["TZ"], os.popen("echo $TZ").read())
if "LD_PRELOAD" in os.environ: assert ctypes.CDLL(None).btd_active() == 1
'''
SQL = '''
create table t(id integer primary key, name text, data blob);
with recursive n(i) as (select 1 union all select i + 1 from n where i < COUNT)
  insert into t select i, 'name ' || (i * 7919 % 1000), zeroblob(1 + i % 50) from n;
create index by_name on t(name);
select count(*), sum(length(data)), min(name), max(name) from t;
delete from t where id % 3 = 0;
vacuum;
select name, count(*) from t group by name order by 2 desc, 1 limit 5;
pragma integrity_check;
'''


class Case(compat_test.Case):

    def level_environment(self, level, place, threshold):
        result = self.environment(DURABILITY=level, THRESHOLD=threshold, ARENA=os.path.join(place, '%e%n.arena'))
        result['COMPAT_ARENA_DIR'] = place
        result['TZ'] = 'UTC'
        return result

    def disk(self):
        """A directory that is on no tmpfs; skips without one."""
        path = tempfile.mkdtemp(prefix='bartender-durability-', dir='.')
        self.addCleanup(shutil.rmtree, path, ignore_errors=True)
        path = os.path.abspath(path)
        if os.stat(path).st_dev == os.stat('/dev/shm').st_dev:
            self.skipTest('the build directory is on tmpfs')
        return path

    def check_program(self, name, environment, place):
        options = compat_test.PROGRAM_RUNS[name]
        outcome = run([compat_test.program(options.get('program', name)), *options.get('arguments', [])], environment,
                      timeout_s=150)
        self.check_passed(outcome, silent=options.get('silent', True))
        self.assertEqual(arenas_in(place), [], f'a good end leaves nothing behind\n{outcome}')

    def check_same(self, arguments, level, place, threshold, stdin=None):
        """Status and output are those of a run without the library."""
        told = {}
        for mode in (None, level):
            environment = self.plain() if mode is None else self.level_environment(level, place, threshold)
            environment['TZ'] = 'UTC'
            outcome = run(arguments, environment, stdin=stdin, timeout_s=150)
            self.check_passed(outcome)
            told[mode] = (outcome.out, outcome.err)
        self.assertTrue(told[None][0])
        self.assertEqual(told[level], told[None])

    def check_crash(self, level, place):
        """Killed in its work, it leaves an arena that checks clean and is recovered at the same level."""
        environment = self.level_environment(level, place, '16K')
        environment['BARTENDER_ARENA'] = path = os.path.join(place, 'crash.arena')
        text = ('import os, signal; keep = [bytearray(b"x" * (20000 + i)) for i in range(20)]; del keep[::2]; '
                'os.kill(os.getpid(), signal.SIGKILL)')
        for _ in range(2):
            outcome = run([PYTHON, '-c', text], environment)
            self.check_passed(outcome, status=-9)
            self.assertTrue(os.path.exists(path))
            if compat_test.tool_is_there():
                checked = run([compat_test.TOOL, 'check', path], self.plain())
                self.assertEqual(checked.status, 0, f'bartender check\n{checked}')


class Tmpfs(Case):
    pass


class Disk(Case):
    pass


def add_cases():
    for level in LEVELS:

        def add(case, name, test, level=level):
            setattr(case, f'test_{name}_{level}', lambda self: test(self, level))

        for name in PROGRAMS:
            add(Tmpfs, name, lambda self, level, name=name: self.check_program(
                name, self.level_environment(level, self.place, '0'), self.place))
        for name in DISK_PROGRAMS:
            def on_disk(self, level, name=name):
                place = self.disk()
                self.check_program(name, self.level_environment(level, place, '16K'), place)
            add(Disk, name, on_disk)
        python = [PYTHON, '-c', PYTHON_TEXT.replace('COUNT', '200')]
        add(Tmpfs, 'python', lambda self, level, python=python: self.check_same(python, level, self.place, '0'))
        add(Disk, 'python', lambda self, level, python=python: self.check_same(python, level, self.disk(), '16K'))
        for case, threshold, count in ((Tmpfs, '0', 5000), (Disk, '16K', 200)):
            def sqlite(self, level, case=case, threshold=threshold, count=count):
                if shutil.which('sqlite3') is None:
                    self.skipTest('sqlite3 is not installed (package sqlite3)')
                place = self.place if case is Tmpfs else self.disk()
                self.check_same(['sqlite3', ':memory:'], level, place, threshold, stdin=SQL.replace('COUNT', str(count)))
            add(case, 'sqlite', sqlite)
        add(Tmpfs, 'killed', lambda self, level: self.check_crash(level, self.place))
        add(Disk, 'killed', lambda self, level: self.check_crash(level, self.disk()))


add_cases()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('library')
    parser.add_argument('programs')
    parser.add_argument('tool', nargs='?')
    parser.add_argument('--only')
    arguments = parser.parse_args()
    compat_test.LIBRARY = os.path.abspath(arguments.library)
    compat_test.PROGRAMS = os.path.abspath(arguments.programs)
    compat_test.TOOL = arguments.tool and os.path.abspath(arguments.tool)
    compat_test.SCRATCH = driver.scratch_directory()
    driver.main(sys.modules['__main__'], arguments.only)


if __name__ == '__main__':
    main()
