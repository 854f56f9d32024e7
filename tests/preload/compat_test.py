#!/usr/bin/python3
"""Black-box tests of libbartender.so, one or more for each line of COMPAT.md.

    compat_test.py LIBRARY PROGRAM_DIRECTORY [BARTENDER_TOOL] [--only PATTERN]

Most ideas are a small program in programs/, which exits with 0 when the idea holds.  Each runs under LD_PRELOAD with every
size routed to the arena (BARTENDER_THRESHOLD=0) and with the default settings; every run checks that an arena was really used,
that a good end leaves nothing behind, and that a kept arena checks clean.
"""

import argparse
import os
import re
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import unittest

import driver
from driver import ROOT, arenas_in, run

LIBRARY = PROGRAMS = TOOL = SCRATCH = None
TEXT = b'the data of a program that died'  # what use_arena writes into its blocks
MIB = 1 << 20


def program(name):
    return os.path.join(PROGRAMS, 'compat_' + name)


def tool_is_there():
    return TOOL is not None and os.access(TOOL, os.X_OK)


def file_holds(path, text):
    """Whether a sparse file holds `text`, reading only what is there."""
    with open(path, 'rb') as file:
        end = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < end:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                return False
            hole = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            while offset < hole:
                part = os.pread(file.fileno(), min(hole - offset, 8 * MIB), offset)
                if text in part:
                    return True
                offset += len(part) if len(part) < 100 or offset + len(part) >= hole else len(part) - 99
    return False


class Case(unittest.TestCase):
    """Every case has an empty directory for its arenas."""

    maxDiff = 4000

    def setUp(self):
        self.place = os.path.join(SCRATCH, 'arenas')
        self.home = os.path.join(SCRATCH, 'home')
        for path in (self.place, self.home):
            os.makedirs(path, exist_ok=True)
            driver.empty(path)

    def environment(self, preload=None, expect_arena=1, **settings):
        """Environment of a preloaded run; settings without the prefix BARTENDER_, None removes one."""
        result = driver.clean_environment(self.home)
        result['LD_PRELOAD'] = LIBRARY if preload is None else preload
        result['BARTENDER_ARENA'] = os.path.join(self.place, '%e%n.arena')
        result['COMPAT_ARENA_DIR'] = self.place
        if expect_arena is not None:
            result['COMPAT_EXPECT_ARENA'] = str(expect_arena)
        for name, value in settings.items():
            key = name if name.startswith('COMPAT_') else 'BARTENDER_' + name
            if value is None:
                result.pop(key, None)
            else:
                result[key] = value
        return result

    def plain(self):
        return driver.clean_environment(self.home)

    def check_passed(self, outcome, silent=True, status=0):
        self.assertEqual(outcome.status, status, str(outcome))
        self.assertNotIn('cannot be preloaded', outcome.err, 'ld.so could not load the library')
        if silent:
            self.assertEqual(outcome.reports(), [], f'the library has nothing to say here\n{outcome}')

    def check_nothing_left(self, outcome=''):
        self.assertEqual(arenas_in(self.place), [], f'a good end leaves nothing behind\n{outcome}')

    def check_arenas_clean(self, count=None):
        """Every kept arena is one, and the checker finds nothing wrong."""
        paths = arenas_in(self.place)
        self.assertTrue(paths, 'an arena is left')
        if count is not None:
            self.assertEqual(len(paths), count, paths)
        for path in paths:
            with open(path, 'rb') as file:
                header = file.read(72)
            self.assertEqual(header[:8], b'BARTEND1', f'{path} has the magic of an arena')
            self.assertEqual(struct.unpack_from('<I', header, 64)[0], resource.getpagesize(), 'recorded page size')
            if tool_is_there():
                checked = run([TOOL, 'check', path], self.plain())
                self.assertEqual(checked.status, 0, f'bartender check\n{checked}')
        return paths

    def need_root(self):
        if not ROOT:
            self.skipTest('needs root, for a mount namespace')
        probe = subprocess.run(['unshare', '-m', 'true'], stderr=subprocess.PIPE, text=True)
        if probe.returncode != 0:
            self.skipTest(f'no mount namespace here: {probe.stderr.strip()}')

    def in_namespace(self, script, arguments, environment, **options):
        """Runs `script` (not preloaded) in a mount namespace of its own, then the program."""
        variables = [f'{key}={value}' for key, value in environment.items()]
        whole = ['unshare', '-m', 'sh', '-e', '-c', script + '\nexec env -i "$@"', 'sh', *variables, *arguments]
        return run(whole, self.plain(), **options)


# --- Programs that are run as they are -------------------------------------------------------------------------------

# name: (arguments, options).  Options: leaves: an arena may stay behind; silent=False: the library may say something;
# default_only/zero_only; skip_77: status 77 means that the machine cannot do it.
PROGRAM_RUNS = {
    'zero_sizes': {}, 'limits': {}, 'alignment': {}, 'errno_kept': {}, 'usable_size': {}, 'aliases': {},
    'realloc_contents': {}, 'page_rounding': {}, 'calloc_zero': {}, 'operator_new': {}, 'statistics': {},
    'preinit': {}, 'static_objects': {'out': 'destroyed\n'}, 'tsd_destructors': {}, 'live_threads': {},
    'short_threads': {}, 'remote_free': {}, 'exit_allocations': {'out': 'handler done\n' * 8}, 'stacks_in_heap': {},
    'kernel_access': {}, 'fork_snapshot': {}, 'fork_churn': {'timeout_s': 180}, 'fork_from_thread': {},
    'fork_outlives': {}, 'signals': {}, 'foreign_pointers': {},
    # Its children end with 3, and an end that is not 0 leaves an arena.
    'spawn': {'leaves': True},
    'spawn_fork_none': {'program': 'spawn', 'leaves': True, 'settings': {'FORK': 'none'}},
    'descriptors': {'silent': False}, 'descriptors_all': {'program': 'descriptors', 'arguments': ['all'], 'silent': False,
                                                         'leaves': True},
    'address_space': {'limits': [(resource.RLIMIT_AS, 512 * MIB)], 'silent': False},
    'address_space_small_size': {'program': 'address_space', 'limits': [(resource.RLIMIT_AS, 512 * MIB)],
                                 'settings': {'SIZE': '64M'}, 'silent': False},
    'locked_memory': {'skip_77': True}, 'locked_memory_late': {'program': 'locked_memory', 'arguments': ['late'],
                                                              'skip_77': True},
    'locked_memory_limited': {'program': 'locked_memory', 'arguments': ['limited'], 'skip_77': True, 'silent': False,
                              'leaves': True, 'expect_arena': None},
    # They end with exit_group or are not allowed to unlink.
    'seccomp_allow': {'program': 'seccomp_filter', 'arguments': ['allow'], 'leaves': True},
    'seccomp_no_fallocate': {'program': 'seccomp_filter', 'arguments': ['no-fallocate'], 'leaves': True, 'silent': False},
    'seccomp_no_memory': {'program': 'seccomp_filter', 'arguments': ['no-memory'], 'leaves': True, 'silent': False},
    'seccomp_strict': {'leaves': True, 'skip_77': True},
    'map_limit': {'silent': False, 'skip_77': True},
    'capacity_8_mib': {'program': 'fill_storage', 'arguments': ['64'], 'settings': {'SIZE': '8M'}, 'silent': False},
    'capacity_4_mib': {'program': 'fill_storage', 'arguments': ['64'], 'settings': {'SIZE': '4M'}, 'silent': False},
}


class Programs(Case):
    """Each program with everything in the arena and a clean end, then with the defaults and a kept arena."""

    def run_program(self, name, options, settings):
        environment = self.environment(expect_arena=options.get('expect_arena', 1),
                                       **settings, **options.get('settings', {}))
        outcome = run([program(options.get('program', name)), *options.get('arguments', [])], environment,
                      timeout_s=options.get('timeout_s', 90), limits=options.get('limits', ()))
        if outcome.status == 77 and options.get('skip_77'):
            self.skipTest(outcome.out.strip() or 'this machine cannot do it')
        self.check_passed(outcome, silent=options.get('silent', True))
        if 'out' in options:
            self.assertEqual(outcome.out, options['out'], str(outcome))
        return outcome


def add_program_cases():
    for name, options in PROGRAM_RUNS.items():

        def everything(self, name=name, options=options):
            outcome = self.run_program(name, options, {'THRESHOLD': '0'})
            if not options.get('leaves'):
                self.check_nothing_left(outcome)

        def defaults(self, name=name, options=options):
            self.run_program(name, options, {'ON_EXIT': 'keep'})
            if options.get('expect_arena', 1):
                self.check_arenas_clean()

        setattr(Programs, f'test_{name}_threshold_0', everything)
        setattr(Programs, f'test_{name}_default', defaults)


add_program_cases()


# --- The library file ------------------------------------------------------------------------------------------------

FAMILY = '''malloc free calloc realloc reallocarray posix_memalign aligned_alloc memalign valloc pvalloc cfree
    malloc_usable_size malloc_trim malloc_stats malloc_info mallinfo mallinfo2 mallopt free_sized free_aligned_sized'''.split()
ALIASES = '''__libc_malloc __libc_free __libc_calloc __libc_realloc __libc_memalign __libc_valloc __libc_pvalloc
    __posix_memalign'''.split()
OPTIONAL_ALIASES = '__libc_reallocarray __libc_cfree __libc_mallinfo __libc_mallopt __libc_aligned_alloc'.split()
OPERATORS = '''_Znwm _Znam _ZnwmRKSt9nothrow_t _ZnamRKSt9nothrow_t _ZnwmSt11align_val_t _ZnamSt11align_val_t
    _ZnwmSt11align_val_tRKSt9nothrow_t _ZnamSt11align_val_tRKSt9nothrow_t
    _ZdlPv _ZdaPv _ZdlPvRKSt9nothrow_t _ZdaPvRKSt9nothrow_t _ZdlPvm _ZdaPvm _ZdlPvSt11align_val_t _ZdaPvSt11align_val_t
    _ZdlPvmSt11align_val_t _ZdaPvmSt11align_val_t _ZdlPvSt11align_val_tRKSt9nothrow_t
    _ZdaPvSt11align_val_tRKSt9nothrow_t'''.split()


class LibraryFile(Case):

    def output_of(self, *arguments):
        return subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=60).stdout

    def symbols(self):
        lines = self.output_of('nm', '-D', '--defined-only', LIBRARY).splitlines()
        self.assertTrue(lines)
        return [line.split()[-1] for line in lines]

    def test_exports_the_whole_family(self):
        missing = sorted(set(FAMILY + ALIASES + OPERATORS + ['dlopen', 'btd_active']) - set(self.symbols()))
        self.assertEqual(missing, [], 'left out: its pointers would be glibc\'s and meet our free')

    def test_exports_nothing_else(self):
        allowed = set(FAMILY + ALIASES + OPTIONAL_ALIASES + OPERATORS + ['dlopen'])
        extra = [name for name in self.symbols() if name not in allowed and not name.startswith('btd_')]
        self.assertEqual(extra, [])

    def test_symbols_have_no_version_name(self):
        versioned = [name for name in self.symbols() if '@' in name]
        self.assertEqual(versioned, [], 'LD_PRELOAD ignores versioned names silently')
        self.assertNotIn('.gnu.version_d', self.output_of('readelf', '-SW', LIBRARY))

    def test_needs_libc_alone(self):
        needed = re.findall(r'\(NEEDED\).*\[(.*)\]', self.output_of('readelf', '-dW', LIBRARY))
        self.assertIn('libc.so.6', needed)
        self.assertEqual([name for name in needed if name != 'libc.so.6' and not name.startswith('ld-linux')], [])

    def test_flags_of_the_link(self):
        dynamic = self.output_of('readelf', '-dW', LIBRARY)
        self.assertIn('NODELETE', dynamic, 'destructors and threads may run after dlclose')
        self.assertNotIn('TEXTREL', dynamic)
        stack = re.search(r'GNU_STACK.*', self.output_of('readelf', '-lW', LIBRARY)).group(0)
        self.assertNotIn('RWE', stack)

    def test_thread_local_storage_is_small(self):
        tls = re.search(r'^\s*TLS\s+(\S+\s+){4}(0x[0-9a-f]+)', self.output_of('readelf', '-lW', LIBRARY), re.M)
        size_bytes = int(tls.group(2), 16) if tls else 0
        self.assertLessEqual(size_bytes, 192, 'it must fit into the 512 bytes that ld.so keeps for all libraries loaded late')

    def test_late_load_with_dlopen(self):
        outcome = run([program('load_library'), LIBRARY], self.environment(preload='', expect_arena=None))
        self.check_passed(outcome)

    def test_true_costs_at_most_one_and_a_half_ms(self):
        # In turns, so that what else the machine does is the same for both.
        environments = [self.plain(), self.environment(THRESHOLD=None)]
        fastest_s = [1e9, 1e9]
        for _ in range(80):
            for i, environment in enumerate(environments):
                began = time.perf_counter()
                subprocess.run(['/bin/true'], env=environment, check=True, timeout=10)
                fastest_s[i] = min(fastest_s[i], time.perf_counter() - began)
        plain, loaded = fastest_s
        self.assertLessEqual(loaded - plain, 0.0015, f'plain {plain * 1e3:.2f} ms, preloaded {loaded * 1e3:.2f} ms')


# --- Ends, leftovers, names ------------------------------------------------------------------------------------------

class Ends(Case):

    def end(self, *arguments, expect_arena=1, status=0, silent=True, **settings):
        outcome = run([program('use_arena'), *arguments], self.environment(expect_arena=expect_arena, **settings))
        self.check_passed(outcome, silent=silent, status=status)
        self.assertIn(f'state {expect_arena}', outcome.out)
        return outcome

    def check_salvageable(self):
        path, = self.check_arenas_clean(1)
        self.assertTrue(file_holds(path, TEXT), 'the blocks are in the file')
        if tool_is_there():
            outcome = run([TOOL, 'salvage', path, '--strings'], self.plain())
            self.assertEqual(outcome.status, 0, str(outcome))
            self.assertIn(TEXT.decode(), outcome.out)
        return path

    def test_exit_status_0_leaves_nothing(self):
        for threshold in ('0', None):
            self.end('exit', '0', THRESHOLD=threshold)
            self.check_nothing_left()

    def test_exit_status_0_with_keep_leaves_the_arena(self):
        self.end('exit', '0', ON_EXIT='keep')
        self.check_salvageable()

    def test_exit_status_1_leaves_the_arena(self):
        self.end('exit', '1', status=1)
        self.check_salvageable()

    def test_abort_leaves_the_arena(self):
        self.end('abort', status=-signal.SIGABRT)
        self.check_salvageable()

    def test_kill_leaves_the_arena(self):
        for threshold in ('0', None):
            driver.empty(self.place)
            self.end('kill', status=-signal.SIGKILL, THRESHOLD=threshold)
            self.check_salvageable()

    def test_fault_dies_by_sigsegv_and_leaves_the_arena(self):
        self.end('fault', status=-signal.SIGSEGV)
        self.check_salvageable()

    def test_null_dereference_dies_by_sigsegv(self):
        for threshold in ('0', None):
            outcome = run([program('null_dereference')], self.environment(THRESHOLD=threshold))
            self.check_passed(outcome, status=-signal.SIGSEGV)
        self.check_arenas_clean()

    def test_quick_exit_and_underscore_exit_work(self):
        for how in ('quick-exit', '_exit'):
            self.end(how, '0')
            self.end(how, '7', status=7)

    def test_exec_hands_over(self):
        outcome = self.end('exec', '/bin/echo', 'handed over', THRESHOLD='0')
        self.assertIn('handed over', outcome.out)

    def test_survivors_stay_through_the_next_life(self):
        for mode in (None, 'salvage', 'keep'):
            driver.empty(self.place)
            self.end('kill', status=-signal.SIGKILL)
            self.end('exit', '0', ON_RESTART=mode)
            path = self.check_salvageable()
            self.assertGreaterEqual(os.stat(path).st_size, 0)

    def test_restart_with_discard_leaves_nothing(self):
        self.end('kill', status=-signal.SIGKILL)
        self.end('exit', '0', ON_RESTART='discard')
        self.check_nothing_left()

    def test_programs_that_route_nothing_create_nothing(self):
        # With ON_EXIT=keep an arena that was created and removed again would be seen.
        for arguments in (['/bin/true'], ['/bin/sh', '-c', ':'], ['/bin/echo', 'x']):
            outcome = run(arguments, self.environment(ON_EXIT='keep'))
            self.check_passed(outcome)
            self.check_nothing_left(outcome)

    def test_small_programs_leave_nothing(self):
        for arguments in (['/bin/true'], ['/bin/ls', '-l', '/usr/bin'], ['/bin/sh', '-c', 'ls / | sort | wc -l; echo $(ls)'],
                          ['/bin/bash', '-c', 'for i in 1 2 3; do (echo $i); done']):
            for threshold in (None, '0'):
                if threshold == '0' and arguments[0] == '/bin/sh':
                    continue  # a case of its own
                outcome = run(arguments, self.environment(THRESHOLD=threshold))
                self.check_passed(outcome)
                self.check_nothing_left(outcome)

    def test_shell_that_ends_by_underscore_exit_leaves_nothing(self):
        # dash ends by _exit(0), after which no handler runs.  It allocates nothing that is routed by default, so it never had an arena.
        outcome = run(['/bin/sh', '-c', 'ls / | sort | wc -l; echo $(ls)'], self.environment())
        self.check_passed(outcome)
        self.check_nothing_left(outcome)

    def test_no_background_thread(self):
        self.assertIn('threads 1\n', self.end('threads').out)

    def test_threshold_decides(self):
        self.end('exit', THRESHOLD='64K')
        # Nothing opens it, though it could be.
        self.end('exit', THRESHOLD='1G', ON_EXIT='keep')
        self.check_nothing_left()

    def test_only_names_the_programs_that_use_the_arena(self):
        for names, expected in (('compat_use_arena', 1), ('other', 0), ('other,compat_use_arena', 1),
                                ('other:compat_use_arena', 1), ('compat_use', 0)):
            self.end('exit', ONLY=names, expect_arena=expected)
        self.check_nothing_left()

    def test_file_is_private(self):
        self.end('exit', '1', status=1)
        path, = arenas_in(self.place)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)

    def test_default_place(self):
        self.need_root()
        variables = self.environment(ARENA=None)
        process = driver.start(
            ['unshare', '-m', 'sh', '-e', '-c', 'mount -t tmpfs none /dev/shm\nexec env -i "$@"', 'sh',
             *[f'{key}={value}' for key, value in variables.items()], program('use_arena'), 'hold'],
            self.plain(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.assertEqual(process.stdout.readline(), b'state 1\n')
            directory = f'/proc/{process.pid}/root/dev/shm/bartender-{os.getuid()}'
            self.assertEqual(stat.S_IMODE(os.stat(directory).st_mode), 0o700)
            self.assertEqual(os.listdir(directory), ['compat_use_arena.arena'])
            mode = os.stat(os.path.join(directory, 'compat_use_arena.arena')).st_mode
            self.assertEqual(stat.S_IMODE(mode), 0o600)
            process.stdin.close()
            self.assertEqual(process.wait(30), 0)
        finally:
            driver.end_group(process)
            process.stdout.close()

    def test_large_blocks_take_whole_pages_only(self):
        process = driver.start([program('use_arena'), 'large', '40'], self.environment(), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
        try:
            self.assertEqual(process.stdout.readline(), b'state 1\n')
            self.assertEqual(process.stdout.readline(), b'holding\n')
            path, = arenas_in(self.place)
            taken = os.stat(path).st_blocks * 512
            self.assertGreaterEqual(taken, 40 * MIB)
            self.assertLessEqual(taken, 40 * (MIB + 16384) + 8 * MIB, '40 blocks of 1 MiB + 1 byte')
        finally:
            driver.end_group(process)
            process.stdin.close()
            process.stdout.close()


class Copies(Case):
    """Two programs, or two copies of one, never share an arena."""

    def hold(self, environment, name='use_arena'):
        process = driver.start([program(name), 'hold'], environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
        self.addCleanup(self.drop, process)
        return process, process.stdout.readline().decode().strip()

    def drop(self, process):
        driver.end_group(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()

    def release(self, process):
        process.stdin.write(b'go on\n') if process.poll() is None else None
        process.stdin.close()
        try:
            status = process.wait(30)
        except subprocess.TimeoutExpired:
            self.fail('no end')
        return status, process.stderr.read().decode()

    def test_two_copies_take_two_names(self):
        processes = []
        for i in range(3):
            process, line = self.hold(self.environment())
            self.assertEqual(line, 'state 1')
            processes.append(process)
            self.assertEqual(len(arenas_in(self.place)), i + 1)
        for process in processes:
            self.assertEqual(self.release(process), (0, ''))
        self.check_nothing_left()

    def test_fixed_name_in_use_is_refused_with_the_owners_pid(self):
        path = os.path.join(self.place, 'fixed.arena')
        first, line = self.hold(self.environment(ARENA=path))
        self.assertEqual(line, 'state 1')
        second, line = self.hold(self.environment(ARENA=path, expect_arena=0))
        self.assertEqual(line, 'state 0')
        status, err = self.release(second)
        self.assertEqual(status, 0, err)
        self.assertEqual(len(err.splitlines()), 1, err)
        self.assertRegex(err, rf'bartender.*\b{first.pid}\b')
        self.assertTrue(os.path.exists(path), 'the loser does not remove the arena of the winner')
        self.assertEqual(self.release(first), (0, ''))
        self.check_nothing_left()

    def test_many_at_once_never_share(self):
        processes = [driver.start([program('use_arena'), 'exit', '0'], self.environment(), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(24)]
        for process in processes:
            self.addCleanup(driver.end_group, process)
        for process in processes:
            out = process.communicate(timeout=60)[0]
            self.assertEqual((process.returncode, out), (0, b'state 1\n'))
        self.check_nothing_left()

    def test_owner_that_closed_every_descriptor_keeps_its_arena(self):
        path = os.path.join(self.place, 'fixed.arena')
        environment = self.environment(ARENA=path, THRESHOLD='0')
        first, line = self.hold(environment, name='descriptors')
        self.assertEqual(line, 'holding')
        second, line = self.hold(self.environment(ARENA=path, expect_arena=0))
        self.assertEqual(line, 'state 0', 'the lock was lost with the descriptor')
        self.assertEqual(self.release(second)[0], 0)
        status, err = self.release(first)
        self.assertEqual(status, 0, err)
        self.check_nothing_left()


# --- Settings and places that are no good ----------------------------------------------------------------------------

class BadSettings(Case):

    def refused(self, mention=None, **settings):
        """One line that names the trouble, and a program that runs in plain DRAM; with ON_ERROR=abort it stops."""
        outcome = run([program('use_arena'), 'exit', '0'], self.environment(expect_arena=0, **settings), timeout_s=20)
        self.check_passed(outcome, silent=False)
        self.assertIn('state 0', outcome.out)
        self.assertEqual(len(outcome.err.splitlines()), 1, f'one clear line\n{outcome}')
        self.assertTrue(outcome.reports(), str(outcome))
        if mention is not None:
            self.assertIn(mention, outcome.err)
        if settings.get('ON_ERROR') is None:
            stopped = run([program('use_arena'), 'exit', '0'],
                          self.environment(expect_arena=0, **settings, ON_ERROR='abort'), timeout_s=20)
            self.assertEqual(stopped.status, -signal.SIGABRT, f'ON_ERROR=abort\n{stopped}')
            self.assertTrue(stopped.reports(), str(stopped))

    def test_bad_values_are_named(self):
        for name, value in (('THRESHOLD', 'abc'), ('THRESHOLD', '-1'), ('THRESHOLD', '16Q'), ('SIZE', '1K'), ('SIZE', '99999999999999999999'), ('SIZE', '64G!'), ('DURABILITY', 'eager'),
                            ('DURABILITY', 'Process '), ('ON_RESTART', 'perhaps'),
                            ('ON_EXIT', 'maybe'), ('ON_MISUSE', 'shrug'), ('FORK', 'yes'), ('LOG', 'loud')):
            with self.subTest(name=name, value=value):
                driver.empty(self.place)
                self.refused(f'BARTENDER_{name}', **{name: value})
                self.check_nothing_left()

    def test_unknown_name_is_named(self):
        self.refused('BARTENDER_TRESHOLD', TRESHOLD='0')
        self.check_nothing_left()

    def test_bad_pattern_is_named(self):
        self.refused('BARTENDER_ARENA', ARENA=os.path.join(self.place, '%z.arena'))
        self.check_nothing_left()

    def test_bad_on_error_value_does_not_stop_the_program(self):
        self.refused('BARTENDER_ON_ERROR', ON_ERROR='panic')

    def test_place_that_cannot_be_made(self):
        self.refused(ARENA='/proc/no-such-place/x.arena')

    def test_log_off_is_silent(self):
        outcome = run([program('use_arena'), 'exit'],
                      self.environment(expect_arena=0, ARENA='/proc/no-such-place/x.arena', LOG='off'))
        self.check_passed(outcome)
        self.assertEqual(outcome.err, '')

    def test_directory_in_the_arenas_place(self):
        path = os.path.join(self.place, 'x.arena')
        os.mkdir(path)
        self.refused(path, ARENA=path)
        self.assertTrue(os.path.isdir(path))

    def test_fifo_in_the_arenas_place(self):
        path = os.path.join(self.place, 'x.arena')
        os.mkfifo(path)
        self.refused(path, ARENA=path)  # and does not hang

    def test_foreign_file_is_left_alone(self):
        path = os.path.join(self.place, 'x.arena')
        contents = os.urandom(1 << 20)
        with open(path, 'wb') as file:
            file.write(contents)
        self.refused(path, ARENA=path)
        with open(path, 'rb') as file:
            self.assertEqual(file.read(), contents)

    def test_symbolic_link_is_not_followed(self):
        target, path = os.path.join(self.home, 'target'), os.path.join(self.place, 'x.arena')
        os.symlink(target, path)
        self.refused(path, ARENA=path)
        self.assertFalse(os.path.exists(target))
        with open(target, 'wb') as file:
            file.write(b'precious')
        self.refused(path, ARENA=path)
        with open(target, 'rb') as file:
            self.assertEqual(file.read(), b'precious')

    def test_truncated_arena_is_left_alone(self):
        path = os.path.join(self.place, 'x.arena')
        outcome = run([program('use_arena'), 'exit', '0'], self.environment(ARENA=path, ON_EXIT='keep'))
        self.check_passed(outcome)
        os.truncate(path, 100000)
        with open(path, 'rb') as file:
            contents = file.read()
        self.refused(path, ARENA=path)
        with open(path, 'rb') as file:
            self.assertEqual(file.read(), contents)

    def test_setuid_program_runs_volatile(self):
        self.need_root()
        # ld.so ignores LD_PRELOAD paths in secure mode but not /etc/ld.so.preload, which is how an administrator preloads
        # everywhere.  Both live in a mount namespace of their own, on a file system that allows setuid.
        place = os.path.join(SCRATCH, 'secure')
        os.makedirs(place, exist_ok=True)
        script = f'''
            mount -t tmpfs -o mode=755 none "{place}"
            mkdir -m 755 "{place}/etc"
            mkdir -m 777 "{place}/arenas"
            cp -a /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache "{place}/etc/"
            cp "{LIBRARY}" "{place}/lib.so"
            cp "{program('use_arena')}" "{place}/program"
            chmod 755 "{place}/lib.so"
            chmod 4755 "{place}/program"
            chmod 711 "{SCRATCH}"
            echo "{place}/lib.so" > "{place}/etc/ld.so.preload"
            mount --bind "{place}/etc" /etc
        '''
        variables = self.environment(preload='', ARENA=f'{place}/arenas/%e%n.arena', ON_EXIT='keep')
        for user, mode, expected in ((65534, 'setuid', 0), (0, 'ordinary', 1)):
            variables['COMPAT_EXPECT_ARENA'] = str(expected)
            outcome = self.in_namespace(script, ['setpriv', '--reuid', str(user), '--regid', str(user), '--clear-groups',
                                                 'sh', '-c', f'{place}/program exit; s=$?; ls {place}/arenas; exit $s'],
                                        variables)
            self.check_passed(outcome, silent=False)
            with self.subTest(mode=mode):
                self.assertIn(f'state {expected}', outcome.out, str(outcome))
                # The shell and ls of an ordinary user's preload route nothing either.
                if expected == 0:
                    self.assertNotIn('program.arena', outcome.out)


# --- Full storage ----------------------------------------------------------------------------------------------------

class FullStorage(Case):
    """Never SIGBUS: what does not fit into the arena's place comes from DRAM."""

    def fill(self, tmpfs_size, total_mib, expect_arena=1, **settings):
        self.need_root()
        script = f'mount -t tmpfs -o size={tmpfs_size} none "{self.place}"'
        outcome = self.in_namespace(script, [program('fill_storage'), str(total_mib)],
                                    self.environment(expect_arena=expect_arena, **settings))
        self.check_passed(outcome, silent=False)
        return outcome

    def test_tmpfs_of_16_mib(self):
        for threshold in ('0', '16K'):
            self.fill('16m', 64, THRESHOLD=threshold)

    def test_tmpfs_of_64_mib_as_in_containers(self):
        self.fill('64m', 160)

    def test_tmpfs_with_no_room_at_all(self):
        outcome = self.fill('16k', 32, expect_arena=None)
        self.assertEqual(len(outcome.err.splitlines()), 1, str(outcome))
        self.assertTrue(outcome.reports())

    def test_every_size_near_the_first_growth(self):
        for kib in (64, 256, 1024, 2048, 3072, 4096, 5120, 6144, 8192):
            with self.subTest(kib=kib):
                self.fill(f'{kib}k', 16, expect_arena=None, THRESHOLD='0')

    def test_file_size_limit(self):
        # fallocate and ftruncate past it send SIGXFSZ, which kills.
        for limit_mib, threshold in ((1, '0'), (20, '0'), (20, '16K')):
            with self.subTest(limit_mib=limit_mib):
                outcome = run([program('fill_storage'), '64'], self.environment(expect_arena=None, THRESHOLD=threshold),
                              limits=[(resource.RLIMIT_FSIZE, limit_mib * MIB)])
                self.check_passed(outcome, silent=False)

    def test_dram_exhausted_too_is_enomem(self):
        outcome = run([program('address_space')], self.environment(SIZE='16M', THRESHOLD='0'),
                      limits=[(resource.RLIMIT_AS, 512 * MIB)])
        self.check_passed(outcome, silent=False)


# --- Other libraries -------------------------------------------------------------------------------------------------

class Libraries(Case):

    def test_deepbind_plugin(self):
        for threshold in ('0', None):
            outcome = run([program('deepbind'), program('plugin.so')], self.environment(THRESHOLD=threshold))
            self.check_passed(outcome, silent=False)
            said = [line for line in outcome.reports() if 'DEEPBIND' in line]
            self.assertEqual(len(said), 1, f'says so once\n{outcome}')
            self.assertEqual(len(outcome.reports()), 1, str(outcome))
            self.check_nothing_left()

    def test_dlopen_keeps_the_callers_run_path(self):
        outcome = run([program('dlopen_runpath')], self.environment())
        self.check_passed(outcome, silent=False)

    def test_bad_alloc_of_a_late_cplusplus_runtime(self):
        needed = subprocess.run(['readelf', '-d', program('late_runtime')], capture_output=True, text=True).stdout
        self.assertNotIn('libstdc++', needed)
        for threshold in ('0', None):
            outcome = run([program('late_runtime'), program('late_plugin.so')], self.environment(THRESHOLD=threshold))
            self.check_passed(outcome)

    def test_program_with_an_allocator_of_its_own(self):
        for threshold in ('0', None):
            outcome = run([program('own_allocator')],
                          self.environment(expect_arena=0, THRESHOLD=threshold, ON_EXIT='keep'))
            self.check_passed(outcome, silent=False)
            self.assertEqual(len(outcome.reports()), 1, f'one line of message\n{outcome}')
            self.check_nothing_left()

    def with_modules(self, *preloads, **settings):
        names = [LIBRARY if name == 'library' else program(name + '.so') for name in preloads]
        for threshold in ('0', None):
            if threshold == '0' and settings.get('COMPAT_EXPECT_COUNTED') and preloads[0] == 'library':
                continue  # everything is routed: nothing is left for the one behind
            outcome = run([program('with_modules')],
                          self.environment(preload=':'.join(names), THRESHOLD=threshold, **settings))
            self.check_passed(outcome)
            self.check_nothing_left()

    def test_module_that_allocates_before_us(self):
        self.with_modules('early_module', 'library')

    def test_module_that_allocates_after_us(self):
        self.with_modules('library', 'early_module')

    def test_other_malloc_in_front(self):
        self.with_modules('counting_module', 'library', COMPAT_EXPECT_COUNTED='1')

    def test_other_malloc_behind_gets_what_is_not_routed(self):
        self.with_modules('library', 'counting_module', COMPAT_EXPECT_COUNTED='1')

    def test_all_three(self):
        self.with_modules('counting_module', 'library', 'early_module')


# --- Misuse ----------------------------------------------------------------------------------------------------------

class Misuse(Case):
    """Each wrong free is reported with the address; then abort, or ignore."""

    # mode: distance from the block that the report must name
    MODES = {'double': 0, 'double-later': 0, 'double-by-thread': 0, 'double-across-threads': 0, 'interior': 16,
             'interior-aligned': None, 'unaligned': 1, 'realloc-freed': 0, 'realloc-interior': 32, 'delete-twice': 0,
             'never-given': 256 * MIB}

    def misuse(self, mode, size_bytes, threshold, action):
        driver.empty(self.place)
        outcome = run([program('misuse'), mode, str(size_bytes)],
                      self.environment(THRESHOLD=threshold, ON_MISUSE=action))
        if action == 'ignore':
            self.check_passed(outcome, silent=False)
            self.assertIn('survived', outcome.out)
        else:
            self.assertEqual(outcome.status, -signal.SIGABRT, str(outcome))
        self.assertTrue(outcome.reports(), f'a report\n{outcome}')
        block = int(outcome.out.split()[0], 16)
        distance = self.MODES[mode]
        if distance is None:
            distance = size_bytes // 2 // 64 * 64
        self.assertIn(f'{block + distance:x}', outcome.err.lower(), f'the report names the address\n{outcome}')
        if action != 'ignore':
            self.check_arenas_clean()
        else:
            self.check_nothing_left()

    def all_sizes(self, mode, action):
        for threshold, sizes in (('0', (48, 100, 3000, 40000, 2000000)), (None, (16384, 40000, 2000000))):
            for size_bytes in sizes:
                if mode == 'interior-aligned' and size_bytes < 128:
                    continue
                with self.subTest(threshold=threshold, size_bytes=size_bytes):
                    self.misuse(mode, size_bytes, threshold, action)

    def test_every_size_is_reported_each_time(self):
        outcome = run([program('misuse'), 'every-size', '100'], self.environment(THRESHOLD='0', ON_MISUSE='ignore'))
        self.check_passed(outcome, silent=False)
        expected = int(re.search(r'misuses (\d+)', outcome.out).group(1))
        self.assertEqual(len(outcome.reports()), expected, 'one report for each misuse')


for misuse_mode in Misuse.MODES:
    for misuse_action in (None, 'ignore'):
        setattr(Misuse, f'test_{misuse_mode.replace("-", "_")}_{misuse_action or "abort"}',
                lambda self, mode=misuse_mode, action=misuse_action: self.all_sizes(mode, action))


# --- Inherited by everything -----------------------------------------------------------------------------------------

class Inherited(Case):
    """Programs that the preload reaches without being asked: same output and status as without."""

    def same(self, arguments, stdin=None, status=0, arena_is_used=True, **settings):
        plain = run(arguments, self.plain(), stdin=stdin)
        self.assertEqual(plain.status, status, f'without the preload\n{plain}')
        for threshold in ('0', None):
            driver.empty(self.place)
            environment = self.environment(THRESHOLD=threshold, ON_EXIT='keep' if threshold == '0' else None, **settings)
            loaded = run(arguments, environment, stdin=stdin)
            self.assertEqual((loaded.status, loaded.out, loaded.err), (plain.status, plain.out, plain.err), str(loaded))
            if threshold == '0' and arena_is_used:
                self.assertTrue(arenas_in(self.place), 'an arena was used')

    def test_grep_with_empty_patterns(self):
        text = 'one\n\ntwo\n' * 1000
        for pattern in (['-e', ''], [''], ['-E', ''], ['-F', ''], ['-e', '', '-e', 'two'], ['-x', ''], ['-w', ''], ['-c', '']):
            self.same(['/bin/grep', *pattern], stdin=text)
        self.same(['/bin/grep', '-f', '/dev/null'], stdin=text, status=1)

    def test_man_with_its_seccomp_filter(self):
        if shutil.which('man') is None or not os.path.exists('/usr/share/man/man1/ls.1.gz'):
            self.skipTest('no man page of ls here (packages man-db, coreutils)')
        self.same(['man', '-P', 'cat', 'ls'])
        self.same(['man', '-w', 'ls'])

    def test_shells_and_pipes(self):
        script = 'for i in 1 2 3 4 5; do echo "$i" | (read x; echo $((x * x))) & wait; done; ls / | sort | head -3'
        self.same(['/bin/sh', '-c', script])
        self.same(['/bin/bash', '-c', script + '; echo ${BASH_VERSION%%.*}; exit 3'], status=3)

    def test_closing_standard_output_and_error(self):
        script = f'exec 2>&- >&- <&-; "{program("zero_sizes")}"'
        self.same(['/bin/sh', '-c', script])

    def test_valgrind(self):
        if shutil.which('valgrind') is None:
            self.skipTest('valgrind is not installed (package valgrind)')
        for name in ('zero_sizes', 'realloc_contents'):
            for threshold in ('0', None):
                outcome = run(['valgrind', '--tool=none', '-q', program(name)], self.environment(THRESHOLD=threshold),
                              timeout_s=120)
                self.check_passed(outcome, silent=False)

    def test_environment_without_settings_of_others(self):
        # LD_PRELOAD alone, as `env -i LD_PRELOAD=... true` has it.
        outcome = run(['/bin/true'], {'LD_PRELOAD': LIBRARY})
        self.check_passed(outcome)
        self.assertEqual(outcome.err, '')


class Run(Case):
    """`bartender run` verifies that the library is really in and passes the status through."""

    def setUp(self):
        super().setUp()
        if not tool_is_there():
            self.skipTest('no `bartender` command given')

    def run_tool(self, *arguments, **options):
        environment = self.environment(preload='', **options)
        del environment['LD_PRELOAD']
        return run([TOOL, 'run', '--', *arguments], environment)

    def test_status_is_passed_through(self):
        self.assertEqual(self.run_tool('/bin/true').status, 0)
        self.assertEqual(self.run_tool('/bin/sh', '-c', 'exit 7').status, 7)
        outcome = self.run_tool(program('use_arena'), 'exit', '5')
        self.assertEqual(outcome.status, 5, str(outcome))
        self.assertIn('state 1', outcome.out)

    def test_static_program_is_told(self):
        outcome = self.run_tool(program('static_program'))
        self.assertTrue(outcome.reports(), f'a program that no preload can reach\n{outcome}')

    def test_missing_program_is_told(self):
        outcome = self.run_tool('/no/such/program')
        self.assertNotEqual(outcome.status, 0)
        self.assertTrue(outcome.reports(), str(outcome))


def parse_arguments():
    global LIBRARY, PROGRAMS, TOOL, SCRATCH
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('library')
    parser.add_argument('programs')
    parser.add_argument('tool', nargs='?')
    parser.add_argument('--only', metavar='PATTERN', help='run the cases whose name matches')
    arguments = parser.parse_args()
    LIBRARY, PROGRAMS = os.path.abspath(arguments.library), os.path.abspath(arguments.programs)
    TOOL = os.path.abspath(arguments.tool) if arguments.tool else None
    if not os.path.exists(LIBRARY):
        parser.error(f'{LIBRARY}: no such file')
    SCRATCH = driver.scratch_directory()
    return arguments


if __name__ == '__main__':
    driver.main(sys.modules['__main__'], parse_arguments().only)
