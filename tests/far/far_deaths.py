#!/usr/bin/python3
"""Kills whatever takes part in far memory, under load, and counts what is lost.

    far_deaths.py [--quick] [--count N] [--seed S] [--json] FAMILY LIBRARY PROGRAMS BARTENDERD BARTENDER

nodes       one of two nodes, again and again, under threads that time every load, store and system call
client      the program, again and again; each next life checks every block against a ledger
all         both nodes and the program at once
increments  nobody: three writers count under forced eviction, and no increment may be lost
wrong       the same while somebody evicts in the wrong order (copies, and puts the copy back): some must be lost

Each family prints its numbers, then "images: CASES, violations: N", as scripts/reliability reads it.  Everything is on this machine, nodes over
loopback.  What goes on is told on stderr, with the time left.
"""

import argparse
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, '..', 'preload'), os.path.join(HERE, '..', 'node')]
sys.dont_write_bytecode = True
import driver  # noqa: E402
from node_daemon import Daemon  # noqa: E402

LIMIT_S = 60
# Family: how many in the quick run, and in the full one.
COUNTS = {'nodes': (3, 100), 'client': (4, 100), 'all': (2, 20), 'increments': (10**7, 10**9), 'wrong': (4 * 10**6, 10**7)}
FAR, NEAR = 3, 1  # of core/spill/extent_word.hpp


class Violation(Exception):
    """What must not happen, has."""


class Progress:
    """A line on stderr every few seconds, with the time left."""

    EVERY_S = 10

    def __init__(self, what, count):
        self.what, self.count, self.start = what, count, time.monotonic()
        self.told = self.start

    def step(self, done):
        now = time.monotonic()
        if now - self.told < self.EVERY_S or done == 0:
            return
        self.told = now
        left_s = (now - self.start) / done * (self.count - done)
        print(f'{self.what}: {done} of {self.count}, {int(left_s) // 60}:{int(left_s) % 60:02} left', file=sys.stderr, flush=True)


class Words:
    """The window's file from outside: what each extent is, and which nodes hold it.  See core/spill/far_file.hpp."""

    def __init__(self, directory):
        names = [name for name in os.listdir(directory) if name.endswith('.far')]
        if len(names) != 1:
            raise Violation(f'one window file expected: {names}')
        self.file = open(os.path.join(directory, names[0]), 'r+b')
        magic, _, _, self.count = struct.unpack('<QIIQ', os.pread(self.file.fileno(), 24, 0))
        if magic != 0x5241464452414254:
            raise Violation('the window file has another magic')
        self.offset = (4096 + 8 * self.count + 65535) // 65536 * 65536

    def all(self):
        """Up to the last word that is not zero: there are a million, of which a test uses some hundreds."""
        text = os.pread(self.file.fileno(), 8 * self.count, 4096).rstrip(b'\0')
        text += bytes(-len(text) % 8)
        return struct.unpack(f'<{len(text) // 8}Q', text)

    def one(self, extent):
        return struct.unpack('<Q', os.pread(self.file.fileno(), 8, 4096 + 8 * extent))[0]

    def close(self):
        self.file.close()

    def short(self):
        """Extents that are far and have fewer than two holders."""
        return sum(1 for word in self.all() if word & 0xF == FAR and bin(word >> 8 & 0xFF).count('1') < 2)

    def far(self):
        return sum(1 for word in self.all() if word & 0xF == FAR)


class World:
    """A directory with a key, two nodes and a place for the arena; `close` leaves nothing."""

    def __init__(self, options, near='8M'):
        self.options, self.near = options, near
        self.place = driver.scratch_directory()
        self.arenas = os.path.join(self.place, 'arenas')
        os.makedirs(self.arenas)
        self.key = os.path.join(self.place, 'key')
        with open(self.key, 'w', opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(os.urandom(32).hex() + '\n')
        self.nodes = [None, None]
        self.program = None
        for index in range(2):
            self.start_node(index)

    def start_node(self, index):
        old = self.nodes[index]
        address = f'127.0.0.1:{old.port}' if old else '127.0.0.1:0'
        self.nodes[index] = Daemon(self.options.bartenderd, '--listen', address, '--store', os.path.join(self.place, f'store{index}'),
                                   '--capacity', '512M', '--key-file', self.key)

    def environment(self, preload=True):
        result = driver.clean_environment(self.place)
        result.update(BARTENDER_ARENA=os.path.join(self.arenas, '%e.arena'), BARTENDER_THRESHOLD='8K',
                      BARTENDER_NODES=self.addresses(), BARTENDER_KEY_FILE=self.key, BARTENDER_NEAR=self.near)
        if preload:
            result['LD_PRELOAD'] = self.options.library
        return result

    def addresses(self):
        return ','.join(f'127.0.0.1:{node.port}' for node in self.nodes)

    def start(self, name, *arguments):
        self.program = driver.start([os.path.join(self.options.programs, name), *arguments], self.environment(), stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.errors = []
        self.collector = threading.Thread(target=lambda pipe=self.program.stderr: self.errors.extend(pipe), daemon=True)
        self.collector.start()

    def line(self):
        """The program's next one; its death is a violation."""
        timer = threading.Timer(self.options.limit_s, lambda: driver.end_group(self.program))
        timer.start()
        text = self.program.stdout.readline()
        timer.cancel()
        if not text:
            status = self.program.wait()
            self.collector.join(LIMIT_S)
            raise Violation(f'the program ended with {status}: ' + b''.join(self.errors).decode(errors='replace')[-3000:])
        return text.decode()

    def ask(self):
        self.program.stdin.write(b'?\n')
        self.program.stdin.flush()
        return json.loads(self.line())

    def kill_program(self):
        self.program.kill()
        self.end_program()

    def end_program(self):
        self.program.stdin.close()
        status = self.program.wait(self.options.limit_s)
        self.collector.join(LIMIT_S)
        self.program.stdout.close()
        self.program.stderr.close()
        return status

    def state_of(self, index):
        outcome = driver.run([self.options.tool, 'node', f'127.0.0.1:{self.nodes[index].port}', '--key-file', self.key, '--json'],
                             self.environment(preload=False))
        if outcome.status != 0:
            raise Violation(f'bartender node: {outcome}')
        return json.loads(outcome.out)

    def check(self, few_copies):
        """`bartender check` of arena and replicas, by their checksums.  few_copies: a node died first, so some have only one."""
        paths = driver.arenas_in(self.arenas)
        outcome = driver.run([self.options.tool, 'check', '--nodes', self.addresses(), '--key-file', self.key, *paths],
                             self.environment(preload=False), timeout_s=120)
        is_good = outcome.status == 0
        if few_copies and not is_good:
            faults = {line.split()[0] for line in outcome.out.splitlines()[1:] if len(line.split()) == 4}
            is_good = faults == {'few-copies'} and outcome.out.endswith(': clean\n')
        if not is_good:
            raise Violation(f'bartender check: {outcome}')

    def wait_until(self, what, is_so):
        until = time.monotonic() + LIMIT_S
        while not is_so():
            if time.monotonic() > until:
                raise Violation(f'{what}: not within {LIMIT_S} s; {self.nodes_text()}')
            if self.program is not None and self.program.poll() is not None:
                self.line()  # says how it ended
            time.sleep(0.005)  # what is polled is another process

    def nodes_text(self):
        return ', '.join('dead' if node.process.poll() is not None else 'alive' for node in self.nodes)

    def close(self):
        if self.program is not None and self.program.poll() is None:
            driver.end_group(self.program)
        for node in self.nodes:
            if node is not None:
                node.kill()
        shutil.rmtree(self.place, ignore_errors=True)


def percentile(values, percent):
    values = sorted(values)
    return values[max(0, -(-len(values) * percent // 100) - 1)]


def kill_nodes(options, world, count):
    """Stalls with and without a death: the slowest operation of a stretch of time, by the program's own clock."""
    world.start('far_load', options.blocks, options.threads, options.seed)
    world.line()
    words = Words(world.arenas)
    stalls, quiet, restores = [], [], []
    progress = Progress('node deaths', count)
    last = world.ask()
    for turn in range(count):
        progress.step(turn)
        # A second copy of all: what only the dead one had would have to wait for it.
        begin = time.monotonic()
        world.wait_until('redundancy', lambda: words.short() == 0)
        restores.append(time.monotonic() - begin + (restores.pop() if turn > 0 else 0))  # since the node was started
        world.ask()
        time.sleep(options.random.uniform(0.1, 0.3))  # a stretch without a death, for comparison
        answer = world.ask()
        quiet.append(answer['slowest_us'] / 1000)
        victim = options.random.randrange(2)
        world.nodes[victim].kill()
        time.sleep(options.random.uniform(0.2, 0.6))  # how long it is away
        last = world.ask()
        stalls.append(last['slowest_us'] / 1000)
        if last['operations'] == answer['operations']:
            raise Violation(f'the program does not go on without node {victim}')
        begin = time.monotonic()
        world.start_node(victim)
        # The evictor writes to a node only after it has looked up what that has.
        world.wait_until('the node is back', lambda victim=victim: world.state_of(victim)['writes'] > 0)
        restores.append(time.monotonic() - begin)
    far = words.far()
    words.close()
    world.program.stdin.write(b'?\n')
    world.program.stdin.close()
    world.line()
    last = json.loads(world.line())
    if world.program.wait(options.limit_s) != 0:
        raise Violation('the program ended badly')
    numbers = {'deaths': count, 'stall_p50_ms': percentile(stalls, 50), 'stall_p99_ms': percentile(stalls, 99), 'stall_max_ms': max(stalls),
               'quiet_p50_ms': percentile(quiet, 50), 'quiet_max_ms': max(quiet), 'restored_p50_s': round(percentile(restores, 50), 3),
               'restored_max_s': round(max(restores), 3), 'far_extents': far, **last}
    del numbers['slowest_us']
    return count, int(last['lost_bytes'] > 0) + int(last['failed_calls'] > 0), numbers


def lives(options, world, count, kills_nodes):
    """Each life checks what the last one left, works on, and is killed at any moment."""
    ledger = os.path.join(world.place, 'ledger')
    answers, seconds = [], []
    progress = Progress('deaths of all' if kills_nodes else 'client deaths', count)
    wrong = 0
    for turn in range(count + 1):
        progress.step(turn)
        begin = time.monotonic()
        world.start('far_ledger', ledger, options.blocks)
        answer = json.loads(world.line())
        seconds.append(time.monotonic() - begin)
        if answer['old'] != (turn > 0):
            raise Violation(f'turn {turn}: {answer}')
        answers.append(answer)
        wrong += answer['wrong_bytes']
        time.sleep(options.random.uniform(0, 0.4))  # any moment will do
        victims = [world.kill_program]
        if kills_nodes:
            victims += [node.kill for node in world.nodes]
            options.random.shuffle(victims)
        for kill in victims:
            kill()
        if kills_nodes:
            for index in range(2):
                world.start_node(index)
        if turn % 10 == 0:
            world.check(few_copies=kills_nodes)
    outcome = driver.run([os.path.join(world.options.programs, 'far_ledger'), ledger, options.blocks, 'end'], world.environment(),
                         timeout_s=options.limit_s)
    if outcome.status != 0:
        raise Violation(f'the last life: {outcome}')
    reattach = [answer['reattach_ms'] for answer in answers[1:]]
    numbers = {'deaths': count, 'blocks': answers[-1]['blocks'], 'torn_blocks': sum(answer['torn'] for answer in answers), 'wrong_bytes': wrong,
               'reattach_p50_ms': percentile(reattach, 50), 'reattach_p99_ms': percentile(reattach, 99), 'reattach_max_ms': max(reattach),
               'verified_p50_s': round(percentile(seconds[1:], 50), 3)}
    return count, int(wrong > 0), numbers


def evict_wrongly(world, is_done, seed):
    """Copies an extent and puts the copy back: what a pager does that copies first and unmaps afterwards."""
    chance = random.Random(seed)
    words = Words(world.arenas)
    descriptor, put_back = words.file.fileno(), 0
    while not is_done.is_set():
        count = len(words.all())
        for extent in chance.sample(range(count), min(count, 100)):
            word = words.one(extent)
            if word & 0xF != NEAR or is_done.is_set():
                continue
            copy = os.pread(descriptor, 65536, words.offset + extent * 65536)
            time.sleep(0.003)  # as long as a busy node takes
            if words.one(extent) != word:  # it went, and may have come again
                continue
            os.pwrite(descriptor, copy, words.offset + extent * 65536)
            put_back += 1
    words.close()
    return put_back


def increments(options, world, count, is_wrong):
    world.start('far_increments', count, options.mib or (6 if is_wrong else 16), options.seed)
    world.line()
    is_done, put_back = threading.Event(), []
    wrong = threading.Thread(target=lambda: put_back.append(evict_wrongly(world, is_done, options.seed)))
    if is_wrong:
        wrong.start()
    relay = threading.Thread(target=relay_progress, args=(world, is_done))
    relay.start()
    try:
        answer = json.loads(world.line())
    finally:
        is_done.set()
        relay.join()
        if is_wrong:
            wrong.join()
    if world.program.wait(LIMIT_S) != 0:
        raise Violation('the program ended badly')
    numbers = dict(answer, millions_a_second=round(answer['increments'] / max(answer['seconds'], 0.01) / 1e6, 2),
                   written_back=world.state_of(0)['writes'], fetched=sum(world.state_of(index)['reads'] for index in range(2)))
    if is_wrong:
        numbers['put_back'] = put_back[0]
        if put_back[0] < 20:
            raise Violation(f'hardly any eviction was wrong: {numbers}')
        return 1, int(answer['lost'] == 0), numbers
    if numbers['written_back'] < 100 or numbers['fetched'] < 100:
        raise Violation(f'hardly anything was evicted: {numbers}')
    return answer['increments'], answer['lost'], numbers


def relay_progress(world, is_done):
    told = 0
    while not is_done.wait(1):
        for line in world.errors[told:]:
            sys.stderr.write(line.decode(errors='replace'))
            told += 1


def run(options):
    count = options.count or COUNTS[options.family][0 if options.quick else 1]
    world = World(options, near='4M' if options.family in ('increments', 'wrong') else '8M')
    try:
        if options.family == 'nodes':
            return kill_nodes(options, world, count)
        if options.family in ('client', 'all'):
            return lives(options, world, count, options.family == 'all')
        return increments(options, world, count, options.family == 'wrong')
    finally:
        world.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('family', choices=COUNTS)
    for name in ('library', 'programs', 'bartenderd', 'tool'):
        parser.add_argument(name, type=os.path.abspath)
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('--count', type=int, help='deaths, or increments')
    parser.add_argument('--seed', type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument('--blocks', type=int, default=400)
    parser.add_argument('--threads', type=int, default=3)
    parser.add_argument('--mib', type=int, help='that the increments are made in; default 16, 6 in wrong')
    parser.add_argument('--json', action='store_true', help='nothing but the numbers, in one line')
    options = parser.parse_args()
    options.random = random.Random(options.seed)
    options.limit_s = 6 * 3600 if options.family == 'increments' else LIMIT_S
    driver.stop_on_signals()
    try:
        cases, violations, numbers = run(options)
    except Violation as violation:
        print(f'{options.family}: {violation}; seed {options.seed}')
        cases, violations, numbers = 1, 1, {}
    if options.json:
        print(json.dumps(dict(numbers, workload=options.family)))
    else:
        print(f'{options.family}: ' + ', '.join(f'{name} {value}' for name, value in numbers.items()))
        print(f'images: {cases}, violations: {violations}')
    return 1 if violations else 0


if __name__ == '__main__':
    sys.exit(main())
