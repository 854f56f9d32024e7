#!/usr/bin/python3
"""Programs under libbartender.so with little memory near, and memory nodes on the same machine.

    far_test.py LIBRARY PROGRAMS BARTENDERD [BARTENDER_TOOL]

What is checked: the data comes back as it was, through node deaths, the program's own death, both, and fork; system calls work on
far blocks; bad settings cost one line and no data; a program that ends well leaves nothing anywhere.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

import driver
from driver import run

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'node'))
from node_daemon import Daemon  # noqa: E402

LIBRARY = PROGRAMS = BARTENDERD = TOOL = SCRATCH = None
PYTHON = '/usr/bin/python3'
TIME_LIMIT_S = 60
SEED = int(os.environ.get('BTD_SEED', '0')) or random.SystemRandom().randrange(1, 2**32)

# 64 MiB of objects of 16 KiB, some changed, some dropped, all checked.
CHURN = '''
import hashlib, random
random.seed(7)
table = {}
for turn in range(12000):
    key = random.randrange(4000)
    if key in table and random.random() < 0.3:
        del table[key]
    else:
        table[key] = (bytearray(random.randbytes(64)) * 256, turn)
digest = hashlib.sha256()
for key in sorted(table):
    digest.update(table[key][0]); digest.update(str(table[key][1]).encode())
print(len(table), digest.hexdigest())
'''


class Case(unittest.TestCase):
    def setUp(self):
        self.place = os.path.join(SCRATCH, 'far')
        os.makedirs(self.place, exist_ok=True)
        driver.empty(self.place)
        self.arenas = os.path.join(self.place, 'arenas')
        os.makedirs(self.arenas)
        self.key = os.path.join(self.place, 'key')
        self.write_key(self.key)
        self.nodes = []

    def write_key(self, path):
        with open(path, 'w') as file:
            file.write(os.urandom(32).hex() + '\n')
        os.chmod(path, 0o600)

    def start_node(self, index=None, capacity='512M', key=None):
        """A new node, or the one with that index again, at its address."""
        again = index is not None
        index = index if again else len(self.nodes)
        address = f'127.0.0.1:{self.nodes[index].port}' if again else '127.0.0.1:0'
        node = Daemon(BARTENDERD, '--listen', address, '--store', os.path.join(self.place, f'store{index}'), '--capacity', capacity,
                      '--key-file', key or self.key)
        self.addCleanup(node.kill)
        if again:
            self.nodes[index] = node
        else:
            self.nodes.append(node)
        return node

    def addresses(self):
        return ','.join(f'127.0.0.1:{node.port}' for node in self.nodes)

    def environment(self, **settings):
        result = driver.clean_environment(self.place)
        result.update(LD_PRELOAD=LIBRARY, PYTHONHASHSEED='0', BARTENDER_ARENA=os.path.join(self.arenas, '%e%n.arena'),
                      BARTENDER_THRESHOLD='8K', BARTENDER_NODES=self.addresses(), BARTENDER_KEY_FILE=self.key, BARTENDER_NEAR='8M')
        result.update({'BARTENDER_' + name: str(value) for name, value in settings.items()})
        return {name: value for name, value in result.items() if value is not None}

    def program(self, name):
        return os.path.join(PROGRAMS, 'compat_' + name)

    def state_of(self, node):
        outcome = run([TOOL, 'node', f'127.0.0.1:{node.port}', '--key-file', self.key, '--json'], driver.clean_environment(self.place))
        self.assertEqual(outcome.status, 0, str(outcome))
        return json.loads(outcome.out)

    def await_true(self, condition, what):
        until = time.monotonic() + TIME_LIMIT_S
        while not condition():
            self.assertLess(time.monotonic(), until, what)
            time.sleep(0.02)  # what is polled is another process

    def plain(self, *arguments):
        environment = self.environment()
        del environment['LD_PRELOAD']
        return run(arguments, environment, timeout_s=TIME_LIMIT_S)


class Data(Case):
    def check_churn(self, **settings):
        expected = self.plain(PYTHON, '-c', CHURN)
        outcome = run([PYTHON, '-c', CHURN], self.environment(**settings), timeout_s=TIME_LIMIT_S)
        self.assertEqual((outcome.status, outcome.out, outcome.reports()), (0, expected.out, []), str(outcome))

    def test_what_goes_far_comes_back(self):
        for _ in range(2):
            self.start_node()
        self.check_churn()
        for node in self.nodes:
            self.assertGreater(self.state_of(node)['writes'], 100)
        self.assertGreater(sum(self.state_of(node)['reads'] for node in self.nodes), 100)

    def test_nothing_is_left_after_a_good_end(self):
        for _ in range(2):
            self.start_node()
        self.check_churn()
        self.assertEqual(os.listdir(self.arenas), [])
        for node in self.nodes:
            self.await_true(lambda node=node: self.state_of(node)['arenas'] == [], 'the node has forgotten the arena')

    def test_one_node_one_replica(self):
        self.start_node()
        self.check_churn(REPLICAS=1)

    def test_sealed(self):
        if 'aes' not in open('/proc/cpuinfo').read().split():
            self.skipTest('this processor has no AES instructions')
        seal = os.path.join(self.place, 'seal')
        self.write_key(seal)
        for _ in range(2):
            self.start_node()
        self.check_churn(SEAL_KEY_FILE=seal)
        self.assertGreater(self.state_of(self.nodes[0])['writes'], 100)

    def test_only_large_blocks(self):
        self.start_node()
        self.check_churn(REPLICAS=1, SPILL_POLICY='large', LOG='off')

    def test_near_enough_sends_nothing(self):
        self.start_node()
        self.check_churn(NEAR='1G')
        self.assertEqual(self.state_of(self.nodes[0])['writes'], 0)


class Settings(Case):
    """One line, and the program goes on near."""

    def one_line(self, word, **settings):
        outcome = run([PYTHON, '-c', CHURN], self.environment(**settings), timeout_s=TIME_LIMIT_S)
        self.assertEqual((outcome.status, outcome.out), (0, self.plain(PYTHON, '-c', CHURN).out), str(outcome))
        self.assertEqual(len(outcome.reports()), 1, str(outcome))
        self.assertIn(word, outcome.reports()[0])

    def test_bad_settings(self):
        self.start_node()
        self.one_line('NODES', NODES='localhost')
        self.one_line('KEY_FILE', KEY_FILE='')
        self.one_line('KEY_FILE', KEY_FILE=os.path.join(self.place, 'none'))
        self.one_line('DURABILITY', DURABILITY='lazy')
        os.chmod(self.key, 0o644)
        self.one_line('chmod', KEY_FILE=self.key)

    def test_nobody_answers(self):
        node = self.start_node()
        node.kill()
        outcome = run([PYTHON, '-c', CHURN], self.environment(), timeout_s=TIME_LIMIT_S)
        self.assertEqual((outcome.status, outcome.out), (0, self.plain(PYTHON, '-c', CHURN).out), str(outcome))

    def test_a_node_with_another_key(self):
        other = os.path.join(self.place, 'other')
        self.write_key(other)
        self.start_node(key=other)
        outcome = run([PYTHON, '-c', CHURN], self.environment(), timeout_s=TIME_LIMIT_S)
        self.assertEqual((outcome.status, outcome.out), (0, self.plain(PYTHON, '-c', CHURN).out), str(outcome))

    @unittest.skipUnless(driver.ROOT, 'not root: cannot become somebody who may not use userfaultfd')
    def test_without_userfaultfd(self):
        self.start_node()
        for name in (self.place, self.arenas, self.key):
            os.chown(name, 65534, 65534)
        os.chmod(os.path.dirname(self.place), 0o755)
        library = os.path.join(self.place, 'libbartender.so')
        shutil.copy(LIBRARY, library)
        outcome = run(['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', PYTHON, '-c', CHURN],
                      self.environment(ONLY='python3.11') | {'LD_PRELOAD': library}, timeout_s=TIME_LIMIT_S)
        self.assertEqual((outcome.status, outcome.out), (0, self.plain(PYTHON, '-c', CHURN).out), str(outcome))
        self.assertEqual(len(outcome.reports()), 1, str(outcome))
        self.assertIn('give this user read and write access to /dev/userfaultfd', outcome.reports()[0])
        self.assertEqual(self.state_of(self.nodes[0])['writes'], 0)  # it stays near


class Kernel(Case):
    """What the kernel does with blocks that are far."""

    def test_system_calls(self):
        for _ in range(2):
            self.start_node()
        with tempfile.TemporaryDirectory(dir='/var/tmp') as disk:
            outcome = run([self.program('far_system_calls'), disk], self.environment(), timeout_s=TIME_LIMIT_S)
        self.assertEqual((outcome.status, outcome.reports()), (0, []), str(outcome))
        calls, far_calls = map(int, re.search(r'(\d+) calls, (\d+) on far blocks', outcome.out).groups())
        # Each once far and once near; a few may have come near by themselves.
        self.assertGreaterEqual(far_calls, calls * 2 // 5, str(outcome))
        print(f'        {outcome.out.strip()}')


class Deaths(Case):
    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        for _ in range(2):
            self.start_node()

    def fill(self, count=400, **settings):
        process = driver.start([self.program('far_keeper'), 'fill', count], self.environment(**settings), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
        self.addCleanup(driver.end_group, process)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        line = process.stdout.readline()
        self.assertEqual(line, b'filled\n', line or process.communicate())
        return process

    def verify(self, count=400, *more, **settings):
        outcome = run([self.program('far_keeper'), 'verify', *more], self.environment(**settings), timeout_s=TIME_LIMIT_S)
        self.assertEqual((outcome.status, outcome.out), (0, f'{count} blocks\n'), f'seed {SEED}\n{outcome}')

    def test_the_program_dies(self):
        for _ in range(5):
            process = self.fill()
            time.sleep(self.random.random() * 0.3)  # any moment will do
            process.kill()
            process.wait()
            self.verify()
            self.verify(400, 'remove')

    def test_each_node_dies_in_turn(self):
        process = self.fill()
        for _ in range(3):
            for index in range(2):
                self.nodes[index].kill()
                self.await_true(lambda: self.grows(process), 'the program goes on')
                self.start_node(index)
                self.await_true(lambda index=index: self.state_of(self.nodes[index])['writes'] > 20, 'it is back')
        self.assertIsNone(process.poll())
        process.kill()
        process.wait()
        self.verify()

    def grows(self, process):
        """Whether the program has worked since it was asked last."""
        with open(f'/proc/{process.pid}/stat') as file:
            spent = sum(map(int, file.read().rsplit(')', 1)[1].split()[11:13]))
        before, self.spent = getattr(self, 'spent', None), spent
        return before is not None and spent > before + 2

    def test_all_die(self):
        process = self.fill()
        for node in self.nodes:
            node.kill()
        process.kill()
        process.wait()
        for index in range(2):
            self.start_node(index)
        self.verify()

    def test_an_arena_with_far_data_is_left_alone_without_its_nodes(self):
        process = self.fill()
        process.kill()
        process.wait()
        environment = self.environment()
        del environment['BARTENDER_NODES']
        outcome = run([self.program('far_keeper'), 'verify'], environment)
        self.assertNotEqual(outcome.status, 0)
        self.assertTrue(any('BARTENDER_NODES' in line for line in outcome.reports()), str(outcome))
        self.verify()

    def test_the_collector_sees_what_is_far(self):
        process = self.fill()
        process.kill()
        process.wait()
        outcome = run([self.program('far_keeper'), 'collect'], self.environment(), timeout_s=TIME_LIMIT_S)
        self.assertEqual((outcome.status, outcome.out, outcome.reports()), (0, '200 freed\n', []), str(outcome))

    def test_fork(self):
        outcome = run([self.program('far_keeper'), 'fork', 400], self.environment(), timeout_s=TIME_LIMIT_S)
        self.assertEqual((outcome.status, outcome.out, outcome.reports()), (0, '400 blocks\n', []), str(outcome))


class Clusters(Case):
    """Arenas that a program opens by itself, with nodes in their uri."""

    def test_clusters_with_nodes(self):
        for _ in range(2):
            self.start_node()
        uris = [os.path.join(self.arenas, name) + f'?nodes={nodes}&near=4M&on_exit=discard&key_file={self.key}&replicas=1'
                for name, nodes in (('one', self.addresses()), ('other', self.addresses().split(',')[0]))]
        environment = self.environment(NODES='', KEY_FILE='')
        process = driver.start([self.program('far_clusters'), 'fill', *uris], environment, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
        self.addCleanup(driver.end_group, process)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.assertEqual(process.stdout.readline(), b'filled\n')
        self.assertEqual(len(self.state_of(self.nodes[0])['arenas']), 2)
        process.kill()
        process.wait()
        outcome = run([self.program('far_clusters'), 'verify', *(uri.split('?')[0] for uri in uris)], environment)
        self.assertNotEqual(outcome.status, 0)
        self.assertIn('nodes=', outcome.reports()[0])
        outcome = run([self.program('far_clusters'), 'verify', *uris], environment, timeout_s=TIME_LIMIT_S)
        self.assertEqual((outcome.status, outcome.out, outcome.reports()), (0, 'good\n', []), str(outcome))

    def test_clusters_that_end_leave_nothing(self):
        self.start_node()
        uris = [os.path.join(self.arenas, name) + f'?nodes={self.addresses()}&near=4M&on_exit=discard&replicas=1' for name in ('one', 'other')]
        outcome = run([self.program('far_clusters'), 'once', *uris], self.environment(NODES='', THRESHOLD='1M'), timeout_s=TIME_LIMIT_S)
        self.assertEqual((outcome.status, outcome.out, outcome.reports()), (0, 'good\n', []), str(outcome))
        self.assertEqual(os.listdir(self.arenas), [])
        self.assertGreater(self.state_of(self.nodes[0])['writes'], 100)
        self.await_true(lambda: self.state_of(self.nodes[0])['arenas'] == [], 'the node has forgotten the arenas')

    def test_single_node_stays_on_this_machine(self):
        self.start_node()
        outcome = run([self.program('far_clusters'), 'alone'], self.environment(THRESHOLD='1M', NEAR='4M'), timeout_s=TIME_LIMIT_S)
        self.assertEqual((outcome.status, outcome.out, outcome.reports()), (0, 'good\n', []), str(outcome))
        self.assertEqual(self.state_of(self.nodes[0])['writes'], 0)


if __name__ == '__main__':
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    LIBRARY, PROGRAMS, BARTENDERD, TOOL = map(os.path.abspath, sys.argv[1:5])
    SCRATCH = driver.scratch_directory()
    print(f'seed {SEED}')
    driver.main(sys.modules['__main__'], sys.argv[5] if len(sys.argv) > 5 else None)
