"""The goals of bartender's speed and memory, each judged by the numbers of one run.

A goal is a number and a limit; smaller is better, but for those with `least`.  What was not measured in this run is said to be
so, never counted as hit.  The exact ones are tests too: tests/bench.
"""

import collections

import report

Goal = collections.namedtuple('Goal', 'name found limit verdict least', defaults=(False,))

SMALL = ('small', 'threads')
TIMED = ('small', 'threads', 'crowd', 'large', 'nvm', 'real')

# A case of counters.CASES, and instructions per operation
INSTRUCTIONS = (
    ('pair 64', 54), ('pair 64, second thread existed', 54), ('pair 16', 60), ('pair 1K', 60),
    ('pair 4K', 60), ('pair 32K', 60), ('batch 1k fifo', 60), ('batch 1k lifo', 60),
    ('calloc 64', 75),
)

# name, groups, compared with, mean or worst, limit; whose, if not bartender's in process durability
MEANS = (
    ('small blocks, mean', SMALL, 'jemalloc', 'mean', 1.0),
    ('small blocks, mean', SMALL, 'mimalloc', 'mean', 1.1),
    ('threads, mean', ('threads',), 'mimalloc', 'mean', 1.1),
    ('threads, worst', ('threads',), 'mimalloc', 'worst', 1.5),
    ('everywhere, worst', TIMED, 'memtier', 'worst', 1.0),
    ('everywhere, worst', TIMED, 'memtier-file', 'worst', 1.0),
    ('everywhere, worst', TIMED, 'pmemobj-atomic', 'worst', 1.0),
    ('everywhere, worst', TIMED, 'pmemobj-tx', 'worst', 1.0),
    # Both durable after each call.
    ('nvm_malloc in strict, worst', ('nvm',), 'pmemobj-atomic', 'worst', 1.0, 'bartender-strict'),
)

# Workloads, of which the worst counts; compared with (None: the number itself); limit; whose
SINGLE = (
    (('pair 64K 1T', 'pair 64K 2T'), 'glibc', 1.5),
    (('pair 2M 1T', 'pair 2M 2T'), 'glibc', 1.5),
    (('large 5..25M',), 'mimalloc', 1.2),
    (('realloc growth',), 'glibc', 1.5),
    (('first touch / anonymous',), None, 1.3),
    (('blowup',), None, 1.5),
    (('fragmentation',), 'jemalloc', 1.0),
    (('fragmentation',), 'mimalloc', 1.0),
    (('start /bin/true',), 'glibc', 1.3),
    (('durable transaction / floor',), None, 1.5, 'bartender-strict'),
)


# Far memory: workload, field of its line, name, limit, whether it is the least
FAR = (
    ('far fault / bare', 'kept_ratio', 'far fault without its transport, to bare, on one processor', 1.15, False),
    ('far fault / bare', 'ratio', 'the same where the scheduler puts the threads', 1.15, False),
    ('far fault / bare, TCP', 'kept_ratio', 'the same over TCP on loopback, on one processor', 1.15, False),
    ('far fault / bare, TCP', 'ratio', 'the same where the scheduler puts the threads', 1.15, False),
    ('far sequential', 'of_link', 'far sequential, of the link', 0.85, True),
    ('far sequential', 'over_demand', 'far sequential, to demand of 4 KiB', 4, True),
    ('far sequential, TCP', 'of_transport', 'the same over TCP, of the transport alone', 0.85, True),
    ('far sequential, TCP', 'over_demand', 'the same over TCP, to demand of 4 KiB', 4, True),
    ('far first write', 'page_ns', 'first write to a clean far page, ns', 1600, False),
    ('far eviction', 'dirty_us', 'eviction of 64 KiB, CPU, us', 20, False),
    ('far node killed', 'stall_p99_ms', 'stall when a node is killed, p99, ms', 250, False),
    ('far node killed', 'lost_bytes', 'bytes lost when nodes are killed', 0, False),
)


def verdict_of(found, limit, least=False):
    if found is None:
        return 'not measured'
    return 'hit' if (found >= limit if least else found <= limit) else 'MISSED'


def mean_or_worst(samples, groups, base, which, field=None, whose='bartender'):
    """(number, "of N workloads" or the worst one's name), or None."""
    if base not in samples.contenders or whose not in samples.contenders:
        return None
    mean = samples.mean_of_ratios(whose, base, groups, field)
    if mean is None:
        return None
    return (mean[0], f'{mean[1]} workloads') if which == 'mean' else (mean[2][0], mean[2][1])


def single(samples, names, base, whose='bartender'):
    """The worst of the workloads, or None if one of them was not measured."""
    found = []
    for workload in (w for w in samples.workloads if w.name in names):
        if whose in samples.contenders and (base is None or base in samples.contenders):
            quartiles = (samples.absolute(workload, whose) if base is None
                         else samples.ratio(workload, whose, base))
            found += [quartiles[1]] if quartiles else []
    return max(found) if len(found) == len(names) else None


def judge(samples, counted):
    """All goals, in the order of the table."""
    goals = []

    def add(name, found, limit):
        goals.append(Goal(name, found, limit, verdict_of(found, limit)))

    for name, groups, base, which, limit, *whose in MEANS:
        found = mean_or_worst(samples, groups, base, which, None, *whose)
        add(f'time, {name}, to {base}' + (f' ({found[1]})' if found else ''),
            found[0] if found else None, limit)
    for names, base, limit, *whose in SINGLE:
        add(' and '.join(names) + ''.join(f', {w}' for w in whose) + (f', to {base}' if base else ''),
            single(samples, names, base, *whose), limit)
    found = mean_or_worst(samples, report.MEMORY_GROUPS, 'glibc', 'mean', 'peak_rss_bytes')
    add('peak resident, mean, to glibc' + (f' ({found[1]})' if found else ''),
        found[0] if found else None, 1.15)
    for name, limit in INSTRUCTIONS:
        add(f'instructions, {name}', counted.get(f'instructions, {name}', {}).get('bartender'), limit)
    for workload, field, name, limit, least in FAR:
        found = samples.median(workload, 'bartender', field)
        goals.append(Goal(name, found, limit, verdict_of(found, limit, least), least))
    add('locked instructions, pair 64',
        counted.get('locked instructions, pair 64', {}).get('bartender'), 0)
    return goals


def print_goals(goals):
    rows = [[g.name, '-' if g.found is None else f'{g.found:.3g}', f'{">=" if g.least else "<="} {g.limit:g}',
             g.verdict]
            for g in goals if g.found is not None]
    count = collections.Counter(g.verdict for g in goals)
    if rows:
        report.print_rows(['goals of bartender', 'found', 'goal', ''], rows, left=(0, 3))
    print(f'{count["hit"]} goals hit, {count["MISSED"]} missed, {count["not measured"]} not measured\n')
