"""One stack through the language model, voxel by voxel: the loop that encoder and decoder share.

The encoder starts from an empty stack too and fills it with what it has just coded, so it can see nothing that the
decoder will not have: causality holds by construction, whatever the schedule.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """The voxels that are due at a step, one a slot: `patch` and `place` say which voxel of which patch, the others where
    in the stack that is; all (slots,). Slots without a patch at this step repeat voxel 0 of patch 0."""

    patch: NDArray[np.int64]
    place: NDArray[np.int64]
    channel: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]


class Layout(Protocol):
    """What a stack looks like to the language model.

    A patch has `length` voxels and `prefix` positions before the one whose token predicts its first voxel. `begin` fills
    those in for the patches that start now. `locate` says which slice, row and column of its patch each place is.
    `tokens` gives the embedding (slots, 1, hidden) of each slot's next token; `mixtures` turns the hidden states
    (slots, hidden) of the same step into predictions, scales (slots,) and the head's mixtures (slots, K); `learn` takes
    the voxels just coded, by flat place in the stack.
    """

    schedule: Schedule
    prefix: int
    length: int

    def begin(self, cache: SlotCache, patches: NDArray[np.int64]) -> None: ...

    def locate(self, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]: ...

    def tokens(self, due: Due) -> Tensor: ...

    def mixtures(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]: ...

    def learn(self, flat: NDArray[np.int64], values: NDArray[np.int64]) -> None: ...


def code_stack(
    backbone: Callable[..., Any], cache: SlotCache, layout: Layout, shape: tuple[int, int, int], patch: int, exchange: Exchange
) -> None:
    """Send every voxel of a stack of `shape` (channels, rows, columns) through `exchange`, in the schedule's order."""
    schedule, (_, height, width) = layout.schedule, shape
    for step in range(schedule.steps):
        active = schedule.at(step, layout.length)
        layout.begin(cache, active[schedule.start[active] == step])
        due, alive = _due(layout, active, step, patch)
        positions = torch.from_numpy(layout.prefix + due.place)
        hidden = backbone(
            inputs_embeds=layout.tokens(due),
            position_ids=positions[:, None],
            attention_mask=cache.at(positions),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        coded = np.flatnonzero(alive & (due.row < height) & (due.column < width))
        if len(coded):
            mixture = to_integers(*(part[coded] for part in layout.mixtures(hidden[:, 0])))
            flat = ((due.channel * height + due.row) * width + due.column)[coded]
            layout.learn(flat, exchange(mixture, flat))


def _due(layout: Layout, active: NDArray[np.int64], step: int, patch: int) -> tuple[Due, NDArray[np.bool_]]:
    """What is due at this step, and which slots hold a patch."""
    schedule = layout.schedule
    slot = schedule.slot[active]
    patches, place = np.zeros((2, schedule.slots), np.int64)
    patches[slot] = active
    place[slot] = step - schedule.start[active]
    alive = np.zeros(schedule.slots, bool)
    alive[slot] = True
    channel, row, column = layout.locate(place)
    return Due(patches, place, channel, schedule.rows[patches] * patch + row, schedule.columns[patches] * patch + column), alive


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
