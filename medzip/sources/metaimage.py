"""MetaImage: .mha, and .mhd beside a file of samples (MetaIO documentation of ITK, "MetaImage" and "MetaObject").

Samples written as text and those in several files are kept as they lie.
"""

from __future__ import annotations

import re
from math import prod
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from medzip.sources.contract import broken
from medzip.sources.image import Image, ImageSource, components, image, numbers, plain_name

MAX_HEADER_BYTES = 1 << 16
LAST = "ElementDataFile"
LINE = re.compile(rb"\s*([A-Za-z]\w*)\s*=[ \t]*([^\r\n]*?)[ \t]*\r?\n")
SEVERAL_FILES = re.compile(r"^LIST\b|%")
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
"""MET_LONG has 4 bytes on every machine (MET_ValueTypeSize of metaTypes.h)."""


def fields(file: BinaryIO, name: str) -> tuple[dict[str, str], int]:
    """The header's fields, and where it ends: after the line of ElementDataFile, as samples may follow."""
    head = file.read(MAX_HEADER_BYTES)
    found: dict[str, str] = {}
    position = 0
    while LAST not in found:
        line = LINE.match(head, position)
        if line is None:
            raise broken(name, f"lines of a MetaImage header up to {LAST}", "something else")
        found[line[1].decode("ascii")] = line[2].decode("latin-1")
        position = line.end()
    return found, position


def _is_true(text: str) -> bool:
    return text[:1].lower() in ("t", "y", "1")


def _integers(text: str, name: str, what: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split()]
    except ValueError as error:
        raise broken(name, f"whole numbers in {what}", "something else") from error
    if not numbers:
        raise broken(name, f"a number in {what}", "none")
    return numbers


def _affine(found: dict[str, str]) -> NDArray[np.float64] | None:
    """From (column, row, slice, 1) to millimetres, x to the left and y to the back: rows of TransformMatrix are the axes."""
    names = ("TransformMatrix", "Rotation", "Orientation"), ("Offset", "Position", "Origin"), ("ElementSpacing", "ElementSize")
    texts = [next((found[name] for name in group if name in found), "") for group in names]
    directions, origin, spacing = (numbers(text, count) for text, count in zip(texts, (9, 3, 3), strict=True))
    if directions is None or origin is None or spacing is None:
        return None
    affine = np.eye(4)
    affine[:3, :3] = directions.reshape(3, 3).T * spacing
    affine[:3, 3] = origin
    return affine


class MetaImageSource(ImageSource):
    """One image: columns, rows and slices are the first three axes, those above are more slices."""

    name = "metaimage"
    header_suffixes = (".mhd", ".mha")

    def detect(self, head: bytes) -> bool:
        return b"NDims" in head and re.match(rb"\s*(?:ObjectType|NDims|Comment|ObjectSubType)\s*=", head) is not None

    def partners(self, file: BinaryIO, name: str) -> tuple[str, ...]:
        data = fields(file, name)[0][LAST]
        return () if data.upper() == "LOCAL" or SEVERAL_FILES.search(data) else (plain_name(data, name),)

    def stream(self, file: BinaryIO, name: str) -> int | None:
        found, end = fields(file, name)
        if not _is_true(found.get("CompressedData", "")) or SEVERAL_FILES.search(found[LAST]):
            return None
        return end if found[LAST].upper() == "LOCAL" else 0

    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:
        found, end = fields(file, name)
        axes = _integers(found.get("DimSize", ""), name, "DimSize")
        if len(axes) > 10 or min(axes) < 1 or _integers(found.get("NDims", ""), name, "NDims") != [len(axes)]:
            raise broken(name, "axes of positive length, as many as NDims says", f"{len(axes)} of them")
        kind = TYPES.get(found.get("ElementType", "").removesuffix("_ARRAY"))
        if kind is None or not _is_true(found.get("BinaryData", "")) or SEVERAL_FILES.search(found[LAST]):
            return []
        big = _is_true(found.get("BinaryDataByteOrderMSB", found.get("ElementByteOrderMSB", "")))
        count = _integers(found.get("ElementNumberOfChannels", "1"), name, "ElementNumberOfChannels")[0]
        if count < 1:
            raise broken(name, "one channel or more", f"{count}")
        word = np.dtype((">" if big else "<") + kind)
        offset = _integers(found.get("HeaderSize", "0"), name, "HeaderSize")[0]
        if offset == -1:
            offset = size - prod(axes) * count * word.itemsize
        elif offset == 0 and found[LAST].upper() == "LOCAL":
            offset = end
        lengths, words = components(axes[::-1], count, word)
        affine = _affine(found) if len(axes) == 3 and axes[0] > 1 else None
        return [image(offset, lengths, words, affine)]
