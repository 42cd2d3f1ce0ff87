"""Which voxels the `llm` layout sees, and what it tells the language model about them.

Everything is relative to a local prediction and in units of a local power of two, so that one model serves 8 to 16 bits.
Neighbours are (slice, row, column) offsets inside a stack of three slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Offset = tuple[int, int, int]

REACH = 5
"""How far, in voxels, any neighbour lies from its voxel in a row or column."""

ROW: list[Offset] = [(0, 0, -d) for d in range(1, 6)]
ABOVE: list[Offset] = (
    [(0, -1, d) for d in range(-4, 4)]
    + [(0, -2, d) for d in range(-4, 4)]
    + [(0, -3, d) for d in range(-3, 3)]
    + [(0, -4, d) for d in range(-2, 3)]
)
SLICE_BEFORE: list[Offset] = [(-1, dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
SECOND_SLICE_BEFORE: list[Offset] = [(-2, dy, dx) for dy in range(-1, 2) for dx in range(-1, 2)]
NEIGHBOURS: list[Offset] = ROW + ABOVE + SLICE_BEFORE + SECOND_SLICE_BEFORE
IN_SLICE = len(ROW) + len(ABOVE)


def _places(offsets: Sequence[tuple[int, int]]) -> list[int]:
    return [NEIGHBOURS.index((0, dy, dx)) for dy, dx in offsets]


WEST, NORTH, NORTH_EAST, NORTH_WEST = _places([(0, -1), (-1, 0), (-1, 1), (-1, -1)])
NEAREST = _places([(0, -1), (-1, 0), (-1, 1), (-1, -1), (0, -2), (-2, 0), (-1, 2), (-1, -2), (-2, -1), (-2, 1)])
FEATURES = len(NEIGHBOURS) + 7
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
