"""From integer mixtures to symbols of 16, and back: one rule for samples of 8 to 32 bits.

A sample is found by intervals. The first symbol says which of 16 intervals around the mixture's centre holds it: 14 of
width 2^q and two open tails. A tail is left by intervals that double away from the centre. Any interval is then split into
16 of equal width, a power of two, until one value is left. An interval that the mixture gives almost no mass to is
split into equal shares. Intervals end at the chunk's range, and are always counted upwards.

All samples of a call advance together: their first symbols, then the tails' symbols, then one refinement after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medzip.coder.range_coder import SYMBOLS, TOTAL, Decoder, Encoder
from medzip.errors import ArchiveDamagedError
from medzip.exact.mixture import POSITION_BITS, VALUE_MAX, Columns, Mixture
from medzip.exact.tables import CDF_ONE, Kind

# The 14 inner intervals reach this many halves of the mixture's deviation to both sides at least: where bits and symbols are
# few.
REACH_HALVES: dict[Kind, int] = {"gaussian": 6, "logistic": 7}

# Below this share of the mixture's mass (2^-14) the table's steps would show in an interval's split.
_THIN_SHARE_BITS = 14

# Components per block: what their masses take stays in the second-level cache.
_BLOCK = 1 << 11

_INNER = np.arange(-7, 8, dtype=np.int64)[:, None]
_DOUBLING = (1 << np.arange(SYMBOLS, dtype=np.int64)[:, None]) - 1
_EQUAL = np.arange(SYMBOLS + 1, dtype=np.int64)[:, None]
_POWERS = 1 << np.arange(40, dtype=np.int64)


_Rows = NDArray[np.int64] | slice


class _Pick(Protocol):
    """Codes one symbol for each of the rows and returns it: edges (17, m), frequencies (m, 16) -> symbols (m,)."""

    def __call__(self, rows: _Rows, edges: NDArray[np.int64], frequencies: NDArray[np.int64], /) -> NDArray[np.integer[Any]]: ...


def encode_samples(samples: NDArray[np.int64], mixture: Mixture, low: int, high: int, encoder: Encoder) -> None:
    """Codes `samples` (n,) under `mixture` (n rows); all lie within low..high, the chunk's range, below 2^33 in magnitude.

    Raises ValueError where a sample or the range lies outside.
    """
    _check_samples(samples, mixture, low, high)

    def pick(rows: _Rows, edges: NDArray[np.int64], frequencies: NDArray[np.int64]) -> NDArray[np.int64]:
        symbols = _interval_of(samples[rows], edges)
        encoder.encode(symbols.astype(np.int32), frequencies)
        return symbols

    _walk(mixture, low, high, pick)


def decode_samples(mixture: Mixture, low: int, high: int, decoder: Decoder) -> NDArray[np.int64]:
    """The samples (n,) that `encode_samples` coded with the same mixture and range.

    Raises ArchiveDamagedError where the symbols lead to no value in low..high.
    """

    def pick(_rows: _Rows, _edges: NDArray[np.int64], frequencies: NDArray[np.int64]) -> NDArray[np.int32]:
        return decoder.decode(frequencies)

    start, end = _walk(mixture, low, high, pick)
    if (end - start != 1).any() or (start < low).any() or (start > high).any():
        raise ArchiveDamagedError(
            "coded payload: expected samples within the chunk's range, found symbols that lead outside; "
            "restore the archive from a copy"
        )
    return start


def code_length(samples: NDArray[np.int64], mixture: Mixture, low: int, high: int) -> float:
    """The ideal number of bits that `encode_samples` needs, in float: for evaluation, it shapes no archive."""
    return float(code_lengths(samples, mixture, low, high).sum())


def code_lengths(samples: NDArray[np.int64], mixture: Mixture, low: int, high: int) -> NDArray[np.float64]:
    """`code_length` of each of the samples (n,)."""
    _check_samples(samples, mixture, low, high)
    bits = np.zeros(len(samples))

    def pick(rows: _Rows, edges: NDArray[np.int64], frequencies: NDArray[np.int64]) -> NDArray[np.int64]:
        symbols = _interval_of(samples[rows], edges)
        bits[rows] -= np.log2(frequencies[np.arange(len(symbols)), symbols] / TOTAL)
        return symbols

    _walk(mixture, low, high, pick)
    return bits


def frequencies_of(masses: NDArray[np.int64]) -> NDArray[np.int64]:
    """The PMFs (n, 16) for masses (16, n) >= 0 with sums below 2^47: f = 1 + floor(mass (2^16 - 16) / sum).

    What is missing to 2^16 goes to the largest f, the first of equals. Where all are zero, f is uniform.
    """
    total = masses.sum(axis=0)
    frequencies = _divide(masses * (TOTAL - SYMBOLS), np.maximum(total, 1))
    frequencies += 1
    frequencies[:, total == 0] = TOTAL // SYMBOLS
    frequencies[frequencies.argmax(axis=0), np.arange(len(total))] += TOTAL - frequencies.sum(axis=0)
    return np.ascontiguousarray(frequencies.T)


def _divide(dividend: NDArray[np.int64], divisor: NDArray[np.int64]) -> NDArray[np.int64]:
    """floor(dividend / divisor), exact where it is below 2^17: float64 guesses to within one, integers correct it.

    Five times as fast as numpy's `//`.
    """
    quotient = (dividend / divisor).astype(np.int64)
    rest = dividend - quotient * divisor
    quotient += rest >= divisor
    quotient -= rest < 0
    return quotient


def _check_samples(samples: NDArray[np.int64], mixture: Mixture, low: int, high: int) -> None:
    if samples.shape != (len(mixture),):
        raise ValueError(f"expected {len(mixture)} samples, one for each mixture, found shape {samples.shape}")
    if len(samples) and (samples.min() < low or samples.max() > high):
        raise ValueError(f"samples must lie in {low}..{high}")


def _interval_of(samples: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    symbols: NDArray[np.int64] = (samples >= edges[1:-1]).sum(axis=0)
    return symbols


def _walk(mixture: Mixture, low: int, high: int, pick: _Pick) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Follows the symbols of `pick` to one interval [start, end) for each mixture: encoder and decoder share every step."""
    if not -VALUE_MAX < low <= high < VALUE_MAX:
        raise ValueError(f"the range of a chunk must be low <= high below 2^33 in magnitude, found {low}..{high}")
    n = len(mixture)
    start, end = np.full(n, low, np.int64), np.full(n, high + 1, np.int64)
    if low == high:
        return start, end
    columns = Columns.of(mixture)
    block = max(_BLOCK // len(columns.weight), 1)
    exponent, symbol = np.zeros(n, np.int64), np.zeros(n, np.int64)

    def choose(rows: _Rows, chosen_from: Columns, edges: NDArray[np.int64]) -> None:
        chosen = pick(rows, edges, _split(chosen_from, edges, low, high))
        at = np.arange(len(chosen))
        start[rows], end[rows], symbol[rows] = edges[chosen, at], edges[chosen + 1, at], chosen

    for at in range(0, n, block):
        rows = slice(at, at + block)
        some = columns.select(rows)
        edges, exponent[rows] = _first_edges(some, low, high)
        choose(rows, some, edges)
    upper = symbol == SYMBOLS - 1
    tails = np.flatnonzero(upper | (symbol == 0))
    while len(tails := tails[end[tails] - start[tails] > 1]):
        for part in _parts(tails, block):
            choose(part, columns.select(part), _tail_edges(start[part], end[part], exponent[part], upper[part]))
        tails = tails[symbol[tails] == np.where(upper[tails], SYMBOLS - 1, 0)]
        exponent[tails] = np.minimum(exponent[tails] + SYMBOLS - 1, 33)
    while len(wide := np.flatnonzero(end - start > 1)):
        for part in _parts(wide, block):
            choose(part, columns.select(part), _equal_edges(start[part], end[part]))
    return start, end


def _parts(rows: NDArray[np.int64], length: int) -> Iterator[NDArray[np.int64]]:
    for at in range(0, len(rows), length):
        yield rows[at : at + length]


def _first_edges(columns: Columns, low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges (17, n) of the first symbol, and q (n,): the smallest with 7 2^q >= reach, or all of low..high if less."""
    middle = np.clip(columns.centre(), low, high)
    reach = (columns.deviation(middle) * REACH_HALVES[columns.kind]) >> (POSITION_BITS + 1)
    exponent = np.searchsorted(7 * _POWERS, np.minimum(reach, high - low + 1), side="left").astype(np.int64)
    edges = np.empty((SYMBOLS + 1, len(middle)), np.int64)
    edges[1:-1] = middle + (_INNER << exponent)
    edges[0], edges[-1] = low, high + 1
    return np.clip(edges, low, high + 1, out=edges), exponent


def _tail_edges(
    start: NDArray[np.int64], end: NDArray[np.int64], exponent: NDArray[np.int64], upper: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Edges (17, m) of intervals of width 2^q, 2^(q+1), ... away from the centre; what lies beyond the 15th is the last."""
    distance = _DOUBLING << exponent
    edges = np.where(upper, np.vstack([start + distance, end]), np.vstack([start, end - distance[::-1]]))
    return np.clip(edges, start, end, out=edges)


def _equal_edges(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edges (17, m) of intervals of the smallest width 2^r of which 16 cover start..end."""
    exponent = np.searchsorted(SYMBOLS * _POWERS, end - start, side="left")
    return np.minimum(start + (_EQUAL << exponent), end)


def _split(columns: Columns, edges: NDArray[np.int64], low: int, high: int) -> NDArray[np.int64]:
    """PMFs (m, 16) of the intervals: by the mixture, or uniform over those that hold a value where it has almost no mass.

    What the mixture puts below `low` or above `high` counts as those values: that is how a window saturates.
    """
    live = edges[1:] > edges[:-1]
    # The last intervals are often empty for every sample: no need to ask the mixture.
    count = int(np.flatnonzero(live.any(axis=1))[-1]) + 1
    masses = np.zeros((SYMBOLS, edges.shape[1]), np.int64)
    used = edges[: count + 1]
    masses[:count] = columns.mass(np.where(used <= low, -VALUE_MAX, np.where(used > high, VALUE_MAX, used)))
    thin: NDArray[np.bool_] = masses.sum(axis=0) < columns.total * (CDF_ONE >> _THIN_SHARE_BITS)
    if thin.any():
        masses[:, thin] = live[:, thin]
    return frequencies_of(masses)
