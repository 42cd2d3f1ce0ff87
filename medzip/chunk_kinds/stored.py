"""The samples as they are, little endian, in C order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.chunk_kinds.contract import damaged


class Stored:
    """Samples of any numeric dtype and shape: what noise gets, so that it never grows."""

    name = "stored"

    def accepts(self, dtype: np.dtype[Any]) -> bool:
        return not dtype.hasobject

    def encode(self, samples: NDArray[Any]) -> bytes:
        return np.ascontiguousarray(samples, samples.dtype.newbyteorder("<")).tobytes()

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The samples that `encode` got; raises ArchiveDamagedError where the payload has another length."""
        if len(payload) != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
            raise damaged(self.name, shape, dtype, f"{len(payload)} bytes")
        samples = np.frombuffer(payload, dtype.newbyteorder("<")).reshape(shape)
        return samples.astype(dtype)
