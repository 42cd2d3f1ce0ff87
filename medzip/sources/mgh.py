"""MGH, the volumes of FreeSurfer (FreeSurfer Wiki, FsTutorial/MghFormat): always big endian, samples from byte 284 on."""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from medzip.sources.contract import broken
from medzip.sources.image import Image, ImageSource, image

HEADER_BYTES = 284
TYPES = {0: "u1", 1: "i4", 3: "f4", 4: "i2", 10: "u2"}
LARGEST_AXIS = 1 << 24


def _affine(head: bytes, axes: tuple[int, ...]) -> NDArray[np.float64] | None:
    """From (column, row, slice, 1) to millimetres, x to the right and y to the front; None where the header has none."""
    good, *values = struct.unpack_from(">h15f", head, 28)
    spacing, cosines, centre = np.array(values[:3]), np.reshape(values[3:12], (3, 3)).T, np.array(values[12:])
    if good <= 0 or not np.isfinite(values).all():
        return None
    affine = np.eye(4)
    affine[:3, :3] = cosines * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ (np.array(axes[:3]) / 2)
    return affine


class MghSource(ImageSource):
    """One image: columns, rows and slices are the first three axes, frames are more slices."""

    name = "mgh"

    def detect(self, head: bytes) -> bool:
        if len(head) < HEADER_BYTES:
            return False
        version, *axes, kind = struct.unpack_from(">6i", head)
        return version == 1 and kind in TYPES and all(0 < length < LARGEST_AXIS for length in axes)

    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:  # noqa: ARG002, every format is called with all of these
        head = file.read(HEADER_BYTES)
        if not self.detect(head):
            raise broken(name, "a whole MGH header", "another one")
        _, *axes, kind = struct.unpack_from(">6i", head)
        affine = _affine(head, tuple(axes)) if axes[0] > 1 else None
        return [image(HEADER_BYTES, axes[::-1], (np.dtype(f">{TYPES[kind]}"),), affine)]
