"""Which writer made a stream: the one whose decisions cost the least side information on a sample of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from medzip.sources.wrappers.deflate.blocks import CONTEXTS, STORED, BlockCoder, Reader
from medzip.sources.wrappers.deflate.coder import Side
from medzip.sources.wrappers.deflate.framing import Stream
from medzip.sources.wrappers.deflate.kernels import integers
from medzip.sources.wrappers.deflate.matches import WINDOW
from medzip.sources.wrappers.deflate.streams import CONTINUED, FORGOTTEN, PRIMED, Flushes, Place, code_stream
from medzip.sources.wrappers.deflate.writers import CANDIDATES

_SAMPLES = ((2048, 1.5), (20000, 1.0))
"""Tokens of a sample, and how much more than the best a writer may cost to stay."""
_STAYING, _ABOUT_EQUAL = 6, 8
_HOPELESS = 1.5
"""How much more than allowed a sample may cost before no writer is tried on all of a stream."""
_MOST_SAMPLE_BYTES = 1 << 20
_FLUSHED_BLOCKS = 24


@dataclass(frozen=True)
class Sample:
    """Tokens in the middle of a stream: where their block and they begin in the content, and how many only lead to the rest."""

    begun: int
    position: int
    tokens: Any
    known: int


def writers_of(data: Any, stream: Stream, places: list[Place], content: Any, most: int) -> list[tuple[int, ...]]:
    """The parameters of the writers whose decisions predict those of a sample best, all about equally well.

    None of them where all of the stream, being like the sample, would take much more than `most` bytes of side information.
    """
    left, total = list(CANDIDATES), sum(place.count for place in places)
    for tokens, margin in _SAMPLES:
        sample = _sample(data, stream, places, tokens)
        costs = [_cost(sample, content, parameters) for parameters in left]
        if min(costs) * total > _HOPELESS * most * (len(sample.tokens) - sample.known):
            return []
        highest = int(min(costs) * margin) + _ABOUT_EQUAL
        best = sorted(range(len(left)), key=costs.__getitem__)[:_STAYING]
        left = [left[place] for place in best if costs[place] <= highest]
    return left


def flushes_of(
    data: Any, stream: Stream, places: list[Place], positions: tuple[int, ...], content: Any, parameters: tuple[int, ...]
) -> Flushes:
    """The flushes of a stream, with the mode that predicts it best."""
    if not positions:
        return Flushes()
    best = None
    blocks = min(len(places), _FLUSHED_BLOCKS)
    for mode in (CONTINUED, PRIMED, FORGOTTEN):
        flushes = Flushes(positions, mode)
        side = Side(CONTEXTS, stream.end - stream.start)
        code_stream(data, stream, content, BlockCoder(side, parameters), flushes, blocks)
        if best is None or side.written < best[0]:
            best = side.written, flushes
    assert best is not None
    return best[1]


def _sample(data: Any, stream: Stream, places: list[Place], count: int) -> Sample:
    """About `count` tokens from the middle one on, and those of the window before them."""
    before = [0, *accumulate(place.count for place in places)]
    middle = next(n for n, total in enumerate(before[1:]) if total >= before[-1] // 2)
    first = middle
    while first > 0 and places[middle].position - places[first].position < WINDOW:
        first -= 1
    reader = Reader(data, stream.start)
    reader.position = places[first].bit
    tokens: list[int] = []
    lead = 0
    for number in range(first, len(places)):
        if number <= middle:
            lead = len(tokens)
        elif len(tokens) - lead >= count:
            break
        block = reader.block()
        tokens += [0] * block.size if block.kind == STORED else [int(token) for token in reader.tokens[: block.count]]
    return _cut(tokens, places[middle].position, places[first].position, lead, count)


def _cut(tokens: list[int], begun: int, position: int, known: int, count: int) -> Sample:
    """`count` of the tokens behind the `known` ones, from their middle on, with those of the window before them."""
    ends = np.cumsum(np.maximum(np.array(tokens, np.int64) >> 16, 1))
    known += max(len(tokens) - known - count, 0) // 2
    reached = int(ends[known - 1]) if known else 0
    last = min(known + count, int(np.searchsorted(ends, reached + _MOST_SAMPLE_BYTES, "right")))
    first = int(np.searchsorted(ends, reached - WINDOW, "right"))
    kept = integers(len(tokens[first:last]), 0, np.int32)
    for place, token in enumerate(tokens[first:last]):
        kept[place] = token
    return Sample(begun, position + (int(ends[first - 1]) if first else 0), kept, known - first)


def _cost(sample: Sample, content: Any, parameters: tuple[int, ...]) -> int:
    """Bytes of side information of a sample."""
    count = len(sample.tokens)
    side = Side(CONTEXTS, 8 * count + 1024)
    coder = BlockCoder(side, parameters)
    coder.begin(sample.position)
    end = len(content)
    coder.tokens(content, sample.begun, sample.position, end, end, sample.tokens, count, sample.known)
    return side.written if not side.full else 8 * count + 1024
