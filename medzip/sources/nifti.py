"""NIfTI-1 and NIfTI-2 in a single file, either byte order (nifti1.h, nifti2.h of the NIfTI Data Format Working Group).

x runs fastest in a NIfTI file, so the samples of an image with dim = (nx, ny, nz, nt, ...) are, as they lie there,
an array (... nt nz, ny, nx) in C order: slices, rows and columns without any rearrangement.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from medzip.sources.contract import broken, one_volume, volume_shape, whole
from medzip.volume import Skeleton, Volume

RGB24 = 128
CODED = {2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 1024: "i8", 1280: "u8", 16: "f4", 64: "f8", RGB24: "u1"}
BITS_KEPT_WHOLE = {1: 1, 32: 64, 1792: 128, 2048: 256, 1536: 128, 2304: 32}  # binary, complex, 128-bit float, RGBA32


@dataclass(frozen=True)
class Layout:
    """Where one version of the header keeps what is needed: struct formats (without byte order) and offsets."""

    version: int
    size: int
    dim: tuple[str, int]
    datatype: int
    pixdim: tuple[str, int]
    vox_offset: tuple[str, int]
    codes: tuple[str, int]
    quatern: tuple[str, int]
    srow: tuple[str, int]


LAYOUTS = (
    Layout(1, 348, ("8h", 40), 70, ("8f", 76), ("f", 108), ("2h", 252), ("6f", 256), ("12f", 280)),
    Layout(2, 540, ("8q", 16), 12, ("8d", 104), ("q", 168), ("2i", 344), ("6d", 352), ("12d", 400)),
)


@dataclass(frozen=True)
class Header:
    """What a header says: lengths of the axes from the fastest to the slowest, and how the samples lie in the file."""

    axes: tuple[int, ...]
    datatype: int
    offset: int
    dtype: np.dtype[np.generic] | None
    affine: NDArray[np.float64] | None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = volume_shape(self.axes[::-1])
        return (*shape, 3) if self.datatype == RGB24 else shape


def _layout(head: bytes) -> Layout | None:
    if head[344:348] == b"n+1\x00":
        return LAYOUTS[0]
    return LAYOUTS[1] if head[4:12] == b"n+2\x00\r\n\x1a\n" else None


def _rotation(b: float, c: float, d: float) -> NDArray[np.float64]:
    """The rotation of a unit quaternion (a, b, c, d) with a >= 0, as nifti_quatern_to_mat44 of nifti1_io.c has it."""
    rest = 1.0 - (b * b + c * c + d * d)
    a = math.sqrt(rest) if rest > 1e-7 else 0.0
    if a == 0.0:
        norm = math.sqrt(b * b + c * c + d * d)
        b, c, d = b / norm, c / norm, d / norm
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _affine(head: bytes, order: str, layout: Layout) -> NDArray[np.float64] | None:
    """From (column, row, slice, 1) to millimetres: sform, else qform, else pixdim (nifti1.h, methods 3, 2, 1)."""
    qform_code, sform_code = struct.unpack_from(order + layout.codes[0], head, layout.codes[1])
    pixdim = struct.unpack_from(order + layout.pixdim[0], head, layout.pixdim[1])
    affine = np.eye(4)
    if sform_code > 0:
        affine[:3] = np.reshape(struct.unpack_from(order + layout.srow[0], head, layout.srow[1]), (3, 4))
        return affine if np.isfinite(affine).all() else None
    spacing = [abs(length) or 1.0 for length in pixdim[1:4]]
    if qform_code > 0:
        b, c, d, *shift = struct.unpack_from(order + layout.quatern[0], head, layout.quatern[1])
        if not all(map(math.isfinite, (b, c, d))):
            return None
        handedness = -1.0 if pixdim[0] < 0 else 1.0
        affine[:3, :3] = _rotation(b, c, d) * [spacing[0], spacing[1], handedness * spacing[2]]
        affine[:3, 3] = shift
    else:
        affine[:3, :3] = np.diag(spacing)
    return affine if np.isfinite(affine).all() else None


def parse(head: bytes, size: int, name: str) -> Header:
    """The header of a NIfTI file of `size` bytes; raises UnsupportedInputError where it lies or the file is too short."""
    layout = _layout(head)
    if layout is None or len(head) < layout.size:
        raise broken(name, "a whole NIfTI header", f"{len(head)} bytes")
    orders = [order for order in "<>" if struct.unpack_from(order + "i", head)[0] == layout.size]
    if not orders:
        raise broken(name, f"sizeof_hdr {layout.size}", "another number")
    order = orders[0]
    count, *dim = struct.unpack_from(order + layout.dim[0], head, layout.dim[1])
    if not 1 <= count <= 7 or min(dim[:count]) < 1:
        raise broken(name, "1 to 7 axes of positive length", f"dim = {[count, *dim]}")
    datatype = struct.unpack_from(order + "h", head, layout.datatype)[0]
    if datatype not in CODED and datatype not in BITS_KEPT_WHOLE:
        raise broken(name, "a datatype of the NIfTI standard", f"code {datatype}")
    start = struct.unpack_from(order + layout.vox_offset[0], head, layout.vox_offset[1])[0]
    # A vox_offset of 0 in a single file means the least possible one: header and the four bytes of the extension flag.
    offset = int(start or layout.size + 4) if math.isfinite(start) else -1
    if offset < layout.size:
        raise broken(name, f"samples at byte {layout.size} or later", f"vox_offset {start}")
    dtype = np.dtype(order + CODED[datatype]) if datatype in CODED else None
    bits = 24 if datatype == RGB24 else dtype.itemsize * 8 if dtype else BITS_KEPT_WHOLE[datatype]
    needed = offset + (math.prod(dim[:count]) * bits + 7) // 8
    if needed > size:
        raise broken(name, f"{needed} bytes, as its header says", f"{size}")
    # With a first axis of one voxel, columns are not x, and no 4x4 matrix of (x, y, z) fits the volume's axes.
    with np.errstate(all="ignore"):
        affine = _affine(head, order, layout) if dim[0] > 1 else None
    return Header(tuple(dim[:count]), datatype, offset, dtype, affine)


class NiftiSource:
    """One image: columns, rows and slices are x, y and everything above; RGB24 has the channels last.

    The slice axis of `affine` is z: in an image of four or more dimensions it holds for the slices of the first volume.
    Binary, complex, 128-bit float and RGBA32 images are kept whole.
    """

    name = "nifti"

    def detect(self, head: bytes) -> bool:
        return _layout(head) is not None

    def archive_name(self, file: BinaryIO, size: int, name: str) -> str:
        parse(file.read(LAYOUTS[1].size), size, name)
        return f"{name}.mdz"

    def split(self, files: Iterable[tuple[str, bytes]]) -> tuple[Skeleton, list[Volume]]:
        [(name, data)] = files
        header = parse(data[: LAYOUTS[1].size], len(data), name)
        if header.dtype is None:
            return Skeleton((whole(name, data),)), []
        return one_volume(name, data, header.offset, header.dtype, header.shape, header.affine)
