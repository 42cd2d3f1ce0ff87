"""Deflate streams read to tokens, and written from them (RFC 1951).

A token is 0 for a literal, whose byte is the content's, or length x 2^16 + distance for a match.
"""

from __future__ import annotations

from typing import Any

from medzip.sources.wrappers.deflate.kernels import kernel

BIT, DATA_BITS, TOKENS, COVERED = range(4)
DONE, MORE_ROOM, DAMAGED = range(3)
END_OF_BLOCK = 256
TOKEN_BYTES = 6
"""No token takes more bytes: 15 + 5 bits of a length and 15 + 13 of a distance."""


@kernel
def read_bits(data: Any, state: Any, count: Any) -> Any:
    """The next `count` bits, lowest first; zeros behind the end."""
    value = 0
    for i in range(count):
        place = state[BIT] + i
        if place < state[DATA_BITS]:
            value |= (((0 + data[place >> 3]) >> (place & 7)) & 1) << i
    state[BIT] += count
    return value


@kernel
def decoding_table(lengths: Any, codes: Any, symbols: Any, bits: Any, table: Any) -> Any:
    """Fills 2^bits entries: symbol x 16 + length for all that begin with a code, 0 where there is none."""
    for place in range(1 << bits):
        table[place] = 0
    for symbol in range(symbols):
        if lengths[symbol]:
            for place in range(codes[symbol], 1 << bits, 1 << lengths[symbol]):
                table[place] = symbol * 16 + lengths[symbol]


@kernel
def read_tokens(
    data: Any, state: Any, literals: Any, literal_bits: Any, distances: Any, distance_bits: Any, values: Any, tokens: Any
) -> Any:
    """Reads the tokens of a block up to its end, or until `tokens` is full; `state` counts them and the bytes they cover."""
    at, size = state[BIT] >> 3, state[DATA_BITS] >> 3
    held, bits = 0, -(state[BIT] & 7)
    count, covered, status, begin = 0, 0, MORE_ROOM, state[BIT]
    if bits < 0 and at < size:
        held, bits, at = (0 + data[at]) >> -bits, bits + 8, at + 1
    taken = 0
    while count < len(tokens):
        while bits <= 48:
            if at < size:
                held |= (0 + data[at]) << bits
            at += 1
            bits += 8
        entry = literals[held & ((1 << literal_bits) - 1)]
        used = entry & 15
        symbol = entry >> 4
        token, length = 0, 1
        if entry == 0 or symbol > 285:
            status = DAMAGED
            break
        if symbol > END_OF_BLOCK:
            symbol -= 257
            extra = values[29 + symbol]
            length = values[symbol] + ((held >> used) & ((1 << extra) - 1))
            used += extra
            entry = distances[(held >> used) & ((1 << distance_bits) - 1)]
            symbol = entry >> 4
            if entry == 0 or symbol > 29:
                status = DAMAGED
                break
            used += entry & 15
            extra = values[88 + symbol]
            token = length * 65536 + values[58 + symbol] + ((held >> used) & ((1 << extra) - 1))
            used += extra
            symbol = 0
        held, bits, taken = held >> used, bits - used, taken + used
        if begin + taken > state[DATA_BITS]:
            status = DAMAGED
            break
        if symbol == END_OF_BLOCK:
            status = DONE
            break
        tokens[count] = token
        count += 1
        covered += length
    state[TOKENS], state[COVERED] = count, covered
    if status == DONE:
        state[BIT] = begin + taken
    return status


@kernel
def write_bits(out: Any, state: Any, value: Any, count: Any) -> Any:
    """Writes `count` bits, lowest first, to a buffer that was zero and has room."""
    place = state[BIT]
    state[BIT] += count
    while count > 0:
        room = 8 - (place & 7)
        out[place >> 3] |= (value << (place & 7)) & 255
        value, place, count = value >> room, place + room, count - room


@kernel
def write_tokens(
    out: Any,
    state: Any,
    content: Any,
    position: Any,
    tokens: Any,
    count: Any,
    by_length: Any,
    by_distance: Any,
    values: Any,
    codes: Any,
    lengths: Any,
    distances: Any,
) -> Any:
    """Writes tokens and the end of the block. `distances` is where codes and lengths of distances begin."""
    for i in range(count):
        token = tokens[i]
        if token == 0:
            symbol = content[position]
            write_bits(out, state, codes[symbol], lengths[symbol])
            position += 1
            continue
        length, distance = token >> 16, token & 65535
        symbol = by_length[length]
        held, used = codes[257 + symbol], lengths[257 + symbol]
        held |= (length - values[symbol]) << used
        used += values[29 + symbol]
        symbol = by_distance[distance]
        held |= codes[distances + symbol] << used
        used += lengths[distances + symbol]
        held |= (distance - values[58 + symbol]) << used
        used += values[88 + symbol]
        write_bits(out, state, held, used)
        position += length
    write_bits(out, state, codes[END_OF_BLOCK], lengths[END_OF_BLOCK])
