"""How writers choose tokens, four families: what the next token is by the content and the writer's parameters alone.

Each function gives the length of the match that the writer would choose at a position, 0 for a literal, and leaves its
distance in `state`; what it found out about later positions is held there too.
"""

from __future__ import annotations

from typing import Any

from medzip.sources.wrappers.deflate.kernels import kernel
from medzip.sources.wrappers.deflate.matches import (
    ADAPTED,
    ADAPTING,
    AHEAD,
    BEGUN,
    COUNTS,
    DEPTH,
    FAMILY,
    FIRST,
    FOUND_DISTANCE,
    GOOD,
    GOOD_DEPTH,
    HELD_AT,
    HELD_DISTANCE,
    HELD_LENGTH,
    INSERTED,
    KIND,
    LAZY,
    LEAST,
    LONGEST,
    NICE,
    SHORTEST,
    TOO_FAR,
    insert,
    longest,
)

GREEDY, SLOW, WEIGHING, SLIDING = range(4)
NO_MATCH, POSTPONED, MATCH = range(3)
KINDS = MATCH + 6
_LOOKAHEAD = 262
_FIRST_ADAPTING = 10000
_SAMPLE = 4096


@kernel
def _least(different: Any, depth: Any) -> Any:
    """The shortest match that libdeflate allows where so many different literals are in use."""
    if different < 6:
        least = 9
    elif different < 8:
        least = 8
    elif different < 10:
        least = 7
    elif different < 16:
        least = 6
    elif different < 45:
        least = 5
    elif different < 80:
        least = 4
    else:
        least = 3
    if depth < 5:
        return min(least, 4)
    if depth < 10:
        return min(least, 5)
    return min(least, 7) if depth < 16 else least


@kernel
def begin(content: Any, position: Any, state: Any) -> Any:
    """A block begins at a position."""
    state[LEAST], state[BEGUN], state[ADAPTING] = state[SHORTEST], position, len(content) + 1
    if not state[ADAPTED]:
        return
    for byte in range(256):
        state[COUNTS + byte] = 0
    left = len(content) - position
    if left >= 512:
        different = 0
        for place in range(position, position + min(left, _SAMPLE)):
            if state[COUNTS + content[place]] == 0:
                different += 1
            state[COUNTS + content[place]] = 1
        for byte in range(256):
            state[COUNTS + byte] = 0
        state[LEAST] = _least(different, state[DEPTH])
    if state[FAMILY] == WEIGHING:
        state[ADAPTING] = position + min(left, _FIRST_ADAPTING)


@kernel
def _adapt(content: Any, position: Any, state: Any) -> Any:
    """The shortest match anew, from the literals of the block so far."""
    total, different = 0, 0
    for byte in range(256):
        total += state[COUNTS + byte]
    for byte in range(256):
        if state[COUNTS + byte] > total >> 10:
            different += 1
    state[LEAST] = _least(different, state[DEPTH])
    state[ADAPTING] += min(len(content) - state[ADAPTING], position - state[BEGUN])


@kernel
def _nearest(content: Any, position: Any, end: Any, state: Any, links: Any) -> Any:
    """The longest match that is long enough and not too far for its length; 0 where there is none."""
    length = longest(content, position, end, state[LEAST] - 1, state[DEPTH], state, links)
    return 0 if length == 3 and state[FOUND_DISTANCE] > state[TOO_FAR] else length


@kernel
def _slow(content: Any, position: Any, end: Any, state: Any, links: Any) -> Any:
    """zlib's deflate_slow: the longest match, unless the next position has a longer one; that one is then held for it."""
    if state[HELD_AT] == position:
        length, distance = state[HELD_LENGTH], state[HELD_DISTANCE]
    else:
        length = _nearest(content, position, end, state, links)
        distance = state[FOUND_DISTANCE]
    if length and length < state[LAZY]:
        depth = state[GOOD_DEPTH] if length >= state[GOOD] else state[DEPTH]
        following = longest(content, position + 1, end, length, depth, state, links)
        if following > length:
            state[HELD_AT], state[HELD_LENGTH], state[HELD_DISTANCE] = position + 1, following, state[FOUND_DISTANCE]
            state[KIND] = POSTPONED
            return 0
    state[FOUND_DISTANCE] = distance
    return length


@kernel
def _log2(number: Any) -> Any:
    bits = -1
    while number > 0:
        number >>= 1
        bits += 1
    return bits


@kernel
def _weighing(content: Any, position: Any, end: Any, state: Any, links: Any) -> Any:
    """libdeflate's lazy and lazy2: a match one (or two) positions on is better if it saves more than the literals cost."""
    if state[HELD_AT] > position:
        state[KIND] = POSTPONED
        return 0
    if state[HELD_AT] == position:
        length, distance = state[HELD_LENGTH], state[HELD_DISTANCE]
    else:
        if position >= state[ADAPTING]:
            _adapt(content, position, state)
        length = _nearest(content, position, end, state, links)
        distance = state[FOUND_DISTANCE]
    if length and length < min(state[NICE], end - position):
        for ahead in range(1, state[AHEAD] + 1):
            place = position + ahead
            following = longest(content, place, end, length - 1, state[DEPTH] >> ahead, state, links)
            gain = 4 * (following - length) + _log2(distance) - _log2(state[FOUND_DISTANCE])
            if following >= length and gain > 4 * ahead - 2:
                state[HELD_AT], state[HELD_LENGTH], state[HELD_DISTANCE] = place, following, state[FOUND_DISTANCE]
                state[KIND] = POSTPONED
                return 0
    state[FOUND_DISTANCE] = distance
    return length


@kernel
def _sliding(content: Any, position: Any, end: Any, state: Any, links: Any) -> Any:
    """zlib-ng's deflate_medium: a match gives way to the next one where that can be moved back over it."""
    if state[HELD_AT] == position:
        length, distance = state[HELD_LENGTH], state[HELD_DISTANCE]
    else:
        length = _nearest(content, position, end, state, links)
        distance = state[FOUND_DISTANCE]
    while length and state[AHEAD] and end - position > _LOOKAHEAD:
        place = position + length
        _skip(content, position, length, state, links)
        following = _nearest(content, place, end, state, links)
        back, source = 0, place - state[FOUND_DISTANCE]
        while back < length and following and following + back < LONGEST - 2 and source - back > state[FIRST] + 1:
            if content[place - back - 1] != content[source - back - 1]:
                break
            back += 1
        if back < length - 1 or not following:
            state[HELD_AT], state[HELD_LENGTH], state[HELD_DISTANCE] = place, following, state[FOUND_DISTANCE]
            break
        if back < length:
            state[HELD_AT], state[HELD_LENGTH], state[HELD_DISTANCE] = position + 1, following + back, state[FOUND_DISTANCE]
            state[KIND] = POSTPONED
            return 0
        length, distance = following + back, state[FOUND_DISTANCE]
    state[FOUND_DISTANCE] = distance
    return length


@kernel
def predicted(content: Any, position: Any, end: Any, state: Any, links: Any) -> Any:
    """The length of the match that the writer would choose at a position, 0 for a literal; its distance goes to `state`."""
    state[KIND] = NO_MATCH
    if state[FAMILY] == GREEDY:
        length = _nearest(content, position, end, state, links)
    elif state[FAMILY] == SLOW:
        length = _slow(content, position, end, state, links)
    elif state[FAMILY] == WEIGHING:
        length = _weighing(content, position, end, state, links)
    else:
        length = _sliding(content, position, end, state, links)
    if length:
        state[KIND] = MATCH + (length > 3) + (length > 4) + (length > 8) + (length > 32) + (length == LONGEST)
    return length


@kernel
def _skip(content: Any, position: Any, length: Any, state: Any, links: Any) -> Any:
    """What of a match goes into the chains: all positions, or of a long one the first, or first and last."""
    if (state[FAMILY] == GREEDY or state[FAMILY] == SLIDING) and length > state[LAZY]:
        insert(content, position + 1, state, links)
        following = position + length - (1 if state[FAMILY] == SLIDING else 0)
        state[INSERTED] = max(state[INSERTED], following)


@kernel
def advanced(content: Any, position: Any, length: Any, state: Any, links: Any) -> Any:
    """What the writer does to its chains after a token of `length` bytes; gives the position behind it."""
    if length > 1:
        _skip(content, position, length, state, links)
    elif state[ADAPTED]:
        state[COUNTS + content[position]] += 1
    return position + length
