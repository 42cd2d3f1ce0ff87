"""Lossy JPEG XL of a stack as one colour image: the base layer of the paper (Du et al., section III; quality 68 for MRI).

Its decoder computes in float, so CPUs may see different bases: archives with it are not portable.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from medzip.base_layer import jpeg_xl
from medzip.base_layer.contract import Integers

# What was subtracted from the samples, and by how many bits the difference was shifted to the left.
_HEADER = struct.Struct("<iB")


def distance(quality: float) -> float:
    """libjxl's own mapping (JxlEncoderDistanceFromQuality) of 0..100 to Butteraugli distance, lossless 100 excepted."""
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality * quality - 23 / 20 * quality + 25


@dataclass(frozen=True)
class JxlLossy:
    """`quality` is that of cjxl, 0 to 99."""

    quality: float = 68

    name = "jxl_lossy"
    portable = False

    def encode(self, stack: Integers) -> tuple[bytes, Integers]:
        """Codes a stack (3, rows, columns). 8-bit samples as they are; 16-bit ones scaled to the full range of uint16.

        12-bit values left where they are would lose twice the precision at the same quality.
        """
        jpeg_xl.check_dtype(self.name, stack.dtype)
        values = stack.astype(np.int64)
        low, shift = int(np.iinfo(stack.dtype).min), 0
        if stack.dtype.itemsize == 2:
            low = int(values.min())
            shift = 16 - int(values.max() - low).bit_length()
        image = np.moveaxis((values - low) << shift, 0, -1).astype(f"u{stack.dtype.itemsize}")
        code = jpeg_xl.encode(self.name, image, lossless=False, distance=distance(self.quality), photometric="rgb")
        payload = _HEADER.pack(low, shift) + code
        return payload, self.decode(payload, stack.shape, stack.dtype)

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Integers:
        """The base (3, rows, columns) as this machine sees it. Raises ArchiveDamagedError."""
        if len(payload) < _HEADER.size:
            raise jpeg_xl.damaged(self.name, f"{_HEADER.size} bytes or more", f"{len(payload)}")
        low, shift = _HEADER.unpack_from(payload)
        if shift > 16:
            raise jpeg_xl.damaged(self.name, "a shift of at most 16 bits", f"{shift}")
        image = jpeg_xl.decode(self.name, payload[_HEADER.size :], (*shape[1:], shape[0]), f"u{dtype.itemsize}")
        values = ((np.moveaxis(image, -1, 0).astype(np.int64) + (1 << shift >> 1)) >> shift) + low
        limits = np.iinfo(dtype)
        result: Integers = np.clip(values, limits.min, limits.max).astype(dtype)
        return result
