"""The match finders of deflate's writers: hash chains over the last 32 KiB of the content.

`links` has the last position of each hash, and from HEADS on for each position (modulo 2^15) the one before it with the same
hash. `state` is the coder's, with parameters and what a finder knows behind.
The first position is never matched, as in all writers that descend from zlib (their chains end in it).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from medzip.sources.wrappers.deflate.kernels import integers, kernel

WINDOW = 1 << 15
HEADS = 1 << 16
LONGEST = 258
PARAMETERS = 16
FAMILY, HASH, HASH_BITS, SHORTEST, GOOD, LAZY, NICE, DEPTH, GOOD_DEPTH, FARTHEST, TOO_FAR, PROBING, THREES, AHEAD, ADAPTED = (
    range(PARAMETERS, PARAMETERS + 15)
)
"""What a writer is known by; FORMAT.md, 19.4, has a line on each."""
SHIFTED, CRC32C, TRIGRAM = range(3)
FOUND_DISTANCE, INSERTED, FIRST, HELD_AT, HELD_LENGTH, HELD_DISTANCE, KIND, HISTORY, LEAST, BEGUN, ADAPTING = range(40, 51)
CRC = 64
COUNTS = CRC + 1024
_THREES = HEADS + WINDOW


@cache
def _crc32c() -> tuple[int, ...]:
    """CRC-32C (polynomial 0x1EDC6F41, no inversions) of a number of four bytes is the exclusive or of four entries: byte i of
    the number, counted from the lowest, takes entry 256 i + its value."""
    table = []
    for place in range(1024):
        value = (place & 255) << (8 * (place >> 8))
        for _ in range(32):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def prepare(state: Any, parameters: tuple[int, ...]) -> None:
    """Puts a writer's parameters into a state, and the table of CRC-32C."""
    state[PARAMETERS : PARAMETERS + len(parameters)] = parameters
    state[CRC : CRC + 1024] = _crc32c()


def forgotten(state: Any, first: int) -> Any:
    """Links as if the content began at position `first`."""
    state[INSERTED] = state[FIRST] = first
    state[HELD_AT] = -1
    return integers(_THREES + WINDOW, -1, np.int32)


@kernel
def _hashed_bytes(state: Any) -> Any:
    return 3 if state[HASH] == SHIFTED or state[HASH] == TRIGRAM else 4


@kernel
def _hashed(content: Any, position: Any, state: Any) -> Any:
    """The hash of the 3 or 4 bytes at a position."""
    first, second, third = 0 + content[position], 0 + content[position + 1], 0 + content[position + 2]
    bits = state[HASH_BITS]
    if state[HASH] == SHIFTED:
        shift = (bits + 2) // 3
        return ((first << (2 * shift)) ^ (second << shift) ^ third) & ((1 << bits) - 1)
    number = first | second << 8 | third << 16
    if state[HASH] == TRIGRAM:
        return (number ^ (number >> 17)) & ((1 << bits) - 1)
    fourth = 0 + content[position + 3]
    if state[HASH] == CRC32C:
        place = state[CRC + first] ^ state[CRC + 256 + second] ^ state[CRC + 512 + third] ^ state[CRC + 768 + fourth]
        return place & ((1 << bits) - 1)
    return (((number | fourth << 24) * state[HASH]) & 0xFFFFFFFF) >> (32 - bits)


@kernel
def _hashed_three(content: Any, position: Any, state: Any) -> Any:
    """Where the last position with the same three bytes, about, is kept."""
    number = content[position] | (0 + content[position + 1]) << 8 | (0 + content[position + 2]) << 16
    return _THREES + (((number * state[HASH]) & 0xFFFFFFFF) >> 17)


@kernel
def insert(content: Any, end: Any, state: Any, links: Any) -> Any:
    """Puts all positions before `end` that are not yet there into the chains, as far as the content has bytes to hash."""
    last = min(end, len(content) - _hashed_bytes(state) + 1)
    for position in range(state[INSERTED], last):
        place = _hashed(content, position, state)
        links[HEADS + (position & (WINDOW - 1))] = links[place]
        links[place] = position
        if state[THREES]:
            links[_hashed_three(content, position, state)] = position
    if end > state[INSERTED]:
        state[INSERTED] = end


@kernel
def common(content: Any, first: Any, second: Any, most: Any) -> Any:
    """How many bytes from two positions on are the same, at most `most`; the content has as many behind the second.

    The first may lie behind the second: chains hold what was looked ahead at where a writer then did otherwise.
    """
    most = min(most, len(content) - first)
    length = 0
    while length < most and content[first + length] == content[second + length]:
        length += 1
    return length


@kernel
def longest(content: Any, position: Any, end: Any, beaten: Any, depth: Any, state: Any, links: Any) -> Any:
    """The length of the first of the longest matches at a position that has more than `beaten` bytes, 0 for none.

    Matches end at `end`; its distance goes to `state`. zlib's longest_match: `depth` chain links are followed, and none
    any more after a match of NICE bytes.
    """
    most = min(LONGEST, end - position)
    if most < _hashed_bytes(state) or beaten >= most:
        return 0
    insert(content, position, state, links)
    candidate = links[_hashed(content, position, state)]
    oldest = max(position - state[FARTHEST], state[FIRST])
    if state[PROBING]:
        return _probed(content, position, candidate, most, beaten, depth, state, links)
    length = 0
    if state[THREES] and beaten < 4:
        third = links[_hashed_three(content, position, state)]
        if third <= oldest:
            return 0
        if beaten < 3:
            if common(content, third, position, 3) == 3:
                length = 3
                state[FOUND_DISTANCE] = position - third
            beaten = 3
    if candidate <= state[FIRST] or candidate < oldest:
        return length
    nice, first, tail = min(state[NICE], most), content[position], 0 + content[position + beaten] if beaten < most else 256
    while depth > 0 and beaten < most:
        if candidate + beaten < len(content) and content[candidate + beaten] == tail and content[candidate] == first:
            found = common(content, candidate, position, most)
            if found > beaten:
                length = beaten = found
                state[FOUND_DISTANCE] = position - candidate
                if found >= nice:
                    break
                tail = 0 + content[position + beaten]
        candidate = links[HEADS + (candidate & (WINDOW - 1))]
        depth -= 1
        if candidate <= oldest:
            break
    return length


@kernel
def _probed(content: Any, position: Any, candidate: Any, most: Any, beaten: Any, depth: Any, state: Any, links: Any) -> Any:
    """`longest` as miniz has it: `depth` - 1 times up to three links, less after each whose last two bytes fit."""
    length, probes = 0, 0
    while candidate > state[FIRST] and candidate & 65535 and position - candidate <= state[FARTHEST]:
        if probes % 3 == 0:
            depth -= 1
            if depth <= 0:
                break
        probes += 1
        if (
            candidate + beaten < len(content)
            and content[candidate + beaten] == content[position + beaten]
            and content[candidate + beaten - 1] == content[position + beaten - 1]
        ):
            probes = 0
            found = common(content, candidate, position, most)
            if found > beaten:
                length = beaten = found
                state[FOUND_DISTANCE] = position - candidate
                if found == most:
                    break
        candidate = links[HEADS + (candidate & (WINDOW - 1))]
    if length and (position & (WINDOW - 1)) == state[FOUND_DISTANCE]:
        return 0
    return length


@kernel
def link(
    content: Any,
    position: Any,
    end: Any,
    length: Any,
    number: Any,
    distance: Any,
    state: Any,
    links: Any,
) -> Any:
    """Matches of at least `length` bytes at a position, nearest first: the number of the one at `distance`, or, with
    distance 0, the distance of the one of that number. -1 where there is none."""
    if end - position < max(length, _hashed_bytes(state)):
        return -1
    insert(content, position, state, links)
    candidate, before, passed = links[_hashed(content, position, state)], position, 0
    for _ in range(WINDOW):
        if candidate < 0 or candidate >= before or position - candidate > WINDOW:
            break
        if common(content, candidate, position, length) == length:
            if distance == position - candidate:
                return passed
            if distance == 0 and passed == number:
                return position - candidate
            passed += 1
        before = candidate
        candidate = links[HEADS + (candidate & (WINDOW - 1))]
    return -1
