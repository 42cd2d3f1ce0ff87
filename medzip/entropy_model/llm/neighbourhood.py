"""What the layout `neighbours` tells the language model about the voxels that it sees.

Everything is relative to a local prediction and in units of a local power of two, so that one model serves 8 to 16 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medzip.entropy_model.llm.offsets import (
    IN_SLICE,
    NEAREST,
    NORTH,
    NORTH_EAST,
    NORTH_WEST,
    SLICE_BEFORE,
    WEST,
)

CLIP = 7.9


def describe(neighbours: Tensor, channel: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The local prediction, the local scale and the features of each voxel.

    `neighbours` is (n, len(NEIGHBOURS)) float32, values from 0 to `top`, 0 outside the stack; `channel` is (n,) with the
    voxel's slice in its stack, 0 to 2; `top` is (n,) float32. Gives prediction (n,), scale (n,) (a power of two), both in
    values, and features (n, FEATURES).
    """
    west, north = neighbours[:, WEST], neighbours[:, NORTH]
    prediction = torch.floor((3 * west + 3 * north + neighbours[:, NORTH_EAST] + neighbours[:, NORTH_WEST] + 4) / 8)
    deviation = (neighbours[:, NEAREST] - prediction[:, None]).abs().mean(1)
    exponent = torch.ceil(torch.log2(deviation + 0.5)).clamp(0, 31)
    scale = torch.exp2(exponent)
    has_before = (channel > 0).to(neighbours.dtype)
    has_second = (channel > 1).to(neighbours.dtype)
    relative = (neighbours - prediction[:, None]) / scale[:, None]
    second = IN_SLICE + len(SLICE_BEFORE)
    features = torch.cat(
        [
            relative[:, :IN_SLICE].clamp(-CLIP, CLIP),
            (relative[:, IN_SLICE:second] * has_before[:, None]).clamp(-CLIP, CLIP),
            (relative[:, second:] * has_second[:, None]).clamp(-CLIP, CLIP),
            torch.stack(
                [
                    deviation / scale,
                    exponent / 4 - 1,
                    (prediction / scale).clamp(0, 8) / 4,
                    ((top - prediction) / scale).clamp(0, 8) / 4,
                    prediction / top.clamp(min=1) * 2 - 1,
                    has_before,
                    has_second,
                ],
                1,
            ),
        ],
        1,
    )
    return prediction, scale, features
