"""NRRD: attached and detached headers (Definition of NRRD File Format, teem.sourceforge.net/nrrd/format.html).

Samples in an encoding other than raw and gzip, and those in several files, are kept as they lie.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from medzip.sources.contract import broken
from medzip.sources.image import Image, ImageSource, components, image, numbers, plain_name

MAX_HEADER_BYTES = 1 << 22
FIELD = re.compile(rb"([^:\n]+): (.*)")
TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), "i8"),
    **dict.fromkeys(("int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
SEVERAL_FILES = re.compile(r"^LIST\b|%")
GZIP = {"gzip", "gz"}
IN_SPACE = {"domain", "space", "time", "???", "none"}
"""Kinds of axes that are no components of a pixel."""


@dataclass(frozen=True)
class Header:
    """The fields (names in lower case), and where an attached header ends: behind its empty line."""

    fields: dict[str, str]
    end: int

    def get(self, *names: str) -> str:
        return next((self.fields[name] for name in names if name in self.fields), "")

    @property
    def data_file(self) -> str:
        return self.get("data file", "datafile")

    @property
    def encoding(self) -> str:
        return self.get("encoding").lower()


def parse(file: BinaryIO, name: str) -> Header:
    """A NRRD header: magic, `field: value` lines, `key:=value` lines and comments, up to an empty line or the end."""
    head = file.read(MAX_HEADER_BYTES)
    found: dict[str, str] = {}
    position = head.find(b"\n") + 1
    while True:
        end = head.find(b"\n", position)
        line = head[position : end if end >= 0 else len(head)].rstrip(b"\r")
        position = end + 1 if end >= 0 else len(head)
        if not line:
            return Header(found, position)
        field = FIELD.fullmatch(line)
        if field and not line.startswith(b"#"):
            found[field[1].decode("latin-1").strip().lower()] = field[2].decode("latin-1").strip()
        if end < 0:
            if "data file" in found or "datafile" in found:
                return Header(found, position)
            raise broken(name, "an empty line after the NRRD header", "none")


def _whole_number(text: str, name: str, what: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise broken(name, f"a whole number as {what}", "something else") from error


def _behind_lines(header: Header, file: BinaryIO, name: str) -> int | None:
    """Where the samples or their stream begin, behind the lines to be skipped; None for lines of another file."""
    lines = _whole_number(header.get("line skip", "lineskip") or "0", name, "line skip")
    if lines < 0:
        raise broken(name, "a line skip of 0 or more", f"{lines}")
    if header.data_file:
        return None if lines else 0
    file.seek(header.end)
    for _ in range(lines):
        if not file.readline(MAX_HEADER_BYTES).endswith(b"\n"):
            raise broken(name, f"{lines} lines to skip", "fewer")
    return file.tell()


def _offset(header: Header, file: BinaryIO, size: int, length: int, name: str) -> int:
    """Where `length` bytes of samples begin: behind the lines and bytes to be skipped, -1 for the last bytes of the file."""
    skipped = _whole_number(header.get("byte skip", "byteskip") or "0", name, "byte skip")
    if skipped < -1:
        raise broken(name, "a byte skip of -1 or more", f"{skipped}")
    start = _behind_lines(header, file, name)
    if skipped == -1:
        return size - length
    return -1 if start is None else start + skipped


def _affine(header: Header, axes: int) -> NDArray[np.float64] | None:
    """From (column, row, slice, 1) to the space that the header names, by its space directions and origin."""
    vectors = [numbers(text, 3) for text in re.findall(r"\([^)]*\)", header.get("space directions"))]
    origin = numbers(header.get("space origin"), 3)
    if axes != 3 or origin is None or len(vectors) != 3 or any(vector is None for vector in vectors):
        return None
    affine = np.eye(4)
    affine[:3, :3] = np.transpose([vector for vector in vectors if vector is not None])
    affine[:3, 3] = origin
    return affine


class NrrdSource(ImageSource):
    """One image: the first axis holds a pixel's components if its kind says so; the next are columns, rows and slices."""

    name = "nrrd"
    header_suffixes = (".nhdr", ".nrrd")

    def detect(self, head: bytes) -> bool:
        return re.match(rb"NRRD000[1-5]\r?\n", head) is not None

    def partners(self, file: BinaryIO, name: str) -> tuple[str, ...]:
        data = parse(file, name).data_file
        return () if not data or SEVERAL_FILES.search(data) else (plain_name(data, name),)

    def stream(self, file: BinaryIO, name: str) -> int | None:
        header = parse(file, name)
        several = bool(SEVERAL_FILES.search(header.data_file))
        return _behind_lines(header, file, name) if header.encoding in GZIP and not several else None

    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:
        header = parse(file, name)
        axes = [_whole_number(text, name, "an axis of sizes") for text in header.get("sizes").split()]
        if not 1 <= len(axes) <= 16 or min(axes) < 1:
            raise broken(name, "1 to 16 axes of positive length in sizes", f"{len(axes)} of them")
        kind = TYPES.get(header.get("type").lower())
        several = bool(SEVERAL_FILES.search(header.data_file))
        if kind is None or several or header.encoding not in {"raw", *GZIP}:
            return []
        order = {"little": "<", "big": ">"}.get(header.get("endian").lower(), "" if kind[1] == "1" else "?")
        if order == "?":
            raise broken(name, "endian little or big", "none")
        word = np.dtype(order + kind)
        offset = _offset(header, file, size, prod(axes) * word.itemsize, name)
        kinds = header.get("kinds").lower().split()
        count = axes[0] if len(kinds) == len(axes) > 2 and kinds[0] not in IN_SPACE else 1
        space = axes[1:] if count > 1 else axes
        lengths, words = components(space[::-1], count, word)
        return [image(offset, lengths, words, _affine(header, len(space)) if space[0] > 1 else None)]
