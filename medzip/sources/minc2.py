"""MINC-2: the image of an HDF5 file, where it lies in one piece (MINC 2.0 File Format Reference; HDF5 File Format, IV.A.2.i).

HDF5 is read by h5py, of the extra `minc`. Without it, and where the image lies in chunks, the file is kept whole.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from medzip.sources.contract import broken
from medzip.sources.image import Image, ImageSource, components, image

IMAGE = "minc-2.0/image/0/image"
VECTOR = "vector_dimension"


class Minc2Source(ImageSource):
    """One image: columns, rows and slices are its last three dimensions, behind which colours may lie."""

    name = "minc2"

    def detect(self, head: bytes) -> bool:
        return head.startswith(b"\x89HDF\r\n\x1a\n") and b"minc-2.0" in head

    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:  # noqa: ARG002, every format is called with all of these
        try:
            import h5py
        except ImportError:
            return []
        try:
            with h5py.File(file, "r") as hdf5:
                dataset = hdf5[IMAGE]
                offset, dtype, axes = dataset.id.get_offset(), np.dtype(dataset.dtype), list(dataset.shape)
                order = str(dataset.attrs.get("dimorder", ""))
        except Exception as error:  # h5py documents none, and raises a dozen
            raise broken(name, "an HDF5 file with the image of MINC", "damage") from error
        if offset is None or dtype.kind not in "iuf" or dtype.itemsize not in (1, 2, 4, 8) or not axes or min(axes) < 1:
            return []
        if VECTOR in order and len(axes) > 2:
            lengths, words = components(axes[:-1], axes[-1], dtype)
            return [image(offset, lengths, words)]
        return [image(offset, axes, (dtype,))]
