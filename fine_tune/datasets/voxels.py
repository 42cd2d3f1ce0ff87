"""Samples of volumes as the pixel network sees them: the product's own integer features, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model import wavefront
from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.compiled_features import RUN, chunk_constants, keep, look
from medzip.entropy_model.pixel.features import FEATURES, POSITION_BITS
from medzip.entropy_model.pixel.fitted import fit
from medzip.exact.compiled.setup import njit


@dataclass(frozen=True)
class Batch:
    """n samples: int8 `features` (n, FEATURES); `fitted` prediction and `position` of the sample in 1/16 of a value, `scale`
    codes, and the position `top` of the chunk's largest value, each (n,) int64."""

    features: NDArray[np.int8]
    fitted: NDArray[np.int64]
    scale: NDArray[np.int64]
    position: NDArray[np.int64]
    top: NDArray[np.int64]


class PixelVolume:
    """A volume with all that the decoder would know at each of its samples; `samples` (planes, rows, columns), lowest 0."""

    def __init__(self, samples: NDArray[np.integer[Any]]) -> None:
        self.shape: tuple[int, int, int] = samples.shape  # type: ignore[assignment]
        self.size, self.top = samples.size, int(samples.max()) << POSITION_BITS
        flat = around.with_margins(samples.astype(np.int32) << POSITION_BITS).reshape(-1)
        self.values = np.concatenate([flat, np.zeros(RUN, np.int32)])
        taps = fit(self.values, self.shape)
        self.chunk = chunk_constants(*self.shape[1:], *taps, self.top)
        self.wrong, self.wrong_in_plane = np.zeros_like(self.values), np.zeros_like(self.values)
        order = wavefront.rows_in_order(self.shape, around.STEP_OF_ROW, around.STEP_OF_PLANE)
        _replay(self.values, self.wrong, self.wrong_in_plane, self.shape, order, self.chunk)

    def batch(self, z: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]) -> Batch:
        """The samples at these places."""
        _, rows, columns = self.shape
        at = z * around.plane_stride(rows, columns) + (y + around.TOP) * around.row_stride(columns) + x + around.LEFT
        features = np.empty((len(at), FEATURES), np.int8)
        fitted, in_plane, scale = (np.empty(len(at), np.int64) for _ in range(3))
        known = (self.values, self.wrong, self.wrong_in_plane)
        look(*known, at, z, len(at), *self.chunk, features, fitted, in_plane, scale)
        return Batch(features, fitted, scale, self.values[at].astype(np.int64), np.full(len(at), self.top, np.int64))

    def draw(self, generator: np.random.Generator, count: int) -> Batch:
        """`count` samples at random."""
        return self.batch(*(generator.integers(0, n, count) for n in self.shape))

    def plane(self, z: int) -> Batch:
        """All samples of a plane, in raster order."""
        _, rows, columns = self.shape
        y, x = np.mgrid[0:rows, 0:columns]
        return self.batch(np.full(rows * columns, z), y.ravel(), x.ravel())


def joined(batches: list[Batch]) -> Batch:
    """One batch of all."""
    return Batch(*(np.concatenate([getattr(b, name) for b in batches]) for name in Batch.__dataclass_fields__))


@njit
def _replay(values: Any, wrong: Any, wrong_in_plane: Any, shape: Any, order: Any, chunk: Any) -> None:
    _, rows, columns = shape
    plane_of, row_of, begin = order
    stride = columns + around.LEFT + around.RIGHT
    features = np.zeros((len(begin), FEATURES), np.int8)
    fitted, in_plane, scale, at, plane = np.zeros((5, len(begin)), np.int64)
    step, first, last = 0, 0, 0
    while first < len(begin):
        while last < len(begin) and begin[last] <= step:
            last += 1
        while first < last and begin[first] + columns <= step:
            first += 1
        n = last - first
        for i in range(n):
            plane[i] = plane_of[first + i]
            row = plane[i] * (rows + around.TOP + around.BOTTOM) + row_of[first + i] + around.TOP
            at[i] = row * stride + step - begin[first + i] + around.LEFT
        look(values, wrong, wrong_in_plane, at, plane, n, *chunk, features, fitted, in_plane, scale)
        for i in range(n):
            row, column = row_of[first + i], step - begin[first + i]
            keep(wrong, at[i], values[at[i]] - fitted[i], row, column, rows, columns)
            keep(wrong_in_plane, at[i], values[at[i]] - in_plane[i], row, column, rows, columns)
        step += 1
