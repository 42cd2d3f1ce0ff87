"""Floats that are integers times a slope plus an offset, as a scanner's samples are once somebody has rescaled them.

The integers are coded in their place. Which slope and offset there were is not known and need not be: any two numbers serve
that give back every float bit for bit, as is proved before they are used. Where the one who rescaled rounded in another way,
so that no two numbers do, a correction of the last bits stands beside each integer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip import number_tables
from medzip.errors import ArchiveDamagedError

MAX_OTHERS = 16
MAX_LEVELS = 1 << 17
MAX_CORRECTIONS = 1 << 18
SAMPLED = 1 << 14
BYTES_PER_CORRECTION = 8
"""A table of corrections is worth it from so many bytes of samples on for each of its entries."""
INTEGERS = ("u1", "i1", "u2", "i2", "i4")
STORED = {np.dtype(name).newbyteorder("<").str for name in INTEGERS}
BITS: dict[int, Any] = {2: np.uint16, 4: np.uint32, 8: np.uint64}

Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Scaling:
    """The float of integer n is n * slope + offset, each step rounded to 64 bits and the result to the float's own size.

    Then number n - first of `corrections` (little-endian int32), where there is one, is added to its bits, taken as a number.
    `others` are floats that have nothing to do with a slope: pairs of an integer and the bits it stands for (-0, infinities,
    each kind of NaN).
    """

    slope: float
    offset: float
    others: tuple[tuple[int, int], ...] = ()
    first: int = 0
    corrections: bytes = b""

    def floats(self, integers: Integers, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The floats of `dtype` for which integers stand."""
        words_type = BITS[dtype.itemsize]
        words: NDArray[Any]
        with np.errstate(all="ignore"):
            words = (integers.astype(np.float64) * self.slope + self.offset).astype(dtype).view(words_type)
        if self.corrections:
            table = np.pad(np.frombuffer(self.corrections, "<i4"), 1).astype(words_type)  # wraps below zero, as the sum does
            words += table[np.clip(integers.astype(np.int64) - (self.first - 1), 0, len(table) - 1)]
        for number, bits in self.others:
            words[integers == number] = bits
        samples: NDArray[Any] = words.view(dtype)
        return samples

    def header(self, dtype: np.dtype[Any]) -> dict[str, Any]:
        """What a chunk's header says; `dtype` is that of the integers."""
        header: dict[str, Any] = {"dtype": dtype.newbyteorder("<").str, "slope": self.slope, "offset": self.offset}
        if self.others:
            header["others"] = [list(pair) for pair in self.others]
        if self.corrections:
            header |= {"first": self.first, "corrections": number_tables.packed(np.frombuffer(self.corrections, "<i4"))}
        return header


def from_header(header: Any, dtype: np.dtype[Any]) -> tuple[Scaling, np.dtype[Any]]:
    """The scaling that `header` wrote down for floats of `dtype`, and the dtype of its integers; raises ArchiveDamagedError."""
    match header:
        case {"dtype": str(name), "slope": float(slope), "offset": float(offset)} if dtype.kind == "f" and name in STORED:
            others = header.get("others", [])
            good = (
                isinstance(others, list)
                and len(others) <= MAX_OTHERS
                and all(isinstance(pair, list) and [type(number) for number in pair] == [int, int] for pair in others)
            )
            first, packed = header.get("first", 0), header.get("corrections", b"")
            if (
                good
                and type(first) is int
                and isinstance(packed, bytes)
                and all(0 <= bits >> 8 * dtype.itemsize < 1 for _, bits in others)
            ):
                pairs = tuple((number, bits) for number, bits in others)
                corrections = number_tables.unpacked(packed, MAX_CORRECTIONS) if packed else b""
                if corrections is not None:
                    return Scaling(slope, offset, pairs, first, corrections), np.dtype(name)
    raise ArchiveDamagedError("expected a slope and an offset of floats, found something else; restore the archive from a copy")


def scaled(samples: NDArray[Any]) -> tuple[Scaling, Integers] | None:
    """The scaling of floats (any shape, 16 to 64 bits) and their integers, in the smallest dtype; None where there is none."""
    words = np.ascontiguousarray(samples).view(BITS[samples.dtype.itemsize])
    if _is_continuous(words.reshape(-1)[:: max(words.size // SAMPLED, 1)], samples.dtype):
        return None
    levels = np.unique(words)
    values = levels.view(samples.dtype)
    plain = np.isfinite(values) & (levels != np.array(-0.0, samples.dtype).view(levels.dtype))
    others = levels[~plain]
    if not plain.any() or len(others) > MAX_OTHERS:
        return None
    scaling = _fitted(np.sort(values[plain]), samples.nbytes)
    if scaling is None:
        return None
    low, high = _range(values[plain], scaling)
    scaling = replace(scaling, others=tuple((low - 1 - index, int(bits)) for index, bits in enumerate(others)))
    low -= len(others)
    dtype = next((np.dtype(name) for name in INTEGERS if np.iinfo(name).min <= low and high <= np.iinfo(name).max), None)
    if dtype is None:
        return None
    integers = _numbers(samples, scaling).astype(dtype)
    for number, bits in scaling.others:
        integers[words == bits] = number
    return (scaling, integers) if scaling.floats(integers, samples.dtype).tobytes() == words.tobytes() else None


def _is_continuous(words: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether hardly any of some floats occurs twice and not all are whole numbers: then none of the work below would pay."""
    with np.errstate(all="ignore"):
        values = words.view(dtype)
        return len(np.unique(words)) > 0.95 * len(words) and bool((values != np.rint(values)).any())


def _numbers(samples: NDArray[Any], scaling: Scaling) -> NDArray[np.float64]:
    """The nearest integer to every float, 0 for those that are none."""
    with np.errstate(all="ignore"):
        numbers = np.rint((samples.astype(np.float64) - scaling.offset) / scaling.slope)
        return np.where(np.abs(numbers) < 1 << 31, numbers, 0)


def _range(values: NDArray[Any], scaling: Scaling) -> tuple[int, int]:
    numbers = _numbers(values, scaling)
    return int(numbers.min()), int(numbers.max())


def _fitted(levels: NDArray[Any], size: int) -> Scaling | None:
    """A scaling that gives every one of these floats, which increase; with corrections only if `size` bytes are worth them."""
    best: Scaling | None = None
    for slope, offset in _candidates(levels.astype(np.float64), levels.dtype):
        scaling = Scaling(slope, offset)
        numbers = _numbers(levels, scaling).astype(np.int64)
        if len(np.unique(numbers)) != len(levels):
            continue
        bits = levels.view(BITS[levels.dtype.itemsize])
        missed = (bits - scaling.floats(numbers, levels.dtype).view(bits.dtype)).view(f"i{bits.dtype.itemsize}").astype(np.int64)
        if not missed.any():
            return scaling
        length = int(numbers.max() - numbers.min()) + 1
        if length <= min(MAX_CORRECTIONS, size // BYTES_PER_CORRECTION) and np.abs(missed).max() < 1 << 31:
            corrections = np.zeros(length, "<i4")
            corrections[numbers - numbers.min()] = missed
            best = replace(scaling, first=int(numbers.min()), corrections=corrections.tobytes())
    return best


def _candidates(levels: NDArray[np.float64], dtype: np.dtype[Any]) -> Iterator[tuple[float, float]]:
    """Slopes and offsets worth a try, likely ones first."""
    if len(levels) <= MAX_LEVELS:
        slope, doubt = _step(levels) if len(levels) > 1 else (1.0, 0.0)
        if 0 < slope < float(np.finfo(np.float32).max):
            yield from ((one, offset) for one in _likely_slopes(levels, slope, doubt) for offset in (0.0, float(levels[0])))
            if dtype.itemsize < 8 and len(levels) > 1:
                yield from _between(levels, dtype, slope, doubt)
    yield 1.0, 0.0


def _likely_slopes(levels: NDArray[np.float64], slope: float, doubt: float) -> list[float]:
    """What headers hold, 32-bit floats and short decimals, and what the greatest level is a multiple of, if it is one."""
    greatest = float(levels[np.argmax(np.abs(levels))])
    divisor = greatest / (np.rint(greatest / slope) or 1.0)
    likely = [float(np.float32(slope)), *(float(f"{slope:.{digits}g}") for digits in range(1, 16)), divisor]
    likely += [float(np.nextafter(divisor, end)) for end in (0.0, np.inf)]
    return [one for one in dict.fromkeys([*likely, slope]) if one > 0 and abs(one - slope) <= doubt]


def _step(levels: NDArray[np.float64]) -> tuple[float, float]:
    """The step of which all differences are about a multiple, from near levels to far ones, and how far off it may be."""
    with np.errstate(over="ignore"):  # what is farther apart than floats reach has no step
        first = int(np.argmin(np.diff(levels)))
        distances = np.sort(np.abs(levels - levels[first]))[1:]
    slope, reach = float(distances[0]), 1.0
    if not 0 < slope <= distances[-1] <= slope * 2.0**31 < np.inf:
        return 0.0, 0.0
    while reach < 2 * distances[-1] / slope:
        reach *= 2
        distance = distances[np.searchsorted(distances, reach * slope, "right") - 1]
        slope = float(distance / max(np.rint(distance / slope), 1))
    return slope, slope * 2.0**-20


def _between(levels: NDArray[np.float64], dtype: np.dtype[Any], slope: float, doubt: float) -> Iterator[tuple[float, float]]:
    """The slope and offset that stay farthest from the points where a level would be rounded to its neighbour.

    How much room the offset has is a concave function of the slope, so its maximum is found by halving.
    """
    plain = levels.astype(dtype)
    low = (levels + np.nextafter(plain, dtype.type(-np.inf)).astype(np.float64)) / 2
    high = (levels + np.nextafter(plain, dtype.type(np.inf)).astype(np.float64)) / 2
    for origin in (0.0, float(levels[0])):
        numbers = np.rint((levels - origin) / slope)
        start, end = slope - doubt, slope + doubt
        for _ in range(80):
            middle = (start + end) / 2
            least, most = low - numbers * middle, high - numbers * middle
            tight, wide = numbers[np.argmax(least)], numbers[np.argmin(most)]
            start, end = (middle, end) if tight > wide else (start, middle)
            if tight == wide:
                break
        yield middle, float((least.max() + most.min()) / 2)
