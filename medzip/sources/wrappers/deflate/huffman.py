"""Huffman codes: what zlib would make of a block's frequencies, and canonical codes from lengths (RFC 1951, 3.2.2).

`code_lengths` follows build_tree and gen_bitlen of zlib's trees.c in every tie, so that its lengths are zlib's. Other
writers' lengths differ from these in a few symbols of equal cost.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from medzip.sources.wrappers.deflate.kernels import integers, kernel

LITERALS, DISTANCES, CODE_LENGTHS = 286, 30, 19
LARGEST = 288
HEAP = 2 * LARGEST + 1
ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
LENGTH_BASE = (3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258)
LENGTH_EXTRA = (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0)
DISTANCE_BASE = tuple(1 + (n if n < 4 else (2 + n % 2) << (n // 2 - 1)) for n in range(30))
DISTANCE_EXTRA = tuple(max(n // 2 - 1, 0) for n in range(30))
STATIC_LITERALS = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8
STATIC_DISTANCES = [5] * 30


@kernel
def _before(first: Any, second: Any, weight: Any, depth: Any) -> Any:
    return weight[first] < weight[second] or (weight[first] == weight[second] and depth[first] <= depth[second])


@kernel
def _sift(heap: Any, size: Any, place: Any, weight: Any, depth: Any) -> Any:
    moved, child = heap[place], 2 * place
    while child <= size:
        if child < size and _before(heap[child + 1], heap[child], weight, depth):
            child += 1
        if _before(moved, heap[child], weight, depth):
            break
        heap[place] = heap[child]
        place, child = child, 2 * child
    heap[place] = moved


@kernel
def _joined(symbols: Any, size: Any, heap: Any, weight: Any, depth: Any, parent: Any) -> Any:
    """Joins the two lightest nodes until one is left; gives where in `heap` all nodes then lie, from the root to HEAP."""
    for place in range(size // 2, 0, -1):
        _sift(heap, size, place, weight, depth)
    top, node = HEAP, symbols
    while size >= 2:
        first = heap[1]
        heap[1] = heap[size]
        size -= 1
        _sift(heap, size, 1, weight, depth)
        second = heap[1]
        heap[top - 1], heap[top - 2] = first, second
        top -= 2
        weight[node] = weight[first] + weight[second]
        depth[node] = max(depth[first], depth[second]) + 1
        parent[first] = parent[second] = node
        heap[1] = node
        node += 1
        _sift(heap, size, 1, weight, depth)
    heap[top - 1] = heap[1]
    return top - 1


@kernel
def code_lengths(
    frequencies: Any, symbols: Any, longest: Any, lengths: Any, heap: Any, weight: Any, depth: Any, parent: Any
) -> Any:
    """Fills `lengths` for the first `symbols` of `frequencies`; the last four are HEAP integers of scratch each."""
    size, last = 0, -1
    for symbol in range(symbols):
        lengths[symbol], weight[symbol], depth[symbol] = 0, frequencies[symbol], 0
        if frequencies[symbol]:
            size += 1
            heap[size] = last = symbol
    while size < 2:
        last, added = (last + 1, last + 1) if last < 2 else (last, 0)
        size += 1
        heap[size], weight[added] = added, 1
    root = _joined(symbols, size, heap, weight, depth, parent)
    # From here on `depth` holds code lengths, of inner nodes too, and `weight` how many leaves have each length.
    for bits in range(longest + 1):
        weight[bits] = 0
    depth[heap[root]], beyond = 0, 0
    for place in range(root + 1, HEAP):
        node = heap[place]
        bits = depth[parent[node]] + 1
        if bits > longest:
            bits, beyond = longest, beyond + 1
        depth[node] = bits
        if node < symbols:
            lengths[node] = bits
            weight[bits] += 1
    if beyond > 0:
        _shortened(lengths, symbols, longest, beyond, heap, weight)


@kernel
def _shortened(lengths: Any, symbols: Any, longest: Any, beyond: Any, heap: Any, counts: Any) -> Any:
    """Makes a prefix code again of lengths of which so many were cut to `longest`; the lightest leaves get the longest."""
    while beyond > 0:
        bits = longest - 1
        while counts[bits] == 0:
            bits -= 1
        counts[bits] -= 1
        counts[bits + 1] += 2
        counts[longest] -= 1
        beyond -= 2
    place = HEAP
    for bits in range(longest, 0, -1):
        left = counts[bits]
        while left > 0:
            place -= 1
            if heap[place] < symbols:
                lengths[heap[place]] = bits
                left -= 1


@kernel
def canonical(lengths: Any, first: Any, symbols: Any, codes: Any, following: Any) -> Any:
    """Codes, lowest bit first as they are written, of symbols whose lengths begin at `first`.

    `following` is scratch for 17 integers. False where lengths are no prefix code (too many short ones).
    """
    for bits in range(17):
        following[bits] = 0
    for symbol in range(symbols):
        following[lengths[first + symbol] + 1] += 1
    following[1], code, left = 0, 0, 1
    for bits in range(1, 16):
        count = following[bits + 1]
        following[bits], code, left = code, (code + count) << 1, 2 * left - count
        if left < 0:
            return False
    for symbol in range(symbols):
        bits = lengths[first + symbol]
        codes[symbol] = 0
        if bits:
            code = following[bits]
            following[bits] += 1
            for i in range(bits):
                codes[symbol] |= ((code >> i) & 1) << (bits - 1 - i)
    return True


class Predictor:
    """zlib's code lengths for frequencies, with the scratch that it takes."""

    def __init__(self) -> None:
        self._scratch = [integers(HEAP) for _ in range(4)]

    def lengths(self, frequencies: Any, symbols: int, longest: int) -> list[int]:
        """Code lengths of symbols 0 to the last that occurs; at least one."""
        lengths = integers(symbols)
        code_lengths(frequencies, symbols, longest, lengths, *self._scratch)
        found = [int(length) for length in lengths]
        while len(found) > 1 and not found[-1]:
            found.pop()
        return found


def runs(lengths: list[int]) -> list[tuple[int, int]]:
    """Code lengths as zlib writes them: (symbol of the code length code, its extra bits)."""
    found: list[tuple[int, int]] = []
    place = 0
    while place < len(lengths):
        length = lengths[place]
        most = 138 if not length else 6 if place and lengths[place - 1] == length else 7
        end = place
        while end < len(lengths) and end - place < most and lengths[end] == length:
            end += 1
        count = end - place
        if length and most == 7 and count >= 4:
            found += [(length, 0), (16, count - 4)]
        elif length and most == 6 and count >= 3:
            found.append((16, count - 3))
        elif not length and count >= 3:
            found.append((17, count - 3) if count <= 10 else (18, count - 11))
        else:
            found += [(length, 0)] * count
        place = end
    return found


def expanded(operations: list[tuple[int, int]]) -> list[int] | None:
    """The inverse of `runs`; None where there is nothing to repeat."""
    lengths: list[int] = []
    for symbol, extra in operations:
        if symbol == 16 and not lengths:
            return None
        lengths += [symbol] if symbol < 16 else [lengths[-1] if symbol == 16 else 0] * (extra + (11 if symbol == 18 else 3))
    return lengths


@cache
def tables() -> tuple[Any, Any, Any]:
    """The symbols of match lengths 0 to 258, those of distances 0 to 32768, bases and extra bits of both one after another."""
    by_length, by_distance = integers(259, 0, np.int32), integers(32769, 0, np.int32)
    for symbol, (base, extra) in enumerate(zip(LENGTH_BASE, LENGTH_EXTRA, strict=True)):
        for length in range(base, min(base + (1 << extra), 259)):
            by_length[length] = symbol
    by_length[258] = 28
    for symbol, (base, extra) in enumerate(zip(DISTANCE_BASE, DISTANCE_EXTRA, strict=True)):
        for distance in range(base, base + (1 << extra)):
            by_distance[distance] = symbol
    values = (*LENGTH_BASE, *LENGTH_EXTRA, *DISTANCE_BASE, *DISTANCE_EXTRA)
    packed = integers(len(values))
    for place, value in enumerate(values):
        packed[place] = value
    return by_length, by_distance, packed
