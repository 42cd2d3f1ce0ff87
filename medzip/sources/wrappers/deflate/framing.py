"""What lies around deflate streams: gzip members (RFC 1952), a zlib stream (RFC 1950), or nothing."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

GZIP_MAGIC = b"\x1f\x8b\x08"
RAW, ZLIB, GZIP = range(3)
_TEXT, _HEADER_CRC, _EXTRA, _NAME, _COMMENT = 1, 2, 4, 8, 16
_PIECE = 1 << 16


@dataclass(frozen=True)
class Stream:
    """A deflate stream of a file: what lies before it, where it begins and ends, and how many bytes it holds."""

    prefix: bytes
    start: int
    end: int
    content: int


@dataclass(frozen=True)
class Framed:
    """A file taken apart: its kind, the bytes that its streams hold, the streams, and what lies behind the last."""

    kind: int
    content: bytes
    streams: list[Stream]
    tail: bytes


def trailer(kind: int, content: bytes | memoryview) -> bytes:
    """What follows a stream that holds `content`: CRC-32 and size, Adler-32, or nothing."""
    if kind == GZIP:
        return zlib.crc32(content).to_bytes(4, "little") + (len(content) & 0xFFFFFFFF).to_bytes(4, "little")
    return zlib.adler32(content).to_bytes(4, "big") if kind == ZLIB else b""


def framed(data: bytes, raw: bool, most: int) -> Framed | None:
    """The streams of a file, inflated and their checksums compared; `raw` is a bare deflate stream.

    None where the data are damaged or of another kind, or hold more than `most` bytes.
    """
    kind = RAW if raw else GZIP if data[:3] == GZIP_MAGIC else ZLIB if _zlib_header(data) else None
    if kind is None:
        return None
    view, content, streams, position = memoryview(data), io.BytesIO(), list[Stream](), 0
    while position < len(data):
        start = _stream_start(kind, data, position)
        size = content.tell()
        end = None if start is None else _inflated(view, start, content, most)
        after = b"" if end is None else trailer(kind, content.getbuffer()[size:])
        if start is None or end is None or data[end : end + len(after)] != after:
            if not streams or end is not None or content.tell() > most:
                return None
            content.truncate(size)
            break
        streams.append(Stream(data[position:start], start, end, content.tell() - size))
        position = end + len(after)
        if kind != GZIP:
            break
    return Framed(kind, content.getvalue(), streams, data[position:]) if streams else None


def placed(data: bytes, raw: bool, places: Sequence[tuple[int, int, int]], most: int) -> Framed | None:
    """The zlib or (`raw`) bare streams at (start, end, bytes of content) of `data`, inflated and their checksums compared.

    None where one is damaged, of another size, or does not end there, or all hold more than `most` bytes.
    """
    kind = RAW if raw else ZLIB
    view, content, streams, position = memoryview(data), io.BytesIO(), list[Stream](), 0
    for first, last, length in places:
        start, size = first + (2 if kind == ZLIB else 0), content.tell()
        if first < position or not (raw or _zlib_header(data[first:start])):
            return None
        end = _inflated(view[:last], start, content, min(most, size + length))
        after = b"" if end is None else trailer(kind, content.getbuffer()[size:])
        if end is None or data[end:last] != after or content.tell() != size + length:
            return None
        streams.append(Stream(data[position:start], start, end, length))
        position = last
    return Framed(kind, content.getvalue(), streams, data[position:])


def _zlib_header(data: bytes) -> bool:
    return len(data) > 1 and data[0] & 15 == 8 and data[0] >> 4 < 8 and not data[1] & 32 and (data[0] << 8 | data[1]) % 31 == 0


def _stream_start(kind: int, data: bytes, position: int) -> int | None:
    """Where the deflate stream of the member at a position begins; None where no member is."""
    if kind != GZIP:
        return position + (2 if kind == ZLIB else 0)
    if data[position : position + 3] != GZIP_MAGIC or len(data) < position + 10 or data[position + 3] > 31:
        return None
    flags, start = data[position + 3], position + 10
    if flags & _EXTRA:
        start += 2 + int.from_bytes(data[start : start + 2], "little")
    for flag in (_NAME, _COMMENT):
        if flags & flag:
            start = data.find(b"\0", start) + 1 or len(data)
    start += 2 if flags & _HEADER_CRC else 0
    return start if start < len(data) else None


def _inflated(view: memoryview, start: int, content: io.BytesIO, most: int) -> int | None:
    """Appends what a deflate stream holds, and gives where it ends; None where it is damaged or beyond `most`."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    position = start
    try:
        while not stream.eof:
            piece = stream.unconsumed_tail
            if not piece:
                piece = bytes(view[position : position + _PIECE])
                position += len(piece)
            if not piece:
                return None
            content.write(stream.decompress(piece, _PIECE << 4))
            if content.tell() > most:
                return None
    except zlib.error:
        return None
    return position - len(stream.unused_data)
