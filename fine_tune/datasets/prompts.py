"""Random patches of stacks with the lossy base that goes before them, as the layout `prompts` sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fine_tune.datasets.manifest import TrainingVolume
from medzip.base_layer import BaseLayer
from medzip.entropy_model.llm.prompts import unit

PATCHES_PER_STACK = 4


@dataclass(frozen=True)
class PromptBatch:
    """`stacks`: base stacks (1, 3, rows, columns) in -1..1, one for PATCHES_PER_STACK patches; the others (patches, voxels):
    base values, residuals, 1 where the voxel lies inside the image; `low`, `high` (patches, 1): the range of sample minus
    base; `unit` (patches, 1)."""

    stacks: list[Tensor]
    base: Tensor
    residual: Tensor
    inside: Tensor
    top: Tensor
    unit: Tensor


class PromptSource:
    """Draws stacks as the codec cuts them (every third slice), and patches on its grid."""

    def __init__(self, volumes: Sequence[TrainingVolume], patch: int, layer: BaseLayer, seed: int) -> None:
        self.patch = patch
        self.layer = layer
        self.volumes = [volume for volume in volumes if len(volume.samples) >= 3 and volume.top < 65536]
        size = np.array([volume.samples.size for volume in self.volumes], float) ** 0.7
        self.share = size / size.sum()
        self.generator = np.random.default_rng(seed)
        self._bases: dict[tuple[int, int], NDArray[np.int64]] = {}

    def draw(self, patches: int) -> PromptBatch:
        """So many patches, PATCHES_PER_STACK of each stack."""
        stacks: list[Tensor] = []
        rows: list[tuple[NDArray[np.int64], ...]] = []
        for index in self.generator.choice(len(self.volumes), patches // PATCHES_PER_STACK, p=self.share):
            volume = self.volumes[int(index)]
            first = 3 * int(self.generator.integers(0, len(volume.samples) // 3))
            stack = volume.samples[first : first + 3].astype(np.int64)
            base = self._base(int(index), first, stack)
            stacks.append(torch.from_numpy(base / max(volume.top, 1) * 2 - 1).float()[None])
            rows += [self._patch(stack, base, volume.top) for _ in range(PATCHES_PER_STACK)]
        base_value, residual, inside, top, units = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*rows, strict=True))
        return PromptBatch(stacks, base_value, residual, inside, top, units)

    def _base(self, index: int, first: int, stack: NDArray[np.int64]) -> NDArray[np.int64]:
        if (index, first) not in self._bases:
            dtype = np.uint8 if self.volumes[index].top < 256 else np.uint16
            self._bases[index, first] = self.layer.encode(stack.astype(dtype))[1].astype(np.int64)
        return self._bases[index, first]

    def _patch(self, stack: NDArray[np.int64], base: NDArray[np.int64], top: int) -> tuple[NDArray[np.int64], ...]:
        patch, (height, width) = self.patch, stack.shape[1:]
        y = patch * int(self.generator.integers(0, -(-height // patch)))
        x = patch * int(self.generator.integers(0, -(-width // patch)))
        row, column, channel = (grid.ravel() for grid in np.mgrid[0:patch, 0:patch, 0:3])
        inside = (y + row < height) & (x + column < width)
        at = channel, np.minimum(y + row, height - 1), np.minimum(x + column, width - 1)
        residual = np.where(inside, stack[at] - base[at], 0)
        return (
            np.clip(base[at], 0, 65535),
            residual,
            inside.astype(np.int64),
            np.array([top]),
            np.array([unit(0, top)]),
        )
