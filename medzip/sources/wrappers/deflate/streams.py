"""One deflate stream: where its blocks and flushes lie, its side information in either direction."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import gcd
from typing import Any

from medzip.sources.wrappers.deflate.blocks import PADDING, Block, BlockCoder, DamagedError, Reader, Writer
from medzip.sources.wrappers.deflate.framing import Stream
from medzip.sources.wrappers.deflate.matches import WINDOW

CONTINUED, PRIMED, FORGOTTEN = range(3)
MOST_FLUSHES = 1 << 20
MOST_EMPTY, EMPTY_SHARE = 1 << 12, 1 << 8
"""A stream has at most this many blocks without content, and one more for so many bytes: side information of a few bytes could
otherwise ask for hours of work."""
_LEAST_STEP = 1 << 12


def _most_empty(size: int) -> int:
    return MOST_EMPTY + size // EMPTY_SHARE


@dataclass
class Place:
    """A block in its stream: first bit, first byte of content, tokens."""

    bit: int
    position: int
    count: int
    final: bool
    flushed: bool


def index(data: Any, stream: Stream) -> list[Place]:
    """Where all blocks of a stream lie. Raises DamagedError."""
    reader = Reader(data, stream.start)
    places: list[Place] = []
    position, empty = 0, _most_empty(stream.content)
    while True:
        bit = reader.position
        block = reader.block()
        covered = reader.covered(block)
        places.append(Place(bit, position, block.count, bool(block.final), covered == 0))
        position += covered
        empty -= covered == 0
        if position > stream.content or empty < 0:
            raise DamagedError
        if block.final:
            break
    if position != stream.content or (reader.position + 7) // 8 != stream.end:
        raise DamagedError
    return places


@dataclass(frozen=True)
class Flushes:
    """Where a writer's input was flushed (positions in the content), and what it did to its chains then."""

    positions: tuple[int, ...] = ()
    mode: int = CONTINUED

    def end(self, position: int, size: int) -> int:
        """Where matches end in a block that begins at a position."""
        place = bisect_right(self.positions, position)
        return self.positions[place] if place < len(self.positions) else size

    def apply(self, coder: BlockCoder, position: int, begun: int) -> int:
        """Prepares `coder` for the block at a position; `begun` is how many flushes lie behind, and so is what is given."""
        passed = bisect_right(self.positions, position)
        if passed > begun and self.mode != CONTINUED:
            coder.begin(position if self.mode == FORGOTTEN else max(position - WINDOW, 0))
        return passed


def flush_positions(places: list[Place], size: int) -> tuple[int, ...]:
    """Where empty blocks tell of a flush; at every multiple of a number, where blocks begin there (pigz needs no empty
    block where its bits end on a byte)."""
    empty = [place.position for place in places if place.flushed and 0 < place.position < size]
    step = gcd(*empty)
    begins = {place.position for place in places}
    if step >= _LEAST_STEP and all(position in begins for position in range(step, size, step)):
        return tuple(range(step, size, step))
    return tuple(dict.fromkeys(empty))[:MOST_FLUSHES]


def code_stream(data: Any, stream: Stream, content: Any, coder: BlockCoder, flushes: Flushes, blocks: int) -> bool:
    """Writes the side information of the first so many blocks of a stream; False where it grew beyond its bounds."""
    reader = Reader(data, stream.start)
    position, begun = 0, 0
    coder.begin(0)
    for _ in range(blocks):
        block = reader.block()
        begun = flushes.apply(coder, position, begun)
        position, _ = coder.block(block, content, position, flushes.end(position, len(content)), reader.tokens)
        if coder.side.full:
            return False
    padding = reader.bits(-reader.position % 8)
    if coder.side.bit(PADDING, int(padding > 0)):
        coder.side.plain(7, padding)
    return not coder.side.full


def rebuild_stream(content: Any, coder: BlockCoder, flushes: Flushes, writer: Writer) -> bytes:
    """The bytes of a stream from its content and side information. Raises DamagedError."""
    position, begun = 0, 0
    empty = _most_empty(len(content))
    coder.begin(0)
    while True:
        block = Block()
        begun = flushes.apply(coder, position, begun)
        behind, tokens = coder.block(block, content, position, flushes.end(position, len(content)), ())
        writer.block(block, content, position, tokens)
        empty -= behind == position
        if empty < 0:
            raise DamagedError
        position = behind
        if block.final:
            break
    padding = coder.side.plain(7) if coder.side.bit(PADDING) else 0
    if position != len(content):
        raise DamagedError
    return writer.finish(padding)
