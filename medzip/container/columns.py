"""Columns of byte strings, written by the simplest of a few recipes: FORMAT.md, section 20.

A column has rows, each a byte string. Columns are numbered in their order, and each may be made of those before it.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from medzip.container.sections import is_natural
from medzip.errors import ArchiveDamagedError, UnsupportedArchiveError

ROW_BYTES = 64
"""Memory that a row takes besides its bytes."""
LARGEST_NUMBER = 64
"""Digits before the point, digits behind it, and bytes of a difference."""
_NUMBER = re.compile(rb"-?[0-9]{1,200}", re.ASCII)

Column = list[bytes]


def read(descriptions: Any, data: bytes, name: str, memory_limit: int) -> list[Column]:
    """The columns that `descriptions` (CBOR) and `data` stand for; `name` is for messages.

    Raises ArchiveDamagedError where they are not what FORMAT.md says, UnsupportedArchiveError where they need more memory than
    `memory_limit` bytes, both before it is taken.
    """
    reader = _Reader(data, name, memory_limit)
    if not isinstance(descriptions, list):
        raise reader.damaged()
    for description in descriptions:
        reader.columns.append(reader.column(description))
    if reader.position != len(data):
        raise reader.damaged()
    return reader.columns


def number_text(number: int, digits: int, decimals: int, trimmed: bool) -> bytes:
    """A decimal number in ASCII: `number` times 10 to the power of minus `decimals`, FORMAT.md 20.1."""
    figures = str(abs(number)).zfill(digits + decimals)
    whole, fraction = figures[: len(figures) - decimals], figures[len(figures) - decimals :]
    if trimmed:
        fraction = fraction.rstrip("0")
    return f"{'-' if number < 0 else ''}{whole}{'.' if fraction else ''}{fraction}".encode()


class _Reader:
    def __init__(self, data: bytes, name: str, memory_limit: int) -> None:
        self.data, self.name, self.left, self.memory_limit = data, name, memory_limit, memory_limit
        self.position = 0
        self.columns: list[Column] = []

    def damaged(self) -> ArchiveDamagedError:
        return ArchiveDamagedError(f"{self.name}: expected columns, found something else; restore the archive from a copy")

    def allow(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise UnsupportedArchiveError(
                f"{self.name}: expected columns of at most {self.memory_limit} bytes, found more; raise the memory limit"
            )

    def take(self, length: int) -> bytes:
        start, self.position = self.position, self.position + length
        if self.position > len(self.data):
            raise self.damaged()
        return self.data[start : self.position]

    def numbers(self, count: int) -> list[int]:
        """`count` numbers in LEB128, 63 bits each at most."""
        if count > len(self.data) - self.position:
            raise self.damaged()
        return [self._number() for _ in range(count)]

    def _number(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            [byte] = self.take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise self.damaged()

    def column(self, description: Any) -> Column:
        """One column, of one of the kinds of FORMAT.md 20.1."""
        match description:
            case ["same", rows, length] if is_natural(rows) and is_natural(length):
                self.allow(rows * ROW_BYTES)
                return [self.take(length)] * rows
            case ["bytes", rows, None] if is_natural(rows):
                self.allow(rows * ROW_BYTES)
                return [self.take(length) for length in self.numbers(rows)]
            case ["bytes", rows, length] if is_natural(rows) and is_natural(length):
                self.allow(rows * ROW_BYTES)
                return _rows(self.take(rows * length), rows, length)
            case ["planes", rows, length] if is_natural(rows) and is_natural(length):
                self.allow(rows * (ROW_BYTES + length))
                planes = self.take(rows * length)
                return [planes[row::rows] for row in range(rows)] if length else [b""] * rows
            case ["pick", rows, source] if is_natural(rows):
                self.allow(rows * ROW_BYTES)
                return self._picked(self._column(source), self.numbers(rows))
            case ["padded", source, int(byte)] if 0 <= byte < 256:
                rows = self._column(source)
                self.allow(sum(map(len, rows)) + len(rows) * ROW_BYTES)
                return [row + bytes([byte]) * (len(row) % 2) for row in rows]
            case ["joined", [_, *_] as sources, list(texts)] if len(texts) == len(sources) + 1:
                return self._joined([self._column(source) for source in sources], texts)
            case ["numbers", rows, digits, decimals, bool(trimmed), list(starts), width]:
                sizes = (digits, decimals, width)
                if is_natural(rows) and all(is_natural(size) and size <= LARGEST_NUMBER for size in sizes):
                    self.allow(rows * (ROW_BYTES + digits + decimals + 8 * width))
                    numbers = self._numbers(rows, starts, width)
                    return [number_text(number, digits, decimals, trimmed) for number in numbers]
        raise self.damaged()

    def _column(self, number: Any) -> Column:
        if is_natural(number) and number < len(self.columns):
            return self.columns[number]
        raise self.damaged()

    def _picked(self, source: Column, numbers: list[int]) -> Column:
        if any(number >= len(source) for number in numbers):
            raise self.damaged()
        return [source[number] for number in numbers]

    def _joined(self, sources: list[Column], texts: list[Any]) -> Column:
        rows = len(sources[0])
        if any(len(source) != rows for source in sources) or not all(isinstance(text, bytes) for text in texts):
            raise self.damaged()
        self.allow(rows * (ROW_BYTES * (1 + len(sources)) + sum(map(len, texts))))
        self.allow(sum(sum(map(len, source)) for source in sources))
        interleaved: list[Column] = [[texts[0]] * rows]
        for source, text in zip(sources, texts[1:], strict=True):
            interleaved += [source, [text] * rows]
        return [b"".join(parts) for parts in zip(*interleaved, strict=True)]

    def _numbers(self, rows: int, starts: list[Any], width: int) -> list[int]:
        """The integers behind a column of numbers: sums of the differences stored."""
        if len(starts) > min(rows, 2) or not all(isinstance(text, bytes) and _NUMBER.fullmatch(text) for text in starts):
            raise self.damaged()
        count = rows - len(starts)
        planes = self.take(count * width)
        folded = (int.from_bytes(planes[row::count], "little") for row in range(count)) if width else iter([0] * count)
        numbers = [(n >> 1) ^ -(n & 1) for n in folded]
        for start in reversed(starts):
            numbers = list(itertools.accumulate(numbers, initial=int(start)))
        return numbers


def _rows(data: bytes, rows: int, length: int) -> Column:
    return [data[start : start + length] for start in range(0, rows * length, length)] if length else [b""] * rows
