"""The two layouts of the language model, as the codec walks through them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medzip.entropy_model.llm.cache import PrefixCache, SlotCache
from medzip.entropy_model.llm.coding import Due
from medzip.entropy_model.llm.neighbourhood import describe
from medzip.entropy_model.llm.network import NeighbourNetwork
from medzip.entropy_model.llm.offsets import NEIGHBOURS, REACH
from medzip.entropy_model.llm.prompts import PromptNetwork, unit
from medzip.entropy_model.llm.schedule import Schedule, lockstep, staggered

TOGETHER = 64
"""Patches of the `prompts` layout that advance together: more would push the KV cache out of a CPU's own."""

Places = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


class NeighbourLayout:
    """Preset llm: one token a voxel, made of what is decoded around it; slice after slice, patches staggered."""

    prefix = 0

    def __init__(self, network: NeighbourNetwork, shape: tuple[int, int, int], low: int, high: int) -> None:
        channels, height, width = shape
        patch = network.config.patch
        self._network = network
        self._patch = patch
        self._low = low
        self._top = torch.tensor([float(high - low)])
        self._image = (height, width)
        self.length = channels * patch * patch
        self.schedule = self.schedule_for(network, shape)
        self._pitch = width + 2 * REACH + patch
        self._plane = (height + 2 * REACH + patch) * self._pitch
        self._padded = np.zeros((2 + channels) * self._plane, np.int32)  # two empty slices before the stack
        self._deltas = np.array([dz * self._plane + dy * self._pitch + dx for dz, dy, dx in NEIGHBOURS])
        self._described: tuple[Tensor, Tensor, Tensor]

    @staticmethod
    def schedule_for(network: NeighbourNetwork, shape: tuple[int, int, int]) -> Schedule:
        patch = network.config.patch
        return staggered(shape[1:], patch, shape[0] * patch * patch)

    def begin(self, cache: SlotCache, patches: NDArray[np.int64], first_slot: int) -> None:
        """Nothing: this layout has no prefix."""

    def locate(self, place: NDArray[np.int64]) -> Places:
        channel, within = np.divmod(place, self._patch * self._patch)
        return channel, within // self._patch, within % self._patch

    def tokens(self, due: Due) -> Tensor:
        at = self._flat(due.channel, due.row, due.column)
        neighbours = torch.from_numpy(self._padded[at[:, None] + self._deltas]).float()
        self._described = describe(neighbours, torch.from_numpy(due.channel), self._top.expand(len(at)))
        return self._network.tokens(self._described[2], torch.from_numpy(due.place))[:, None]

    def mixtures(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        prediction, scale, features = self._described
        return prediction + self._low, scale, *self._network.head(hidden, features)

    def learn(self, flat: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        height, width = self._image
        channel, within = np.divmod(flat, height * width)
        self._padded[self._flat(channel, within // width, within % width)] = values - self._low

    def _flat(self, channel: NDArray[np.int64], row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
        place: NDArray[np.int64] = (channel + 2) * self._plane + (row + REACH) * self._pitch + column + REACH
        return place


class PromptLayout:
    """Preset paper: global prompt, local prompt, then the residual; slices interleaved, patches independent.

    `base` is (channels, rows, columns), what the decoder sees of the base layer.
    """

    def __init__(
        self, network: PromptNetwork, shape: tuple[int, int, int], low: int, high: int, base: NDArray[np.integer]
    ) -> None:
        channels, height, width = shape
        patch = network.config.patch
        self._network = network
        self._patch = patch
        self._channels = channels
        self._unit = float(unit(low, high))
        self.length = channels * patch * patch
        self._local = network.config.local_prompt
        self.prefix = network.config.global_prompts + (self.length - 1 if self._local else 0)
        self.schedule = self.schedule_for(network, shape)
        margin = ((0, 0), (0, -height % patch), (0, -width % patch))
        self._base = np.pad(base.astype(np.int64), margin, mode="edge")
        self._base_value = np.clip(self._base - low, 0, 65535)
        self._residual = np.zeros(channels * height * width, np.int64)
        self._image = (height, width)
        stack = (np.pad(base.astype(np.float64), ((0, 3 - channels), (0, 0), (0, 0)), mode="edge") - low) / max(high - low, 1)
        self._global = network.global_prompt(torch.from_numpy(stack * 2 - 1).float()[None])
        self._last_prompt = torch.zeros(self.schedule.slots, self._global.shape[-1])
        self._due: Due

    @staticmethod
    def schedule_for(network: PromptNetwork, shape: tuple[int, int, int]) -> Schedule:
        patch = network.config.patch
        return lockstep(shape[1:], patch, shape[0] * patch * patch, TOGETHER)

    def begin(self, cache: SlotCache, patches: NDArray[np.int64], first_slot: int) -> None:
        if not len(patches) or not self.prefix:
            return
        rows = self.schedule.rows[patches][:, None] * self._patch
        columns = self.schedule.columns[patches][:, None] * self._patch
        channel, row, column = self.locate(np.arange(self.length))
        base = torch.from_numpy(self._base_value[channel, rows + row, columns + column])
        local = self._network.local_prompt(base, self._channels)[:, : None if self._local else 1]
        prefix = torch.cat([self._global.expand(len(patches), -1, -1), local[:, :-1]], 1)
        slots = torch.from_numpy(self.schedule.slot[patches])
        later = torch.ones(self.prefix, self.prefix, dtype=torch.bool).triu(1)
        mask = torch.zeros(self.prefix, self.prefix).masked_fill_(later, -torch.inf)
        self._network.backbone(
            inputs_embeds=prefix,
            position_ids=torch.arange(self.prefix)[None],
            attention_mask=mask[None, None].expand(len(patches), 1, -1, -1),
            past_key_values=PrefixCache(cache, first_slot + slots),
            use_cache=True,
        )
        self._last_prompt[slots] = local[:, -1]

    def locate(self, place: NDArray[np.int64]) -> Places:
        within, channel = np.divmod(place, self._channels)
        return channel, within // self._patch, within % self._patch

    def tokens(self, due: Due) -> Tensor:
        self._due = due
        channel, row, column = self.locate(np.maximum(due.place - 1, 0))
        row += due.row // self._patch * self._patch
        column += due.column // self._patch * self._patch
        height, width = self._image
        known = (row < height) & (column < width)
        flat = (channel * height + np.minimum(row, height - 1)) * width + np.minimum(column, width - 1)
        before = torch.from_numpy(np.where(known, self._residual[flat], 0))
        token = self._network.residual_tokens(before, torch.from_numpy(due.place), self._channels)
        first = torch.from_numpy((due.place == 0) & self._local)[:, None]
        return torch.where(first, self._last_prompt, token)[:, None]

    def mixtures(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        base = torch.from_numpy(self._base[self._due.channel, self._due.row, self._due.column])
        return base, torch.full((len(base),), self._unit), *self._network.head(hidden)

    def learn(self, flat: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        height, width = self._image
        channel, within = np.divmod(flat, height * width)
        self._residual[flat] = np.clip(values - self._base[channel, within // width, within % width], -65535, 65535)
