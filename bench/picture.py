"""Draws the result as SVG: rows of grouped bars, ratio to the reference on a log scale.

Bars start at 1, the reference: down is better, up is worse.  Told apart by pattern rather than colour,
so that a black-and-white print can be read; the ratio stands at each bar's end.  The width is that of
an A4 page at two thirds of a point a unit: the smallest letters are 6.5 points high there.
"""

import html
import math

BAR_WIDTH = 14
GROUP_GAP = 14
DOUBLING_HEIGHT = 12  # the same scale in every panel
HEADING_GAP = 60  # below a row, if the next one has a heading
PLAIN_GAP = 38
LEFT = 44
PANEL_WIDTH = 744
HALO = ' stroke="#fff" stroke-width="2.5" paint-order="stroke"'  # keeps lines out of numbers
TOP = 128  # title, legend of two lines, name of the first panel

# fill of the bar, in the order of the contenders; bartender is always the black one
PATTERNS = {
    'hatch': '<path d="M0 6L6 0M-1 1L1 -1M5 7L7 5" stroke="#000" stroke-width="1"/>',
    'dots': '<circle cx="2" cy="2" r="1.1"/><circle cx="5" cy="5" r="1.1"/>',
    'back': '<path d="M0 0L6 6M-1 5L1 7M5 -1L7 1" stroke="#000" stroke-width="1"/>',
    'lines': '<path d="M0 1.5H6M0 4.5H6" stroke="#000" stroke-width="1"/>',
    'cross': '<path d="M0 0L6 6M0 6L6 0" stroke="#000" stroke-width=".7"/>',
    'wide': '<path d="M0 3H6" stroke="#000" stroke-width="2.5"/>',
    'broad': '<path d="M3 0V6" stroke="#000" stroke-width="2.5"/>',
    'upright': '<path d="M1.5 0V6M4.5 0V6" stroke="#000" stroke-width=".8"/>',
}
FILLS = ['#ffffff', '#b5b5b5', 'url(#hatch)', 'url(#dots)', '#6f6f6f', 'url(#back)', 'url(#lines)',
         'url(#cross)', 'url(#upright)', '#dddddd', 'url(#wide)', 'url(#broad)']


def ratio_text(ratio):
    return f'{ratio:.2f}' if ratio < 10 else f'{ratio:.1f}' if ratio < 100 else f'{ratio:.0f}'


class Picture:
    """ratios[workload][contender] is a number, or missing where it was not measured.

    groups: (name, workloads) in order.  Each starts a row, unless it fits on what is left of one.
    """

    def __init__(self, title, reference, groups, contenders, ratios, command):
        self.title = title
        self.command = command
        self.reference = reference
        self.contenders = [c for c in contenders if c != reference]
        self.ratios = ratios
        self.groups = [(name, [w for w in workloads if self.bars_of(w)])
                       for name, workloads in groups]
        fills = iter(FILLS)
        self.fill = {c: '#000000' if c == 'bartender' else next(fills) for c in self.contenders}
        self.parts = []

    def bars_of(self, workload):
        """Only what was measured takes room."""
        return [c for c in self.contenders if self.ratios.get(workload, {}).get(c)]

    def add(self, text):
        self.parts.append(text)

    def text(self, x, y, words, size=10, anchor='middle', more=''):
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{more}>'
                 f'{html.escape(words)}</text>')

    def width_of(self, workload):
        return max(len(self.bars_of(workload)) * BAR_WIDTH + GROUP_GAP, 6.3 * len(workload) + 8)

    def rows(self):
        """Workloads that fit side by side: (workload, x, width, name of the group that starts)."""
        row, used = [], 0
        for name, workloads in self.groups:
            widths = [self.width_of(w) for w in workloads]
            if row and used + sum(widths) > PANEL_WIDTH:
                yield row
                row, used = [], 0
            for index, (workload, width) in enumerate(zip(workloads, widths)):
                if row and used + width > PANEL_WIDTH:
                    yield row
                    row, used = [], 0
                row.append((workload, used, width, name if index == 0 else None))
                used += width
        if row:
            yield row

    def range_of(self, row):
        """Powers of two below and above every bar of the panel, with room for the labels."""
        values = [self.ratios[w][c] for w, _, _, _ in row for c in self.bars_of(w)]
        return (min(-2, math.floor(math.log2(min(values)) - 2.4)),
                max(2, math.ceil(math.log2(max(values)) + 2.4)))

    def panel(self, top, row):
        """Draws a panel; returns its height."""
        low, high = self.range_of(row)
        height = (high - low) * DOUBLING_HEIGHT
        one = top + high * DOUBLING_HEIGHT
        for power in range(low + low % 2, high + 1, 2):
            y = one - power * DOUBLING_HEIGHT
            stroke = '#000' if power == 0 else '#bbb'
            self.add(f'<line x1="{LEFT}" x2="{LEFT + PANEL_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"'
                     f' stroke="{stroke}" stroke-width=".7"/>')
            self.text(LEFT - 6, y + 3.5, f'{2 ** power}' if power >= 0 else f'1/{2 ** -power}', 10,
                      'end')
        for workload, offset, group, heading in row:
            if heading:
                self.text(LEFT + offset, top - 10, heading, 13, 'start', ' font-weight="bold"')
                if offset > 0:
                    self.add(f'<line x1="{LEFT + offset}" x2="{LEFT + offset}" y1="{top - 20}"'
                             f' y2="{top + height:.1f}" stroke="#000" stroke-width=".7"/>')
            bars = self.bars_of(workload)
            x = LEFT + offset + (group - len(bars) * BAR_WIDTH) / 2
            for contender in bars:
                self.bar(one, x, contender, self.ratios[workload][contender])
                x += BAR_WIDTH
            self.text(LEFT + offset + group / 2, top + height + 16, workload, 11)
        return height

    def bar(self, one, x, contender, ratio):
        end = one - math.log2(ratio) * DOUBLING_HEIGHT
        y, height = min(one, end), max(abs(end - one), 0.8)
        self.add(f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{BAR_WIDTH - 2}" height="{height:.1f}"'
                 f' fill="{self.fill[contender]}" stroke="#000" stroke-width=".6"/>')
        # Beyond the bar's end, read upwards.
        tx = x + BAR_WIDTH / 2 + 3.5
        if ratio >= 1:
            place, anchor = y - 3, 'start'
        else:
            place, anchor = y + height + 3, 'end'
        bold = ' font-weight="bold"' if contender == 'bartender' else ''
        self.text(tx, place, ratio_text(ratio), 10, anchor,
                  f' transform="rotate(-90 {tx:.1f} {place:.1f})"{bold}{HALO}')

    def legend(self):
        x, y = LEFT, 66
        for contender in self.contenders:
            width = 34 + 7 * len(contender)
            if x + width > LEFT + PANEL_WIDTH:
                x, y = LEFT, y + 20
            self.add(f'<rect x="{x}" y="{y - 10}" width="16" height="12"'
                     f' fill="{self.fill[contender]}" stroke="#000" stroke-width=".6"/>')
            self.text(x + 21, y, contender, 12, 'start')
            x += width

    def svg(self):
        rows = list(self.rows())
        heights = [(high - low) * DOUBLING_HEIGHT for low, high in map(self.range_of, rows)]
        gaps = [HEADING_GAP if any(place[3] for place in row) else PLAIN_GAP for row in rows[1:]]
        gaps.append(PLAIN_GAP + 14)  # the command
        height = TOP + sum(heights) + sum(gaps)
        width = LEFT + PANEL_WIDTH + 16
        self.parts = []
        self.add(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
                 f' viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif">')
        self.add('<defs>' + ''.join(
            f'<pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse">'
            f'<rect width="6" height="6" fill="#fff"/>{body}</pattern>'
            for name, body in PATTERNS.items()) + '</defs>')
        self.add(f'<rect width="{width}" height="{height}" fill="#fff"/>')
        self.text(LEFT, 24, self.title, 16, 'start', ' font-weight="bold"')
        self.text(LEFT, 42, f'median of same-round ratios to {self.reference} (= 1), log scale; '
                  'down is better', 12, 'start')
        self.legend()
        top = TOP
        for row, gap in zip(rows, gaps):
            top += self.panel(top, row) + gap
        words = self.command if len(self.command) <= 140 else self.command[:139] + '…'
        self.text(LEFT, height - 8, words, 10, 'start')
        self.add('</svg>')
        return '\n'.join(self.parts) + '\n'
