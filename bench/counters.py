"""Exact counters, the same on every machine: instructions per operation by callgrind, the instructions
of the hot path, and system calls by strace.

Instructions are the difference of two run lengths, divided by the difference in length, so that
start-up, the first refills and the program's end cancel out.
"""

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


def count_case(program, kind, size_bytes, environment):
    """Instructions per operation, and the profile of the difference."""
    counts = BATCH_COUNTS if kind in ('fifo', 'lifo') else PAIR_COUNTS
    short, long = (callgrind([program, kind, str(size_bytes), str(count)], environment)
                   for count in counts)
    profile = long.minus(short)
    return profile.total / (counts[1] - counts[0]), profile


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
