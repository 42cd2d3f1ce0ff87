"""Stacks through the language model, voxel by voxel: the loop that encoder and decoder share.

The encoder starts from an empty stack too and fills it with what it has just coded, so it can see nothing that the
decoder will not have: causality holds by construction, whatever the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medzip.entropy_model.llm.cache import SlotCache
from medzip.entropy_model.llm.schedule import Schedule
from medzip.errors import UnsupportedInputError
from medzip.exact.mixture import Mixture

Exchange = Callable[[Mixture, NDArray[np.int64]], NDArray[np.int64]]
"""Codes the voxels at these flat places of the stack under these mixtures, and gives their values."""


@dataclass(frozen=True)
class Due:
    """The voxels of a stack that are due at a step, one a slot: `patch` and `place` say which voxel of which patch, `channel`,
    `row` and `column` where in the stack that is; all (slots,). Slots without a patch at this step repeat voxel 0 of patch 0.
    `starting` are the patches that begin."""

    starting: NDArray[np.int64]
    patch: NDArray[np.int64]
    place: NDArray[np.int64]
    channel: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]

    def flat(self, image: tuple[int, int]) -> NDArray[np.int64]:
        """Flat places in the stack, C order."""
        places: NDArray[np.int64] = (self.channel * image[0] + self.row) * image[1] + self.column
        return places


class Layout(Protocol):
    """What a stack looks like to the language model.

    A patch has `length` voxels and `prefix` positions before the one whose token predicts its first voxel. `begin` fills
    those in for the patches that start now, the stack's slots beginning at `first_slot` of the cache. `locate` says which
    slice, row and column of its patch each place is. `tokens` gives the embedding (slots, 1, hidden) of each slot's next
    token; `mixtures` turns the hidden states (slots, hidden) of the same step into predictions, scales (slots,) and the
    head's mixtures (slots, K); `learn` takes the voxels just coded, by flat place in the stack.
    """

    schedule: Schedule
    prefix: int
    length: int

    def begin(self, cache: SlotCache, patches: NDArray[np.int64], first_slot: int) -> None: ...

    def locate(self, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]: ...

    def tokens(self, due: Due) -> Tensor: ...

    def mixtures(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]: ...

    def learn(self, flat: NDArray[np.int64], values: NDArray[np.int64]) -> None: ...


def code_stacks(
    backbone: Callable[..., Any],
    cache: SlotCache,
    stacks: Sequence[Layout],
    image: tuple[int, int],
    patch: int,
    exchange: Exchange,
) -> None:
    """Send every voxel of some stacks of `image` (rows, columns) through `exchange`, all stacks side by side in one batch.

    The places that `exchange` gets count through all stacks, each of 3 slices.
    """
    first_slots = np.cumsum([0, *(layout.schedule.slots for layout in stacks)])
    first_places = [3 * image[0] * image[1] * number for number in range(len(stacks))]
    for step in range(max(layout.schedule.steps for layout in stacks)):
        coming = [_due(layout, step, patch, image) for layout in stacks]
        for layout, first, (due, _) in zip(stacks, first_slots, coming, strict=False):
            layout.begin(cache, due.starting, int(first))
        positions = torch.from_numpy(
            np.concatenate([layout.prefix + due.place for layout, (due, _) in zip(stacks, coming, strict=True)])
        )
        hidden = backbone(
            inputs_embeds=torch.cat([layout.tokens(due) for layout, (due, _) in zip(stacks, coming, strict=True)]),
            position_ids=positions[:, None],
            attention_mask=cache.at(positions),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, 0]
        parts = hidden.split([layout.schedule.slots for layout in stacks])
        mixtures = [
            [part[coded] for part in layout.mixtures(own)] for layout, own, (_, coded) in zip(stacks, parts, coming, strict=True)
        ]
        flat = [due.flat(image)[coded] for due, coded in coming]
        if sum(map(len, flat)):
            places = np.concatenate([first + own for first, own in zip(first_places, flat, strict=True)])
            values = exchange(to_integers(*map(torch.cat, zip(*mixtures, strict=True))), places)
            for layout, own, learned in zip(stacks, flat, np.split(values, np.cumsum([*map(len, flat)])), strict=False):
                layout.learn(own, learned)


def _due(layout: Layout, step: int, patch: int, image: tuple[int, int]) -> tuple[Due, NDArray[np.int64]]:
    """What is due in a stack at this step, and which of its slots hold a patch whose voxel lies inside the image."""
    schedule = layout.schedule
    active = schedule.at(step, layout.length)
    slot = schedule.slot[active]
    patches, place = np.zeros((2, schedule.slots), np.int64)
    patches[slot] = active
    place[slot] = step - schedule.start[active]
    channel, row, column = layout.locate(place)
    row += schedule.rows[patches] * patch
    column += schedule.columns[patches] * patch
    due = Due(active[schedule.start[active] == step], patches, place, channel, row, column)
    inside = (row < image[0]) & (column < image[1])
    return due, slot[inside[slot]]


def to_integers(prediction: Tensor, scale: Tensor, logit: Tensor, mean: Tensor, log_deviation: Tensor) -> Mixture:
    """The mixture in the integers of `medzip.exact.mixture`: the one place where the network's floats end.

    `prediction` and `scale` (n,), the others (n, K): means and log2 deviations in units of `scale`. From here on every
    machine computes the same. Raises UnsupportedInputError where the network gives no number.
    """
    scale = scale[:, None].double()
    centre = (prediction[:, None].double() + mean.double() * scale) * 4096
    code = (torch.log2(scale) + log_deviation.double() + 4) * 16
    share = torch.softmax(logit.double(), -1) * 32000
    if not bool(torch.isfinite(centre + code + share).all()):
        raise UnsupportedInputError("the language model gave a mixture that is no number; use another preset for this input")
    return Mixture(
        weight=torch.round(share).long().numpy(),
        mean=torch.round(centre).clamp(-(2.0**45), 2.0**45).long().numpy(),
        scale=torch.round(code).clamp(0, 639).long().numpy(),
        kind="gaussian",
    )
