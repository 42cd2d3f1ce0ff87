"""MINC-1: the image variable of a netCDF classic file (NetCDF Users Guide, file format specifications: CDF-1 and CDF-2)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from medzip.sources.contract import broken
from medzip.sources.image import Image, ImageSource, components, image

MAX_HEADER_BYTES = 1 << 24
TYPES = {1: "i1", 2: "S1", 3: "i2", 4: "i4", 5: "f4", 6: "f8"}
TEXT = 2
DIMENSIONS, VARIABLES, ATTRIBUTES = 10, 11, 12


@dataclass(frozen=True)
class Variable:
    """A variable: the numbers of its dimensions from the slowest on, netCDF type, offset and whether MINC calls it signed."""

    dimensions: tuple[int, ...]
    type: int
    offset: int
    signed: bool


class _Header:
    """A cursor over a netCDF header."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name, self._position = data, name, 4
        self._offset_form = ">q" if data[3:4] == b"\x02" else ">i"
        self.records = self.number()
        self.dimensions = [(self.text(), self.number()) for _ in self.list(DIMENSIONS)]
        self.attributes()
        self.variables = dict(self.variable() for _ in self.list(VARIABLES))

    def number(self, form: str = ">i") -> int:
        size = struct.calcsize(form)
        if self._position + size > len(self._data):
            raise broken(self._name, "a whole netCDF header", "one that is cut short")
        value: int = struct.unpack_from(form, self._data, self._position)[0]
        self._position += size
        return value

    def skip(self, size: int) -> bytes:
        """The next `size` bytes, which are padded to a multiple of four."""
        if size < 0 or self._position + size > len(self._data):
            raise broken(self._name, "a whole netCDF header", "one that is cut short")
        value = self._data[self._position : self._position + size]
        self._position += -(-size // 4) * 4
        return value

    def text(self) -> str:
        return self.skip(self.number()).decode("latin-1")

    def list(self, tag: int) -> range:
        found, count = self.number(), self.number()
        if (found, count) != (0, 0) and (found != tag or not 0 <= count <= len(self._data)):
            raise broken(self._name, "a netCDF header", "another list in its place")
        return range(count)

    def attributes(self) -> dict[str, bytes]:
        found = {}
        for _ in self.list(ATTRIBUTES):
            key, kind, count = self.text(), self.number(), self.number()
            if kind not in TYPES:
                raise broken(self._name, "a netCDF type of 1 to 6", f"{kind}")
            found[key] = self.skip(count * np.dtype(TYPES[kind]).itemsize)
        return found

    def variable(self) -> tuple[str, Variable]:
        key = self.text()
        count = self.number()
        if not 0 <= count <= len(self.dimensions):
            raise broken(self._name, "as many dimensions as the file has", f"{count}")
        dimensions = tuple(self.number() for _ in range(count))
        sign = self.attributes().get("signtype", b"").rstrip(b"\0 ")
        kind, _, offset = self.number(), self.number(), self.number(self._offset_form)
        if kind not in TYPES or not all(0 <= number < len(self.dimensions) for number in dimensions):
            raise broken(self._name, "a netCDF variable", "one of unknown type or dimensions")
        return key, Variable(dimensions, kind, offset, sign == b"signed__" or (sign != b"unsigned" and kind != 1))


class MincSource(ImageSource):
    """One image: columns, rows and slices are the last three dimensions of the variable `image`, which has colours last."""

    name = "minc"

    def detect(self, head: bytes) -> bool:
        return head[:4] in (b"CDF\x01", b"CDF\x02")

    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:  # noqa: ARG002, every format is called with all of these
        header = _Header(file.read(MAX_HEADER_BYTES), name)
        found = header.variables.get("image")
        if found is None or not found.dimensions or found.type == TEXT:
            return []
        lengths = [header.dimensions[number] for number in found.dimensions]
        if any(length < 1 for _, length in lengths):  # 0 is the dimension that grows: its records take turns with others
            return []
        kind = TYPES[found.type]
        word = np.dtype(f">{kind}" if kind[0] == "f" or found.signed else f">u{kind[1]}")
        axes = [length for _, length in lengths]
        coloured = len(axes) > 2 and lengths[-1][0] == "vector_dimension"
        axes, words = components(axes[:-1], axes[-1], word) if coloured else (axes, (word,))
        return [image(found.offset, axes, words)]
