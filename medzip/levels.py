"""Integers that leave out many of the numbers in their range: label maps, combs that a rescaling left, a far padding value.

Their levels, the numbers that do occur, are counted from 0 on and the counts coded in their place, so that no model has to learn
which numbers cannot be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip import number_tables
from medzip.errors import ArchiveDamagedError

MAX_LEVELS = 1 << 16
MAX_RANGE = 1 << 32
COUNTED_RANGE = 1 << 22
"""In a range up to this, levels are counted in a table."""
SAMPLED = 1 << 14
GAP_BITS_MIN = 0.05
"""So many bits a sample the gaps must be worth, the most frequent number left aside: it is cheap wherever it lies."""
RANKS = ("u1", "<u2")
STORED = {np.dtype(name).str for name in RANKS}

Integers = NDArray[np.integer[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Levels:
    """Ascending int64 numbers (n,); rank r stands for number r of them."""

    numbers: Ints

    def samples(self, ranks: Integers, dtype: np.dtype[Any]) -> Integers:
        """The samples of `dtype` for which ranks stand. Raises ArchiveDamagedError for a rank that there is not."""
        if ranks.size and int(ranks.max()) >= len(self.numbers):
            raise ArchiveDamagedError(
                f"expected ranks of {len(self.numbers)} levels, found more; restore the archive from a copy"
            )
        samples: Integers = self.numbers.astype(dtype)[ranks]
        return samples

    def header(self, dtype: np.dtype[Any]) -> dict[str, Any]:
        """What a chunk's header says; `dtype` is that of the ranks."""
        steps = number_tables.packed(np.diff(self.numbers).astype("<u4"))
        return {"dtype": dtype.newbyteorder("<").str, "first": int(self.numbers[0]), "steps": steps}


def from_header(header: Any, dtype: np.dtype[Any]) -> tuple[Levels, np.dtype[Any]]:
    """The levels that `header` wrote down for integers of `dtype`, and the dtype of ranks; raises ArchiveDamagedError."""
    match header:
        case {"dtype": str(name), "first": int(first), "steps": bytes(packed)} if dtype.kind in "iu" and name in STORED:
            table = number_tables.unpacked(packed, MAX_LEVELS)
            if table is not None:
                limits, steps = np.iinfo(dtype), np.frombuffer(table, "<u4").astype(np.int64)
                if steps.all() and limits.min <= first and first + int(steps.sum()) <= min(limits.max, np.iinfo(np.int64).max):
                    return Levels(first + np.concatenate([[0], np.cumsum(steps)])), np.dtype(name)
    raise ArchiveDamagedError("expected the levels of a chunk, found something else; restore the archive from a copy")


def ranked(samples: Integers) -> tuple[Levels, Integers] | None:
    """The levels of integers (any shape) and their ranks, same shape; None where most numbers of the range occur, or too many."""
    if not samples.size:
        return None
    low, high = int(samples.min()), int(samples.max())
    if low == high or high - low >= MAX_RANGE or high > np.iinfo(np.int64).max:
        return None
    found = _counted(samples, low, high) if high - low < COUNTED_RANGE else _sorted(samples)
    if found is None:
        return None
    numbers, counts = found
    if len(numbers) > MAX_LEVELS or (samples.dtype.itemsize < 8 and not _pays(numbers, counts)):
        return None
    dtype = np.dtype(RANKS[len(numbers) > 256])
    if high - low < COUNTED_RANGE:
        table = np.zeros(high - low + 1, dtype)
        table[numbers - low] = np.arange(len(numbers))
        return Levels(numbers), table[samples.astype(np.int64) - low]
    return Levels(numbers), np.searchsorted(numbers, samples.astype(np.int64)).astype(dtype)


def _counted(samples: Integers, low: int, high: int) -> tuple[Ints, Ints]:
    table = np.bincount((samples.astype(np.int64) - low).reshape(-1), minlength=high - low + 1)
    places = np.flatnonzero(table)
    return places + low, table[places]


def _sorted(samples: Integers) -> tuple[Ints, Ints] | None:
    """None where a few thousand of the samples already have too many levels to be worth sorting all."""
    flat = samples.reshape(-1)
    some = flat[:: max(flat.size // SAMPLED, 1)]
    if len(np.unique(some)) > len(some) // 4:
        return None
    numbers, counts = np.unique(flat, return_counts=True)
    return numbers.astype(np.int64), counts


def _pays(numbers: Ints, counts: Ints) -> bool:
    """Whether the gaps cost a model enough: for each sample about the logarithm of how far its number is from the next ones."""
    distances = np.diff(numbers)
    around = (np.append(distances, distances[-1]) + np.append(distances[0], distances)) / 2
    bits = np.log2(around) * counts
    most = int(np.argmax(counts))
    others = int(counts.sum() - counts[most])
    return float(bits.sum() - bits[most]) > max(GAP_BITS_MIN * others, 16.0 * len(numbers))
