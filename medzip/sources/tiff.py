"""TIFF and BigTIFF (TIFF Revision 6.0, Adobe 1992; BigTIFF of libtiff): pages of strips or tiles, plain or deflated.

Pages in another compression, and deflated differences (predictors), are kept as they lie.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

import numpy as np

from medzip.sources.contract import broken
from medzip.sources.image import MAX_COMPONENTS, Dtype, Image, ImageSource, take_apart_opened
from medzip.sources.wrappers.streams import Opened, opened_at
from medzip.volume import FileSkeleton, Volume

MAX_PAGES = 1 << 16
MAX_VALUES = 1 << 22
WIDTH, LENGTH, BITS, COMPRESSION, FILL_ORDER = 256, 257, 258, 259, 266
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR = 273, 277, 278, 279, 284
PREDICTOR, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES, SAMPLE_FORMAT = 317, 322, 323, 324, 325, 339
WANTED = {WIDTH, LENGTH, BITS, COMPRESSION, FILL_ORDER, STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR}
WANTED |= {PREDICTOR, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES, SAMPLE_FORMAT}
TYPES = {3: "H", 4: "I", 16: "Q", 13: "I", 18: "Q"}
"""SHORT, LONG, LONG8 and the two kinds of IFD offsets."""
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
NONE, DEFLATE, OLD_DEFLATE = 1, 8, 32946


@dataclass(frozen=True)
class Page:
    """What lies where in a page: `offsets` of frames of (rows, columns) pixels, which are the page or its tiles."""

    offsets: tuple[int, ...]
    rows: int
    columns: int
    words: tuple[Dtype, ...]
    planar: bool


class _Directories:
    """The directories of a file (IFDs), each as the numbers of the tags wanted; together they may not be longer than the file."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file, self._left, self._name = file, size, name
        head = file.read(16)
        self.order = "<" if head[:2] == b"II" else ">"
        self._big = head[2:4] in (b"+\0", b"\0+")
        self._first = self._number("Q", 8) if self._big else self._number("I", 4)

    def _bytes(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        self._left -= size
        data = self._file.read(size) if self._left >= 0 else b""
        if len(data) != size:
            raise broken(self._name, "TIFF directories inside the file, none in another", "one outside")
        return data

    def _number(self, form: str, offset: int) -> int:
        value: int = struct.unpack(self.order + form, self._bytes(offset, struct.calcsize("=" + form)))[0]
        return value

    def __iter__(self) -> Iterator[dict[int, tuple[int, ...]]]:
        seen: set[int] = set()
        offset = self._first
        while offset:
            if offset in seen or len(seen) >= MAX_PAGES:
                raise broken(self._name, f"at most {MAX_PAGES} TIFF directories, each once", "more")
            seen.add(offset)
            count, start, size = self._number("Q" if self._big else "H", offset), *((8, 20) if self._big else (2, 12))
            if count > MAX_VALUES:
                raise broken(self._name, f"at most {MAX_VALUES} entries of a TIFF directory", f"{count}")
            entries = self._bytes(offset + start, count * size)
            yield dict(filter(None, (self._entry(entries[i : i + size]) for i in range(0, len(entries), size))))
            offset = self._number("Q" if self._big else "I", offset + start + count * size)

    def _entry(self, entry: bytes) -> tuple[int, tuple[int, ...]] | None:
        tag, kind, count = struct.unpack_from(self.order + ("HHQ" if self._big else "HHI"), entry)
        if tag not in WANTED or kind not in TYPES:
            return None
        form = f"{self.order}{count}{TYPES[kind]}"
        if not 1 <= count <= MAX_VALUES:
            raise broken(self._name, f"1 to {MAX_VALUES} values in a TIFF entry", f"{count}")
        room = entry[12:] if self._big else entry[8:]
        if struct.calcsize(form) > len(room):
            room = self._bytes(struct.unpack(self.order + ("Q" if self._big else "I"), room)[0], struct.calcsize(form))
        return tag, struct.unpack_from(form, room)


def _words(tags: dict[int, tuple[int, ...]], order: str) -> tuple[Dtype, ...]:
    """The dtypes of a pixel's samples; none where they are compressed, or have no whole bytes each."""
    [samples] = tags.get(SAMPLES, (1,))[:1]
    bits, formats = tags.get(BITS, (1,)), tags.get(SAMPLE_FORMAT, (UNSIGNED,))
    kind = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}.get(formats[0])
    sizes = (16, 32, 64) if kind == "f" else (8, 16, 32, 64)
    alike = len(set(bits)) == 1 and len(set(formats)) == 1
    if tags.get(COMPRESSION, (NONE,))[0] != NONE or tags.get(FILL_ORDER, (1,))[0] != 1 or not alike or kind is None:
        return ()
    if bits[0] not in sizes or not 1 <= samples <= MAX_COMPONENTS:
        return ()
    return (np.dtype(f"{order}{kind}{bits[0] // 8}"),) * samples


def deflated(tags: dict[int, tuple[int, ...]], order: str) -> tuple[tuple[int, int, int], ...]:
    """(start, end, bytes of content) of the zlib streams of a page; none where it is not to be coded."""
    if tags.get(COMPRESSION, (NONE,))[0] not in (DEFLATE, OLD_DEFLATE) or tags.get(PREDICTOR, (1,))[0] != 1:
        return ()
    words = _words(tags | {COMPRESSION: (NONE,)}, order)
    tiled = TILE_OFFSETS in tags
    offsets, lengths = (tags.get(tag, ()) for tag in ((TILE_OFFSETS, TILE_BYTES) if tiled else (STRIP_OFFSETS, STRIP_BYTES)))
    if not words or not tags.keys() >= {WIDTH, LENGTH} or len(offsets) != len(lengths):
        return ()
    planes = len(words) if tags.get(PLANAR, (1,))[0] == 2 else 1
    pixel = sum(word.itemsize for word in words) // planes
    columns, rows = ((tags.get(tag, (0,))[0]) for tag in ((TILE_WIDTH, TILE_LENGTH) if tiled else (WIDTH, LENGTH)))
    height = rows if tiled else min(tags.get(ROWS_PER_STRIP, (rows,))[0], rows)
    if height < 1:
        return ()
    each = [columns * pixel * min(height, rows - start) for start in range(0, rows, height)] * (1 if tiled else planes)
    sizes = each * len(offsets) if tiled else each
    places = zip(offsets, lengths, sizes, strict=False)
    return tuple((start, start + length, size) for start, length, size in places) if len(sizes) == len(offsets) else ()


def _opened(
    tags: dict[int, tuple[int, ...]], streams: Sequence[tuple[int, int, int]], begins: Sequence[int], inside: Opened
) -> dict[int, tuple[int, ...]]:
    """The tags that a page has in the opened file, where its streams have their content at `begins`; none if it is not there."""
    key, lengths = (TILE_OFFSETS, TILE_BYTES) if TILE_OFFSETS in tags else (STRIP_OFFSETS, STRIP_BYTES)
    if not streams:
        moved = tuple(inside.moved(offset) for offset in tags.get(key, ()))
        return {} if -1 in moved else tags | {key: moved}
    if -1 in begins:
        return {}
    return tags | {COMPRESSION: (NONE,), key: tuple(begins), lengths: tuple(size for _, _, size in streams)}


def page(tags: dict[int, tuple[int, ...]], order: str) -> Page | None:
    """A directory as a page; None where it is not to be coded."""
    words = _words(tags, order)
    if not words or not tags.keys() >= {WIDTH, LENGTH}:
        return None
    [width], [length] = tags[WIDTH][:1], tags[LENGTH][:1]
    planar = tags.get(PLANAR, (1,))[0] == 2 and len(words) > 1
    if min(width, length) < 1:
        return None
    if TILE_OFFSETS in tags:
        [columns], [rows] = tags.get(TILE_WIDTH, (0,))[:1], tags.get(TILE_LENGTH, (0,))[:1]
        if planar or min(rows, columns) < 1:
            return None
        return Page(tags[TILE_OFFSETS], rows, columns, words, False)
    offsets, lengths = tags.get(STRIP_OFFSETS, ()), tags.get(STRIP_BYTES, ())
    size = width * length * sum(word.itemsize for word in words)
    if len(offsets) == 1:
        lengths = (size,)  # what is said of a single strip is often wrong
    strips = zip(offsets[1:], offsets, lengths, strict=False)
    whole = len(offsets) == len(lengths) and all(start == before + bytes_ for start, before, bytes_ in strips)
    if not offsets or not whole or sum(lengths) != size:
        return None
    if planar and len(words) != 3:
        planes = range(offsets[0], offsets[0] + size, size // len(words))
        return Page(tuple(planes), length, width, words[:1], False)
    return Page(offsets[:1], length, width, words, planar)


class TiffSource(ImageSource):
    """Pages of one size and type are the slices of one volume, in the order of the file. Of a tiled page, its tiles are slices,
    and of one whose components lie apart and are no colours, these are."""

    name = "tiff"

    def detect(self, head: bytes) -> bool:
        return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:
        directories = _Directories(file, size, name)
        return _volumes(directories, directories.order, size)

    def taken(self, header_name: str, header: bytes, name: str, data: bytes) -> tuple[FileSkeleton, list[Volume]]:
        directories = _Directories(io.BytesIO(data), len(data), name)
        pages, order = list(directories), directories.order
        streams = [deflated(tags, order) for tags in pages]
        if not any(streams):
            return super().taken(header_name, header, name, data)
        inside = opened_at(data, name, [place for places in streams for place in places], raw=False)
        begins = iter(inside.begins)
        tags = [
            _opened(tags, places, [next(begins) for _ in places], inside) for tags, places in zip(pages, streams, strict=True)
        ]
        return take_apart_opened(name, data, inside, _volumes(tags, order, len(inside.data)))


def _volumes(pages: Iterable[dict[int, tuple[int, ...]]], order: str, size: int) -> list[Image]:
    """The images of a file's pages, those of one size and type together."""
    alike: dict[tuple[object, ...], list[Page]] = {}
    for tags in pages:
        found = page(tags, order)
        if found and all(offset + _page_bytes(found) <= size for offset in found.offsets):
            alike.setdefault((found.rows, found.columns, found.words, found.planar), []).append(found)
    return [
        Image(tuple(offset for one in pages for offset in one.offsets), 1, first.rows, first.columns, first.words, first.planar)
        for first, *rest in alike.values()
        for pages in [[first, *rest]]
    ]


def _page_bytes(one: Page) -> int:
    return prod((one.rows, one.columns, sum(word.itemsize for word in one.words)))
