"""Samples of a chunk that is known as a whole, wherever they lie, as the pixel network sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.features import FEATURES, POSITION_BITS, Look, look
from medzip.entropy_model.pixel.reference import gathered, place
from medzip.exact.compiled.setup import available

Ints = NDArray[np.int64]

_TILE = 1 << 14


@dataclass(frozen=True)
class Batch:
    """n samples: int8 `features` (n, FEATURES); int64 (n,) `fitted` prediction and `position` in 1/16 value, `scale` codes."""

    features: NDArray[np.int8]
    fitted: Ints
    scale: Ints
    position: Ints


class ChunkSamples:
    """The samples (planes, rows, columns), 0..high, of a chunk with fitted `taps`, and what the decoder knows at each of them."""

    def __init__(self, samples: Ints, high: int, taps: tuple[Ints, Ints]) -> None:
        self.shape = samples.shape
        self.size, self.top = samples.size, high << POSITION_BITS
        self._taps = taps
        kind = np.dtype(np.int32 if self.top < 1 << 24 else np.int64)
        values = _flat(samples.astype(kind) << POSITION_BITS)
        self._known = (values, np.zeros_like(values), np.zeros_like(values))
        wrong, wrong_in_plane = np.empty(self.size, kind), np.empty(self.size, kind)
        for start in range(0, self.size, _TILE):
            index = np.arange(start, min(start + _TILE, self.size))
            seen, position = self._look(index)
            wrong[index], wrong_in_plane[index] = position - seen.fitted, position - seen.in_plane
        # Predictions depend on positions alone: their errors are known once all predictions are.
        self._known = (values, _flat(wrong.reshape(self.shape)), _flat(wrong_in_plane.reshape(self.shape)))

    def batch(self, index: Ints) -> Batch:
        """The samples at flat indices (n,)."""
        seen, position = self._look(index)
        return Batch(seen.features, seen.fitted, seen.scale, position)

    def _look(self, index: Ints) -> tuple[Look, Ints]:
        plane, row, column = np.unravel_index(index, self.shape)
        at = place(plane, row, column, self.shape)
        seen = self._compiled(at, plane) if available() else self._in_numpy(at, plane)
        return seen, self._known[0][at].astype(np.int64)

    def _compiled(self, at: Ints, plane: Ints) -> Look:
        from medzip.entropy_model.pixel import compiled_features

        features = np.empty((len(at), FEATURES), np.int8)
        fitted, in_plane, scale = (np.empty(len(at), np.int64) for _ in range(3))
        constants = compiled_features.chunk_constants(self.shape[1], self.shape[2], *self._taps, self.top)
        arguments = *self._known, at, plane, len(at), *constants, features, fitted, in_plane, scale
        compiled_features.look(*arguments)
        return Look(fitted, in_plane, scale, features)

    def _in_numpy(self, at: Ints, plane: Ints) -> Look:
        return look(*gathered(self._known, at, plane, self.shape), plane, *self._taps, self.top)


def _flat(planes: NDArray[Any]) -> NDArray[Any]:
    """With margins, and what the compiled features may read beyond."""
    flat = around.with_margins(planes).reshape(-1)
    return np.concatenate([flat, np.zeros(around.RUN, planes.dtype)])
