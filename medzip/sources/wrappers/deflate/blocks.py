"""Deflate blocks: read from a stream, coded as side information in either direction, written to a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medzip.sources.wrappers.deflate import bits, huffman
from medzip.sources.wrappers.deflate.bits import BIT, COVERED, DATA_BITS, TOKEN_BYTES, TOKENS
from medzip.sources.wrappers.deflate.coder import NUMBER_CONTEXTS, Side
from medzip.sources.wrappers.deflate.kernels import buffer, integers
from medzip.sources.wrappers.deflate.matches import forgotten, prepare
from medzip.sources.wrappers.deflate.tokens import TOKEN_CONTEXTS, coded_tokens, count_symbols

STORED, STATIC, DYNAMIC = range(3)
_FINAL = TOKEN_CONTEXTS
_TYPE = _FINAL + 2
_STORED_SAME = _TYPE + 3 * 4
_PADDED = _STORED_SAME + 1
_TO_THE_END = _PADDED + 1
_COUNT_SAME = _TO_THE_END + 1
_COUNT = _COUNT_SAME + 1
_AS_PREDICTED = _COUNT + NUMBER_CONTEXTS
_ROWS = _AS_PREDICTED + 2 * 3
_RUNS = _ROWS + 2 * 32
_LENGTHS = _RUNS + 4
_OPERATIONS = _LENGTHS + 16 * 16
_CODE_LENGTHS = _OPERATIONS + 32
_ORDERED = _CODE_LENGTHS + 8 * 8
PADDING = _ORDERED + 16
CONTEXTS = PADDING + 1
_EXTRA_BITS = {16: 2, 17: 3, 18: 7}
_DISTANCES = 288


class DamagedError(Exception):
    """What was read is no deflate stream, or no side information."""


@dataclass
class Code:
    """The Huffman codes of a dynamic block as its header writes them."""

    literals: list[int] = field(default_factory=list)
    distances: list[int] = field(default_factory=list)
    operations: list[tuple[int, int]] = field(default_factory=list)
    code_lengths: list[int] = field(default_factory=list)
    written: int = 0
    """How many code lengths of the code length code the header holds, in its order."""


@dataclass
class Block:
    """A block: `size` is the bytes of a stored one, `count` the tokens of any other, `padding` the bits before stored bytes."""

    kind: int = STORED
    final: int = 0
    size: int = 0
    count: int = 0
    padding: int = 0
    code: Code = field(default_factory=Code)


class Tables:
    """What reader and writer know of every block before they see it."""

    def __init__(self) -> None:
        self.by_length, self.by_distance, self.values = huffman.tables()
        self.lengths, self.codes, self._following = integers(320), integers(320), integers(18)

    def static(self) -> None:
        self.set(huffman.STATIC_LITERALS, huffman.STATIC_DISTANCES)

    def set(self, literals: Sequence[int], distances: Sequence[int]) -> None:
        """Makes the codes of a block; those of distances begin at _DISTANCES."""
        if len(literals) > _DISTANCES or len(distances) > 32:
            raise DamagedError
        for place in range(320):
            self.lengths[place] = 0
        for place, length in enumerate(literals):
            self.lengths[place] = length
        for place, length in enumerate(distances):
            self.lengths[_DISTANCES + place] = length
        self._distance_codes = integers(32)
        if not huffman.canonical(self.lengths, 0, _DISTANCES, self.codes, self._following):
            raise DamagedError
        if not huffman.canonical(self.lengths, _DISTANCES, 32, self._distance_codes, self._following):
            raise DamagedError
        for place in range(32):
            self.codes[_DISTANCES + place] = self._distance_codes[place]


class Reader:
    """Reads the blocks of a stream that begins at a byte; `tokens` holds those of the last block."""

    def __init__(self, data: Any, start: int) -> None:
        self.data = data
        self.state = integers(4)
        self.state[BIT], self.state[DATA_BITS] = 8 * start, 8 * len(data)
        self.tokens = integers(1 << 15, 0, np.int32)
        self._tables = Tables()
        self._literals, self._distances = integers(1 << 15, 0, np.int32), integers(1 << 15, 0, np.int32)

    @property
    def position(self) -> int:
        return int(self.state[BIT])

    @position.setter
    def position(self, bit: int) -> None:
        self.state[BIT] = bit

    def bits(self, count: int) -> int:
        return int(bits.read_bits(self.data, self.state, count))

    def block(self) -> Block:
        """The next block; the bytes of a stored one are passed over."""
        block = Block(final=self.bits(1), kind=self.bits(2))
        if block.kind == STORED:
            block.padding = self.bits(-self.position % 8)
            block.size = self.bits(16)
            if self.bits(16) != block.size ^ 0xFFFF:
                raise DamagedError
            self.state[BIT] += 8 * block.size
        elif block.kind == STATIC:
            self._tables.static()
            self._read_tokens(block)
        elif block.kind == DYNAMIC:
            block.code = self._code()
            self._tables.set(block.code.literals, block.code.distances)
            self._read_tokens(block)
        else:
            raise DamagedError
        if self.state[BIT] > self.state[DATA_BITS]:
            raise DamagedError
        return block

    def covered(self, block: Block) -> int:
        """How many bytes of content the block that was just read stands for."""
        return block.size if block.kind == STORED else int(self.state[COVERED])

    def _code(self) -> Code:
        literals, distances, written = self.bits(5) + 257, self.bits(5) + 1, self.bits(4) + 4
        code = Code(code_lengths=[0] * huffman.CODE_LENGTHS, written=written)
        for symbol in huffman.ORDER[:written]:
            code.code_lengths[symbol] = self.bits(3)
        self._tables.set(code.code_lengths, [])
        by_code = {
            (int(self._tables.lengths[symbol]), int(self._tables.codes[symbol])): symbol
            for symbol in range(huffman.CODE_LENGTHS)
            if self._tables.lengths[symbol]
        }
        count = 0
        while count < literals + distances:
            taken, length = 0, 0
            while (length, taken) not in by_code:
                taken |= self.bits(1) << length
                length += 1
                if length > 7:
                    raise DamagedError
            symbol = by_code[length, taken]
            extra = self.bits(_EXTRA_BITS.get(symbol, 0))
            code.operations.append((symbol, extra))
            count += 1 if symbol < 16 else extra + (11 if symbol == 18 else 3)
        lengths = huffman.expanded(code.operations)
        if lengths is None or len(lengths) != literals + distances:
            raise DamagedError
        code.literals, code.distances = lengths[:literals], lengths[literals:]
        return code

    def _read_tokens(self, block: Block) -> None:
        tables = self._tables
        longest = [max(1, *(int(n) for n in part)) for part in (tables.lengths[:_DISTANCES], tables.lengths[_DISTANCES:])]
        bits.decoding_table(tables.lengths, tables.codes, _DISTANCES, longest[0], self._literals)
        lengths, codes = integers(32), integers(32)
        for place in range(32):
            lengths[place], codes[place] = tables.lengths[_DISTANCES + place], tables.codes[_DISTANCES + place]
        bits.decoding_table(lengths, codes, 32, longest[1], self._distances)
        arguments = (self._literals, longest[0], self._distances, longest[1], tables.values)
        while (status := bits.read_tokens(self.data, self.state, *arguments, self.tokens)) == bits.MORE_ROOM:
            if 2 * len(self.tokens) > int(self.state[DATA_BITS]) + (1 << 17):
                raise DamagedError
            self.tokens = integers(2 * len(self.tokens), 0, np.int32)
        if status == bits.DAMAGED:
            raise DamagedError
        block.count = int(self.state[TOKENS])


class Writer:
    """Writes blocks to bytes that grow."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._out = buffer(1 << 16)
        self._state = integers(4)
        self._tables = Tables()

    def room(self, count: int) -> None:
        """Makes room for so many more bytes."""
        needed = (int(self._state[BIT]) >> 3) + count + 16
        if needed > len(self._out):
            grown = bytearray(max(needed, 2 * len(self._out)))
            grown[: len(self._out)] = bytes(self._out)
            self._out = np.frombuffer(grown, np.uint8) if isinstance(self._out, np.ndarray) else grown

    def bits(self, value: int, count: int) -> None:
        bits.write_bits(self._out, self._state, value, count)

    def block(self, block: Block, content: Any, position: int, tokens: Any) -> None:
        """Writes a block whose bytes begin at a position of the content. Raises DamagedError if it grows beyond the most."""
        self.room(block.size if block.kind == STORED else TOKEN_BYTES * block.count + 1024)
        self.bits(block.final, 1)
        self.bits(block.kind, 2)
        if block.kind == STORED:
            self.bits(block.padding, -int(self._state[BIT]) % 8)
            self.bits(block.size, 16)
            self.bits(block.size ^ 0xFFFF, 16)
            start = int(self._state[BIT]) >> 3
            self._out[start : start + block.size] = content[position : position + block.size]
            self._state[BIT] += 8 * block.size
        else:
            if block.kind == DYNAMIC:
                self._header(block.code)
                self._tables.set(block.code.literals, block.code.distances)
            else:
                self._tables.static()
            tables = self._tables
            arguments = (tables.by_length, tables.by_distance, tables.values, tables.codes, tables.lengths, _DISTANCES)
            bits.write_tokens(self._out, self._state, content, position, tokens, block.count, *arguments)
        if int(self._state[BIT]) >> 3 > self._most:
            raise DamagedError

    def _header(self, code: Code) -> None:
        self.bits(len(code.literals) - 257, 5)
        self.bits(len(code.distances) - 1, 5)
        self.bits(code.written - 4, 4)
        for symbol in huffman.ORDER[: code.written]:
            self.bits(code.code_lengths[symbol], 3)
        self._tables.set(code.code_lengths, [])
        for symbol, extra in code.operations:
            self.bits(int(self._tables.codes[symbol]), int(self._tables.lengths[symbol]))
            self.bits(extra, _EXTRA_BITS.get(symbol, 0))

    def finish(self, padding: int) -> bytes:
        """Fills the last byte up, and gives what was written; the writer begins anew."""
        self.bits(padding, -int(self._state[BIT]) % 8)
        written = bytes(self._out[: int(self._state[BIT]) >> 3])
        self._out = buffer(1 << 16)
        self._state[BIT] = 0
        return written


class BlockCoder:
    """Codes blocks in the side information, in the direction that `side` has."""

    def __init__(self, side: Side, parameters: tuple[int, ...]) -> None:
        self.side = side
        prepare(side.state, parameters)
        self._links = forgotten(side.state, 0)
        self._kind, self._size, self._count = DYNAMIC, 0, 0
        self._predictor = huffman.Predictor()
        self._tables = Tables()

    def begin(self, first: int) -> None:
        """The writer's match finder begins at a position of the content, and knows nothing that lies before."""
        self._links = forgotten(self.side.state, first)

    def block(self, block: Block, content: Any, position: int, end: int, tokens: Any) -> tuple[int, Any]:
        """Codes a block that begins at a position; matches end at `end`. Gives the position behind it, and its tokens.

        Raises DamagedError where a reader finds what no writer wrote.
        """
        side = self.side
        block.final = side.bit(_FINAL + (position < len(content)), block.final)
        block.kind = self._kind = side.symbol(_TYPE + 4 * self._kind, 2, block.kind)
        if block.kind == STORED:
            return position + self._stored(block, len(content) - position), tokens
        if block.kind > DYNAMIC:
            raise DamagedError
        stop = self._token_count(block, content, position, end, tokens)
        if side.reading:
            tokens = integers(max(1, min(block.count, stop - position)), 0, np.int32)
            block.count = min(block.count, len(tokens))
        block.count, behind = self.tokens(content, position, position, end, stop, tokens, block.count, 0)
        if side.full:
            return position, tokens
        if behind < 0:
            raise DamagedError
        if block.kind == DYNAMIC:
            self._code(block.code, content, position, tokens, block.count)
        return behind, tokens

    def tokens(
        self, content: Any, begun: int, position: int, end: int, stop: int, tokens: Any, count: int, known: int
    ) -> tuple[int, int]:
        """What `coded_tokens` does and gives."""
        side = self.side
        memory = (side.state, side.data, side.model, self._links)
        done, behind = coded_tokens(content, begun, position, end, stop, tokens, count, known, *memory)
        return int(done), int(behind)

    def _stored(self, block: Block, left: int) -> int:
        side = self.side
        if side.bit(_STORED_SAME, int(block.size == self._size)):
            block.size = self._size
        else:
            block.size = side.plain(16, block.size)
        if block.size > left:
            raise DamagedError
        self._size = block.size
        if side.bit(_PADDED, int(block.padding > 0)):
            block.padding = side.plain(7, block.padding)
        return block.size

    def _token_count(self, block: Block, content: Any, position: int, end: int, tokens: Any) -> int:
        """Codes how many tokens there are, and gives where they stop at the latest."""
        side, to_the_end = self.side, 0
        if not side.reading:
            covered = (
                sum(max(1, int(token) >> 16) for token in tokens[: block.count])
                if isinstance(tokens, list)
                else (int(np.maximum(tokens[: block.count] >> 16, 1).sum()))
            )
            to_the_end = int(block.count > 0 and position + covered == end)
        if side.bit(_TO_THE_END, to_the_end):
            block.count = block.count or end - position
            return end
        if side.bit(_COUNT_SAME, int(block.count == self._count)):
            block.count = self._count
        else:
            block.count = side.number(_COUNT, block.count)
            self._count = block.count or self._count
        return len(content)

    def _code(self, code: Code, content: Any, position: int, tokens: Any, count: int) -> None:
        """Codes the header of a dynamic block whose tokens are known."""
        side, tables = self.side, self._tables
        frequencies = integers(320)
        count_symbols(content, position, tokens, count, tables.by_length, tables.by_distance, frequencies, _DISTANCES)
        guess = self._predictor.lengths(frequencies, huffman.LITERALS, 15)
        guess_distances = self._predictor.lengths(frequencies[_DISTANCES:], huffman.DISTANCES, 15)
        code.literals = self._row(0, code.literals, guess, 257, 5)
        code.distances = self._row(1, code.distances, guess_distances, 1, 5)
        self._operations(code)
        counts = integers(huffman.CODE_LENGTHS)
        for symbol, _ in code.operations:
            counts[symbol] += 1
        lengths = self._predictor.lengths(counts, huffman.CODE_LENGTHS, 7)
        lengths += [0] * (huffman.CODE_LENGTHS - len(lengths))
        if side.bit(_AS_PREDICTED + 2, int(code.code_lengths == lengths)):
            code.code_lengths = lengths
        else:
            old = code.code_lengths or lengths
            code.code_lengths = [side.symbol(_CODE_LENGTHS + 8 * lengths[n], 3, old[n]) for n in range(huffman.CODE_LENGTHS)]
        written = max([4, *(place + 1 for place, symbol in enumerate(huffman.ORDER) if code.code_lengths[symbol])])
        if side.bit(_AS_PREDICTED + 3, int(code.written == written)):
            code.written = written
        else:
            code.written = 4 + side.symbol(_ORDERED, 4, code.written - 4)
        self._check(code)

    def _row(self, row: int, lengths: list[int], guess: list[int], least: int, bits: int) -> list[int]:
        """Codes the code lengths of literals or distances."""
        side = self.side
        guess = guess + [0] * (least - len(guess))
        if side.bit(_AS_PREDICTED + row, int(lengths == guess)):
            return guess
        count = least + side.symbol(_ROWS + 32 * row, bits, len(lengths) - least)
        guess = guess + [0] * (count - len(guess))
        lengths = lengths or guess
        return [side.symbol(_LENGTHS + 16 * guess[place], 4, lengths[place]) for place in range(count)]

    def _operations(self, code: Code) -> None:
        """Codes how the header packs its code lengths: as zlib, as zlib but across both rows, or otherwise."""
        side = self.side
        ways = [huffman.runs(code.literals) + huffman.runs(code.distances), huffman.runs(code.literals + code.distances)]
        way = side.symbol(_RUNS, 2, next((n for n, found in enumerate(ways) if found == code.operations), 2))
        if way < 2:
            code.operations = ways[way]
            return
        operations: list[tuple[int, int]] = []
        missing = len(code.literals) + len(code.distances)
        while missing > 0:
            symbol, extra = code.operations[len(operations)] if not side.reading else (0, 0)
            symbol = side.symbol(_OPERATIONS, 5, symbol)
            extra = side.plain(_EXTRA_BITS.get(symbol, 0), extra)
            operations.append((symbol, extra))
            missing -= 1 if symbol < 16 else extra + (11 if symbol == 18 else 3)
        code.operations = operations

    def _check(self, code: Code) -> None:
        """Raises DamagedError where a header cannot be written."""
        lengths = huffman.expanded(code.operations) if max(symbol for symbol, _ in code.operations) < 19 else None
        fits = code.written <= 19 and len(code.literals) <= 288
        if lengths != code.literals + code.distances or not fits:
            raise DamagedError
        if not all(code.code_lengths[symbol] for symbol, _ in code.operations):
            raise DamagedError
