"""Predictions by least squares over what was decoded around a sample: taps that follow the image and take no bits.

A row is divided into segments of eight samples. Each sample gives an equation: the differences of its neighbours and of itself
to a local mean, divided by the texture around it. Products of equations are summed for each segment, on top of seven eighths of
those of the segment above. Where a segment begins, the sums around it, in its own plane and in the plane before, if that is of
the same group, are solved for the taps of its samples (after Wu, Barthel and Zhang, "Piecewise 2D autoregression for predictive
image coding", ICIP 1998, and Li and Orchard, "Edge-directed prediction for lossless compression of natural images", IEEE
Transactions on Image Processing 10 (6), 2001). This is the definition, in numpy; `compiled_regression.py` computes the same
integers faster.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel import neighbourhood as around
from medzip.exact.least_squares import TAP_BITS, solved
from medzip.exact.tables import INVERSE_OCTAVE, octave_code

Ints = NDArray[np.int64]

SEGMENT = around.SEGMENT
REGRESSORS = around.places(
    *((0, -left) for left in (1, 2, 3)),
    *((-up, right) for up, reach in ((1, 3), (2, 2), (3, 1)) for right in range(-reach, reach + 1)),
)
IN_PLANE = len(REGRESSORS)
REGRESSORS += [around.NEIGHBOURS.index(offset) for offset in ((-1, -1, 0), (-1, 0, -1), (-1, 0, 0), (-1, 0, 1), (-1, 1, 0))]
ALL = len(REGRESSORS)

SOFTENER = 1 << 10
"""64 values, which the sum of ten differences that an equation is divided by gets on top."""
EQUATION_SHIFT = 15
EQUATION_MAX = 1023
DECAY_BITS = 3
ROWS_KEPT = 4
ROWS_AHEAD = around.ROWS_AHEAD


def equation(difference: Ints, code: Ints) -> Ints:
    """1024 difference 2^(-code / 16), rounded, within +-1023; codes from 160 on."""
    octave = code >> 4
    limit = np.int64(1) << (octave + 4)
    short = np.clip(difference, -limit, limit) >> (octave - 10)
    result: Ints = (short * INVERSE_OCTAVE[code & 15] + (1 << (EQUATION_SHIFT - 1))) >> EQUATION_SHIFT
    clipped: Ints = np.clip(result, -EQUATION_MAX, EQUATION_MAX)
    return clipped


class Regression:
    """Sums and taps of the segments of a chunk of `shape` (planes, rows, columns), step by step of the wavefront."""

    def __init__(self, shape: tuple[int, int, int], top: int) -> None:
        planes, rows, columns = shape
        self._rows, self._top, self._together = rows, top, around.planes_together(columns)
        # A segment without samples before the first of a row and one behind the last.
        segments = -(-columns // SEGMENT) + 2
        self._sums = np.zeros((planes, segments, ROWS_KEPT, ALL + 1, ALL + 1), np.int64)
        self._taps = np.zeros((ALL, planes, rows), np.int64)

    def predict(self, near: Ints, plane: Ints, row: Ints, column: Ints) -> Ints:
        """The prediction (n,) of each sample of a step, in 1/16 of a value.

        `near` (66, n) are the positions at NEIGHBOURS. `learn` must follow before the next step.
        """
        begins = column % SEGMENT == 0
        if begins.any():
            self._begin(plane[begins], row[begins], column[begins] // SEGMENT + 1)
        local = around.local(near)
        difference = near[REGRESSORS] - local
        difference[IN_PLANE:, plane == 0] = 0
        texture = np.abs(near[around.NEAREST] - local).sum(axis=0)
        code = octave_code(texture + SOFTENER)
        self._step = plane, column // SEGMENT + 1, row, local, code, equation(difference, code)
        total = (difference * self._taps[:, plane, row]).sum(axis=0)
        prediction: Ints = np.clip(local + ((total + (1 << (TAP_BITS - 1))) >> TAP_BITS), 0, self._top)
        return prediction

    def learn(self, position: Ints) -> None:
        """Takes in the samples (n,) of the step that was predicted last."""
        plane, segment, row, local, code, factors = self._step
        equations = np.vstack([factors, equation(position - local, code)])
        self._sums[plane, segment, row % ROWS_KEPT] += equations.T[:, :, None] * equations.T[:, None, :]

    def _begin(self, plane: Ints, row: Ints, segment: Ints) -> None:
        """Sums and taps for the segments that begin; rows that are not there have sums of 0, as those not yet written."""
        above = self._sums[plane, segment, (row - 1) % ROWS_KEPT]
        total = 2 * self._sums[plane, segment - 1, row % ROWS_KEPT] + 2 * above
        total += self._sums[plane, segment + 1, (row - 2) % ROWS_KEPT]
        inside, ahead = plane % self._together > 0, np.minimum(row + ROWS_AHEAD, self._rows - 1) % ROWS_KEPT
        for beside, weight in ((-1, 1), (0, 2), (1, 1)):
            before = self._sums[plane - 1, segment + beside, ahead]
            total += weight * np.where(inside[:, None, None], before, 0)
        self._sums[plane, segment, row % ROWS_KEPT] = above - (above >> DECAY_BITS)
        self._taps[:, plane, row] = solved(np.moveaxis(total, 0, -1))
