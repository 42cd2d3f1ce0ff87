"""What each sample of a chunk costs under the pixel model: for people who want to see it, it shapes no archive."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel.chunk_samples import ChunkSamples
from medzip.entropy_model.pixel.features import POSITION_BITS, Look
from medzip.entropy_model.pixel.network import Network
from medzip.exact import kernels
from medzip.exact.symbols import code_lengths

Ints = NDArray[np.int64]

_TILE = 1 << 14


class Costs:
    """Ideal code lengths in bits of the samples (planes, rows, columns), 0..high, of a chunk with fitted `taps`."""

    def __init__(self, network: Network, samples: NDArray[np.integer[Any]], high: int, taps: tuple[Ints, Ints]) -> None:
        self._network, self._high, self._shape = network, high, samples.shape
        self._chunk = ChunkSamples(samples, high, taps) if high else None

    def plane(self, plane: int) -> NDArray[np.float32]:
        """Those of a plane (rows, columns); a chunk of one value costs nothing."""
        bits = np.zeros(self._shape[1:], np.float32)
        if self._chunk is None:
            return bits
        kernel, flat = kernels.fastest(self._network.shapes), bits.reshape(-1)
        sums = [kernel.layer(layer.linear) for layer in self._network.layers]
        for start in range(0, bits.size, _TILE):
            index = plane * bits.size + np.arange(start, min(start + _TILE, bits.size))
            batch = self._chunk.batch(index)
            mixture = self._network.mixture(Look(batch.predicted, batch.scale, batch.features), batch.predicted, sums)
            flat[start : start + len(index)] = code_lengths(batch.position >> POSITION_BITS, mixture, 0, self._high)
        return bits
