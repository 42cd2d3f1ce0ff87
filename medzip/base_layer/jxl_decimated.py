"""Lossless JPEG XL of every n-th row and column: no voxel is coded twice, every machine sees the same, and it is a preview."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medzip.base_layer import jpeg_xl
from medzip.base_layer.contract import Integers


@dataclass(frozen=True)
class JxlDecimated:
    """`step` is n, 2 to 255: rows and columns 0, n, 2n, ... are kept."""

    step: int = 4

    name = "jxl_decimated"
    portable = True

    def encode(self, stack: Integers) -> tuple[bytes, Integers]:
        """Codes a stack (3, rows, columns) of 8 or 16-bit integers; the payload starts with a byte n."""
        jpeg_xl.check_dtype(self.name, stack.dtype)
        kept = stack[:, :: self.step, :: self.step].astype(np.int64) - np.iinfo(stack.dtype).min
        image = kept.astype(f"u{stack.dtype.itemsize}")
        payload = bytes([self.step]) + jpeg_xl.encode(self.name, image, lossless=True, photometric="gray")
        return payload, self.decode(payload, stack.shape, stack.dtype)

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Integers:
        """The base (3, rows, columns): at each voxel the nearest one kept, the lower right of equals.

        Raises ArchiveDamagedError.
        """
        if not payload or payload[0] < 2:
            raise jpeg_xl.damaged(self.name, "a step of 2 or more", "none")
        step = payload[0]
        rows, columns = (-(-n // step) for n in shape[1:])
        image = jpeg_xl.decode(self.name, payload[1:], (shape[0], rows, columns), f"u{dtype.itemsize}")
        kept = (image.astype(np.int64) + np.iinfo(dtype).min).astype(dtype)
        row, column = (
            np.minimum((np.arange(n) + step // 2) // step, kept_n - 1)
            for n, kept_n in zip(shape[1:], (rows, columns), strict=True)
        )
        return kept[:, row[:, None], column]
