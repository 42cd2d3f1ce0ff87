"""Symbols of mixtures, coded and decoded in compiled code: what `medzip/exact/symbols.py` does, word for word.

Samples advance in blocks that stay in the first-level cache: vector code makes a block's PMFs, scalar code codes its symbols.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.coder.range_coder import SYMBOLS
from medzip.errors import ArchiveDamagedError
from medzip.exact.compiled import mixture as sheets
from medzip.exact.compiled import range_coder
from medzip.exact.compiled.lanes import LANES
from medzip.exact.compiled.range_coder import read, write
from medzip.exact.compiled.setup import njit
from medzip.exact.mixture import POSITION_BITS, SMALLEST_SCALE_EXPONENT, VALUE_MAX, Mixture
from medzip.exact.symbols import REACH_HALVES
from medzip.exact.tables import HALF_CDF, INTERVALS, INVERSE_OCTAVE, OCTAVE, Z_BITS, Kind

GOOD, DAMAGED, FULL = 0, 1, 2

# A sample takes at most so many symbols, and each at most one word: a first one, 3 in a tail, 9 refinements of 2^34 values.
WORDS_PER_SAMPLE = 13

_BLOCK = sheets.COLUMNS - 2 * LANES
# Two kinds of splits share a sheet, one from each end, in whole vectors. (numba compiles a function anew for each literal that is
# passed to it, not for such constants.)
_COLUMNS = np.int64(sheets.COLUMNS)
_FEW, _MANY = np.int64(4), np.int64(SYMBOLS)
_NONE, _NO, _YES = np.int64(0), np.int64(0), np.int64(1)
_FARTHEST = np.int64(VALUE_MAX)
_LAST = SYMBOLS - 1

_START, _END, _CDF_START, _CDF_END = sheets.START, sheets.END, sheets.CDF_START, sheets.CDF_END
_TOTAL_WEIGHT, _EXPONENT, _FIRST, _SAMPLE = sheets.TOTAL_WEIGHT, sheets.EXPONENT, sheets.FIRST, sheets.SAMPLE
_EDGES, _CDFS, _BOUNDS, _ROWS, _LANES = sheets.EDGES, sheets.CDFS, sheets.BOUNDS, sheets.ROWS, LANES
_MEAN, _PACKED, _SIGMA, _PARAMETERS = sheets.MEAN, sheets.PACKED, sheets.SIGMA, sheets.PARAMETERS
_SHIFT_AT, _WEIGHT_AT, _COMPONENTS_MAX = sheets.SHIFT_AT, sheets.WEIGHT_AT, sheets.COMPONENTS_MAX
_prepare_lanes: Any = sheets.prepare
_split_lanes: Any = sheets.split
_LOWER, _SPAN, _POSITION = range_coder.LOWER, range_coder.SPAN, range_coder.POSITION
_HELD, _FIRST_HELD, _PRECISION = range_coder.HELD, range_coder.FIRST_HELD, range_coder.PRECISION

# The rows of a sheet that an interval keeps from one symbol to the next.
_KEPT = _EXPONENT + 1

_OCTAVE, _INVERSE = OCTAVE.copy(), INVERSE_OCTAVE.copy()
_SHIFT = 15 + POSITION_BITS + SMALLEST_SCALE_EXPONENT - Z_BITS
_HALF = 1 << (POSITION_BITS - 1)

Curve = tuple[NDArray[np.int32], int, int]


@cache
def curve_of(kind: Kind) -> Curve:
    """What the compiled functions need to know of a kind of component: its table, the table's bits, and REACH_HALVES."""
    return sheets.table_of(kind), HALF_CDF[kind].bits, REACH_HALVES[kind]


class SymbolEncoder:
    """What `encode_samples` with an `Encoder` does, one call for each step; the same words."""

    def __init__(self) -> None:
        self._coder, self._words = range_coder.new_encoder(), np.empty(1 << 12, np.uint32)

    def encode(self, samples: NDArray[np.int64], mixture: Mixture, low: int, high: int) -> None:
        """Like `encode_samples`. Raises ValueError where a sample or the range lies outside."""
        _check_range(low, high)
        if samples.shape != (len(mixture),):
            raise ValueError(f"expected {len(mixture)} samples, one for each mixture, found shape {samples.shape}")
        if len(samples) and (samples.min() < low or samples.max() > high):
            raise ValueError(f"samples must lie in {low}..{high}")
        while _code_mixture(True, samples.astype(np.int64), mixture, low, high, self._words, self._coder) == FULL:
            more = np.empty(len(self._words) + WORDS_PER_SAMPLE * len(samples), np.uint32)
            self._words = np.concatenate([self._words, more])

    def finish(self) -> bytes:
        """All that was written: 32-bit words, little endian, never empty."""
        return range_coder.finished(self._coder, self._words)


class SymbolDecoder:
    """What `decode_samples` with a `Decoder` does."""

    def __init__(self, data: bytes) -> None:
        """Raises ArchiveDamagedError where `data` is empty or no whole number of 32-bit words."""
        self._words = range_coder.words_of(data)
        self._coder = range_coder.new_decoder(self._words)

    def decode(self, mixture: Mixture, low: int, high: int) -> NDArray[np.int64]:
        """Like `decode_samples`. Raises ArchiveDamagedError where the words hold no such samples."""
        _check_range(low, high)
        samples = np.empty(len(mixture), np.int64)
        if _code_mixture(False, samples, mixture, low, high, self._words, self._coder) == DAMAGED:
            raise ArchiveDamagedError(
                "coded payload: expected samples within the chunk's range, found words that no encoder writes; "
                "restore the archive from a copy"
            )
        return samples

    def done(self) -> bool:
        """False where words are certainly left, which after the last symbol means damage; True proves nothing."""
        return range_coder.is_done(self._coder, self._words)


def _check_range(low: int, high: int) -> None:
    if not -VALUE_MAX < low <= high < VALUE_MAX:
        raise ValueError(f"the range of a chunk must be low <= high below 2^33 in magnitude, found {low}..{high}")


def _code_mixture(
    encoding: bool,
    samples: NDArray[np.int64],
    mixture: Mixture,
    low: int,
    high: int,
    words: NDArray[np.uint32],
    coder: NDArray[np.uint64],
) -> int:
    weight, mean, scale = (np.ascontiguousarray(a) for a in (mixture.weight, mixture.mean, mixture.scale))
    curve = curve_of(mixture.kind)
    return int(code_batch(encoding, samples, weight, mean, scale, len(samples), low, high, curve, words, coder))


@njit
def code_batch(
    encoding: Any,
    samples: Any,
    weight: Any,
    mean: Any,
    scale: Any,
    n: Any,
    low: Any,
    high: Any,
    curve: Any,
    words: Any,
    coder: Any,
) -> Any:
    """One step of FORMAT.md, section 11: codes, or with `encoding` False decodes, the first n of `samples`.

    All within low..high, below 2^33 in magnitude. samples (n or more,) and weight, mean, scale (n or more, K): integers as in
    `Mixture`, of any signed dtype; nothing is checked but K <= COMPONENTS_MAX. `curve`: from `curve_of`. words: uint32.
    coder: from `new_encoder` or `new_decoder`; it moves on.

    GOOD: done. FULL: nothing was encoded; there must be place for WORDS_PER_SAMPLE n words behind those that are written or
    held back. DAMAGED: the words hold no such samples; `samples` and `coder` are worth nothing.
    """
    if encoding and np.int64(coder[_POSITION] + coder[_HELD]) + n * WORDS_PER_SAMPLE > len(words):
        return FULL
    if low == high:
        for row in range(0 if encoding else n):
            samples[row] = low
        return GOOD
    if weight.shape[1] > _COMPONENTS_MAX:
        raise ValueError("a mixture has too many components for compiled code")
    table, bits, halves = curve
    parameters = np.empty((weight.shape[1], _PARAMETERS, (n + _LANES - 1) // _LANES * _LANES), np.int64)
    far = _fill_parameters(weight, mean, scale, n, parameters)
    intervals, symbols = np.empty((n, _KEPT), np.int64), np.empty(n, np.int64)
    sheet, rows, columns = np.zeros((_ROWS, _COLUMNS), np.int64), np.arange(n), np.arange(_BLOCK)
    for at in range(0, n, _BLOCK):
        count = min(n - at, _BLOCK)
        _prepare(sheet, count, parameters, at, low, high, halves)
        for j in range(count):
            if far:
                sheet[_CDF_START, j] = _cumulative(parameters, at + j, -_FARTHEST, table, bits)
                sheet[_CDF_END, j] = _cumulative(parameters, at + j, _FARTHEST, table, bits)
            intervals[at + j, _TOTAL_WEIGHT], intervals[at + j, _EXPONENT] = sheet[_TOTAL_WEIGHT, j], sheet[_EXPONENT, j]
        _split(sheet, _NONE, count, _MANY, _YES, parameters, table, bits)
        if not _code(encoding, samples, rows, at, count, columns, sheet, _NONE, _NO, intervals, symbols, words, coder):
            return DAMAGED
    if not _leave_tails(encoding, samples, n, parameters, sheet, intervals, symbols, table, bits, words, coder):
        return DAMAGED
    if not _refine(encoding, samples, n, parameters, sheet, intervals, symbols, table, bits, words, coder):
        return DAMAGED
    if not encoding:
        for row in range(n):
            samples[row] = intervals[row, _START]
    return GOOD


@njit
def _prepare(sheet: Any, count: Any, parameters: Any, at: Any, low: Any, high: Any, halves: Any) -> None:
    for column in range(0, count, _LANES):
        _prepare_lanes(sheet, column, parameters, at + column, low, high, halves)


@njit
def _split(sheet: Any, start: Any, stop: Any, count: Any, equal: Any, parameters: Any, table: Any, bits: Any) -> None:
    for column in range(start, stop, _LANES):
        _split_lanes(sheet, column, count, equal, parameters, table, bits)


@njit
def _fill_parameters(weight: Any, mean: Any, scale: Any, n: Any, parameters: Any) -> Any:
    """The components as the vector code wants them; True where some might have mass behind +-2^33."""
    far: Any = False
    for k in range(weight.shape[1]):
        for row in range(n):
            w, m, e = np.int64(weight[row, k]), np.int64(mean[row, k]), np.int64(scale[row, k])
            parameters[k, _MEAN, row] = m
            parameters[k, _PACKED, row] = _INVERSE[e & 15] | ((e >> 4) + _SHIFT) << _SHIFT_AT | w << _WEIGHT_AT
            parameters[k, _SIGMA, row] = _OCTAVE[e & 15] << (e >> 4) >> 7
            # Otherwise z is beyond the table at +-2^33: (2^44 - 2^11) 17,109 >> 31 is more than 4,096 intervals of 2^15.
            far |= abs(m) > 1 << 44 or e >= 31 << 4
        for row in range(n, parameters.shape[2]):
            parameters[k, _MEAN, row], parameters[k, _SIGMA, row] = 0, 0
            parameters[k, _PACKED, row] = 1 << _WEIGHT_AT
    return far


@njit
def _cumulative(parameters: Any, row: Any, edge: Any, table: Any, bits: Any) -> Any:
    """One sample's cumulative mass at an edge."""
    total = np.int64(0)
    for k in range(len(parameters)):
        packed = parameters[k, _PACKED, row]
        distance = (edge << POSITION_BITS) - _HALF - parameters[k, _MEAN, row]
        z = (abs(distance) * (packed & 0xFFFF)) >> ((packed >> _SHIFT_AT) & 0xFF)
        at = min(z >> bits, INTERVALS)
        value, following = np.int64(table[at]), np.int64(table[at + 1])
        half = value + ((z & ((1 << bits) - 1)) * (following - value) >> bits)
        total += (half if distance >= 0 else -half) * (packed >> _WEIGHT_AT)
    return total


@njit
def _leave_tails(
    encoding: Any,
    samples: Any,
    n: Any,
    parameters: Any,
    sheet: Any,
    intervals: Any,
    symbols: Any,
    table: Any,
    bits: Any,
    words: Any,
    coder: Any,
) -> Any:
    """Codes on where the first symbol was 0 or 15; False where symbols show damage."""
    tails, columns, ends = np.empty(n, np.int64), np.arange(_BLOCK), np.empty(n, np.int64)
    count = 0
    for row in range(n):
        tails[count], ends[row] = row, symbols[row]
        count += (symbols[row] == 0 or symbols[row] == _LAST) and intervals[row, _END] - intervals[row, _START] > 1
    while count:
        for at in range(0, count, _BLOCK):
            part = min(count - at, _BLOCK)
            for j in range(part):
                row = tails[at + j]
                sheet[_SAMPLE, j] = row
                for i in range(_KEPT):
                    sheet[i, j] = intervals[row, i]
                _store_tail_edges(sheet, j, ends[row] == _LAST)
                intervals[row, _EXPONENT] = min(intervals[row, _EXPONENT] + _LAST, 33)
            _split(sheet, _NONE, part, _MANY, _NO, parameters, table, bits)
            if not _code(encoding, samples, tails, at, part, columns, sheet, _NONE, _YES, intervals, symbols, words, coder):
                return False
        left = 0
        for j in range(count):
            row = tails[j]
            tails[left] = row
            left += symbols[row] == ends[row] and intervals[row, _END] - intervals[row, _START] > 1
        count = left
    return True


@njit
def _store_tail_edges(sheet: Any, column: Any, upper: Any) -> None:
    """Widths of 2^q, 2^(q+1), ... away from the centre."""
    start, end, exponent = sheet[_START, column], sheet[_END, column], sheet[_EXPONENT, column]
    sheet[_EDGES, column], sheet[_EDGES + SYMBOLS, column] = start, end
    for i in range(1, SYMBOLS):
        distance = ((1 << (i if upper else SYMBOLS - i)) - 1) << exponent
        sheet[_EDGES + i, column] = min(start + distance, end) if upper else max(end - distance, start)


@njit
def _refine(
    encoding: Any,
    samples: Any,
    n: Any,
    parameters: Any,
    sheet: Any,
    intervals: Any,
    symbols: Any,
    table: Any,
    bits: Any,
    words: Any,
    coder: Any,
) -> Any:
    """Splits intervals into equal ones until each holds one value; False where symbols show damage."""
    wide, columns = np.arange(n), np.empty(_BLOCK, np.int64)
    count = _keep_wide(wide, n, intervals)
    while count:
        for at in range(0, count, _BLOCK):
            part, few, many = min(count - at, _BLOCK), _NONE, _COLUMNS
            for j in range(part):
                row = wide[at + j]
                width = intervals[row, _END] - intervals[row, _START]
                if width <= _FEW:
                    column = few
                    few += 1
                else:
                    many -= 1
                    column = many
                columns[j], sheet[_SAMPLE, column] = column, row
                for i in range(_EXPONENT):
                    sheet[i, column] = intervals[row, i]
                exponent = 0
                while SYMBOLS << exponent < width:
                    exponent += 1
                sheet[_EXPONENT, column], sheet[_FIRST, column] = exponent, intervals[row, _START]
            _split(sheet, _NONE, few, _FEW, _YES, parameters, table, bits)
            _split(sheet, many // _LANES * _LANES, _COLUMNS, _MANY, _YES, parameters, table, bits)
            if not _code(encoding, samples, wide, at, part, columns, sheet, few, _NO, intervals, symbols, words, coder):
                return False
        count = _keep_wide(wide, count, intervals)
    return True


@njit
def _keep_wide(rows: Any, count: Any, intervals: Any) -> Any:
    """Keeps those of the first `count` rows whose intervals hold more than one value, and gives their number."""
    left = 0
    for j in range(count):
        row = rows[j]
        rows[left] = row
        left += intervals[row, _END] - intervals[row, _START] > 1
    return left


@njit
def _code(
    encoding: Any,
    samples: Any,
    rows: Any,
    at: Any,
    count: Any,
    columns: Any,
    sheet: Any,
    few: Any,
    tail: Any,
    intervals: Any,
    symbols: Any,
    words: Any,
    coder: Any,
) -> Any:
    """One symbol for each of `count` rows from number `at` on, split in `columns` (the first `few` by 4); False for damage."""
    if encoding:
        _encode(samples, rows, at, count, columns, sheet, few, tail, intervals, symbols, words, coder)
        return True
    return _decode(rows, at, count, columns, sheet, few, intervals, symbols, words, coder)


@njit
def _encode(
    samples: Any,
    rows: Any,
    at: Any,
    count: Any,
    columns: Any,
    sheet: Any,
    few: Any,
    tail: Any,
    intervals: Any,
    symbols: Any,
    words: Any,
    coder: Any,
) -> None:
    lower, span, position, held, first = coder[_LOWER], coder[_SPAN], coder[_POSITION], coder[_HELD], coder[_FIRST_HELD]
    for j in range(count):
        row, column = rows[at + j], columns[j]
        sample = np.int64(samples[row])
        if tail:
            symbol = np.int64(0)
            for i in range(1, SYMBOLS):
                symbol += sample >= sheet[_EDGES + i, column]
        else:
            symbol = (sample - sheet[_FIRST, column]) >> sheet[_EXPONENT, column]
            symbol = min(max(symbol, np.int64(0)), np.int64(_FEW - 1 if column < few else _LAST))
        left, right = np.uint64(sheet[_BOUNDS + symbol, column]), np.uint64(sheet[_BOUNDS + symbol + 1, column])
        lower, span, position, held, first = write(words, lower, span, position, held, first, left, right)
        _narrow(sheet, column, symbol, intervals, symbols, row)
    coder[_LOWER], coder[_SPAN], coder[_POSITION], coder[_HELD], coder[_FIRST_HELD] = lower, span, position, held, first


@njit
def _decode(
    rows: Any, at: Any, count: Any, columns: Any, sheet: Any, few: Any, intervals: Any, symbols: Any, words: Any, coder: Any
) -> Any:
    difference, span, position = coder[_LOWER], coder[_SPAN], coder[_POSITION]
    for j in range(count):
        column = columns[j]
        # A bound is at most floor(difference / scale) where scale x bound is at most the difference: no division.
        scale = span >> _PRECISION
        symbol, bounds = np.int64(0), _FEW
        if column >= few:
            bounds = _MANY
            for i in range(4, SYMBOLS, 4):
                symbol += 4 * np.int64(scale * np.uint64(sheet[_BOUNDS + i, column]) <= difference)
        group = _BOUNDS + symbol
        for i in range(1, 4):
            symbol += np.int64(scale * np.uint64(sheet[group + i, column]) <= difference)
        left, right = np.uint64(sheet[_BOUNDS + symbol, column]), np.uint64(sheet[_BOUNDS + symbol + 1, column])
        if scale * np.uint64(sheet[_BOUNDS + bounds, column]) <= difference:
            return False
        difference, span, position = read(words, difference - scale * left, scale * (right - left), position)
        if not _narrow(sheet, column, symbol, intervals, symbols, rows[at + j]):
            return False
    coder[_LOWER], coder[_SPAN], coder[_POSITION] = difference, span, position
    return True


@njit
def _narrow(sheet: Any, column: Any, symbol: Any, intervals: Any, symbols: Any, row: Any) -> Any:
    """Keeps the interval that the symbol selects; False where it is empty."""
    start, end = sheet[_EDGES + symbol, column], sheet[_EDGES + symbol + 1, column]
    symbols[row] = symbol
    intervals[row, _START], intervals[row, _END] = start, end
    intervals[row, _CDF_START], intervals[row, _CDF_END] = sheet[_CDFS + symbol, column], sheet[_CDFS + symbol + 1, column]
    return start < end
