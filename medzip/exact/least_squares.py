"""Least squares in float64, the same bits on every machine: single operations that IEEE 754 rounds, in a fixed order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

TAP_BITS = 12
TAP_MAX = 8 << TAP_BITS
RIDGE_BITS = 15
RIDGE_MIN = 64


def solved(products: Ints) -> Ints:
    """The taps (n, count) in units of 2^-12, within +-8, of `count` systems of n unknowns.

    `products` (n + 1, n + 1, count) are sums of products of equations: of the n unknowns' factors, and with the right side in the
    last column; only places on and above the diagonal are read, all below 2^40. A ridge of 2^-15 of the trace draws
    taps to zero where there is little to learn from. No pivot is below RIDGE_MIN, and what is no number becomes the least tap, so
    that sums which no equations have lead to the same taps everywhere too.
    """
    n = len(products) - 1
    rows = products.astype(np.float64)
    at = np.arange(n)
    rows[at, at] += (products[at, at].sum(axis=0) >> RIDGE_BITS) + RIDGE_MIN
    inverse = np.empty((n, products.shape[2]))
    with np.errstate(all="ignore"):
        for k in range(n):
            pivot = rows[k, k]
            inverse[k] = 1 / np.where(pivot > RIDGE_MIN, pivot, RIDGE_MIN)
            for i in range(k + 1, n):
                rows[i, i:] -= rows[k, i] * inverse[k] * rows[k, i:]
        right = rows[:n, n]
        for k in reversed(range(n)):
            right[k] *= inverse[k]
            right[:k] -= rows[:k, k] * right[k]
        scaled = right * (1 << TAP_BITS)
    inside = np.where(scaled > -TAP_MAX, scaled, -TAP_MAX)
    inside = np.where(inside < TAP_MAX, inside, TAP_MAX)
    # Positive numbers are rounded down by every conversion.
    taps: Ints = (inside + (TAP_MAX + 0.5)).astype(np.int64) - TAP_MAX
    return taps
