"""What the pixel network is told about a sample, in integers: the definition, in numpy.

Positions are in units of 1/16 of a value, counted from the chunk's lowest. Everything is relative to a fitted prediction,
and in units of a local scale of sixteenths of an octave, so that one network serves 8 to 32 bits. `compiled_features.py`
computes the same integers faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel import neighbourhood as around
from medzip.exact.tables import INVERSE_OCTAVE, OCTAVE

Ints = NDArray[np.int64]

POSITION_BITS = 4
FITTED_BITS = 10
FEATURES = 96

# Sixteenths of an octave of the mantissas 256..511, by comparison with the committed table.
MANTISSA_CODES = (np.arange(256, 512)[:, None] << 7 >= OCTAVE[None, :]).sum(axis=1).astype(np.int64) - 1

# Sums of 20 weighted errors and of 10 differences, to which half a value and a quarter of one are added, give scale codes
# that do not go below those of a fraction of a value.
ERROR_FLOOR = 80
TEXTURE_FLOOR = 80
CODE_OF_MEAN = 69
"""16 log2(20), rounded: what turns the code of a sum of 20 into that of a mean."""
CODE_OF_TEXTURE = 16
"""16 log2(20 / 10): the code of a sum of 10 beside one of 20."""


def octave_code(amount: Ints) -> Ints:
    """floor(16 log2(amount)) by the first 9 bits, for amounts from 1 to 2^62."""
    octave = np.searchsorted(1 << np.arange(63, dtype=np.int64), amount, side="right").astype(np.int64) - 1
    mantissa: Ints = np.where(octave < 8, amount << np.maximum(8 - octave, 0), amount >> np.maximum(octave - 8, 0))
    result: Ints = 16 * octave + MANTISSA_CODES[mantissa & 255]
    return result


def scaled(difference: Ints, code: Ints) -> Ints:
    """16 difference 2^(-code / 16), rounded half up, within +-127; `difference` in 1/16 of a value, codes 16..500."""
    octave = code >> 4
    before = np.maximum(octave - 8, 0)
    limit = np.int64(1) << (octave + 4)
    shift = 11 + octave - before
    product = (np.clip(difference, -limit, limit) >> before) * INVERSE_OCTAVE[code & 15]
    result: Ints = np.clip((product + (np.int64(1) << (shift - 1))) >> shift, -127, 127)
    return result


@dataclass(frozen=True)
class Look:
    """`fitted` is the prediction (n,) and `in_plane` that from the sample's own plane alone, in 1/16 of a value; `scale` the
    scale codes (n,), sigma = 2^(code/16 - 4) values; `features` int8 (n, FEATURES)."""

    fitted: Ints
    in_plane: Ints
    scale: Ints
    features: NDArray[np.int8]


def look(near: Ints, wrong: Ints, wrong_in_plane: Ints, plane: Ints, taps: Ints, taps_in_plane: Ints, top: int) -> Look:
    """Predictions, scale and features of n samples.

    `near` (66, n) are the positions at NEIGHBOURS, those of planes that do not exist being ignored; `wrong` (12, n) the errors of
    the fitted prediction at ERRORS, `wrong_in_plane` (7, n) those of the in-plane prediction at the first of them, 0 where there
    is no such sample; `plane` (n,) the plane's place in its chunk; `taps` (66,) and `taps_in_plane` (32,) in units of
    2^-10; `top` the position of the chunk's largest value.
    """
    first, second = plane == 0, plane == 1
    own = near[: around.IN_PLANE]
    local = (3 * (own[around.WEST] + own[around.NORTH]) + own[around.NORTH_EAST] + own[around.NORTH_WEST] + 4) >> 3

    def predicted(positions: Ints, coefficients: Ints) -> Ints:
        total = ((positions - local) * coefficients[:, None]).sum(axis=0)
        prediction: Ints = np.clip(local + ((total + (1 << (FITTED_BITS - 1))) >> FITTED_BITS), 0, top)
        return prediction

    in_plane = predicted(own, taps_in_plane)
    fitted = np.where(first, in_plane, predicted(near, taps))

    weights = np.array(around.ERROR_WEIGHTS, np.int64)[:, None]
    inside = around.ERRORS_IN_PLANE
    amount = np.abs(wrong) * weights
    here, before = amount[:inside].sum(axis=0), amount[inside:].sum(axis=0)
    raw = octave_code(np.where(first, here + (here >> 1), here + before) + ERROR_FLOOR)
    scale = raw - CODE_OF_MEAN
    in_plane_amount = (np.abs(wrong_in_plane) * weights[:inside]).sum(axis=0)
    texture = octave_code(np.abs(own[around.NEAREST] - fitted).sum(axis=0) + TEXTURE_FLOOR)
    nearest_four = octave_code(5 * np.abs(wrong[:4]).sum(axis=0) + ERROR_FLOOR)
    of_in_plane = octave_code(in_plane_amount + (in_plane_amount >> 1) + ERROR_FLOOR)
    of_before = np.where(first, raw, octave_code(3 * before + ERROR_FLOOR))

    features = np.zeros((FEATURES, len(plane)), np.int64)
    features[: len(near)] = scaled(near - fitted, texture - CODE_OF_MEAN + CODE_OF_TEXTURE)
    features[around.IN_PLANE : len(near), first] = 0
    at = len(near)
    features[at : at + 12] = scaled(wrong, scale)
    features[at + 12 : at + 16] = scaled(wrong_in_plane[:4], scale)
    features[at + 16] = scaled(in_plane - fitted, scale)
    features[at + 17] = scaled(local - fitted, scale)
    features[at + 18] = texture + CODE_OF_TEXTURE - raw
    features[at + 19] = nearest_four - raw
    features[at + 20] = of_in_plane - raw
    features[at + 21] = of_before - raw
    features[at + 22] = (scale >> 1) - 80
    features[at + 23] = scaled(fitted, scale)
    features[at + 24] = scaled(top - fitted, scale)
    features[at + 25] = ((fitted * inverse_of(top)) >> 32) - 127
    features[at + 26] = (octave_code(np.array([top + 1])) >> 1) - 80
    features[at + 27] = np.where(first, 0, 64)
    features[at + 28] = np.where(first | second, 0, 64)
    features[at + 29] = 12 * (own[around.NEAREST] == own[around.WEST]).sum(axis=0) - 60
    return Look(fitted, in_plane, scale, np.ascontiguousarray(np.clip(features, -127, 127).astype(np.int8).T))


def inverse_of(top: int) -> int:
    """What a position is multiplied with to give 2^32 x 254 where it is `top`, rounded down."""
    return (254 << 32) // max(top, 1)
