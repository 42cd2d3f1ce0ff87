"""Linear predictors fitted to a chunk: least squares in integers, the same on every machine.

Equations are divided by the texture around each sample, so that flat regions count as much as edges. They are integers below
2^12, so that sums over 2^15 samples are exact in float64 whatever their order; the elimination works row by row in float64
operations whose results IEEE 754 fixes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel import neighbourhood as around

Ints = NDArray[np.int64]

SAMPLES = 1 << 15
SAMPLES_MIN = 1 << 12
FITTED_BITS = 10
TAP_MAX = 8 << FITTED_BITS
ALL_TAPS, IN_PLANE_TAPS = len(around.NEIGHBOURS), around.IN_PLANE
# Differences are measured in 2^-10 of eight times the mean difference to the nearest ten.
_EQUATION_BITS = 10
_EQUATION_MAX = 4095


def fit(values: NDArray[np.integer], shape: tuple[int, int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(taps of all neighbours (66,), taps of those in the plane (32,)) in units of 2^-10, for planes of `shape`.

    `values` are the positions of the chunk with margins, flat, as `neighbourhood.with_margins` makes them. A chunk that is too
    small to pay for taps gets zeros, which predict (3W + 3N + NE + NW) / 8.
    """
    none = np.zeros(ALL_TAPS, np.int64), np.zeros(IN_PLANE_TAPS, np.int64)
    size = shape[0] * shape[1] * shape[2]
    if size < SAMPLES_MIN:
        return none
    # From the third plane on, all neighbours exist; a chunk of two planes takes the plane before for both.
    first = min(2, shape[0] - 1)
    equations = _equations(values, shape, around.NEIGHBOURS if first else around.NEIGHBOURS[:IN_PLANE_TAPS], first)
    products = equations @ equations.T
    own = [*range(IN_PLANE_TAPS), -1]
    return _solved(products) if first else none[0], _solved(products[np.ix_(own, own)])


def prediction(near: Ints, plane: Ints, taps: Ints, taps_in_plane: Ints, top: int) -> Ints:
    """The fitted prediction (n,) of n samples in 1/16 of a value, from the positions `near` (66, n) at NEIGHBOURS."""
    local = around.local(near)
    whole, own = (((near[: len(c)] - local) * c[:, None]).sum(axis=0) for c in (taps, taps_in_plane))
    total = np.where(plane == 0, own, whole)
    result: Ints = np.clip(local + ((total + (1 << (FITTED_BITS - 1))) >> FITTED_BITS), 0, top)
    return result


def _equations(
    values: NDArray[np.integer], shape: tuple[int, int, int], offsets: list[around.Offset], first: int
) -> NDArray[np.float64]:
    """Scaled differences to the local prediction (len(offsets) + 1, n), the sample's own last; from plane `first` on."""
    planes, rows, columns = shape
    size = (planes - first) * rows * columns
    # A multiplicative walk (Knuth, TAOCP 3, 6.4) scatters the samples without a random generator.
    chosen = np.sort(np.arange(min(size, SAMPLES)) * 2654435761 % size)
    z, y, x = np.unravel_index(chosen, (planes - first, rows, columns))
    plane, row = around.plane_stride(rows, columns), around.row_stride(columns)
    at = (z + first) * plane + (y + around.TOP) * row + x + around.LEFT
    places = around.deltas([(max(dz, -first), dy, dx) for dz, dy, dx in [*offsets, (0, 0, 0)]], rows, columns)
    near = values.take(at + places[:, None])
    # float64 knows all these integers, below 2^50; rounding takes no quotient that counts, below 2^12, to the next integer.
    differences = near.astype(np.float64) - around.local(near.astype(np.int64))
    texture = np.abs(differences[around.NEAREST]).sum(axis=0) + 80
    differences *= 1 << (_EQUATION_BITS + 1)
    differences /= texture
    np.floor(differences, out=differences)
    result: NDArray[np.float64] = np.clip(differences, -_EQUATION_MAX, _EQUATION_MAX, out=differences)
    return result


def _solved(products: NDArray[np.float64]) -> NDArray[np.int64]:
    """Least squares of the last column of equations by the others, from their products, with a small ridge, rounded to 2^-10."""
    n = len(products) - 1
    ridge = np.floor(np.trace(products[:n, :n]) / (n << 14)) + 1
    rows = products[:n] + np.eye(n, n + 1) * ridge
    for i in range(n):
        rows[i] /= rows[i, i]
        others = np.arange(n) != i
        rows[others] -= rows[others, i, None] * rows[i]
    taps: NDArray[np.int64] = np.clip(np.floor(rows[:, n] * (1 << FITTED_BITS) + 0.5), -TAP_MAX, TAP_MAX).astype(np.int64)
    return taps
