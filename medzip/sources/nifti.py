"""NIfTI-1 and NIfTI-2 in one or two files and Analyze 7.5, either byte order.

nifti1.h and nifti2.h of the NIfTI Data Format Working Group; ANALYZE 7.5 File Format, Mayo Foundation.

x runs fastest in a NIfTI file, so the samples of an image with dim = (nx, ny, nz, nt, ...) are, as they lie there,
an array (... nt nz, ny, nx) in C order: slices, rows and columns without any rearrangement.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from medzip.sources.contract import broken
from medzip.sources.image import Image, ImageSource, image

CODED = {
    2: ("u1",),
    256: ("i1",),
    4: ("i2",),
    512: ("u2",),
    8: ("i4",),
    768: ("u4",),
    1024: ("i8",),
    1280: ("u8",),
    16: ("f4",),
    64: ("f8",),
    128: ("u1", "u1", "u1"),
    2304: ("u1", "u1", "u1", "u1"),
    32: ("f4", "f4"),
    1792: ("f8", "f8"),
    1536: ("u8", "u8"),
    2048: ("u8", "u8", "u8", "u8"),
}
"""The numbers that a voxel consists of. Floats of 128 bits are two words here, as every machine has them otherwise."""
BINARY = 1
ANALYZE = {1, 2, 4, 8, 16, 32, 64, 128}


@dataclass(frozen=True)
class Layout:
    """Where one version of the header keeps what is needed: struct formats (without byte order) and offsets.

    `single` tells that the samples lie in the header's own file.
    """

    version: int
    size: int
    dim: tuple[str, int]
    datatype: int
    pixdim: tuple[str, int]
    vox_offset: tuple[str, int]
    codes: tuple[str, int]
    quatern: tuple[str, int]
    srow: tuple[str, int]
    single: bool = True


LAYOUTS = (
    Layout(1, 348, ("8h", 40), 70, ("8f", 76), ("f", 108), ("2h", 252), ("6f", 256), ("12f", 280)),
    Layout(2, 540, ("8q", 16), 12, ("8d", 104), ("q", 168), ("2i", 344), ("6d", 352), ("12d", 400)),
)
ANALYZE_LAYOUT = replace(LAYOUTS[0], version=0, single=False)


@dataclass(frozen=True)
class Header:
    """What a header says: lengths of the axes from the fastest to the slowest, and how the samples lie in their file."""

    axes: tuple[int, ...]
    offset: int
    words: tuple[np.dtype[np.generic], ...]
    affine: NDArray[np.float64] | None


def _layout(head: bytes) -> Layout | None:
    magic, magic_2 = head[344:348], head[4:12]
    if magic in (b"n+1\x00", b"ni1\x00"):
        return replace(LAYOUTS[0], single=magic == b"n+1\x00")
    if magic_2 in (b"n+2\x00\r\n\x1a\n", b"ni2\x00\r\n\x1a\n"):
        return replace(LAYOUTS[1], single=magic_2[:3] == b"n+2")
    return ANALYZE_LAYOUT if _is_analyze(head) else None


def _is_analyze(head: bytes) -> bool:
    """Analyze 7.5 has no magic, so its length, the number of axes and the datatype have to look right."""
    for order in "<>" if len(head) >= LAYOUTS[0].size else "":
        size, axes, datatype = (struct.unpack_from(order + form, head, at)[0] for form, at in (("i", 0), ("h", 40), ("h", 70)))
        if size == LAYOUTS[0].size and 1 <= axes <= 7 and datatype in ANALYZE:
            return True
    return False


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


def parse(head: bytes, name: str) -> Header:
    """The header of a NIfTI or Analyze file; raises UnsupportedInputError where it lies."""
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
    if datatype not in CODED and datatype != BINARY:
        raise broken(name, "a datatype of the NIfTI standard", f"code {datatype}")
    start = struct.unpack_from(order + layout.vox_offset[0], head, layout.vox_offset[1])[0]
    # A vox_offset of 0 in a single file means the least possible one: header and the four bytes of the extension flag.
    least = layout.size if layout.single else 0
    offset = int(start or (layout.size + 4 if layout.single else 0)) if math.isfinite(start) else -1
    if offset < least:
        raise broken(name, f"samples at byte {least} or later", f"vox_offset {start}")
    words = tuple(np.dtype(order + word) for word in CODED.get(datatype, ()))
    # With a first axis of one voxel, columns are not x, and no 4x4 matrix of (x, y, z) fits the volume's axes. Analyze says
    # nothing of directions.
    with np.errstate(all="ignore"):
        affine = _affine(head, order, layout) if dim[0] > 1 and layout.version else None
    return Header(tuple(dim[:count]), offset, words, affine)


class NiftiSource(ImageSource):
    """One image: columns, rows and slices are x, y and everything above.

    RGB24 has the channels last, RGBA32 has alpha as a second volume; the parts of complex numbers are two volumes, and so
    are the halves of 128-bit floats. The slice axis of `affine` is z: in an image of four or more dimensions it holds for
    the slices of the first volume. Binary images are kept whole.
    """

    name = "nifti"
    header_suffixes = (".hdr",)

    def detect(self, head: bytes) -> bool:
        return _layout(head) is not None

    def partners(self, file: BinaryIO, name: str) -> tuple[str, ...]:
        layout = _layout(file.read(LAYOUTS[1].size))
        if layout is None or layout.single:
            return ()
        stem = PurePosixPath(name).stem
        return (f"{stem}.img", f"{stem}.IMG", f"{stem}.Img")

    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:  # noqa: ARG002, every format is called with all of these
        header = parse(file.read(LAYOUTS[1].size), name)
        if not header.words:
            return []
        return [image(header.offset, header.axes[::-1], header.words, header.affine)]
