"""Exact counters, the same on every machine: instructions per operation by callgrind, the instructions
of the hot path, flushes and drains, and system calls by strace.

Instructions are the difference of two run lengths, divided by the difference in length, so that
start-up, the first refills and the program's end cancel out.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile

PAIR_COUNTS = (10000, 20000)
BATCH_COUNTS = (20000, 40000)  # whole batches of 1,000

# name, kind of bench/instructions, size in bytes
CASES = (
    ('pair 16', 'pair', 16), ('pair 64', 'pair', 64), ('pair 1K', 'pair', 1024),
    ('pair 4K', 'pair', 4096), ('pair 32K', 'pair', 32768),
    ('pair 64K', 'pair', 65536), ('pair 2M', 'pair', 2 << 20),
    ('pair 64, second thread existed', 'thread-pair', 64),
    ('batch 1k fifo', 'fifo', 64), ('batch 1k lifo', 'lifo', 64), ('calloc 64', 'calloc', 64),
    ('batch 1k, freed by another thread', 'remote', 64),
)


class Profile:
    """Instructions executed: in all, and by (object file, address in it)."""

    def __init__(self, total, addresses, functions):
        self.total = total
        self.addresses = addresses
        self.functions = functions

    def minus(self, other):
        def left(mine, theirs):
            return {k: n - theirs.get(k, 0) for k, n in mine.items() if n != theirs.get(k, 0)}
        return Profile(self.total - other.total, left(self.addresses, other.addresses),
                       left(self.functions, other.functions))


def parse_callgrind(lines):
    """One out file, written with --dump-instr=yes and neither strings nor positions compressed."""
    total, object_name, function = 0, '', ''
    addresses, functions = {}, {}
    is_call_cost = False  # the line after calls= is what the callee took: counted there already
    for line in lines:
        if line.startswith('0x'):
            if is_call_cost:
                is_call_cost = False
                continue
            fields = line.split()
            key, count = (object_name, int(fields[0], 16)), int(fields[-1])
            addresses[key] = addresses.get(key, 0) + count
            functions[function] = functions.get(function, 0) + count
        elif line.startswith('ob='):
            object_name = line[3:].strip()
        elif line.startswith('fn='):
            function = line[3:].strip()
        elif line.startswith('calls='):
            is_call_cost = True
        elif line.startswith('totals:'):
            total = int(line.split()[1])
    return Profile(total, addresses, functions)


def callgrind(command, environment, timeout_seconds=120):
    """Runs the command under callgrind; raises RuntimeError with its last words if it fails."""
    with tempfile.TemporaryDirectory(prefix='bartender-callgrind-') as directory:
        out = os.path.join(directory, 'out')
        ran = subprocess.run(
            ['valgrind', '--tool=callgrind', f'--callgrind-out-file={out}', '--dump-instr=yes',
             '--compress-pos=no', '--compress-strings=no'] + command,
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            timeout=timeout_seconds, check=False)
        if ran.returncode != 0 or 'bartender:' in ran.stderr:
            raise RuntimeError(f'{" ".join(command)}: status {ran.returncode}: {ran.stderr[-600:]}')
        with open(out, encoding='utf-8', errors='replace') as lines:
            return parse_callgrind(lines)


def counts_of(kind):
    return BATCH_COUNTS if kind in ('fifo', 'lifo', 'remote') else PAIR_COUNTS


def difference(kind):
    """How many operations a profile that count_case() returns is of."""
    return counts_of(kind)[1] - counts_of(kind)[0]


def count_case(program, kind, size_bytes, environment):
    """Instructions per operation, and the profile of the difference."""
    counts = counts_of(kind)
    short, long = (callgrind([program, kind, str(size_bytes), str(count)], environment)
                   for count in counts)
    profile = long.minus(short)
    return profile.total / difference(kind), profile


@functools.lru_cache(maxsize=8)
def disassemble(library):
    """Address to instruction text, for the whole object."""
    text = subprocess.run(['objdump', '-d', '--no-show-raw-insn', library], stdout=subprocess.PIPE,
                          text=True, timeout=120, check=True).stdout
    found = {}
    for line in text.splitlines():
        match = re.match(r'\s*([0-9a-f]+):\s+(.*)', line)
        if match:
            found[int(match.group(1), 16)] = match.group(2).strip()
    return found


def is_locked(instruction):
    """A lock prefix, or an exchange with memory, which locks without one."""
    return instruction.startswith('lock ') or (
        instruction.startswith('xchg') and '(' in instruction)


def is_flush(instruction):
    """Starts the write-back of a line, or stores around the cache."""
    return (instruction.startswith(('clflush', 'clwb', 'movnt'))
            and not instruction.startswith('movntdqa'))


def is_drain(instruction):
    return instruction.startswith('sfence')


# (kind, size) of the cases whose instructions are looked at, and what is looked for
LOOKED_AT = (('pair', 64), ('pair', 4096), ('fifo', 64))
KINDS = (('locked instructions', is_locked), ('lines flushed', is_flush), ('drains', is_drain))


def look_at(profile, operations):
    """Locked instructions, flushes and drains per operation, from the difference of two lengths.

    Every address that was executed counts: what happens once in a while, with its share.
    """
    text = {}
    found = {name: 0 for name, _ in KINDS}
    for (name, address), count in profile.addresses.items():
        if name not in text:
            if not os.path.exists(name):
                raise RuntimeError(f'callgrind could not tell where {address:#x} is')
            text[name] = disassemble(name)
        instruction = text[name].get(address, '')
        for kind, matches in KINDS:
            if matches(instruction):
                found[kind] += count
    return {kind: round(count / operations, 3) for kind, count in found.items()}


def locked_instructions(profile, per_operation_min):
    """The locked instructions that the profile ran at least that often, in whichever object."""
    hot = {}
    for (name, address), count in profile.addresses.items():
        if count >= per_operation_min:
            hot.setdefault(name, []).append(address)
    found = []
    for name in sorted(hot):
        if not os.path.exists(name):
            raise RuntimeError(f'callgrind could not tell where {len(hot[name])} hot instructions are')
        text = disassemble(name)
        known = [address for address in sorted(hot[name]) if address in text]
        if len(known) != len(hot[name]):
            raise RuntimeError(f'callgrind and objdump disagree about addresses in {name}')
        found += [f'{os.path.basename(name)} {address:#x}: {text[address]}'
                  for address in known if is_locked(text[address])]
    return found


FLUSH_COUNTS = (2000, 4000)  # whole batches of 1,000, less the one that the loop adds
# The same cases as LOOKED_AT, by the names of CASES; more can be added to both.
FLUSH_CASES = (
    ('pair 64', 'small pair --size 64 --operations {count}'),
    ('pair 4K', 'small pair --size 4096 --operations {count}'),
    ('batch 1k fifo', 'small batch --size 64 --count 1000 --operations {count}'),
)


def flushes(command_for, library, environment, directory):
    """Lines flushed and drains per operation, counted by the preloaded library as calls.

    command_for(count) is the command of that length.
    """
    out = os.path.join(directory, 'counts.json')
    ends = []
    for count in FLUSH_COUNTS:
        subprocess.run(command_for(count), stdout=subprocess.DEVNULL, timeout=120, check=True,
                       env=dict(environment, LD_PRELOAD=library, BENCH_PMEM_COUNTS=out))
        with open(out, encoding='ascii') as lines:
            ends.append(json.load(lines))
    operations = FLUSH_COUNTS[1] - FLUSH_COUNTS[0]
    return {name: round((ends[1][key] - ends[0][key]) / operations, 3)
            for name, key in (('lines flushed', 'lines'), ('drains', 'drains'))}


def system_calls(command, environment):
    """How many system calls the command makes, start-up included; None without strace."""
    if shutil.which('strace') is None:
        return None
    with tempfile.TemporaryDirectory(prefix='bartender-strace-') as directory:
        out = os.path.join(directory, 'out')
        # env inside, so that strace itself runs without the allocator.
        settings = [f'{k}={v}' for k, v in environment.items()]
        ran = subprocess.run(['strace', '-f', '-qq', '-c', '-o', out, 'env', '-i'] + settings +
                             command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             timeout=120, check=False)
        if ran.returncode != 0:
            return None
        with open(out, encoding='utf-8') as lines:
            last = lines.read().strip().splitlines()[-1].split()
        return int(last[3]) if last and last[-1] == 'total' else None
