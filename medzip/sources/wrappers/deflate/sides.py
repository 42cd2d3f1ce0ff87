"""The side information of a file as bytes: what lies around its streams, the writer, the flushes, then the range coder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medzip.sources.wrappers.deflate import framing
from medzip.sources.wrappers.deflate.blocks import CONTEXTS, BlockCoder, DamagedError, Writer
from medzip.sources.wrappers.deflate.coder import Side
from medzip.sources.wrappers.deflate.framing import Framed, trailer
from medzip.sources.wrappers.deflate.guess import flushes_of, writers_of
from medzip.sources.wrappers.deflate.kernels import octets
from medzip.sources.wrappers.deflate.streams import (
    FORGOTTEN,
    MOST_FLUSHES,
    Flushes,
    Place,
    code_stream,
    flush_positions,
    index,
    rebuild_stream,
)
from medzip.sources.wrappers.deflate.writers import checked

_MOST_NUMBER = 1 << 62
_SMALL_SIDE, _SMALL_SHARE = 256, 512
_MOST_PARAMETERS = 64
_SIZE_PER_SIDE = 256


class _Bytes:
    """Reads numbers and strings from bytes one after another."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def number(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.data[self.position]
            self.position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if value > _MOST_NUMBER:
                raise DamagedError

    def string(self) -> bytes:
        size = self.number()
        self.position += size
        if self.position > len(self.data):
            raise DamagedError
        return self.data[self.position - size : self.position]


def _number(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first, bit 7 set in all bytes but the last."""
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


def _string(data: bytes) -> bytes:
    return _number(len(data)) + data


def side_of(data: bytes, found: Framed, most: int) -> bytes | None:
    """The side information of a file, None where it takes more than `most` bytes."""
    octet = octets(data)
    parts = [octets(part) for part in _parts(found.content, [stream.content for stream in found.streams])]
    try:
        places = [index(octet, stream) for stream in found.streams]
    except DamagedError:
        return None
    largest = max(range(len(places)), key=lambda number: sum(place.count for place in places[number]))
    best = None
    for parameters in writers_of(octet, found.streams[largest], places[largest], parts[largest], most):
        side = _coded(octet, found, parts, places, parameters, most)
        if side is not None and (best is None or len(side) < len(best)):
            best = side
        if best is not None and len(best) <= max(_SMALL_SIDE, len(data) // _SMALL_SHARE):
            break
    return best


def _coded(
    octet: Any, found: Framed, parts: list[Any], places: list[list[Place]], parameters: tuple[int, ...], most: int
) -> bytes | None:
    """The side information where the writer has these parameters."""
    side = Side(CONTEXTS, most)
    coder = BlockCoder(side, parameters)
    numbers = (found.kind, len(octet), len(parameters), *parameters)
    head = bytearray(b"".join(map(_number, numbers)) + _string(found.tail) + _number(len(found.streams)))
    mode = None
    for stream, part, blocks in zip(found.streams, parts, places, strict=True):
        positions = flush_positions(blocks, stream.content)
        if mode is None and positions:
            mode = flushes_of(octet, stream, blocks, positions, part, parameters).mode
        flushes = Flushes(positions, mode or 0)
        head += _string(stream.prefix) + _number(stream.content) + _written(flushes)
        if not code_stream(octet, stream, part, coder, flushes, len(blocks)):
            return None
    coded = _string(bytes(head)) + side.finish()
    return coded if len(coded) <= most else None


def rebuild(content: bytes, side: bytes) -> bytes:
    """The file from its content and side information. Raises DamagedError, IndexError or ValueError where they do not fit."""
    reader = _Bytes(side)
    head = _Bytes(reader.string())
    kind, size = head.number(), head.number()
    if kind > framing.GZIP or size > 2 * len(content) + _SIZE_PER_SIDE * (len(side) + _SIZE_PER_SIDE):
        raise DamagedError
    parameters = checked(tuple(head.number() for _ in range(min(head.number(), _MOST_PARAMETERS))))
    tail, count, view = head.string(), head.number(), memoryview(content)
    writer = Writer(size)
    coder = BlockCoder(Side(CONTEXTS, side[reader.position :]), parameters)
    out, position = bytearray(), 0
    for _ in range(count):
        prefix, length = head.string(), head.number()
        if length > len(content) - position:
            raise DamagedError
        part = view[position : position + length]
        flushes = Flushes(*_read(head, length))
        out += prefix + rebuild_stream(octets(part), coder, flushes, writer) + trailer(kind, part)
        position += length
        if len(out) > size:
            raise DamagedError
    out += tail
    if len(out) != size or position != len(content):
        raise DamagedError
    return bytes(out)


def _parts(content: bytes, sizes: list[int]) -> Iterator[memoryview]:
    """Content divided into parts of given sizes."""
    view, position = memoryview(content), 0
    for size in sizes:
        yield view[position : position + size]
        position += size


def _written(flushes: Flushes) -> bytes:
    """Number of runs; the mode, if any; each run as (distance from one flush to the next, how many)."""
    runs: list[list[int]] = []
    before = 0
    for position in flushes.positions:
        step, before = position - before, position
        if runs and runs[-1][0] == step:
            runs[-1][1] += 1
        else:
            runs.append([step, 1])
    numbers = [len(runs), *([flushes.mode] if runs else []), *(value for run in runs for value in run)]
    return b"".join(map(_number, numbers))


def _read(head: _Bytes, size: int) -> tuple[tuple[int, ...], int]:
    runs = head.number()
    if runs > MOST_FLUSHES:
        raise DamagedError
    mode = head.number() if runs else 0
    if mode > FORGOTTEN:
        raise DamagedError
    return tuple(_flushes(head, runs, size)), mode


def _flushes(head: _Bytes, runs: int, size: int) -> Iterator[int]:
    position = 0
    for _ in range(runs):
        step, count = head.number(), head.number()
        if step == 0 or position + step * count > size or count > MOST_FLUSHES:
            raise DamagedError
        yield from range(position + step, position + step * count + 1, step)
        position += step * count
