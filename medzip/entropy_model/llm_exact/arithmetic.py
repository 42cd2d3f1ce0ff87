"""What a transformer needs beside sums of products, in integers: the definition, in numpy int64.

Numbers between linear layers are integers within +-LIMIT. What a linear layer reads is int8 and a power of two for each row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medzip.exact.tables import HALF_CDF

Ints = NDArray[np.int64]

LIMIT = (1 << 24) - 1
BYTE_MAX = 127
ROOT_BITS = 20
WIDTH_MAX = 1 << 12
"""Rows are no wider, so that a root's square fits 53 bits."""

GATE_BITS = 12
"""Gates are in units of 2^-12."""
SIGMOID_BITS = 15
SIGMOID_STEP_BITS = 5
"""The committed table of the logistic CDF has steps of 2^-7: so many bits fewer than a gate has."""

OCTAVE_BITS = 10
"""Scores are in units of 2^-10 of an octave."""
FACTOR_BITS = 12
SCORE_BITS = 19
"""A score and its factor multiply within 31 bits."""
SHIFT_MIN, SHIFT_MAX = 2, 31
ONE = 1 << 15
_CURVE = (22006, 5622)
"""2^15 (2^-x) = 2^15 - 22006 x + 5622 x^2 at both ends and in the middle of an octave."""

ROTOR_BITS = 30
ANGLE_BITS = 14

# sigmoid(x) in units of 2^-15 for x = 0, 2^-7, ... 32.
SIGMOID = (HALF_CDF["logistic"].values + (1 << 27)) >> (28 - SIGMOID_BITS)


def rounded(value: Ints, bits: Ints | int) -> Ints:
    """value 2^-bits, rounded half up."""
    result: Ints = (value + ((np.int64(1) << bits) >> 1)) >> bits
    return result


def limited(value: Ints) -> Ints:
    return np.clip(value, -LIMIT, LIMIT)


def bit_length(value: Ints) -> Ints:
    """So many bits a number from 0 to 2^62 has."""
    return np.searchsorted(np.int64(1) << np.arange(63, dtype=np.int64), value, side="right").astype(np.int64)


def in_bytes(rows: Ints) -> tuple[NDArray[np.int8], Ints]:
    """Rows (..., width) within +-LIMIT as int8 times 2^exponent (...,), the smallest exponent that keeps them within +-127."""
    largest = np.abs(rows).max(axis=-1)
    exponent = np.maximum(bit_length(largest) - 7, 0)
    exponent += rounded(largest, exponent) > BYTE_MAX
    return rounded(rows, exponent[..., None]).astype(np.int8), exponent


def inverse_norm(rows: NDArray[np.int8]) -> Ints:
    """The inverse root of the mean square of rows (n, width), 0 where all is 0: floor(sqrt(2^40 width / sum of squares)),
    at most 2^20, in units of 2^-20."""
    squares = (rows.astype(np.int64) ** 2).sum(axis=1)
    radicand = (np.int64(rows.shape[1]) << 2 * ROOT_BITS) // np.maximum(squares, 1)
    root = np.zeros_like(radicand)
    for bit in reversed(range(ROOT_BITS + 7)):
        larger = root + (1 << bit)
        root = np.where(larger * larger <= radicand, larger, root)
    return np.where(squares > 0, np.minimum(root, 1 << ROOT_BITS), 0)


def gated(gate: Ints, value: Ints, shift: int) -> Ints:
    """SiLU of `gate` (units of 2^-12) times `value`, both within +-LIMIT, over 2^shift."""
    sigmoid = SIGMOID[np.minimum((np.abs(gate) + (1 << SIGMOID_STEP_BITS >> 1)) >> SIGMOID_STEP_BITS, len(SIGMOID) - 1)]
    silu = rounded(gate * np.where(gate < 0, (1 << SIGMOID_BITS) - sigmoid, sigmoid), SIGMOID_BITS)
    return limited(rounded(silu * value, shift))


def powers(octaves: Ints) -> Ints:
    """2^15 2^-x for x >= 0 in units of 2^-10: by a parabola for its fraction, 0..2^15."""
    fraction = octaves & ((1 << OCTAVE_BITS) - 1)
    a, b = _CURVE
    parabola = ONE - ((fraction * (a - ((fraction * b) >> OCTAVE_BITS))) >> OCTAVE_BITS)
    result: Ints = parabola >> np.minimum(octaves >> OCTAVE_BITS, SHIFT_MAX)
    return result


def angles(rotor: NDArray[np.int32], count: int) -> Ints:
    """Cosines and sines (count, pairs, 2) of 0, 1, 2 ... times the angles whose cosines and sines `rotor` (pairs, 2) gives in
    units of 2^-30; the result is in units of 2^-14."""
    cosine, sine = rotor.astype(np.int64).T
    table = np.empty((count, len(rotor), 2), np.int64)
    x, y = np.full(len(rotor), 1 << ROTOR_BITS, np.int64), np.zeros(len(rotor), np.int64)
    for position in range(count):
        table[position, :, 0], table[position, :, 1] = x, y
        x, y = (
            np.clip(rounded(part, ROTOR_BITS), -(1 << ROTOR_BITS), 1 << ROTOR_BITS)
            for part in (x * cosine - y * sine, x * sine + y * cosine)
        )
    return rounded(table, ROTOR_BITS - ANGLE_BITS)


def turned(rows: Ints, angle: Ints) -> Ints:
    """Rows (..., 2 pairs) within +-LIMIT with their number i and number pairs + i turned by `angle` (..., pairs, 2)."""
    first, second = np.split(rows, 2, axis=-1)
    cosine, sine = angle[..., 0], angle[..., 1]
    both = first * cosine - second * sine, second * cosine + first * sine
    return limited(rounded(np.concatenate(both, axis=-1), ANGLE_BITS))
