#!/usr/bin/python3
"""The unmodified program of the demo: heat spreading over a plate.  It knows nothing of bartender.

Two grids of 32 MiB take turns.  Element [0, 0] of a grid, a corner that the five-point stencil
never reads, holds the step that the grid is complete for, or -1 while it is being written.  So
whoever finds a grid can tell which step it belongs to.

Usage: demo_heat.py STEPS [OUTPUT]
Prints "step N" after each step; writes the last grid to OUTPUT.
"""

import sys

import numpy

SIDE = 2048
TORN = -1.0


def plate():
    """The plate at step 0: a hot square, a warm edge, and a pattern over all cells."""
    row = numpy.arange(SIDE, dtype=numpy.float64)
    grid = (row[:, None] * 7919 + row[None, :] * 104729) % 1000 / 10
    grid[SIDE // 4:SIDE // 2, SIDE // 4:SIDE // 2] = 1000
    grid[:, 0] = 50
    grid[0, 0] = 0
    return grid


def advance(before, after):
    """One step: each inner cell becomes the mean of its four neighbours."""
    step = before[0, 0] + 1
    after[0, 0] = TORN
    inner = after[1:-1, 1:-1]
    numpy.add(before[:-2, 1:-1], before[2:, 1:-1], out=inner)
    numpy.add(inner, before[1:-1, :-2], out=inner)
    numpy.add(inner, before[1:-1, 2:], out=inner)
    numpy.multiply(inner, 0.25, out=inner)
    after[0, 0] = step


def main():
    steps = int(sys.argv[1])
    grid = plate()
    spare = grid.copy()
    for _ in range(steps):
        advance(grid, spare)
        grid, spare = spare, grid
        print(f'step {int(grid[0, 0])}', flush=True)
    if len(sys.argv) > 2:
        grid.tofile(sys.argv[2])


if __name__ == '__main__':
    main()
