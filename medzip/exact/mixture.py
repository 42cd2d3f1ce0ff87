"""Mixtures of Gaussians or logistics in integers, and the mass they put between two values.

Positions are in units of 2^-12 of a value. All sums stay below 2^63 for values up to 2^33 in magnitude, whatever the
parameters: `tests/test_exact_mixture.py` shows it at the extremes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.exact.tables import HALF_CDF, INVERSE_OCTAVE, OCTAVE, Z_BITS, Kind

POSITION_BITS = 12
WEIGHT_TOTAL_MAX = 1 << 15
VALUE_MAX = 1 << 33
MEAN_MAX = VALUE_MAX << POSITION_BITS
SCALE_CODES = 16 * 40
SMALLEST_SCALE_EXPONENT = -4

# sigma of every scale code in units of 2^-12 of a value, rounded down.
SIGMA = np.array([int(OCTAVE[e & 15]) << (e >> 4) >> 7 for e in range(SCALE_CODES)], np.int64)


@dataclass(frozen=True)
class Mixture:
    """n mixtures of K components, int64 arrays (n, K).

    `weight` >= 0, sums over K in 1..2^15. `mean` in units of 2^-12 of a value, at most 2^45 in magnitude. `scale` holds
    codes e in 0..639: sigma = 2^(e/16 - 4) values, the standard deviation of a Gaussian or the scale s of a logistic
    CDF 1 / (1 + exp(-(x - mean) / s)). Raises ValueError where an array breaks this.
    """

    weight: NDArray[np.int64]
    mean: NDArray[np.int64]
    scale: NDArray[np.int64]
    kind: Kind = "logistic"

    def __post_init__(self) -> None:
        arrays = (self.weight, self.mean, self.scale)
        if self.kind not in HALF_CDF:
            raise ValueError(f"kind must be one of {sorted(HALF_CDF)}, found {self.kind!r}")
        if self.weight.ndim != 2 or any(a.dtype != np.int64 or a.shape != self.weight.shape for a in arrays):
            raise ValueError(f"expected three int64 arrays (n, K), found {[(a.dtype.name, a.shape) for a in arrays]}")
        if not self.weight.size:
            return
        total = self.weight.sum(axis=1)
        # A row's sum could wrap around only beyond the bound on each weight.
        if self.weight.min() < 0 or self.weight.max() > WEIGHT_TOTAL_MAX or total.min() < 1 or total.max() > WEIGHT_TOTAL_MAX:
            raise ValueError("weights must be >= 0 and sum to 1..2^15 in each row")
        if self.mean.min() < -MEAN_MAX or self.mean.max() > MEAN_MAX:
            raise ValueError("means must lie within +-2^45")
        if self.scale.min() < 0 or self.scale.max() >= SCALE_CODES:
            raise ValueError(f"scale codes must lie in 0..{SCALE_CODES - 1}")

    def __len__(self) -> int:
        return len(self.weight)

    def rows(self, index: NDArray[np.integer[Any]] | slice) -> Mixture:
        """The mixtures that `index` selects."""
        return Mixture(self.weight[index], self.mean[index], self.scale[index], self.kind)


def mass(mixture: Mixture, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """The mass (n, B) between neighbouring edges, in units of 2^-28 of a weight.

    `edges` is int64 (n, B + 1), not decreasing along a row, at most 2^33 in magnitude; v stands for the boundary v - 1/2, so
    that edges v and v + 1 enclose the value v.
    """
    return Columns.of(mixture).mass(np.ascontiguousarray(edges.T)).T


@dataclass(frozen=True)
class Columns:
    """A Mixture with the samples along the last axis, where numpy is fastest: arrays (K, n), `total` weight (n,)."""

    weight: NDArray[np.int64]
    mean: NDArray[np.int64]
    scale: NDArray[np.int64]
    total: NDArray[np.int64]
    kind: Kind

    @classmethod
    def of(cls, mixture: Mixture) -> Columns:
        weight, mean, scale = (np.ascontiguousarray(a.T) for a in (mixture.weight, mixture.mean, mixture.scale))
        return cls(weight, mean, scale, weight.sum(axis=0), mixture.kind)

    def select(self, index: NDArray[np.int64] | slice) -> Columns:
        """The mixtures that `index` selects."""
        return Columns(self.weight[:, index], self.mean[:, index], self.scale[:, index], self.total[index], self.kind)

    def mass(self, edges: NDArray[np.int64]) -> NDArray[np.int64]:
        """Like the function: edges (B + 1, n) -> mass (B, n)."""
        position = (edges << POSITION_BITS) - (1 << (POSITION_BITS - 1))
        # |position - mean| < 2^46 + 2^11 and the octave's mantissa <= 2^15: the product stays below 2^62.
        distance = position - self.mean[:, None, :]
        negative = distance >> 63
        z = np.abs(distance, out=distance)
        z *= INVERSE_OCTAVE[self.scale & 15][:, None, :]
        z >>= ((self.scale >> 4) + (15 + POSITION_BITS + SMALLEST_SCALE_EXPONENT - Z_BITS))[:, None, :]
        half = HALF_CDF[self.kind](z)
        half ^= negative
        half -= negative
        half *= self.weight[:, None, :]
        cumulative = half.sum(axis=0)
        result: NDArray[np.int64] = cumulative[1:] - cumulative[:-1]
        return result

    def centre(self) -> NDArray[np.int64]:
        """The weighted mean of the components' means (n,), rounded half up to a value.

        The sum of weight x mean is divided by the sum of the weights, rounding down (towards minus infinity), in units of 2^-12.
        """
        mean = (self.weight * self.mean).sum(axis=0) // self.total
        result: NDArray[np.int64] = (mean + (1 << (POSITION_BITS - 1))) >> POSITION_BITS
        return result

    def deviation(self, centre: NDArray[np.int64]) -> NDArray[np.int64]:
        """The weighted mean (n,) of sigma + |mean - centre| (each at most 2^46), rounded down, in units of 2^-12 of a value."""
        terms = np.abs(self.mean - (centre << POSITION_BITS))
        terms += SIGMA[self.scale]
        np.minimum(terms, 1 << 46, out=terms)
        terms *= self.weight
        result: NDArray[np.int64] = terms.sum(axis=0) // self.total
        return result
