"""The items of encapsulated pixel data, and which of them make up a frame (PS3.5 annex A.4)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

ITEM = b"\xfe\xff\x00\xe0"
HEADER_BYTES = 8
STARTS = (b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP", b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")
"""How JPEG and JPEG-LS, JPEG 2000 and JPEG XL images begin, bare and in boxes: here a fragment starts a frame."""


@dataclass(frozen=True)
class Item:
    """A fragment: `offset` and `length` of its value in the file; `begin` of its header."""

    offset: int
    length: int

    @property
    def begin(self) -> int:
        return self.offset - HEADER_BYTES

    @property
    def end(self) -> int:
        return self.offset + self.length


def item_header(length: int) -> bytes:
    """Tag and length of an item."""
    return ITEM + struct.pack("<I", length)


def items(data: bytes, offset: int) -> list[Item]:
    """The items from `offset` on, up to what is none or does not fit: a delimiter, damage, the end of the file."""
    found = []
    while data[offset : offset + 4] == ITEM and offset + HEADER_BYTES <= len(data):
        item = Item(offset + HEADER_BYTES, struct.unpack_from("<I", data, offset + 4)[0])
        if item.end > len(data):
            break
        found.append(item)
        offset = item.end
    return found


def frames(data: bytes, offset: int, count: int) -> list[list[Item]]:
    """The fragments of each frame of pixel data whose first item, the basic offset table, lies at `offset`.

    `count` is the number of frames that the header names. Frames are one fragment each where the numbers agree, as with an
    extended offset table; else they begin where the basic offset table says, else where a fragment starts an image.
    """
    table, *fragments = items(data, offset) or [Item(offset, 0)]
    if len(fragments) == count:
        return [[fragment] for fragment in fragments]
    if count == 1 or not fragments:
        return [fragments] if fragments else []
    starts = {struct.unpack_from("<I", data, table.offset + place)[0] for place in range(0, table.length - 3, 4)}
    first, found = fragments[0].begin, list[list[Item]]()
    for fragment in fragments:
        image = any(data.startswith(start, fragment.offset) for start in STARTS)
        if not found or (fragment.begin - first in starts if starts else image):
            found.append([])
        found[-1].append(fragment)
    return found
