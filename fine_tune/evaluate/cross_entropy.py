"""Cross-entropy of whole volumes under a language model, all voxels of a patch at once.

The codec's loop needs one step for each voxel; where everything is known already, one pass does. Float arithmetic in
another order than the codec's: the result differs in the third decimal, and shapes no archive.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fine_tune.datasets.patches import collate, patch_of
from medzip.entropy_model.llm.load import Network
from medzip.entropy_model.llm.network import NeighbourNetwork, mixture_bits
from medzip.entropy_model.llm.offsets import REACH
from medzip.entropy_model.llm.prompts import PromptNetwork, unit

PATCHES_AT_ONCE = 16


def stack_bits(
    network: Network, stack: NDArray[np.integer], low: int, high: int, base: NDArray[np.integer] | None = None
) -> float:
    """Bits of a stack (up to 3, rows, columns) in a chunk with values from `low` to `high`, side information not counted.

    `base` is what the decoder sees of the base layer, same shape, for a network with prompts.
    """
    with torch.inference_mode():
        if isinstance(network, NeighbourNetwork):
            return _neighbour_bits(network, stack, low, high)
        assert base is not None
        return _prompt_bits(network, stack, low, high, base)


def _grid(shape: tuple[int, ...], patch: int) -> list[tuple[int, int]]:
    return [(y, x) for y in range(0, shape[1], patch) for x in range(0, shape[2], patch)]


def _neighbour_bits(network: NeighbourNetwork, stack: NDArray[np.integer], low: int, high: int) -> float:
    patch, (channels, height, width) = network.config.patch, stack.shape
    values = np.zeros((3, height, width), np.int32)
    values[:channels] = stack.astype(np.int64) - low
    padded = np.pad(values, ((0, 0), (REACH, REACH + patch), (REACH, REACH + patch)))
    places, total = _grid(stack.shape, patch), 0.0
    for first in range(0, len(places), PATCHES_AT_ONCE):
        chosen = places[first : first + PATCHES_AT_ONCE]
        batch = collate([patch_of(padded, (height, width), y, x, patch, high - low) for y, x in chosen])
        mixture = network(batch.features)
        bits = mixture_bits(batch.sample, batch.prediction, batch.scale, mixture, torch.zeros_like(batch.top), batch.top)
        total += float((bits * batch.inside)[:, : channels * patch * patch].double().sum())
    return total


def _prompt_bits(network: PromptNetwork, stack: NDArray[np.integer], low: int, high: int, base: NDArray[np.integer]) -> float:
    patch, (channels, height, width) = network.config.patch, stack.shape
    values, seen = stack.astype(np.int64), base.astype(np.int64)
    whole = np.concatenate([seen, np.repeat(seen[-1:], 3 - channels, axis=0)]).astype(np.float64)
    scaled = torch.from_numpy((whole - low) / max(high - low, 1) * 2 - 1).float()[None]
    prompt = network.global_prompt(scaled)
    row, column, channel = (grid.ravel() for grid in np.mgrid[0:patch, 0:patch, 0:channels])
    places, total = _grid(stack.shape, patch), 0.0
    for first in range(0, len(places), PATCHES_AT_ONCE):
        chosen = places[first : first + PATCHES_AT_ONCE]
        parts = []
        for y, x in chosen:
            at = channel, np.minimum(y + row, height - 1), np.minimum(x + column, width - 1)
            inside = (y + row < height) & (x + column < width)
            residual = np.clip(np.where(inside, values[at] - seen[at], 0), -65535, 65535)
            parts.append((seen[at], residual, inside.astype(np.int64)))
        base_value, residual_value, inside_flag = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*parts, strict=True))
        mixture = network(prompt.expand(len(chosen), -1, -1), (base_value - low).clamp(0, 65535), residual_value)
        floats = base_value.float()
        limits = [torch.full_like(floats, float(limit)) for limit in (unit(low, high), low, high)]
        bits: Tensor = mixture_bits(floats + residual_value, floats, limits[0], mixture, limits[1], limits[2])
        total += float((bits * inside_flag).double().sum())
    return total
