"""What the exact language model is told about a voxel, in integers: `medzip.entropy_model.llm.neighbourhood` as int8.

Features are in units of 1/16, or what fills int8: the weights know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.llm.offsets import IN_SLICE, NEAREST, NORTH, NORTH_EAST, NORTH_WEST, SLICE_BEFORE, WEST
from medzip.entropy_model.llm_exact.arithmetic import Ints, rounded

UNIT_BITS = 4
BYTE_MAX = 127
FLAG = 64
EXPONENT_MAX = 31
DEVIATION = 12
"""The sum of ten differences, in units of 10 times the scale, times this is the deviation in units of 1/120 of the scale."""
LEVELS = 254


@dataclass(frozen=True)
class Look:
    """`predicted` (n,) in values from the chunk's lowest, `exponent` (n,) of the local scale, a power of two, and `features`
    int8 (n, FEATURES)."""

    predicted: Ints
    exponent: Ints
    features: NDArray[np.int8]


def inverse_of(top: int) -> int:
    """What a value is multiplied with to give 2^32 x 254 where it is `top`, rounded down."""
    return (LEVELS << 32) // max(top, 1)


def look(neighbours: Ints, channel: Ints, top: int) -> Look:
    """Prediction, scale and features of n voxels.

    `neighbours` (n, 66) are the values at NEIGHBOURS, counted from the chunk's lowest, 0 outside the stack; `channel` (n,) is the
    voxel's slice in its stack; `top` the chunk's largest value, below 2^32.
    """
    west, north = neighbours[:, WEST], neighbours[:, NORTH]
    predicted = (3 * west + 3 * north + neighbours[:, NORTH_EAST] + neighbours[:, NORTH_WEST] + 4) >> 3
    total = np.abs(neighbours[:, NEAREST] - predicted[:, None]).sum(axis=1)
    # The smallest e with total / 10 + 1/2 <= 2^e.
    limits = 10 << np.arange(EXPONENT_MAX, dtype=np.int64)
    exponent = np.searchsorted(limits, total + 5, side="left").astype(np.int64)
    relative = rounded((neighbours - predicted[:, None]) << UNIT_BITS, exponent[:, None])
    relative[channel < 1, IN_SLICE : IN_SLICE + len(SLICE_BEFORE)] = 0
    relative[channel < 2, IN_SLICE + len(SLICE_BEFORE) :] = 0
    about = [
        (DEVIATION * total) >> exponent,
        4 * exponent,
        (predicted << UNIT_BITS) >> exponent,
        ((top - predicted) << UNIT_BITS) >> exponent,
        ((predicted * inverse_of(top)) >> 32) - BYTE_MAX,
        FLAG * (channel > 0),
        FLAG * (channel > 1),
    ]
    features = np.clip(np.concatenate([relative, np.stack(about, axis=1)], axis=1), -BYTE_MAX, BYTE_MAX)
    return Look(predicted, exponent, features.astype(np.int8))
