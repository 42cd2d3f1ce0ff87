"""Lossless JPEG XL (ISO/IEC 18181-1) at effort 7: one codestream, one grey frame for each plane."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.chunk_kinds.contract import damaged

# Effort 1 of libjxl 0.11 corrupts the heap on noisy images of 14 bits and more; 7 is what medzip compares itself with.
EFFORT = 7


class JpegXl:
    """Integers of 8 and 16 bits, (planes, rows, columns); signed ones are coded with their sign bit flipped."""

    name = "jpeg_xl"

    def __init__(self, effort: int = EFFORT) -> None:
        self._effort = effort

    def accepts(self, dtype: np.dtype[Any]) -> bool:
        return dtype.kind in "iu" and dtype.itemsize <= 2

    def encode(self, samples: NDArray[Any]) -> bytes:
        """One codestream for samples (planes, rows, columns), none of them 0."""
        import imagecodecs

        planes = np.ascontiguousarray(_flip_sign(samples))
        return bytes(imagecodecs.jpegxl_encode(planes, lossless=True, effort=self._effort, photometric="gray", numthreads=1))

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The samples that `encode` got; raises ArchiveDamagedError."""
        import imagecodecs

        decoded = np.empty(shape, f"u{dtype.itemsize}")
        try:
            # Given an output, imagecodecs refuses a codestream of other size or depth instead of allocating for it.
            imagecodecs.jpegxl_decode(payload, numthreads=1, out=decoded)
        except Exception as error:
            raise damaged(self.name, shape, dtype, "no such codestream") from error
        samples: NDArray[Any] = _flip_sign(decoded.view(dtype)).view(dtype)
        return samples


def _flip_sign(samples: NDArray[Any]) -> NDArray[Any]:
    """Signed samples as unsigned ones, in the same order: x - minimum. Its own inverse on the bits."""
    unsigned: NDArray[Any] = samples.view(f"u{samples.dtype.itemsize}")
    if samples.dtype.kind == "u":
        return unsigned
    flipped: NDArray[Any] = unsigned ^ unsigned.dtype.type(1 << (8 * samples.dtype.itemsize - 1))
    return flipped
