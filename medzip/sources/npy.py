"""NumPy's .npy files, format versions 1.0 to 3.0 (numpy.lib.format, NEP 1).

The header is parsed here, within bounds, instead of by numpy.load, because nothing in a file may be unpickled.
An array in Fortran order lies in the file as its transpose in C order, and is coded as that: its first axis becomes
the columns, as in NIfTI.
"""

from __future__ import annotations

import ast
import re
import struct
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

import numpy as np

from medzip.sources.contract import broken
from medzip.sources.image import Image, ImageSource, image

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 65536
CODED = re.compile(r"[<>][iu][248]|[<>]f(?:2|4|8|16)|[<>]c(?:8|16|32)|[|<>]([iub])1")
SEVERAL = {"c8": ("f4", "f4"), "c16": ("f8", "f8"), "c32": ("u8",) * 4, "f16": ("u8", "u8")}
PLAIN = re.compile(r"[<>|=](?:[biufcmMVSU?])\d*(?:\[\d*[a-zA-Z]+\])?")


@dataclass(frozen=True)
class Header:
    """What a .npy header says. `axes` run from the slowest to the fastest; `words` are the numbers of which a sample consists,
    none where samples are not coded."""

    offset: int
    axes: tuple[int, ...]
    words: tuple[np.dtype[np.generic], ...]


def _text(file: BinaryIO, name: str) -> tuple[str, int]:
    """The header's dictionary as text, and the offset of the array."""
    start = file.read(8)
    version = start[6:8]
    width = {b"\x01\x00": "<H", b"\x02\x00": "<I", b"\x03\x00": "<I"}.get(version)
    if not start.startswith(MAGIC) or width is None:
        raise broken(name, "a .npy header of version 1, 2 or 3", "another one")
    length_bytes = file.read(struct.calcsize(width))
    length = struct.unpack(width, length_bytes)[0] if len(length_bytes) == struct.calcsize(width) else MAX_HEADER_BYTES + 1
    text = file.read(length) if length <= MAX_HEADER_BYTES else b""
    if len(text) != length:
        raise broken(name, f"a .npy header of at most {MAX_HEADER_BYTES} bytes", "one that is longer or cut short")
    try:
        return text.decode("utf-8" if version[0] == 3 else "latin-1"), len(start) + len(length_bytes) + length
    except UnicodeDecodeError as error:
        raise broken(name, "a .npy header in UTF-8", "other bytes") from error


def _axes(fields: object, name: str) -> tuple[int, ...]:
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise broken(name, "descr, fortran_order and shape in the .npy header", "other fields")
    shape, fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(length) is int and 0 <= length < 1 << 63 for length in shape):
        raise broken(name, "a shape of whole numbers in the .npy header", "something else")
    if not isinstance(fortran, bool) or len(shape) > 64:
        raise broken(name, "an array of at most 64 axes in C or Fortran order", "something else")
    return shape[::-1] if fortran else shape


def _words(descr: object, name: str) -> tuple[np.dtype[np.generic], ...]:
    if isinstance(descr, list):
        return ()
    if not isinstance(descr, str) or not PLAIN.fullmatch(descr):
        raise broken(name, "a numeric, boolean, text or structured array", "objects, which only unpickling could read")
    coded = CODED.fullmatch(descr)
    if coded is None:
        return ()
    if one_byte := coded.group(1):
        return (np.dtype({"i": "i1", "u": "u1", "b": "u1"}[one_byte]),)
    parts = SEVERAL.get(descr[1:], (descr[1:],))
    return tuple(np.dtype(descr[0] + part) for part in parts)


def parse(file: BinaryIO, size: int, name: str) -> Header:
    """The header of a .npy file of `size` bytes; raises UnsupportedInputError where it is wrong or the file too short."""
    text, offset = _text(file, name)
    try:
        fields = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise broken(name, "a Python dictionary in the .npy header", "something else") from error
    axes = _axes(fields, name)
    words = _words(fields["descr"], name)
    needed = prod(axes) * sum(word.itemsize for word in words)
    if needed > size - offset:
        raise broken(name, f"{needed} bytes of samples", f"{max(size - offset, 0)}")
    return Header(offset, axes, words)


class NpySource(ImageSource):
    """One array: the last two axes are rows and columns, all before them slices; 8-bit (..., rows, columns, 3) is RGB.

    Booleans are coded as their bytes, the parts of complex numbers as two volumes, and so are the halves of 128-bit floats.
    Text, date and structured arrays and empty ones are kept whole.
    """

    name = "npy"

    def detect(self, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:
        header = parse(file, size, name)
        axes, words = header.axes, header.words
        if not words or not axes or 0 in axes:
            return []
        if words == (np.dtype("u1"),) and len(axes) > 2 and axes[-1] == 3:
            rows, columns = axes[-3:-1]
            return [Image((header.offset,), prod(axes[:-3]), rows, columns, 3 * words)]
        return [image(header.offset, axes, words)]
