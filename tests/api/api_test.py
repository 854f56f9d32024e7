#!/usr/bin/python3
"""bartender.h as programs see it.

  api_test.py LIBBARTENDER.SO DIRECTORY-OF-THE-PROGRAMS BARTENDER [PATTERN]

The example of README.md is taken from there and run word for word; every function is called well
and badly; programs are killed at random moments and what they left is compared with a model.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(SOURCE, 'tests', 'preload'))

# pylint: disable=wrong-import-position
import driver

HEADERS = os.path.join(SOURCE, 'core', 'api')
SCRATCH = driver.scratch_directory()
COMPILERS = {'c': ['cc', '-std=c99', '-Wpedantic'], 'cpp': ['c++', '-std=c++17', '-Wpedantic']}


class Base(unittest.TestCase):
    def setUp(self):
        driver.empty(SCRATCH)
        self.directory = os.path.join(SCRATCH, 'work')
        os.mkdir(self.directory)

    def environment(self, preload=True, **settings):
        kept = driver.clean_environment(SCRATCH)
        kept['BARTENDER_ARENA'] = os.path.join(self.directory, '%e%n.arena')
        kept['BTD_TEST_DIRECTORY'] = self.directory
        if preload:
            kept['LD_PRELOAD'] = LIBRARY
        kept.update({f'BARTENDER_{name}': str(value) for name, value in settings.items()})
        return kept

    def program(self, name):
        return os.path.join(PROGRAMS, 'api_' + name)

    def good(self, arguments, environment, status=0, **options):
        outcome = driver.run(arguments, environment, **options)
        self.assertEqual(outcome.status, status, outcome)
        return outcome


class Example(Base):
    """The program of README.md, in C and C++, with the three ways to have the library or none."""

    def text(self):
        with open(os.path.join(SOURCE, 'README.md'), encoding='utf-8') as file:
            readme = file.read()
        found = re.search(r'((?:^    .*\n|^\n)*^    struct btd_config btd_config;.*\n(?:^    .*\n|^\n)*)', readme,
                          re.MULTILINE)
        self.assertIsNotNone(found, 'README.md has no example')
        lines = [line[4:] for line in found[1].splitlines()]
        self.assertIn('btd_memcpy(p_data, s, strlen(s));', ' '.join(lines))
        return '\n'.join(lines)

    def build(self, language, arguments=(), around=None, name='example'):
        source = os.path.join(self.directory, f'{name}.{language}')
        with open(source, 'w', encoding='utf-8') as file:
            file.write((around or '#include <bartender.h>\n#include <string.h>\nint main(void) {\n%s\nreturn 0;\n}\n')
                       % self.text())
        program = os.path.join(self.directory, name)
        command = [*COMPILERS[language], '-Wall', '-Wextra', '-Werror', f'-I{HEADERS}', source, '-o', program,
                   *arguments]
        self.good(command, driver.clean_environment(SCRATCH))
        return program

    # It says where its block lies, so that we see whether the library is in.
    TOLD = ('#include <bartender.h>\n#include <string.h>\n#include <stdio.h>\nint main(void) {\n%s\n'
            '  p_data = btd_malloc(p_cluster, 10);\n'
            '  printf("%%d %%d\\n", btd_active(), btd_cluster_of(p_data) == p_cluster);\nreturn 0;\n}\n')

    def run_all(self, language, options):
        folder = os.path.dirname(LIBRARY)
        linked = self.build(language, [*options, f'-L{folder}', '-lbartender', f'-Wl,-rpath,{folder}'],
                            self.TOLD, 'linked')
        self.assertEqual(self.good([linked], self.environment(False)).out, '1 1\n')
        alone = self.build(language, options, self.TOLD, 'alone')
        self.assertEqual(self.good([alone], self.environment(True)).out, '1 1\n')
        outcome = self.good([alone], self.environment(False))
        self.assertEqual(outcome.out, '0 0\n')
        self.assertEqual(outcome.err, '')
        self.assertEqual([path for path in driver.arenas_in(self.directory) if path.endswith('.arena')], [])

    def test_c(self):
        self.run_all('c', ['-O0'])
        self.run_all('c', ['-O2'])

    def test_cplusplus(self):
        self.run_all('cpp', ['-O0'])
        self.run_all('cpp', ['-O2'])

    def test_without_pie(self):
        self.run_all('c', ['-O2', '-no-pie'])

    def test_no_setting_at_all(self):
        program = self.build('c', [], self.TOLD)
        environment = dict(driver.clean_environment(SCRATCH), LD_PRELOAD=LIBRARY)
        self.assertEqual(self.good([program], environment).out, '1 1\n')

    def test_word_for_word(self):
        for language in COMPILERS:
            self.good([self.build(language)], self.environment())


class Functions(Base):
    """One process a case; see programs/functions.cpp."""

    def run_case(self, name, status=0, **settings):
        environment = self.environment(**settings)
        environment['BTD_TEST_PROGRAM'] = self.program('functions')
        return self.good([self.program('functions'), name], environment, status)

    def test_paranoid(self):
        outcome = self.run_case('paranoid', PARANOID=1)
        lines = outcome.reports()
        self.assertEqual(len(lines), 5, outcome)
        words = int(re.search(r'words at (0x[0-9a-f]+)', outcome.out)[1], 16)
        for line, place, text in ((lines[0], words, r'btd_tx_commit.*\[stack\]'),
                                  (lines[1], words + 16, 'btd_tx_commit.*api_functions'),
                                  (lines[2], words + 24, r'btd_tx_commit.*\[heap\]'),
                                  (lines[3], words + 32, 'btd_persist.*to a function in api_functions'),
                                  (lines[4], None, 'btd_persist.*api_functions')):
            self.assertRegex(line, text)
            self.assertRegex(line, r'called from 0x[0-9a-f]+ \(.*api_functions\+0x[0-9a-f]+\)')
            if place is not None:
                self.assertIn(f'the word at {place:#x} ', line)
        self.assertEqual(self.run_case('paranoid').reports(), [])
        self.assertEqual(self.run_case('paranoid_clean', PARANOID=1).reports(), [])

    def test_modules_are_told_when_the_process_is_gone(self):
        """By bartender check --pointers: the module, the offset in it, and whether it is still the same."""
        program = os.path.join(self.directory, 'api_functions')
        shutil.copy(self.program('functions'), program)
        environment = self.environment(PARANOID=1)
        environment['BTD_TEST_PROGRAM'] = program
        self.good([program, 'paranoid_rooted'], environment)
        arena, = (path for path in driver.arenas_in(self.directory) if path.endswith('.arena'))
        offset = next(int(line.split()[0], 16) for line in subprocess.run(
            ['nm', program], capture_output=True, text=True, check=True).stdout.splitlines()
                      if re.search(r' [tT] .*8paranoidEv', line))

        def told():
            return self.good([TOOL, 'check', '--pointers', arena], environment).out

        self.assertRegex(told(), rf'api_functions\+{offset:#x}\s')
        self.assertIn('1 words in 1 blocks', told())
        shutil.copy(TOOL, program)
        self.assertRegex(told(), rf'api_functions\+{offset:#x}, which has another build id now')
        os.unlink(program)
        self.assertRegex(told(), rf'api_functions\+{offset:#x}, which is not there now')

    def test_double_free(self):
        outcome = self.run_case('double_free', -signal.SIGABRT)
        self.assertRegex(outcome.err, r'btd_free\(0x.*double free')
        self.run_case('double_free', ON_MISUSE='ignore')

    def test_named_lines(self):
        """What is refused is said in one line."""
        for case, text in (('foreign_file', 'nothing was written'), ('truncated_arena', 'nothing was written'),
                           ('one_file_twice', 'in use')):
            driver.empty(self.directory)
            lines = self.run_case(case).reports()
            self.assertTrue(lines and all(text in line for line in lines), lines)

    def test_no_arena(self):
        """The settings are wrong: no cluster, and the program goes on with malloc()."""
        program = Example.build(self, 'c', around=(
            '#include <bartender.h>\n#include <string.h>\n#include <stdio.h>\n#include <errno.h>\nint main(void) {\n%s\n'
            'printf("%%d %%d %%d\\n", p_cluster == NULL, errno == ENOTSUP, btd_active());\nreturn 0;\n}\n'))
        environment = self.environment(SIZE='12Q')
        self.assertEqual(self.good([program], environment).out.split()[0::2], ['1', '0'])

    text = Example.text


def add_cases():
    listed = subprocess.run([os.path.join(PROGRAMS, 'api_functions')], capture_output=True, check=True, text=True)
    for name in listed.stdout.split():
        setattr(Functions, 'test_' + name, lambda self, name=name: self.run_case(name))
        for level in ('lazy', 'strict'):
            if name in ('bytes', 'roots', 'publish', 'reserve', 'transactions', 'nested', 'misuse', 'many_threads',
                        'full_arena', 'open_close', 'large_transaction', 'forked_child'):
                setattr(Functions, f'test_{name}_{level}',
                        lambda self, name=name, level=level: self.run_case(name, DURABILITY=level))


class Kept(Base):
    """What is there after the end of the process."""

    def arena(self):
        return [path for path in driver.arenas_in(self.directory) if path.endswith('.arena')]

    def test_exit_with_root_keeps_the_arena(self):
        self.good([self.program('functions'), 'blocks'], self.environment())
        self.assertEqual(self.arena(), [])
        self.good([self.program('functions'), 'many_roots'], self.environment())
        self.assertEqual(self.arena(), [])  # all were removed again
        self.good([self.program('functions'), 'persistent'], self.environment())
        self.assertEqual(len(self.arena()), 1)

    def cplusplus(self, program):
        self.good([program, 'fill', self.directory], self.environment(), -signal.SIGKILL)
        for run in range(2, 5):
            outcome = self.good([program, 'check', self.directory], self.environment())
            self.assertEqual(outcome.out, f'good, run {run}\n')

    def test_containers(self):
        self.cplusplus(self.program('cplusplus'))

    def test_containers_cplusplus17(self):
        self.cplusplus(self.program('cplusplus17'))

    def test_containers_paranoid(self):
        environment = self.environment(PARANOID=1)
        outcome = self.good([self.program('cplusplus'), 'fill', self.directory], environment, -signal.SIGKILL)
        self.assertEqual(outcome.reports(), [], outcome)

    def test_without_the_library(self):
        self.assertEqual(self.good([self.program('cplusplus'), 'plain', self.directory], self.environment(False)).out,
                         'good, run 1\n')


class Killed(Base):
    """kill -9 at random moments, under load: see programs/chaos.cpp."""

    def chaos(self, rounds, **settings):
        seed = int(os.environ.get('BTD_TEST_SEED', time.time_ns() % 10000))
        print(f'seed {seed}')
        source = random.Random(seed)
        environment = self.environment(**settings)
        operations = 0
        for number in range(rounds):
            process = driver.start([self.program('chaos'), self.directory, str(seed + number)], environment,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            # Now and then in the middle of recovery.
            time.sleep(source.choice((source.uniform(0.0, 0.01), source.uniform(0.01, 0.2))))
            driver.end_group(process)
            out, err = process.stdout.read().decode(), process.stderr.read().decode()
            process.stdout.close(), process.stderr.close()
            self.assertEqual(process.returncode, -signal.SIGKILL, f'round {number}: {out} {err}')
            self.assertNotIn('WRONG', out)
        outcome = self.good([self.program('chaos'), self.directory, '0', 'verify'], environment)
        operations = int(re.search(r'(\d+) operations', outcome.out)[1])
        self.assertGreater(operations, 100)
        check = driver.run([TOOL, 'check', os.path.join(self.directory, 'chaos.arena')], environment)
        self.assertEqual(check.status, 0, check)

    def test_process(self):
        self.chaos(ROUNDS)

    def test_lazy(self):
        self.chaos(ROUNDS // 2, DURABILITY='lazy')

    def test_strict(self):
        self.chaos(ROUNDS // 2, DURABILITY='strict')


LIBRARY, PROGRAMS, TOOL = (os.path.abspath(path) for path in sys.argv[1:4])
ROUNDS = int(os.environ.get('BTD_TEST_ROUNDS', '40'))

if __name__ == '__main__':
    add_cases()
    driver.main(sys.modules['__main__'], sys.argv[4] if len(sys.argv) > 4 else None)
