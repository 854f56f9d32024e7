"""What is measured: the workloads of bench/*.cpp and a few real programs, with full and quick lengths.

A workload's `value` is the field of the program's JSON line that counts; smaller is better everywhere.
"""

import os
import shutil
import subprocess
import time


class Workload:
    """`command` starts with a program of bench/.  {n} in it is the length, from `full` or `quick`."""

    def __init__(self, name, group, command, full, quick, value='ns_per_operation', unit='ns',
                 only_persistent=False, prepare=None, run=None, variant='full', own=False,
                 base=None):
        self.name = name
        self.group = group  # small, threads, crowd, large, memory, process, nvm, durable, gc, real
        self.command = command.split() if isinstance(command, str) else command
        self.length = {False: full, True: quick}
        self.value = value
        self.unit = unit
        self.only_persistent = only_persistent  # only persistent heaps have it: no ratio to the reference
        self.prepare = prepare  # a command that dies by SIGKILL before, leaving an arena
        self.run = run  # real programs: see RealProgram
        self.own = own  # for those that have a program of their own for it; nothing is preloaded
        self.base = base  # what those without the reference are compared with in the picture
        self.variant = variant  # of the nvm_malloc benchmarks; only contenders that have it run it

    def arguments(self, quick):
        return [word.replace('{n}', str(self.length[quick])) for word in self.command]


def small_workloads():
    """The small-block workloads: the geometric mean is over these and the threaded ones."""
    found = []
    for threads in (1, 2):
        tail = f' --threads {threads} --operations {{n}}'
        mark = f' {threads}T'
        for size, name in ((16, '16'), (64, '64'), (1024, '1K'), (4096, '4K'), (32768, '32K')):
            found.append(Workload(f'pair {name}{mark}', 'small', f'small pair --size {size}{tail}',
                                  8000000, 2000000))
        for order in ('fifo', 'lifo'):
            for count, length in ((1000, 5000000), (10000, 3000000)):
                found.append(Workload(
                    f'batch {count // 1000}k {order}{mark}', 'small',
                    f'small batch --size 64 --count {count} --order {order}{tail}', length, 1000000))
        for count, low, high in ((10000, 8, 512), (4096, 16, 1039)):
            found.append(Workload(
                f'mixed {low}..{high}{mark}', 'small',
                f'small mixed --count {count} --size {low} --size-max {high}{tail}',
                3000000, 800000))
        found.append(Workload(f'threadtest{mark}', 'threads',
                              f'small threadtest --size 64 --count 100000{tail}', 4000000, 1000000))
        found.append(Workload(
            f'larson{mark}', 'threads',
            f'small larson --size 64 --size-max 400 --count 1000{tail}', 4000000, 1000000))
        found.append(Workload(f'shbench{mark}', 'threads', f'shbench{tail}', 2000000, 500000))
        for kind in ('thrash', 'scratch'):
            found.append(Workload(f'cache-{kind}{mark}', 'threads', f'sharing {kind}{tail}',
                                  40000, 10000))
    tail = ' --threads 2 --operations {n}'
    found.append(Workload('producer 2T', 'threads', f'exchange producer --size 64{tail}',
                          2000000, 500000))
    found.append(Workload('xmalloc 2T', 'threads',
                          f'exchange xmalloc --size 64 --size-max 512{tail}', 2000000, 500000))
    return found


def crowd_workloads():
    """Far more threads than cores: only a check that nothing falls over."""
    found = []
    for threads, divisor in ((8, 4), (64, 32)):
        tail = f' --threads {threads} --operations {{n}}'
        for name, command in (
                ('threadtest', 'small threadtest --size 64 --count 1000'),
                ('larson', 'small larson --size 64 --size-max 400 --count 1000'),
                ('producer', 'exchange producer --size 64'),
                ('xmalloc', 'exchange xmalloc --size 64 --size-max 512')):
            found.append(Workload(f'{name} {threads}T', 'crowd', command + tail,
                                  4000000 // divisor, 800000 // divisor))
    return found


def large_workloads():
    found = []
    # Warm, as the goal says: the first 2 MiB are faulted in once, which 5,000 pairs would mostly
    # measure.  What that costs is in `first touch`, `large` and `sparse`.
    for size, name, full, quick in ((65536, '64K', 1000000, 200000), (2 << 20, '2M', 100000, 20000)):
        for threads in (1, 2):
            found.append(Workload(
                f'pair {name} {threads}T', 'large',
                f'small pair --size {size} --threads {threads} --warm-up 100 --operations {{n}}',
                full, quick))
    found.append(Workload('large 5..25M', 'large', 'large replace --operations {n}', 150, 40))
    found.append(Workload('realloc growth', 'large', 'large grow --final-mib {n}', 1024, 256))
    found.append(Workload('first touch', 'large', 'large first-touch --total-mib {n}', 256, 64))
    found.append(Workload('sparse 2M', 'large', 'large sparse --total-mib {n}', 256, 64))
    found.append(Workload('first touch / anonymous', 'memory',
                          'large first-touch --total-mib {n}', 256, 64, 'per_anonymous', 'x'))
    return found


def memory_workloads():
    return [
        # 64 MiB live: the goal is a slope, 1.5 times the live memory and a fixed part, which is 4 MiB
        # of ours.  In 16 MiB they were a quarter.
        Workload('blowup', 'memory', 'footprint blowup --threads 2 --live-mib 64 --rounds {n}', 9, 6,
                 'peak_per_live', 'x'),
        Workload('fragmentation', 'memory', 'footprint fragmentation --live-mib {n}', 64, 64,
                 'resident_per_live', 'x'),
    ]


def process_workloads():
    found = [Workload('start /bin/true', 'process', 'process start --operations {n}', 25, 25)]
    for mib in (16, 256):
        found.append(Workload(f'fork {mib} MiB', 'process',
                              f'process fork --heap-mib {mib} --operations {{n}}', 9, 5))
    # Against the number of objects, then against the size of the heap with few objects.
    for count, size, name in ((100_000, 64, '0.1M x 64 B'), (1_000_000, 64, '1M x 64 B'),
                              (4_000_000, 64, '4M x 64 B'), (4096, 65536, '256 MiB of 64 KiB'),
                              (16384, 65536, '1 GiB of 64 KiB')):
        found.append(Workload(
            f'reopen {name}', 'process', 'process open', 0, 0, only_persistent=True,
            base='pmemobj-atomic',
            prepare=['process', 'fill', '--count', str(count), '--size', str(size)]))
    return found


def nvm_workloads():
    """The nvm_malloc benchmarks: 100,000 blocks a thread, whether quick or not, as theirs."""
    found = []
    for name in ('fastalloc', 'alloc_free', 'alloc_free_alloc', 'linkedlist'):
        for threads, sizes, mark in ((1, '64', '64 1T'), (2, '64', '64 2T'),
                                     (1, '64 4096', '64..4K 1T')):
            found.append(Workload(f'{name} {mark}', 'nvm', f'nvm_malloc {name} {threads} {sizes}',
                                  0, 0, 'microseconds', 'us'))
        for variant in ('full', 'no-flush', 'no-drain', 'neither'):
            found.append(Workload(
                f'{name} 64 1T, {variant}', 'nvm', f'nvm_malloc {name} 1 64 --variant {variant}',
                0, 0, 'microseconds', 'us', only_persistent=True, variant=variant,
                base='pmemobj-atomic'))
    found.append(Workload('recovery 100 lists', 'nvm', 'nvm_malloc recovery 100', 0, 0,
                          'microseconds', 'us', only_persistent=True, variant='recovery',
                          base='pmemobj-atomic'))
    return found


def durable_workloads():
    """What durability costs, each level beside as many stores, flushes and drains as it needs."""
    found = []
    for name, base in (('pair', 'pmemobj-atomic'), ('batch', 'pmemobj-atomic'),
                       ('transaction', 'pmemobj-tx')):
        for mark, value, unit in (('', 'ns_per_operation', 'ns'), (' / floor', 'per_floor', 'x')):
            found.append(Workload(
                f'durable {name}{mark}', 'durable',
                f'durable {name} --rounds 3 --operations {{n}}', 20000, 5000, value, unit,
                only_persistent=True, own=True, base=base))
    return found


def collector_workloads():
    """Time of a collection for each object, all of 64 B and reachable."""
    return [Workload(f'collect {name}', 'gc', f'collector {command} --runs 3 --objects {{n}}',
                     4000000, 1000000, only_persistent=True, own=True, base='gc')
            for name, command in (('list', 'list'), ('shuffled list', 'shuffled'),
                                  ('graph', 'graph'), ('graph 2T', 'graph --threads 2'))]


def far_workloads():
    """Far memory: the pager over a link that is made up, over TCP on loopback, and when a node dies.

    What a line has beside its value is judged too: goals.FAR.  Of several rounds the last counts: by
    then connections and handlers are where a program of more than a second has them.
    """
    def far(name, command, full, quick, value, unit):
        return Workload(name, 'far', command, full, quick, value, unit, only_persistent=True, own=True)

    found = [
        far('far fault / bare', 'far fault --rounds 3 --extents {n}', 1024, 512, 'kept_ratio', 'x'),
        far('far sequential', 'far sequential --rounds 1 --extents {n}', 1024, 512, 'of_link', 'x'),
        far('far fault / bare, TCP', 'far tcp --rounds 3 --extents {n}', 1024, 512, 'kept_ratio', 'x'),
        far('far sequential, TCP', 'far tcp --rounds 3 --extents {n}', 1024, 512, 'of_transport', 'x'),
        far('far first write', 'far write --tracking async --rounds 1 --extents {n}', 512, 256,
            'page_ns', 'ns'),
        far('far eviction', 'far evict --rounds 1 --extents {n}', 1024, 512, 'dirty_us', 'us'),
        far('far node killed', 'far_deaths nodes --json --count {n}', 10, 4, 'stall_p99_ms', 'ms'),
    ]
    if os.access('/sys/class/zram-control/hot_add', os.R_OK):  # where root has it
        found += [
            far('far touch / zram', 'far zram --rounds 1 --extents {n}', 1024, 512, 'touch_ratio', 'x'),
            far('far in order / zram', 'far zram --rounds 1 --extents {n}', 1024, 512,
                'in_order_ratio', 'x'),
        ]
    return found


class RealProgram:
    """Unmodified programs: CPU seconds and peak memory as bench/measure sees them.

    start(directory, quick) returns the command, or None if the program is not installed; drive() talks
    to it while it runs (a server), with a deadline.
    """

    def __init__(self, start, drive=None):
        self.start = start
        self.drive = drive


PYTHON_SCRIPT = """
import json
table = {}
for i in range(N):
    table['key%d' % (i % 20000)] = [str(i), i * 1.5, {'a': i, 'b': (i, i + 1)}]
text = json.dumps(table)
assert len(json.loads(text)) == min(N, 20000)
words = sorted(text.split(','), key=lambda w: w[::-1])
assert len(set(words)) > 1
"""

SQL = """
CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
  INSERT INTO t SELECT i, 'name' || (i * 7919 % 10007), i * 0.5 FROM n;
CREATE INDEX t_b ON t(b);
SELECT count(*), sum(c) FROM (SELECT b, sum(c) AS c FROM t GROUP BY b ORDER BY 2);
"""

CXX_SOURCE = """
#include <algorithm>
#include <map>
#include <regex>
#include <string>
#include <vector>
int main() {
  std::map<std::string, std::vector<int>> m;
  std::regex r("a+b");
  for (int i = 0; i < 10; i++) m[std::to_string(i)].push_back(std::regex_match("aab", r));
  return static_cast<int>(m.size()) - 10;
}
"""


def python_command(directory, quick):
    del directory
    return ['env', 'PYTHONMALLOC=malloc', '/usr/bin/python3', '-S', '-E', '-c',
            PYTHON_SCRIPT.replace('N', '30000' if quick else '150000')]


def sqlite_command(directory, quick):
    del directory
    if shutil.which('sqlite3') is None:
        return None
    return ['sqlite3', ':memory:', SQL.format(count=100000 if quick else 500000)]


def compiler_command(directory, quick):
    if shutil.which('g++') is None:
        return None
    source = os.path.join(directory, 'source.cpp')
    with open(source, 'w', encoding='ascii') as out:
        out.write(CXX_SOURCE)
    return ['g++', '-fsyntax-only' if quick else '-O1', '-c', source, '-o', '/dev/null']


def redis_command(directory, quick):
    del quick
    if shutil.which('redis-server') is None or shutil.which('redis-benchmark') is None:
        return None
    return ['redis-server', '--port', '0', '--unixsocket', os.path.join(directory, 'redis.sock'),
            '--save', '', '--appendonly', 'no', '--dir', directory]


def redis_drive(directory, quick, environment, process):
    """A unix socket in our own directory: no port that another run could hold."""
    client = ['redis-cli', '-s', os.path.join(directory, 'redis.sock')]
    quiet = {'env': environment, 'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL,
             'timeout': 60}
    deadline = time.monotonic() + 30
    while subprocess.run(client + ['ping'], check=False, **quiet).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError('redis-server did not answer')
        time.sleep(0.02)
    requests = '10000' if quick else '50000'
    subprocess.run(['redis-benchmark', '-s', client[2], '-q', '-n', requests, '-r', '10000', '-d',
                    '200', '-P', '8', '-t', 'set,get,lpush,lrange_100'], check=True, **quiet)
    subprocess.run(client + ['shutdown', 'nosave'], check=False, **quiet)


def real_workloads():
    return [Workload(name, 'real', 'measure', 0, 0, 'cpu_seconds', 's', run=program)
            for name, program in (
                ('python3', RealProgram(python_command)),
                ('sqlite3', RealProgram(sqlite_command)),
                ('g++', RealProgram(compiler_command)),
                ('redis-server', RealProgram(redis_command, redis_drive)))]


def all_workloads():
    return (small_workloads() + crowd_workloads() + large_workloads() + memory_workloads() +
            process_workloads() + nvm_workloads() + durable_workloads() + collector_workloads() +
            far_workloads() + real_workloads())
