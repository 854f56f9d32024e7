#!/usr/bin/python3
"""The examples, built as a user builds them, and killed.

  examples_test.py LIBBARTENDER.SO EXAMPLE...
"""

import os
import random
import re
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

LIBRARY = os.path.abspath(sys.argv[1])
EXAMPLES = {os.path.splitext(os.path.basename(path))[0]: path for path in sys.argv[2:]}
SCRATCH = driver.scratch_directory()


class Examples(unittest.TestCase):
    def setUp(self):
        driver.empty(SCRATCH)
        self.arena = os.path.join(SCRATCH, 'example.arena')
        self.environment = dict(driver.clean_environment(SCRATCH), BARTENDER_ARENA=self.arena)

    def build(self, name):
        path, folder = EXAMPLES[name], os.path.dirname(LIBRARY)
        compiler = ['c++', '-std=c++17'] if path.endswith('.cpp') else ['cc', '-std=c99']
        program = os.path.join(SCRATCH, name)
        outcome = driver.run([*compiler, '-O2', '-Wall', '-Wextra', '-Werror', f'-I{SOURCE}/core/api', path, '-o', program,
                              f'-L{folder}', '-lbartender', f'-Wl,-rpath,{folder}'], driver.clean_environment(SCRATCH))
        self.assertEqual(outcome.status, 0, outcome)
        return program

    def good(self, *arguments):
        outcome = driver.run(arguments, self.environment)
        self.assertEqual(outcome.status, 0, outcome)
        return outcome.out

    def kill_after(self, delay_s, *arguments):
        process = driver.start(arguments, self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(delay_s)
        driver.end_group(process)
        out = process.stdout.read().decode()
        process.stdout.close()
        self.assertIn(process.returncode, (0, -signal.SIGKILL), out)
        return out

    def kill_while_loading(self, program):
        """Once the arena is there; a program that was faster than this one is started again."""
        for _ in range(20):
            if os.path.exists(self.arena):
                os.unlink(self.arena)
            process = driver.start([program], self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            end = time.monotonic() + 30
            while not os.path.exists(self.arena) and process.poll() is None and time.monotonic() < end:
                os.sched_yield()
            driver.end_group(process)
            out = process.stdout.read().decode()
            process.stdout.close()
            if 'loaded' not in out:
                return
        self.fail('it was never killed while it loaded')

    def test_kv_cache(self):
        program = self.build('kv_cache')
        # The next run begins afresh.
        self.kill_while_loading(program)
        first = driver.run([program], self.environment)
        self.assertEqual(first.status, -signal.SIGKILL, first)
        self.assertIn('loaded 1000000 entries', first.out)
        for _ in range(2):
            out = self.good(program)
            print(out, end='')
            self.assertIn('1000000 of 1000000 entries right', out)

    def test_solver(self):
        program, seed = self.build('solver'), time.time_ns() % 10000
        print(f'seed {seed}')
        source = random.Random(seed)
        whole = self.good(program, os.path.join(SCRATCH, 'whole.arena'), '30000').splitlines()[-1]
        starts = []
        for _ in range(60):
            out = self.kill_after(source.uniform(0.002, 0.03), program, self.arena, '30000')
            found = re.match(r'from iteration (\d+)', out)
            if found:
                starts.append(int(found[1]))
        self.assertEqual(starts, sorted(starts))
        self.assertGreater(starts[-1], 0)
        self.assertEqual(self.good(program, self.arena, '30000').splitlines()[-1], whole)

    def test_linked_list(self):
        program = self.build('linked_list')
        found = []
        for round_number in range(30):
            out = self.kill_after(0.005 + 0.001 * round_number, program, self.arena, '100000000')
            self.assertNotIn('wrong', out)
            found += [int(number) for number in re.findall(r'found (\d+) nodes', out)]
            if found and found[-1] > 2000000:
                break
        self.assertEqual(found, sorted(found))
        self.assertGreater(found[-1], 1000)


if __name__ == '__main__':
    driver.main(sys.modules['__main__'])
