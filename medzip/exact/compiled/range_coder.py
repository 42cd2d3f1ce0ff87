"""The range coder of `medzip/coder/range_coder.py`, word for word, for compiled loops.

Its state is a uint64 array, and all its arithmetic is unsigned. constriction's `RangeEncoder` holds back words whose carry is
open ("inverted situation"): all but the first are 2^32 - 1, or 0 if the carry comes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.errors import ArchiveDamagedError
from medzip.exact.compiled.setup import njit

LOWER, SPAN, POSITION, HELD, FIRST_HELD = range(5)
DIFFERENCE = LOWER

_WORD = np.uint64(32)
PRECISION = np.uint64(24)
_SMALLEST = np.uint64(1 << 32)
_ONE, _NONE = np.uint64(1), np.uint64(0)
_FULL = np.uint64(0xFFFFFFFF)
_EVERY = np.uint64(0xFFFFFFFFFFFFFFFF)


def new_encoder() -> NDArray[np.uint64]:
    """The state of an encoder that wrote nothing."""
    return np.array([0, _EVERY, 0, 0, 0], np.uint64)


def new_decoder(words: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """The state of a decoder at the first of `words`, of which point - lower alone matters."""
    start = [int(word) for word in words[:2]] + [0, 0]
    return np.array([start[0] << 32 | start[1], _EVERY, min(len(words), 2)], np.uint64)


def words_of(data: bytes) -> NDArray[np.uint32]:
    """A payload's words. Raises ArchiveDamagedError where `data` is empty or no whole number of 32-bit words."""
    if not data or len(data) % 4:
        raise ArchiveDamagedError(
            f"coded payload: expected one or more words of 4 bytes, found {len(data)} bytes; restore the archive from a copy"
        )
    return np.frombuffer(data, "<u4").astype(np.uint32)


def finished(state: NDArray[np.uint64], words: NDArray[np.uint32]) -> bytes:
    """All that was written, as `Encoder.finish` gives it; `words` and `state` stay as they are."""
    lower, span, position, held, first = (int(value) for value in state)
    if span == int(_EVERY):
        return bytes(4)
    point = (lower + (1 << 32) - 1) % (1 << 64)
    carry = point < lower
    tail = [first + carry] + [0 if carry else 0xFFFFFFFF] * (held - 1) if held else []
    tail.append(point >> 32)
    if (lower + span) % (1 << 64) >> 32 == point >> 32:
        tail.append(0)
    return np.concatenate([words[:position], np.array(tail, np.uint32)]).astype("<u4").tobytes()


def is_done(state: NDArray[np.uint64], words: NDArray[np.uint32]) -> bool:
    """False where words are certainly left, as `Decoder.done`."""
    difference, span, position = (int(value) for value in state)
    return span == int(_EVERY) or (position >= len(words) and difference < (1 << 33) - 1)


@njit
def write(words: Any, lower: Any, span: Any, position: Any, held: Any, first: Any, left: Any, right: Any) -> Any:
    """Encodes an interval left..right of 2^24 and gives the state after it; at most one more word is written or held."""
    scale = span >> PRECISION
    span = scale * (right - left)
    following = lower + scale * left
    if held > _NONE and following + span > following:
        carry = following < lower
        words[position] = np.uint32(first + _ONE if carry else first)
        for i in range(np.int64(held) - 1):
            words[np.int64(position) + 1 + i] = np.uint32(_NONE if carry else _FULL)
        position, held = position + held, _NONE
    lower = following
    if span < _SMALLEST:
        word, lower, span = lower >> _WORD, lower << _WORD, span << _WORD
        if held > _NONE:
            held += _ONE
        elif lower + span > lower:
            words[position] = np.uint32(word)
            position += _ONE
        else:
            held, first = _ONE, word
    return lower, span, position, held, first


@njit
def read(words: Any, difference: Any, span: Any, position: Any) -> Any:
    """The state after a word was read where the decoder needs one; behind the last words are zero."""
    if span < _SMALLEST:
        span, difference = span << _WORD, difference << _WORD
        if position < np.uint64(len(words)):
            difference |= np.uint64(words[position])
            position += _ONE
    return difference, span, position
