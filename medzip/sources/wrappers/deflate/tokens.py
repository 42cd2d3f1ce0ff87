"""Tokens as side information: for each whether the writer did what was predicted, and if not, what else it did."""

from __future__ import annotations

from typing import Any

from medzip.sources.wrappers.deflate.coder import (
    FULL,
    NUMBER_CONTEXTS,
    READING,
    coded_bit,
    coded_number,
    coded_plain,
    coded_symbol,
)
from medzip.sources.wrappers.deflate.families import KINDS, advanced, begin, predicted
from medzip.sources.wrappers.deflate.kernels import kernel
from medzip.sources.wrappers.deflate.matches import FOUND_DISTANCE, HISTORY, KIND, WINDOW, link

RECENT = 8
WRONG = 0
IS_MATCH = WRONG + KINDS * RECENT
SAME_LENGTH = IS_MATCH + KINDS
SAME_DISTANCE = SAME_LENGTH + KINDS
LENGTHS = SAME_DISTANCE + KINDS
LINKS = LENGTHS + KINDS * 256
TOKEN_CONTEXTS = LINKS + 2 * NUMBER_CONTEXTS
FINE, BAD = range(2)


@kernel
def _corrected(
    content: Any,
    position: Any,
    end: Any,
    token: Any,
    length: Any,
    distance: Any,
    state: Any,
    data: Any,
    model: Any,
    links: Any,
) -> Any:
    """The token where the prediction, a match of `length` at `distance` or a literal (0), is wrong; -1 if there is none."""
    kind = state[KIND]
    if length and not coded_bit(state, data, model, IS_MATCH + kind, 1 if token else 0):
        return 0
    true_length, true_distance = token >> 16, token & 65535
    if length and coded_bit(state, data, model, SAME_LENGTH + kind, 1 if true_length == length else 0):
        true_length, same = length, 0
    else:
        true_length = 3 + coded_symbol(state, data, model, LENGTHS + 256 * kind, 8, (true_length - 3) & 255)
        same = 0
        if length:
            same = coded_bit(state, data, model, SAME_DISTANCE + kind, 1 if true_distance == distance else 0)
    if same:
        true_distance = distance
    else:
        number = 0
        if token:
            number = 1 + link(content, position, end, true_length, 0, true_distance, state, links)
        context = LINKS + (NUMBER_CONTEXTS if length else 0)
        number = coded_number(state, data, model, context, number)
        if number == 0:
            true_distance = 1 + coded_plain(state, data, 15, true_distance - 1)
        elif token == 0:
            true_distance = link(content, position, end, true_length, number - 1, 0, state, links)
    if true_distance < 1 or true_distance > WINDOW or position + true_length > end:
        return -1
    return true_length * 65536 + true_distance


@kernel
def coded_tokens(
    content: Any,
    begun: Any,
    position: Any,
    end: Any,
    stop: Any,
    tokens: Any,
    count: Any,
    known: Any,
    state: Any,
    data: Any,
    model: Any,
    links: Any,
) -> Any:
    """Writes or reads tokens from a position up to `stop`, or `count` of them, `tokens` holding or receiving them.

    The block began at `begun`. The first `known` tokens are not coded, only followed. No match goes beyond `end`, where the
    writer's input was flushed.
    Gives (tokens, position behind them), with position -1 for damage, -2 where there was no room to write.
    """
    reading = state[READING]
    begin(content, begun, state)
    done = 0
    while done < count and position < stop:
        token = 0
        if not reading:
            token = 0 + tokens[done]
        if done >= known:
            length = predicted(content, position, end, state, links)
            guess = 0
            if length:
                guess = length * 65536 + state[FOUND_DISTANCE]
            context = WRONG + RECENT * state[KIND] + state[HISTORY]
            wrong = coded_bit(state, data, model, context, 1 if token != guess else 0)
            state[HISTORY] = ((state[HISTORY] << 1) | wrong) & (RECENT - 1)
            if wrong:
                token = _corrected(
                    content,
                    position,
                    end,
                    token,
                    length,
                    guess & 65535,
                    state,
                    data,
                    model,
                    links,
                )
                if token < 0:
                    return done, -1
            else:
                token = guess
            if state[FULL]:
                return done, -2
        if reading:
            tokens[done] = token
        done += 1
        position = advanced(content, position, max(1, token >> 16), state, links)
    return done, position


@kernel
def count_symbols(
    content: Any, position: Any, tokens: Any, count: Any, by_length: Any, by_distance: Any, frequencies: Any, distances: Any
) -> Any:
    """Adds up how often each symbol occurs; frequencies of distances begin at `distances`."""
    for i in range(count):
        token = tokens[i]
        if token == 0:
            frequencies[content[position]] += 1
            position += 1
        else:
            frequencies[257 + by_length[token >> 16]] += 1
            frequencies[distances + by_distance[token & 65535]] += 1
            position += token >> 16
    frequencies[256] += 1
