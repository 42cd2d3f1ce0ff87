"""The adaptive binary range coder of the side information: one function for both directions, so that they cannot differ.

A probability is the mean of two that adapt at different rates (shifts 4 and 7), in units of 2^-16. The range is kept at
2^24 or more in 32 bits, and carries are passed on through bytes held back, as LZMA's range coder does (7-zip, LZMA
specification, "Range Coder").
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medzip.sources.wrappers.deflate.kernels import buffer, integers, kernel

READING, LOW, RANGE, CODE, CACHE, PENDING, POSITION, FULL = range(8)
STATE = 2048
"""Integers of a state: the coder's come first, those of the match finder behind them."""
NUMBER_CONTEXTS = 34
_RARE = 2048
_FAST, _SLOW = 4, 7


@kernel
def _shift(state: Any, data: Any) -> Any:
    """One byte out of, or into, the coder."""
    state[RANGE] = state[RANGE] << 8
    if state[READING]:
        following = 0
        if state[POSITION] < len(data):
            following = data[state[POSITION]]
        state[POSITION] += 1
        state[CODE] = ((state[CODE] << 8) & 0xFFFFFFFF) | following
        return
    low = state[LOW]
    if low < 0xFF000000 or low >= 1 << 32:
        carry = low >> 32
        if state[POSITION] + state[PENDING] + 1 >= len(data):
            state[FULL] = 1
            state[PENDING] = 0
            state[POSITION] = 0
        if state[CACHE] >= 0:
            data[state[POSITION]] = (state[CACHE] + carry) & 0xFF
            state[POSITION] += 1
        while state[PENDING] > 0:
            data[state[POSITION]] = (0xFF + carry) & 0xFF
            state[POSITION] += 1
            state[PENDING] -= 1
        state[CACHE] = (low >> 24) & 0xFF
    else:
        state[PENDING] += 1
    state[LOW] = (low & 0xFFFFFF) << 8


@kernel
def coded_bit(state: Any, data: Any, model: Any, context: Any, bit: Any) -> Any:
    """Writes `bit`, or reads one, whichever the coder does; gives the bit."""
    fast, slow = model[2 * context], model[2 * context + 1]
    bound = (state[RANGE] >> 16) * ((fast + slow) >> 1)
    if state[READING]:
        bit = 1 if state[CODE] < bound else 0
    if bit:
        state[RANGE] = bound
        model[2 * context] = fast + ((65536 - fast) >> _FAST)
        model[2 * context + 1] = slow + ((65536 - slow) >> _SLOW)
    else:
        if state[READING]:
            state[CODE] -= bound
        else:
            state[LOW] += bound
        state[RANGE] -= bound
        model[2 * context] = fast - (fast >> _FAST)
        model[2 * context + 1] = slow - (slow >> _SLOW)
    while state[RANGE] < 1 << 24:
        _shift(state, data)
    return bit


@kernel
def coded_plain(state: Any, data: Any, bits: Any, value: Any) -> Any:
    """A number of so many bits, all values alike."""
    result = 0
    for i in range(bits):
        bound = state[RANGE] >> 1
        bit = (value >> (bits - 1 - i)) & 1
        if state[READING]:
            bit = 1 if state[CODE] < bound else 0
        if bit:
            state[RANGE] = bound
        else:
            if state[READING]:
                state[CODE] -= bound
            else:
                state[LOW] += bound
            state[RANGE] -= bound
        result = (result << 1) | bit
        while state[RANGE] < 1 << 24:
            _shift(state, data)
    return result


@kernel
def coded_symbol(state: Any, data: Any, model: Any, context: Any, bits: Any, value: Any) -> Any:
    """A symbol of so many bits; its tree takes 2^bits contexts from `context` on."""
    node = 1
    for i in range(bits):
        bit = coded_bit(state, data, model, context + node, (value >> (bits - 1 - i)) & 1)
        node = (node << 1) | bit
    return node - (1 << bits)


@kernel
def coded_number(state: Any, data: Any, model: Any, context: Any, value: Any) -> Any:
    """A number from 0 to 2^32 - 2, small ones cheap; takes NUMBER_CONTEXTS contexts from `context` on."""
    bits = 0
    while bits < 32 and coded_bit(state, data, model, context + bits, 1 if (value + 1) >> (bits + 1) else 0):
        bits += 1
    return ((1 << bits) | coded_plain(state, data, bits, (value + 1) & ((1 << bits) - 1))) - 1


class Side:
    """The coder with its contexts. `data` is what to read, or the number of bytes that may be written."""

    def __init__(self, contexts: int, data: bytes | int) -> None:
        self.data = buffer(data if isinstance(data, bytes) else data + 64)
        self.model = integers(2 * contexts, _RARE, np.int32)
        self.state = integers(STATE)
        self.state[READING], self.state[RANGE], self.state[CACHE] = int(isinstance(data, bytes)), 0xFFFFFFFF, -1
        if isinstance(data, bytes):
            self.state[CODE] = int.from_bytes(data[:4].ljust(4, b"\0"), "big")
            self.state[POSITION] = 4

    @property
    def reading(self) -> bool:
        return bool(self.state[READING])

    @property
    def full(self) -> bool:
        """Whether more was written than may be."""
        return bool(self.state[FULL])

    @property
    def written(self) -> int:
        """Bytes written so far, about."""
        return int(self.state[POSITION] + self.state[PENDING])

    def bit(self, context: int, value: int = 0) -> int:
        return int(coded_bit(self.state, self.data, self.model, context, value))

    def symbol(self, context: int, bits: int, value: int = 0) -> int:
        return int(coded_symbol(self.state, self.data, self.model, context, bits, value))

    def plain(self, bits: int, value: int = 0) -> int:
        return int(coded_plain(self.state, self.data, bits, value))

    def number(self, context: int, value: int = 0) -> int:
        return int(coded_number(self.state, self.data, self.model, context, value))

    def finish(self) -> bytes:
        """All that was written; zeros at its end are left out, for readers take what is missing as zeros."""
        for _ in range(6):
            _shift(self.state, self.data)
        return bytes(self.data[: self.state[POSITION]]).rstrip(b"\0")
