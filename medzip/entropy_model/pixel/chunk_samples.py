"""Samples of a chunk that is known as a whole, wherever they lie, as the pixel network sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.features import FEATURES, POSITION_BITS, Look, look
from medzip.entropy_model.pixel.reference import gathered, place
from medzip.entropy_model.pixel.regression import Regression
from medzip.exact.compiled.setup import available

Ints = NDArray[np.int64]

_TILE = 1 << 14


@dataclass(frozen=True)
class Batch:
    """n samples: int8 `features` (n, FEATURES); int64 (n,) `predicted` prediction and `position` in 1/16 value, `scale` codes."""

    features: NDArray[np.int8]
    predicted: Ints
    scale: Ints
    position: Ints


class ChunkSamples:
    """The samples (planes, rows, columns), 0..high, of a chunk with fitted `taps`, and what the decoder knows at each of them."""

    def __init__(self, samples: NDArray[np.integer[Any]], high: int, taps: tuple[Ints, Ints]) -> None:
        self.shape = samples.shape
        self.size, self.top = samples.size, high << POSITION_BITS
        self._taps = taps
        kind = np.dtype(np.int32 if self.top < 1 << 24 else np.int64)
        positions = samples.astype(kind) << POSITION_BITS
        values = _flat(positions)
        # Predictions depend on positions alone: their errors are known once all predictions are.
        predicted = self._predictions(values)
        self._predicted = predicted.reshape(-1)
        wrong, wrong_fitted = _flat(positions - predicted), np.empty(self.size, kind)
        self._known = (values, wrong, np.zeros_like(values))
        for start in range(0, self.size, _TILE):
            index = np.arange(start, min(start + _TILE, self.size))
            wrong_fitted[index] = positions.reshape(-1)[index] - self._look(index)[0].fitted
        self._known = (values, wrong, _flat(wrong_fitted.reshape(self.shape)))

    def batch(self, index: Ints) -> Batch:
        """The samples at flat indices (n,)."""
        seen, predicted, position = self._look(index)
        return Batch(seen.features, predicted, seen.scale, position)

    def _predictions(self, values: NDArray[Any]) -> NDArray[Any]:
        """Those of all samples (planes, rows, columns), in the type of `values`, which are the positions, flat with margins."""
        if available():
            from medzip.entropy_model.pixel import compiled_regression

            return compiled_regression.predictions(values, self.shape, self.top)
        regression, found = Regression(self.shape, self.top), np.empty(self.shape, values.dtype)
        for plane, row, column in around.steps(self.shape):
            at = place(plane, row, column, self.shape)
            near, _, _ = gathered((values, values, values), at, plane, self.shape)
            found[plane, row, column] = regression.predict(near, plane, row, column)
            regression.learn(values[at].astype(np.int64))
        return found

    def _look(self, index: Ints) -> tuple[Look, Ints, Ints]:
        """What is seen of the samples, their predictions and their positions."""
        plane, row, column = np.unravel_index(index, self.shape)
        at = place(plane, row, column, self.shape)
        predicted = self._predicted[index].astype(np.int64)
        seen = (self._compiled if available() else self._in_numpy)(at, plane, predicted)
        return seen, predicted, self._known[0][at].astype(np.int64)

    def _compiled(self, at: Ints, plane: Ints, predicted: Ints) -> Look:
        from medzip.entropy_model.pixel import compiled_features

        features = np.empty((len(at), FEATURES), np.int8)
        fitted, scale = (np.empty(len(at), np.int64) for _ in range(2))
        constants = compiled_features.chunk_constants(self.shape[1], self.shape[2], self._taps, self.top)
        arguments = *self._known, at, plane, len(at), *constants, predicted, features, fitted, scale
        compiled_features.look(*arguments)
        return Look(fitted, scale, features)

    def _in_numpy(self, at: Ints, plane: Ints, predicted: Ints) -> Look:
        near, wrong, wrong_fitted = gathered(self._known, at, plane, self.shape)
        return look(near, wrong, wrong_fitted, plane, predicted, self._taps, self.top)


def _flat(planes: NDArray[Any]) -> NDArray[Any]:
    """With margins, and what the compiled features may read beyond."""
    flat = around.with_margins(planes).reshape(-1)
    return np.concatenate([flat, np.zeros(around.RUN, planes.dtype)])
