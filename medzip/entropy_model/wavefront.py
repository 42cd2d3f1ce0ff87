"""The order in which an autoregressive model codes the samples of a chunk: all that depend on nothing undecided, at once.

Sample (z, y, x) belongs to step x + step_of_row y + first_steps[z], which is int64 (planes,). Within a step, samples are sorted
by the step at which their row began, then by plane.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def rows_in_order(shape: tuple[int, int, int], step_of_row: int, first_steps: Ints) -> tuple[Ints, Ints, Ints]:
    """(plane, row, first step) of every row of a chunk, in the order in which rows begin."""
    planes, rows, _ = shape
    plane, row = np.divmod(np.arange(planes * rows), rows)
    begin = first_steps[plane] + step_of_row * row
    order = np.argsort(begin, kind="stable")
    return plane[order], row[order], begin[order]


def steps(shape: tuple[int, int, int], step_of_row: int, first_steps: Ints) -> Iterator[tuple[Ints, Ints, Ints]]:
    """(plane, row, column) of the samples of each step that has any."""
    columns = shape[2]
    plane, row, begin = rows_in_order(shape, step_of_row, first_steps)
    for step in range(int(begin[-1]) + columns):
        first, last = np.searchsorted(begin, [step - columns + 1, step + 1])
        if first < last:
            yield plane[first:last], row[first:last], step - begin[first:last]


def widest(order: tuple[Ints, Ints, Ints], columns: int) -> int:
    """So many samples the largest step has, for what `rows_in_order` gave."""
    begin = order[2]
    # Of every row that a step passes through, one sample: of those that began less than a row's length ago.
    begun, ended = (np.searchsorted(begin, step, side="right") for step in (begin, begin - columns))
    return int((begun - ended).max())
