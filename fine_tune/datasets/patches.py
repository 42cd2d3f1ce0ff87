"""Random patches of stacks, as the layout `neighbours` sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fine_tune.datasets.manifest import TrainingVolume
from medzip.entropy_model.llm.neighbourhood import describe
from medzip.entropy_model.llm.offsets import NEIGHBOURS, REACH


@dataclass(frozen=True)
class PatchBatch:
    """`features` (patches, tokens, FEATURES); the others (patches, tokens): what to predict, around what, in which unit,
    the largest value of the volume, and 1 where the voxel lies inside the image."""

    features: Tensor
    sample: Tensor
    prediction: Tensor
    scale: Tensor
    top: Tensor
    inside: Tensor


class PatchSource:
    """Draws patches of 3 slices from volumes, larger volumes less than in proportion to their size."""

    def __init__(self, volumes: Sequence[TrainingVolume], patch: int, seed: int) -> None:
        self.patch = patch
        self.volumes = [volume for volume in volumes if len(volume.samples) >= 3]
        self.padded = [
            np.pad(volume.samples, ((0, 0), (REACH, REACH + patch), (REACH, REACH + patch))) for volume in self.volumes
        ]
        size = np.array([volume.samples.size for volume in self.volumes], float) ** 0.7
        self.share = size / size.sum()
        self.generator = np.random.default_rng(seed)

    def draw(self, patches: int) -> PatchBatch:
        """So many patches, each of a volume of its own: a third on the grid that the codec uses, the rest anywhere."""
        return collate(self.parts(patches))

    def parts(self, patches: int) -> list[tuple[NDArray[np.int32], ...]]:
        """What `patch_of` gives for patches that `draw` would draw."""
        chosen = self.generator.choice(len(self.volumes), patches, p=self.share)
        return [self._one(int(index)) for index in chosen]

    def _one(self, index: int) -> tuple[NDArray[np.int32], ...]:
        volume, padded, patch = self.volumes[index].samples, self.padded[index], self.patch
        slices, height, width = volume.shape
        z = int(self.generator.integers(0, slices - 2))
        if self.generator.random() < 1 / 3 or height < patch or width < patch:
            y = patch * int(self.generator.integers(0, -(-height // patch)))
            x = patch * int(self.generator.integers(0, -(-width // patch)))
        else:
            y = int(self.generator.integers(0, height - patch + 1))
            x = int(self.generator.integers(0, width - patch + 1))
        return patch_of(padded[z : z + 3], (height, width), y, x, patch, self.volumes[index].top)


def patch_of(
    padded: NDArray[np.int32], image: tuple[int, int], y: int, x: int, patch: int, top: int
) -> tuple[NDArray[np.int32], ...]:
    """Neighbours, samples, inside-flags and tops of one patch, in the order in which the codec visits its voxels.

    `padded` is (3, rows, columns) with a margin of REACH before and REACH + patch behind.
    """
    below = np.pad(padded, ((2, 0), (0, 0), (0, 0)))  # two empty slices before the stack
    channel, row, column = (grid.ravel() for grid in np.mgrid[0:3, 0:patch, 0:patch])
    offsets = np.array(NEIGHBOURS)
    neighbours = below[
        2 + channel[:, None] + offsets[:, 0],
        REACH + y + row[:, None] + offsets[:, 1],
        REACH + x + column[:, None] + offsets[:, 2],
    ]
    sample = below[2 + channel, REACH + y + row, REACH + x + column]
    inside = ((y + row < image[0]) & (x + column < image[1])).astype(np.int32)
    return neighbours, sample, inside, np.full(len(sample), top, np.int32), channel.astype(np.int32)


def collate(parts: Sequence[tuple[NDArray[np.int32], ...]]) -> PatchBatch:
    """One batch of what `patch_of` gave for several patches."""
    neighbours, sample, inside, top, channel = (
        torch.from_numpy(np.stack(arrays)).to(torch.float32) for arrays in zip(*parts, strict=True)
    )
    flat = describe(neighbours.flatten(0, 1), channel.flatten(), top.flatten())
    prediction, scale, features = (part.unflatten(0, sample.shape) for part in flat)
    return PatchBatch(features, sample, prediction, scale, top, inside)
