"""Divides the header of a DICOM file into fields, each an element with its place in the data set (PS3.5 section 7).

Fields are for joint coding alone: whatever they are, together they are the header, byte for byte. So what breaks the rules is no
error here, it only stays in one piece.
"""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

from medzip.errors import UnsupportedInputError
from medzip.sources.contract import HEAD_BYTES, broken
from medzip.sources.dicom import BIG_ENDIAN, TRANSFER_SYNTAX, DicomSource
from medzip.sources.dicom_elements import (
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    ITEM_END,
    ITEM_GROUP,
    PREAMBLE_BYTES,
    SEQUENCE_END,
    Element,
    Elements,
    Encoding,
)

ITEM = 0xFFFEE000
SOP_INSTANCE = 0x00080018
PER_FRAME = 0x52009230  # its items are alike, one for each frame, where those of other sequences differ
MAX_DEPTH = 24
ENDLESS = 1 << 40
MOST_FIELDS = 1 << 19


class Field(NamedTuple):
    """`head`, the length of `value` as `length_bytes` says, and `value`; `path` is where it lies, equal in files of one kind.

    `length_bytes` is 0 (no length), 2 or 4 bytes, negative where they are big endian.
    """

    path: tuple[int, ...]
    head: bytes
    length_bytes: int
    value: bytes


class _Fields:
    def __init__(self, data: bytes) -> None:
        # What a header ends with is longer than the header: pixel data.
        self.data, self.elements = data, Elements(io.BytesIO(data), ENDLESS, "")
        self.found: list[Field] = []

    def rest(self, offset: int) -> None:
        """Everything from `offset` on as one field."""
        if offset < len(self.data):
            self.found.append(Field((-1,), b"", 0, self.data[offset:]))

    def meta(self, offset: int) -> tuple[int, str]:
        """The file meta information, up to where it ends; its transfer syntax."""
        syntax = ""
        while self.data[offset : offset + 2] == b"\x02\x00":
            element = self.elements.element_at(offset, EXPLICIT_LITTLE)
            if element.tag == TRANSFER_SYNTAX:
                syntax = self.elements.value(element).decode("ascii", "replace").strip("\0 ")
            offset = self.element(offset, element, EXPLICIT_LITTLE, (), len(self.data))
        return offset, syntax

    def data_set(self, offset: int, end: int, encoding: Encoding, path: tuple[int, ...], closed_by: int = 0) -> int:
        """The elements from `offset` to `end`, or to the delimiter `closed_by`; gives the offset behind them.

        Raises UnsupportedInputError where there is no element, or one reaches beyond `end`: those before it are found.
        """
        if len(path) > 3 * MAX_DEPTH:
            raise broken("", "a few sequences in each other", "more")
        items = 0
        while offset < end:
            if len(self.found) > MOST_FIELDS:
                raise broken("", f"at most {MOST_FIELDS} elements", "more")
            element = self.elements.element_at(offset, encoding)
            place = path
            if element.tag == ITEM:
                place, items = (*path, 0 if path[-1:] == (PER_FRAME,) else items), items + 1
            offset = self.element(offset, element, encoding, place, end)
            if closed_by and element.tag == closed_by:
                return offset
        return offset

    def element(self, start: int, element: Element, encoding: Encoding, path: tuple[int, ...], end: int) -> int:
        """One element and what lies in it; gives the offset behind it."""
        inside = (*path, element.tag)
        behind = element.offset if element.length is None else element.offset + element.length
        if behind > end:
            raise broken("", "elements that end where they should", "one that does not")
        mark = len(self.found)
        if element.length is None:
            self.found.append(Field(inside, b"", 0, self.data[start : element.offset]))
            inner = IMPLICIT_LITTLE if element.vr == b"UN" else encoding
            return self.data_set(element.offset, end, inner, inside, ITEM_END if element.tag == ITEM else SEQUENCE_END)
        first = self.data[element.offset : element.offset + 4]
        nested = element.tag == ITEM or first == struct.pack(encoding.order + "HH", ITEM_GROUP, ITEM & 0xFFFF)
        if nested and element.length:
            try:
                self.found.append(Field(inside, b"", 0, self.data[start : element.offset]))
                self.data_set(element.offset, behind, encoding, inside)
                return behind
            except UnsupportedInputError:
                del self.found[mark:]
        self.found.append(self._field(start, element, encoding, inside))
        return behind

    def _field(self, start: int, element: Element, encoding: Encoding, path: tuple[int, ...]) -> Field:
        size = 2 if element.offset - start == 8 and element.vr.isalpha() and element.vr.isupper() else 4
        value = self.data[element.offset : element.offset + (element.length or 0)]
        return Field(path, self.data[start : element.offset - size], size if encoding.order == "<" else -size, value)


def fields(data: bytes) -> list[Field] | None:
    """The header of a DICOM file, up to its pixel data, in fields; None for anything else."""
    found = _Fields(data)
    start = PREAMBLE_BYTES if data[128:132] == b"DICM" else 0
    if not DicomSource().detect(data[:HEAD_BYTES]):
        return None
    if start:
        found.found.append(Field((), b"", 0, data[:start]))
    offset = start
    try:
        offset, syntax = found.meta(start)
        order = ">" if syntax == BIG_ENDIAN or (not syntax and data[offset : offset + 1] == b"\0") else "<"
        found.data_set(offset, len(data), found.elements.encoding_at(offset, order), ())
    except UnsupportedInputError:
        pass
    found.rest(sum(len(field.head) + abs(field.length_bytes) + len(field.value) for field in found.found))
    return found.found


def sop_instance(data: bytes) -> bytes:
    """The SOP Instance UID of a DICOM file, by its first bytes; empty where there is none."""
    found = (field.value for field in fields(data[:HEAD_BYTES]) or () if field.path == (SOP_INSTANCE,))
    return next(found, b"").strip(b"\0 ")
