"""What the pixel network is told about a sample, in integers: the definition, in numpy.

Positions are in units of 1/16 of a value, counted from the chunk's lowest. Everything is relative to a prediction, that of
`regression.py`, and in units of a local scale of sixteenths of an octave, so that one network serves 8 to 32 bits.
`compiled_features.py` computes the same integers faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.fitted import prediction as fitted_prediction
from medzip.exact.tables import INVERSE_OCTAVE, octave_code

Ints = NDArray[np.int64]

POSITION_BITS = 4
FEATURES = 96

# Sums of 20 weighted errors and of 10 differences, to which half a value and a quarter of one are added, give scale codes
# that do not go below those of a fraction of a value.
ERROR_FLOOR = 80
TEXTURE_FLOOR = 80
CODE_OF_MEAN = 69
"""16 log2(20), rounded: what turns the code of a sum of 20 into that of a mean."""
CODE_OF_TEXTURE = 16
"""16 log2(20 / 10): the code of a sum of 10 beside one of 20."""


def scaled(difference: Ints, code: Ints) -> Ints:
    """16 difference 2^(-code / 16), rounded half up, within +-127; `difference` in 1/16 of a value, codes from 16 on."""
    octave = code >> 4
    before = np.maximum(octave - 8, 0)
    limit = np.int64(1) << (octave + 4)
    shift = 11 + octave - before
    product = (np.clip(difference, -limit, limit) >> before) * INVERSE_OCTAVE[code & 15]
    result: Ints = np.clip((product + (np.int64(1) << (shift - 1))) >> shift, -127, 127)
    return result


@dataclass(frozen=True)
class Look:
    """`fitted` is the fitted prediction (n,) in 1/16 of a value; `scale` are the scale codes (n,), sigma = 2^(code/16 - 4)
    values; `features` int8 (n, FEATURES)."""

    fitted: Ints
    scale: Ints
    features: NDArray[np.int8]


def look(near: Ints, wrong: Ints, wrong_fitted: Ints, plane: Ints, predicted: Ints, taps: tuple[Ints, Ints], top: int) -> Look:
    """Fitted prediction, scale and features of n samples.

    `near` (66, n) are the positions at NEIGHBOURS, those of planes that do not exist being ignored; `wrong` (12, n) the errors of
    the prediction at ERRORS, `wrong_fitted` (7, n) those of the fitted prediction at the first of them, 0 where there is no such
    sample; `plane` (n,) the plane's place in its chunk; `predicted` (n,) the prediction; `taps` those of the fitted one; `top`
    the position of the chunk's largest value.
    """
    first, second = plane == 0, plane == 1
    own, local = near[: around.IN_PLANE], around.local(near)
    fitted = fitted_prediction(near, plane, *taps, top)

    weights = np.array(around.ERROR_WEIGHTS, np.int64)[:, None]
    inside = around.ERRORS_IN_PLANE
    amount = np.abs(wrong) * weights
    here, before = amount[:inside].sum(axis=0), amount[inside:].sum(axis=0)
    raw = octave_code(np.where(first, here + (here >> 1), here + before) + ERROR_FLOOR)
    scale = raw - CODE_OF_MEAN
    fitted_amount = (np.abs(wrong_fitted) * weights[:inside]).sum(axis=0)
    texture = octave_code(np.abs(own[around.NEAREST] - predicted).sum(axis=0) + TEXTURE_FLOOR)
    nearest_four = octave_code(5 * np.abs(wrong[:4]).sum(axis=0) + ERROR_FLOOR)
    of_fitted = octave_code(fitted_amount + (fitted_amount >> 1) + ERROR_FLOOR)
    of_before = np.where(first, raw, octave_code(3 * before + ERROR_FLOOR))

    features = np.zeros((FEATURES, len(plane)), np.int64)
    features[: len(near)] = scaled(near - predicted, texture - CODE_OF_MEAN + CODE_OF_TEXTURE)
    features[around.IN_PLANE : len(near), first] = 0
    at = len(near)
    features[at : at + 12] = scaled(wrong, scale)
    features[at + 12 : at + 16] = scaled(wrong_fitted[:4], scale)
    features[at + 16] = scaled(fitted - predicted, scale)
    features[at + 17] = scaled(local - predicted, scale)
    features[at + 18] = texture + CODE_OF_TEXTURE - raw
    features[at + 19] = nearest_four - raw
    features[at + 20] = of_fitted - raw
    features[at + 21] = of_before - raw
    features[at + 22] = (scale >> 1) - 80
    features[at + 23] = scaled(predicted, scale)
    features[at + 24] = scaled(top - predicted, scale)
    features[at + 25] = ((predicted * inverse_of(top)) >> 32) - 127
    features[at + 26] = (octave_code(np.array([top + 1])) >> 1) - 80
    features[at + 27] = np.where(first, 0, 64)
    features[at + 28] = np.where(first | second, 0, 64)
    features[at + 29] = 12 * (own[around.NEAREST] == own[around.WEST]).sum(axis=0) - 60
    return Look(fitted, scale, np.ascontiguousarray(np.clip(features, -127, 127).astype(np.int8).T))


def inverse_of(top: int) -> int:
    """What a position is multiplied with to give 2^32 x 254 where it is `top`, rounded down."""
    return (254 << 32) // max(top, 1)
