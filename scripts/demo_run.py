#!/usr/bin/python3
"""The main job, shown on real programs: each is killed by SIGKILL in the middle of its work,
and what it had computed is salvaged from its arena and compared with the truth, byte for byte.

Usage: demo_run.py BUILD_DIRECTORY    (called by scripts/demo, which builds first)
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HEAT = pathlib.Path(__file__).resolve().parent / 'demo_heat.py'
HEAT_STEPS = 1000
KILL_AT_STEP = 100
GRID_BYTES = 32 << 20

LINES = 1_000_000
LINE = re.compile(rb'line (\d{7}) ([0-9a-f]{48}) end')

# No wait is longer than this; the slowest step takes a few seconds on two cores.
TIME_LIMIT_S = 300
# What both programs together may need, with room to spare.
SPACE_BYTES = 1 << 30


class Mismatch(Exception):
    """What was salvaged is not what was there, or a step did not do what it must."""


def say(text):
    print(text, flush=True)


def show(output):
    for line in output.splitlines():
        say('      ' + line)


def expect(condition, what):
    if not condition:
        raise Mismatch(what)


def process_id(started, name):
    """The id of the program `name` that `bartender run` became or started; it runs already."""
    candidates = [started.pid]
    for pid in candidates:
        comm = pathlib.Path(f'/proc/{pid}/comm').read_text().strip()
        if comm == name or comm.startswith(name):
            return pid
        children = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
        candidates += [int(child) for child in children.split()]
    raise Mismatch(f'{name} does not run under process {started.pid}')


class Demo:
    def __init__(self, build, work, arenas):
        self.bartender = build / 'tools' / 'bartender'
        self.work = pathlib.Path(work)
        self.arenas = pathlib.Path(arenas)
        self.plain = {name: value for name, value in os.environ.items()
                      if not name.startswith('BARTENDER_') and name != 'LD_PRELOAD'}
        self.plain['LC_ALL'] = 'C'
        self.environment = dict(self.plain, BARTENDER_ARENA=f'{arenas}/%e%n.arena')
        self.started = None  # of start(), until kill() has ended it
        self.program = None  # its process id

    def tool(self, *arguments):
        """Runs `bartender ARGUMENTS`; returns what it prints."""
        done = subprocess.run([self.bartender, *arguments], env=self.environment,
                              capture_output=True, timeout=TIME_LIMIT_S, check=False)
        sys.stderr.write(done.stderr.decode(errors='replace'))
        expect(done.returncode == 0,
               f'bartender {arguments[0]} ended with status {done.returncode}')
        return done.stdout

    def start(self, name, *command):
        say(f'   $ bartender run -- {" ".join(str(word) for word in command)}')
        self.started = subprocess.Popen([self.bartender, 'run', '--', *command],
                                        env=self.environment, stdout=subprocess.PIPE)
        self.name = name

    def kill(self):
        """SIGKILL: the program has no chance to save anything."""
        self.program = process_id(self.started, self.name)
        say(f'   $ kill -9 {self.program}')
        os.kill(self.program, signal.SIGKILL)
        self.started.stdout.close()
        status = self.started.wait(timeout=TIME_LIMIT_S)
        self.started = None
        expect(status in (-signal.SIGKILL, 128 + signal.SIGKILL),
               f'{self.name} was not killed: status {status}')
        say(f'     {self.name} is dead (SIGKILL)')

    def stop(self):
        """After a failure: ends what still runs, and only that."""
        if self.started is None:
            return
        try:
            os.kill(process_id(self.started, self.name), signal.SIGKILL)
        except (OSError, Mismatch):
            pass
        self.started.kill()
        self.started.wait()

    def crashed_arena(self):
        """The one arena that the dead program left."""
        say(f'   $ bartender ls {self.arenas}')
        show(self.tool('ls', self.arenas).decode())
        arenas = json.loads(self.tool('ls', self.arenas, '--json'))['arenas']
        expect(len(arenas) == 1, f'one arena expected, found {len(arenas)}')
        expect(arenas[0]['state'] == 'crashed', f'the arena is {arenas[0]["state"]}, not crashed')
        return arenas[0]['path']

    def remove(self, arena):
        say(f'   $ bartender rm {arena}')
        self.tool('rm', arena)
        expect(not os.path.exists(arena), f'{arena} is still there')

    def heat(self):
        say(f'\n1. python3 and numpy: heat on a plate, {HEAT_STEPS} steps over two grids of 32 MiB')
        began = time.monotonic()
        self.start('python3', '/usr/bin/python3', HEAT, str(HEAT_STEPS))
        for line in self.started.stdout:
            if int(line.split()[1]) >= KILL_AT_STEP:
                break
        else:
            raise Mismatch('the program ended before it could be killed')
        say(f'     it prints "{line.decode().strip()}" after '
            f'{time.monotonic() - began:.1f} s of work; now it is killed')
        self.kill()

        arena = self.crashed_arena()
        say(f'   $ bartender salvage {arena} --min-size 1M')
        show(self.tool('salvage', arena, '--min-size', '1M').decode())
        blocks = json.loads(self.tool('salvage', arena, '--json', '--min-size', '1M'))['blocks']
        grids = [block for block in blocks if GRID_BYTES <= block['size_bytes'] < 2 * GRID_BYTES]
        expect(len(grids) == 2, f'two grids expected among the blocks, found {len(grids)}')
        expect(all(grid['size_bytes'] == GRID_BYTES for grid in grids), 'a grid has grown')

        whole = 0
        for grid in grids:
            whole += self.check_grid(arena, grid['id'])
        expect(whole >= 1, 'no grid is complete, but at every moment one of the two is')
        self.remove(arena)

    def check_grid(self, arena, block):
        """Exports one grid and compares it with a computation that was not killed."""
        import numpy  # after scripts/setup has installed it
        salvaged = self.work / f'grid-{block}.bin'
        say(f'   $ bartender salvage {arena} --id {block} --output {salvaged.name}')
        self.tool('salvage', arena, '--id', str(block), '--output', str(salvaged))
        step = int(numpy.fromfile(salvaged, count=1)[0])
        if step < 0:
            say('     this grid was being written when the program died; the other one is whole')
            return 0
        expect(KILL_AT_STEP - 1 <= step <= HEAT_STEPS, f'the grid says step {step}')
        truth = self.work / f'truth-{step}.bin'
        say(f'     it holds step {step}; computing {step} steps again, without crash and bartender')
        subprocess.run(['/usr/bin/python3', HEAT, str(step), truth], env=self.plain,
                       stdout=subprocess.DEVNULL, timeout=TIME_LIMIT_S, check=True)
        same = truth.read_bytes() == salvaged.read_bytes()
        expect(same, f'the grid of step {step} differs from the computation without a crash')
        say(f'     all {truth.stat().st_size:,} bytes are the same')
        return 1

    def sort(self):
        say(f'\n2. sort, of coreutils: a text of {LINES:,} lines')
        text = self.work / 'text'
        with text.open('wb') as out:
            for first in range(0, LINES, 10000):
                out.write(b''.join(line_of(number) for number in range(first, first + 10000)))
        say(f'     wrote {text.stat().st_size >> 20} MiB of text')

        # sort opens its second input when it has read the whole of the first, and opening a FIFO
        # for writing returns when a reader opens it: then all lines are in its memory.
        second = self.work / 'second'
        os.mkfifo(second)
        self.start('sort', '/usr/bin/sort', '-S', '256M', text, second)
        with open(second, 'wb'):
            say('     it has read the text and waits for its second input; now it is killed')
            self.kill()

        arena = self.crashed_arena()
        say(f'   $ bartender salvage {arena} --min-size 1M')
        show(self.tool('salvage', arena, '--min-size', '1M').decode())
        say(f'   $ bartender salvage {arena} --strings')
        strings = self.tool('salvage', arena, '--strings')
        say(f'     {strings.count(10):,} printable strings, the first ones:')
        show(b'\n'.join(strings.split(b'\n', 3)[:3]).decode(errors='replace'))
        self.compare_lines(strings)
        self.remove(arena)

    @staticmethod
    def compare_lines(strings):
        found = {}
        for match in LINE.finditer(strings):
            found[int(match[1])] = match[0] + b'\n'
        missing = [n for n in range(LINES) if n not in found]
        expect(not missing, f'{len(missing)} lines are missing, the first is {missing[:1]}')
        expect(len(found) == LINES, 'lines were found that nobody wrote')
        wrong = [n for n in range(LINES) if found[n] != line_of(n)]
        expect(not wrong, f'{len(wrong)} lines are wrong, the first is {wrong[:1]}')
        say(f'     all {LINES:,} lines of the text are there, byte for byte')


def line_of(number):
    """No two lines are alike, and they come in no order: work for sort."""
    digest = hashlib.blake2b(number.to_bytes(4, 'little'), digest_size=24).hexdigest()
    return b'line %07d %s end\n' % (number, digest.encode())


def arena_directory():
    """/dev/shm as by default, unless it is too small, as in many containers: then a disk."""
    shared = shutil.disk_usage('/dev/shm').free if os.path.isdir('/dev/shm') else 0
    if shared >= SPACE_BYTES:
        return tempfile.mkdtemp(prefix='bartender-demo-', dir='/dev/shm')
    say(f'/dev/shm has {shared >> 20} MiB free, too little: the arenas go to a disk')
    return tempfile.mkdtemp(prefix='bartender-demo-', dir='/var/tmp')


def interrupted(number, _frame):
    """A signal that ends us still cleans up; SIGALRM is the limit of the whole demo."""
    raise Mismatch('time limit' if number == signal.SIGALRM else f'ended by signal {number}')


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupted)
    signal.alarm(TIME_LIMIT_S)
    work = tempfile.mkdtemp(prefix='bartender-demo-')
    arenas = arena_directory()
    demo = Demo(build, work, arenas)
    try:
        demo.heat()
        demo.sort()
    except (Mismatch, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        print(f'\ndemo: FAILED: {error}', file=sys.stderr)
        return 1
    finally:
        demo.stop()
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(arenas, ignore_errors=True)
    say('\ndemo: SUCCESS: two programs were killed, and all of their data was salvaged')
    return 0


if __name__ == '__main__':
    sys.exit(main())
