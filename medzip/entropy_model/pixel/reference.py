"""The pixel model in numpy, step by step: the definition, and the way where nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.features import POSITION_BITS, look
from medzip.entropy_model.pixel.network import Network
from medzip.entropy_model.pixel.regression import Regression
from medzip.exact import kernels
from medzip.exact.mixture import Mixture

Ints = NDArray[np.int64]


def visit(
    shape: tuple[int, int, int],
    top: int,
    taps: tuple[Ints, Ints],
    network: Network,
    code: Callable[[Ints, Mixture], Ints],
) -> None:
    """Visits every sample of a chunk once, in the order of the wavefront.

    `code` gets the flat indices (n,) of a step's samples and their mixtures, and gives the samples, 0..`top`.
    """
    kernel = kernels.fastest(network.shapes)
    sums = [kernel.layer(layer.linear) for layer in network.layers]
    known, regression = _Known(shape, top << POSITION_BITS), Regression(shape, top << POSITION_BITS)
    for plane, row, column in around.steps(shape):
        near, wrong, wrong_fitted = known.around(plane, row, column)
        predicted = regression.predict(near, plane, row, column)
        seen = look(near, wrong, wrong_fitted, plane, predicted, taps, top << POSITION_BITS)
        values = code((plane * shape[1] + row) * shape[2] + column, network.mixture(seen, predicted, sums))
        position = values << POSITION_BITS
        regression.learn(position)
        for array, known_now in zip(known.arrays, (position, position - predicted, position - seen.fitted), strict=True):
            keep(array, known_now, plane, row, column, shape)


class _Known:
    """Positions decoded so far, and the errors of both predictions there: flat arrays of planes with margins."""

    def __init__(self, shape: tuple[int, int, int], top: int) -> None:
        planes, rows, columns = shape
        self.shape = shape
        size = planes * around.plane_stride(rows, columns)
        self.arrays = tuple(np.zeros(size, np.int32 if top < 1 << 24 else np.int64) for _ in range(3))

    def around(self, plane: Ints, row: Ints, column: Ints) -> tuple[Ints, Ints, Ints]:
        """What `look` wants of the neighbours of samples."""
        return gathered(self.arrays, place(plane, row, column, self.shape), plane, self.shape)


def gathered(arrays: tuple[NDArray[Any], ...], at: Ints, plane: Ints, shape: tuple[int, int, int]) -> tuple[Ints, Ints, Ints]:
    """What `look` wants of the neighbours of samples at flat indices `at` of planes `plane`: positions (66, n), errors (12, n)
    and in-plane errors (7, n), out of flat `arrays` of the three."""
    _, rows, columns = shape
    near, second, errors = (
        around.deltas(offsets, rows, columns)[:, None] for offsets in (around.NEIGHBOURS, around.IN_SECOND_PLANE, around.ERRORS)
    )
    inside = around.ERRORS_IN_PLANE

    def take(array: NDArray[Any], places: Ints) -> Ints:
        # What lies before the first plane is read from wherever the index leads, and not used.
        return array.take(places, mode="wrap").astype(np.int64)

    values, wrong, wrong_fitted = arrays
    amount = take(wrong, errors + at)
    amount[inside:, plane == 0] = 0
    return take(values, np.where(plane == 1, second, near) + at), amount, take(wrong_fitted, errors[:inside] + at)


def place(plane: Ints, row: Ints, column: Ints, shape: tuple[int, int, int]) -> Ints:
    """Where samples stand in the flat array of planes with margins."""
    _, rows, columns = shape
    stride = around.row_stride(columns)
    return plane * around.plane_stride(rows, columns) + (row + around.TOP) * stride + column + around.LEFT


def keep(array: NDArray[Any], amount: Ints, plane: Ints, row: Ints, column: Ints, shape: tuple[int, int, int]) -> None:
    """Writes what is known of samples to their places and to the margins that repeat them (`neighbourhood.with_margins`)."""
    _, rows, columns = shape
    stride = around.row_stride(columns)
    at = place(plane, row, column, shape)
    array[at] = amount

    def also(where: NDArray[np.bool_], *distances: int) -> None:
        for distance in distances:
            array[at[where] + distance] = amount[where]

    left, right, bottom = column == 0, column == columns - 1, row == rows - 1
    beside = range(1, around.RIGHT + 1)
    below = range(1, around.BOTTOM + 1)
    ahead = (row == 0) & (column + around.SHIFT_ABOVE < columns + around.RIGHT)
    also(ahead, *(around.SHIFT_ABOVE - up * stride for up in range(1, around.TOP + 1)))
    also(left, *(stride - back for back in range(1, around.LEFT + 1)))
    also(right, *beside)
    also(bottom, *(down * stride for down in below))
    also(bottom & left, *(down * stride - back for down in below[1:] for back in range(1, around.LEFT + 1)))
    also(bottom & right, *(down * stride + ahead for down in below for ahead in beside))
