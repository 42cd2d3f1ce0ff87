"""Samples of volumes as the pixel network sees them: the product's own integer features, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.chunk_samples import ChunkSamples
from medzip.entropy_model.pixel.features import POSITION_BITS
from medzip.entropy_model.pixel.fitted import fit


@dataclass(frozen=True)
class Batch:
    """n samples: int8 `features` (n, FEATURES); `predicted` position and `position` of the sample in 1/16 of a value, `scale`
    codes, and the position `top` of the largest value of its chunk, each (n,) int64."""

    features: NDArray[np.int8]
    predicted: NDArray[np.int64]
    scale: NDArray[np.int64]
    position: NDArray[np.int64]
    top: NDArray[np.int64]


class PixelVolume:
    """A volume, seen as one chunk; `samples` (planes, rows, columns), lowest 0."""

    def __init__(self, samples: NDArray[np.integer[Any]]) -> None:
        values = samples.astype(np.int32)
        taps = fit(around.with_margins(values << POSITION_BITS).reshape(-1), values.shape)
        self._chunk = ChunkSamples(values, int(values.max()), taps)
        self.size = values.size

    def draw(self, generator: np.random.Generator, count: int) -> Batch:
        """`count` samples at random."""
        seen = self._chunk.batch(generator.integers(0, self.size, count))
        return Batch(seen.features, seen.predicted, seen.scale, seen.position, np.full(count, self._chunk.top, np.int64))


def joined(batches: list[Batch]) -> Batch:
    """One batch of all."""
    return Batch(*(np.concatenate([getattr(b, name) for b in batches]) for name in Batch.__dataclass_fields__))
