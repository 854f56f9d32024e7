"""Turns the samples of all rounds into medians, spreads, means, a table and JSON."""

import math
import statistics


def quartiles(values):
    """(first quartile, median, third quartile); one value is all three."""
    if len(values) == 1:
        return (values[0],) * 3
    return tuple(statistics.quantiles(values, n=4, method='inclusive'))


def geometric_mean(values):
    values = [v for v in values if v and v > 0]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


class Samples:
    """samples[workload][contender] is a list with one JSON line, or None, per round."""

    def __init__(self, workloads, contenders):
        self.workloads = workloads
        self.contenders = contenders
        self.lines = {w.name: {c: [] for c in contenders} for w in workloads}

    def add(self, workload, contender, line):
        self.lines[workload.name][contender].append(line)

    def same_round_ratios(self, workload, contender, reference, field):
        """One ratio for each round in which both have a number."""
        mine = self.lines[workload.name][contender]
        theirs = self.lines[workload.name][reference]
        return [a[field] / b[field] for a, b in zip(mine, theirs)
                if a and b and a.get(field) and b.get(field)]

    def ratio(self, workload, contender, reference, field=None):
        """Quartiles of the ratio, or None."""
        found = self.same_round_ratios(workload, contender, reference, field or workload.value)
        return quartiles(found) if found else None

    def absolute(self, workload, contender):
        found = [line[workload.value] for line in self.lines[workload.name][contender]
                 if line and line.get(workload.value) is not None]
        return quartiles(found) if found else None

    def median(self, name, contender, field):
        """Of a field of a workload's lines; None if it was not measured."""
        lines = self.lines.get(name, {}).get(contender, [])
        found = [line[field] for line in lines if line and line.get(field) is not None]
        return statistics.median(found) if found else None

    def is_at_least(self, workload, contender, field, least):
        found = [line[field] for line in self.lines[workload.name][contender] if line]
        return bool(found) and statistics.median(found) >= least

    def mean_of_ratios(self, contender, reference, groups, field=None, least=0):
        """(geometric mean of median ratios, how many workloads have one, worst (ratio, name)).

        Workloads in which the reference's field is below `least` do not count.
        """
        medians = []
        for workload in self.workloads:
            if workload.group in groups and not workload.only_persistent and (
                    not least or self.is_at_least(workload, reference, field, least)):
                found = self.ratio(workload, contender, reference, field)
                if found:
                    medians.append((found[1], workload.name))
        if not medians:
            return None
        return geometric_mean([m for m, _ in medians]), len(medians), max(medians)


def value_text(value, unit):
    if unit == 'us':
        value, unit = value * 1e3, 'ns'
    if unit == 'ns':
        for limit, scale, name in ((1e3, 1, 'ns'), (1e6, 1e3, 'us'), (1e9, 1e6, 'ms')):
            if value < limit:
                return f'{value / scale:.3g} {name}'
        return f'{value / 1e9:.3g} s'
    return f'{value:.3g} {unit}'


def spread_text(found):
    """The median, and half the distance of the quartiles in per cent of it."""
    low, median, high = found
    digits = 2 if median < 10 else 1 if median < 100 else 0
    return f'{median:.{digits}f} ±{50 * (high - low) / median:2.0f}%'


def print_rows(head, rows, left=(0,)):
    """Columns as wide as they must be; those in `left` are flush left."""
    widths = [max(len(row[i]) for row in [head] + rows) for i in range(len(head))]
    for row in [head] + rows:
        print('  '.join(cell.ljust(width) if i in left else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))).rstrip())


def print_ratios(samples, reference):
    """Time, or what the workload counts: the reference's own number, then ratios with quartiles."""
    others = [c for c in samples.contenders if c != reference]
    rows = []
    for workload in samples.workloads:
        if workload.only_persistent:
            continue
        own = samples.absolute(workload, reference)
        row = [workload.name, value_text(own[1], workload.unit) if own else '-']
        for contender in others:
            found = samples.ratio(workload, contender, reference)
            row.append(spread_text(found) if found else '-')
        if any(cell != '-' for cell in row[1:]):  # not after an interrupt
            rows.append(row)
    if rows:
        print_rows([f'ratio to {reference}', reference] + others, rows)


# Below this a process is mostly its own code and libc's, and a ratio says nothing of the heap.
HEAP_BYTES_MIN = 4 << 20
MEMORY_GROUPS = ('small', 'threads', 'large', 'memory', 'real')

# name, groups, field (None: the workload's own value), least value of the reference
SUMMARIES = (
    ('time, small blocks', ('small', 'threads'), None, 0),
    ('time, threads alone', ('threads',), None, 0),
    ('time, crowds of threads', ('crowd',), None, 0),
    ('time, large blocks', ('large',), None, 0),
    ('time, nvm_malloc', ('nvm',), None, 0),
    ('CPU, real programs', ('real',), None, 0),
    ('peak resident', MEMORY_GROUPS, 'peak_rss_bytes', 0),
    ('peak resident, 4 MiB or more', MEMORY_GROUPS, 'peak_rss_bytes', HEAP_BYTES_MIN),
    ('page faults', MEMORY_GROUPS, 'page_faults', 0),
)


def summaries(samples, reference):
    """Name to contender to (geometric mean, count, worst): ratios to the reference, and bartender's
    ratios to each of the others."""
    found = {}

    def add(name, key, contender, base, rest):
        mean = samples.mean_of_ratios(contender, base, rest[0], *rest[1:])
        if mean:
            found.setdefault(name, {})[key] = mean

    for name, *rest in SUMMARIES:
        for contender in samples.contenders:
            if contender != reference:
                add(f'{name}, to {reference}', contender, contender, reference, rest)
    if 'bartender' in samples.contenders:
        for name, *rest in SUMMARIES[:2]:
            for contender in samples.contenders:
                if contender != 'bartender':
                    add(f'{name}, bartender to', contender, 'bartender', contender, rest)
    return found


def print_means(found, contenders, reference):
    """One row a summary, one column a contender: the mean, and the worst in brackets."""
    for tail, without in ((f', to {reference}', reference), (', bartender to', 'bartender')):
        columns = [c for c in contenders if c != without]
        rows = []
        for name, by in found.items():
            if name.endswith(tail):
                most = max(mean[1] for mean in by.values())
                rows.append([name[:-len(tail)], str(most)] +
                            [mean_text(by.get(c), most) for c in columns])
        if rows:
            print_rows(['geometric mean (worst)' + tail, 'of'] + columns, rows)
            print('* of fewer workloads: the others it cannot run\n'
                  if any('*' in cell for row in rows for cell in row) else '')


def mean_text(mean, most):
    if mean is None:
        return '- '
    worst = f'{mean[2][0]:.2f}' if mean[2][0] < 10 else f'{mean[2][0]:.0f}'
    return f'{mean[0]:.2f} ({worst})' + ('*' if mean[1] < most else ' ')


def print_absolutes(samples):
    """Workloads that only persistent heaps have, each contender's own number."""
    rows = []
    columns = [c for c in samples.contenders
               if any(w.only_persistent and samples.absolute(w, c) for w in samples.workloads)]
    for workload in samples.workloads:
        if workload.only_persistent:
            found = [samples.absolute(workload, c) for c in columns]
            if any(found):
                rows.append([workload.name] +
                            [value_text(f[1], workload.unit) if f else '-' for f in found])
    if rows:
        print()
        print_rows(['persistent heaps'] + columns, rows)


def as_json(samples, reference, counters, command):
    workloads = []
    for workload in samples.workloads:
        entry = {'name': workload.name, 'group': workload.group, 'value': workload.value,
                 'contenders': {}}
        for contender in samples.contenders:
            lines = samples.lines[workload.name][contender]
            found = {'median': (samples.absolute(workload, contender) or (None,) * 3)[1],
                     'ratio_quartiles': samples.ratio(workload, contender, reference),
                     'rounds': lines}
            entry['contenders'][contender] = found
        workloads.append(entry)
    means = {name: {c: {'geometric_mean': m, 'workloads': n, 'worst': list(worst)}
                    for c, (m, n, worst) in by.items()}
             for name, by in summaries(samples, reference).items()}
    return {'command': command, 'reference': reference, 'workloads': workloads,
            'summaries': means, 'counters': counters}
