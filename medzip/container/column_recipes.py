"""Finds for each column the recipe that makes it smallest; `medzip.container.columns` reads what is written here."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medzip.container.columns import LARGEST_NUMBER, number_text

LONGEST_TEXT = 256
"""Longer values are not looked into."""
DESCRIPTION_BYTES = 8
TRIAL_LEVEL = 6
_NUMBER = re.compile(rb"-?([0-9]+)(?:\.([0-9]+))?", re.ASCII)
_DIGITS = re.compile(rb"([0-9]+)", re.ASCII)

Rows = tuple[bytes, ...]


@dataclass(frozen=True)
class _Recipe:
    """A way to write a column: its description, given the numbers of the columns it is made of, and its data."""

    describe: Callable[[list[int]], list[Any]]
    data: bytes = b""
    sources: tuple[Rows, ...] = field(default=())
    text_bytes: int = 0


class ColumnWriter:
    """Collects columns; equal ones are written once. `descriptions` and `data` are what `medzip.container.columns.read` takes."""

    def __init__(self) -> None:
        self.descriptions: list[list[Any]] = []
        self.data = bytearray()
        self._numbers: dict[Rows, int] = {}
        self._best: dict[Rows, tuple[int, _Recipe]] = {}

    def add(self, rows: Sequence[bytes]) -> int:
        """The number of a column of these rows, of which there is one at least."""
        key = tuple(rows)
        if key not in self._numbers:
            _, recipe = self._cheapest(key)
            sources = [self.add(source) for source in recipe.sources]
            self.descriptions.append(recipe.describe(sources))
            self.data += recipe.data
            self._numbers[key] = len(self.descriptions) - 1
        return self._numbers[key]

    def _cheapest(self, rows: Rows) -> tuple[int, _Recipe]:
        """The recipe of the least cost in bytes, and that cost; nothing where the column is already there."""
        if rows not in self._best:
            costs = [(self._cost(recipe), recipe) for recipe in _recipes(rows)]
            self._best[rows] = min(costs, key=lambda pair: pair[0])
        return self._best[rows]

    def _cost(self, recipe: _Recipe) -> int:
        own = DESCRIPTION_BYTES + recipe.text_bytes + _compressed_size(recipe.data)
        return own + sum(0 if source in self._numbers else self._cheapest(source)[0] for source in set(recipe.sources))


@functools.cache
def _compressor() -> Any:
    import zstandard

    return zstandard.ZstdCompressor(level=TRIAL_LEVEL, write_content_size=False)


def _compressed_size(data: bytes) -> int:
    return min(len(data), len(_compressor().compress(data))) if data else 0


def _recipes(rows: Rows) -> Iterator[_Recipe]:
    """All ways to write a column that apply to it."""
    count, lengths = len(rows), {len(row) for row in rows}
    if all(row == rows[0] for row in rows):
        yield _Recipe(lambda _: ["same", count, len(rows[0])], rows[0])
        return
    yield _as_bytes(rows, lengths)
    if len(lengths) == 1 and len(rows[0]) > 1:
        planes = np.frombuffer(b"".join(rows), np.uint8).reshape(count, -1).T.tobytes()
        yield _Recipe(lambda _: ["planes", count, len(rows[0])], planes)
    different = tuple(dict.fromkeys(rows))
    if len(different) <= count // 2:
        places = {row: place for place, row in enumerate(different)}
        indices = b"".join(leb128(places[row]) for row in rows)
        yield _Recipe(lambda sources: ["pick", count, sources[0]], indices, (different,))
    if max(lengths) <= LONGEST_TEXT:
        yield from _text_recipes(rows)


def _as_bytes(rows: Rows, lengths: set[int]) -> _Recipe:
    count, data = len(rows), b"".join(rows)
    if len(lengths) == 1:
        return _Recipe(lambda _: ["bytes", count, len(rows[0])], data)
    return _Recipe(lambda _: ["bytes", count, None], b"".join(leb128(len(row)) for row in rows) + data)


def _padded(pad: int, sources: list[int]) -> list[Any]:
    return ["padded", sources[0], pad]


def _made(description: list[Any], _sources: list[int]) -> list[Any]:
    return description


def _text_recipes(rows: Rows) -> Iterator[_Recipe]:
    for pad in b" \0":
        if any(row.endswith(bytes([pad])) for row in rows) and all(len(row) % 2 == 0 for row in rows):
            stripped = tuple(row[:-1] if row.endswith(bytes([pad])) else row for row in rows)
            yield _Recipe(functools.partial(_padded, pad), b"", (stripped,))
            return
    if number := _number_format(rows):
        yield from _number_recipes(rows, *number)
        return
    for parts, between in (([row.split(b"\\") for row in rows], b"\\"), ([_DIGITS.split(row) for row in rows], b"")):
        if len({len(part) for part in parts}) == 1 and len(parts[0]) > 1:
            yield from _joined(rows, list(zip(*parts, strict=True)), between)
            break
    yield from _between_common_ends(rows)


def _joined(rows: Rows, parts: list[Rows], between: bytes) -> Iterator[_Recipe]:
    """Parts one after another with a text between; those that are equal in all rows become texts."""
    texts, sources = [b""], list[Rows]()
    for place, part in enumerate(parts):
        texts[-1] += between if place else b""
        if len(set(part)) == 1:
            texts[-1] += part[0]
        else:
            sources.append(part)
            texts.append(b"")
    if sources != [rows]:
        yield _Recipe(lambda numbers: ["joined", numbers, texts], b"", tuple(sources), sum(map(len, texts)) + len(sources))


def _between_common_ends(rows: Rows) -> Iterator[_Recipe]:
    shortest, first = min(map(len, rows)), rows[0]
    same = next((i for i in range(shortest) if any(row[i] != first[i] for row in rows)), shortest)
    left = shortest - same
    tail = next((i for i in range(left) if any(row[-1 - i] != first[-1 - i] for row in rows)), left)
    if same + tail:
        middle = tuple(row[same : len(row) - tail] for row in rows)
        texts = [first[:same], first[len(first) - tail :]]
        yield _Recipe(lambda sources: ["joined", sources, texts], b"", (middle,), same + tail)


def _number_format(rows: Rows) -> tuple[int, int, bool] | None:
    """Digits, decimals and whether zeros are trimmed, of decimal numbers all written in one way; None for anything else."""
    matches = [_NUMBER.fullmatch(row) for row in rows]
    if None in matches:
        return None
    wholes = [match[1] for match in matches if match]
    decimals = {len(match[2] or b"") for match in matches if match}
    padded = any(len(whole) > 1 and whole[:1] == b"0" for whole in wholes)
    shape = (min(map(len, wholes)) if padded else 1, max(decimals), len(decimals) > 1)
    if max(map(len, wholes)) > LARGEST_NUMBER or shape[1] > LARGEST_NUMBER:
        return None
    return shape if all(number_text(_scaled(row, shape[1]), *shape) == row for row in rows) else None


def _scaled(text: bytes, decimals: int) -> int:
    whole, _, fraction = text.partition(b".")
    return int(whole + fraction.ljust(decimals, b"0"))


def _number_recipes(rows: Rows, digits: int, decimals: int, trimmed: bool) -> Iterator[_Recipe]:
    """As integers, as their differences, and as the differences of these."""
    numbers, starts = [_scaled(row, decimals) for row in rows], list[bytes]()
    for _ in range(3):
        folded = [2 * n if n >= 0 else -2 * n - 1 for n in numbers]
        width = max((n.bit_length() + 7) // 8 for n in folded) if folded else 0
        if width <= LARGEST_NUMBER:
            data = b"".join(bytes(plane) for plane in zip(*(n.to_bytes(width, "little") for n in folded), strict=True))
            description = ["numbers", len(rows), digits, decimals, trimmed, list(starts), width]
            yield _Recipe(functools.partial(_made, description), data, (), sum(map(len, starts)) + 4)
        if not numbers:
            return
        starts.append(str(numbers[0]).encode())
        numbers = [b - a for a, b in itertools.pairwise(numbers)]


def leb128(number: int) -> bytes:
    """Seven bits a byte, lowest first, bit 7 set in all bytes but the last."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])
