"""pcodec (Loncaric, Jeppesen and Zinberg 2025): floats, and integers that are too wide for image codecs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.chunk_kinds.contract import damaged


class Numeric:
    """Floats of 16 to 64 bits and integers of 32 and 64, any shape, in C order. The bits of -0 and of every NaN survive."""

    name = "numeric"

    def accepts(self, dtype: np.dtype[Any]) -> bool:
        return (dtype.kind == "f" and dtype.itemsize in (2, 4, 8)) or (dtype.kind in "iu" and dtype.itemsize in (4, 8))

    def encode(self, samples: NDArray[Any]) -> bytes:
        """A standalone pcodec file."""
        from pcodec import ChunkConfig, standalone

        return bytes(standalone.simple_compress(np.ascontiguousarray(samples).reshape(-1), ChunkConfig()))

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The samples that `encode` got; raises ArchiveDamagedError."""
        from pcodec import standalone

        samples = np.zeros(shape, dtype)
        try:
            progress = standalone.simple_decompress_into(payload, samples.reshape(-1))
        except Exception as error:
            raise damaged(self.name, shape, dtype, "no such pcodec file") from error
        if not progress.finished or progress.n_processed != samples.size:
            raise damaged(self.name, shape, dtype, "another number of samples")
        return samples
