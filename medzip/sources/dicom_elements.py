"""A tokeniser for DICOM data sets that needs no dictionary (PS3.5 section 7, PS3.10 section 7).

It finds where the top-level elements lie, in any of the native encodings, and gives up with a typed error where they
do not fit the file. Nothing is changed, decoded or normalised, because every byte has to come back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from medzip.sources.contract import broken

PREAMBLE_BYTES = 132
ITEM_GROUP = 0xFFFE
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
MAX_DEPTH = 256
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


@dataclass(frozen=True)
class Encoding:
    """How elements are written: byte order '<' or '>', and whether the VR is left out (PS3.5 annex A)."""

    order: str
    implicit: bool


EXPLICIT_LITTLE = Encoding("<", implicit=False)
IMPLICIT_LITTLE = Encoding("<", implicit=True)


@dataclass(frozen=True)
class Element:
    """One data element: `offset` and `length` of its value in bytes; `length` is None where the file leaves it undefined."""

    tag: int
    vr: bytes
    offset: int
    length: int | None


class Elements:
    """The elements of one file of `size` bytes; `name` is for messages."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.file, self.size, self.name = file, size, name

    def bytes_at(self, offset: int, length: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(length)

    def value(self, element: Element, limit: int = 1024) -> bytes:
        """An element's value; nothing for one of undefined length or longer than `limit`."""
        short = element.length is not None and element.length <= limit
        return self.bytes_at(element.offset, element.length or 0) if short else b""

    def element_at(self, offset: int, encoding: Encoding) -> Element:
        """The element that starts at `offset`. A VR that is no two capital letters is taken for an implicit element."""
        head = self.bytes_at(offset, 12)
        if len(head) < 8:
            raise broken(self.name, "a DICOM element", "the end of the file")
        group, number = struct.unpack_from(encoding.order + "HH", head)
        vr = b"" if encoding.implicit or group == ITEM_GROUP else head[4:6]
        start = offset + 8
        if vr in LONG_VRS and len(head) == 12:
            length, start = struct.unpack_from(encoding.order + "I", head, 8)[0], offset + 12
        elif vr.isalpha() and vr.isupper():
            length = struct.unpack_from(encoding.order + "H", head, 6)[0]
        else:
            length = struct.unpack_from(encoding.order + "I", head, 4)[0]
        if length != UNDEFINED and length > self.size - start:
            raise broken(self.name, "DICOM elements that end before the file does", "one that is cut short")
        return Element(group << 16 | number, vr, start, None if length == UNDEFINED else length)

    def end_of(self, element: Element, encoding: Encoding) -> int:
        """The offset behind an element. Sequences and items of undefined length are followed to their delimiters (7.5)."""
        if element.length is not None:
            return element.offset + element.length
        open_encodings = [self._inner(element, encoding)]
        offset = element.offset
        while open_encodings:
            inner = self.element_at(offset, open_encodings[-1])
            if inner.length is None:
                open_encodings.append(self._inner(inner, open_encodings[-1]))
            elif inner.tag in (ITEM_END, SEQUENCE_END):
                open_encodings.pop()
            offset = inner.offset + (inner.length or 0)
            if len(open_encodings) > MAX_DEPTH:
                raise broken(self.name, f"DICOM sequences at most {MAX_DEPTH} deep", "deeper ones")
        return offset

    @staticmethod
    def _inner(element: Element, encoding: Encoding) -> Encoding:
        """The encoding inside: what has VR UN and undefined length is implicit little endian (PS3.5 section 6.2.2)."""
        return IMPLICIT_LITTLE if element.vr == b"UN" else encoding

    def following(self, offset: int, encoding: Encoding) -> Iterator[Element]:
        """The top-level elements from `offset` to the end of the file."""
        while offset < self.size:
            element = self.element_at(offset, encoding)
            yield element
            offset = self.end_of(element, encoding)

    def encoding_at(self, offset: int, order: str) -> Encoding:
        """Explicit where a VR stands where one would be: transfer syntaxes are known to be wrong about that."""
        return Encoding(order, implicit=self.bytes_at(offset + 4, 2) not in SHORT_VRS | LONG_VRS)
