"""Zstandard (RFC 8878) at level 19, on bytes grouped by significance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.chunk_kinds.contract import damaged

LEVEL = 19


class Zstd:
    """Samples of any numeric dtype and shape: first the lowest byte of every sample in C order, then the next byte, and so on."""

    name = "zstd"

    def accepts(self, dtype: np.dtype[Any]) -> bool:
        return not dtype.hasobject

    def encode(self, samples: NDArray[Any]) -> bytes:
        """One frame that states its content size."""
        import zstandard

        little = np.ascontiguousarray(samples, samples.dtype.newbyteorder("<")).reshape(-1)
        data = little.view(np.uint8).reshape(-1, little.dtype.itemsize).T.tobytes()
        return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(data)

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The samples that `encode` got; raises ArchiveDamagedError."""
        import zstandard

        size = int(np.prod(shape, dtype=np.int64))
        try:
            # The decompressor allocates what the frame states: look before it does.
            if zstandard.frame_content_size(payload) != size * dtype.itemsize:
                raise damaged(self.name, shape, dtype, "a frame of another content size")
            data = zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise damaged(self.name, shape, dtype, "no such zstd frame") from error
        shuffled = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, size)
        return np.ascontiguousarray(shuffled.T).view(dtype.newbyteorder("<")).reshape(shape).astype(dtype)
