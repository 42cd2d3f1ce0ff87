"""In which order the voxels of a chunk are due, and where the decoded ones are kept: the same for every way to compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.llm.offsets import NEIGHBOURS, REACH
from medzip.entropy_model.llm.schedule import Schedule, staggered
from medzip.errors import UnsupportedInputError
from medzip.stacks import PLANES_PER_STACK

Ints = NDArray[np.int64]

SLOTS_TOGETHER = 64
"""Patches side by side: more of them spare steps, but their keys and values leave a CPU's cache."""
SLOTS_MAX = 2048
"""No more patches side by side, so that what a chunk's header says cannot exhaust the memory."""
PATCHES_MAX = 1 << 18
PLANES_BEFORE = 2
"""Empty planes before each stack, so that slices that do not exist are all zeros."""


@dataclass(frozen=True)
class Runs:
    """The patches of a group of stacks, by slot and then by start: when each begins, and for how many steps it goes on; the
    stack's number in the group, and the patch's first row and column, all (patches,).

    Those of slot s are number first[s] to first[s + 1] - 1.
    """

    start: Ints
    length: Ints
    stack: Ints
    row: Ints
    column: Ints
    first: Ints
    steps: int

    @property
    def slots(self) -> int:
        return len(self.first) - 1


def together(image: tuple[int, int], patch: int) -> int:
    """How many stacks of `image` (rows, columns) are coded side by side.

    Raises UnsupportedInputError for an image of more patches than this model takes.
    """
    patches = _patches(image, patch)
    return max(min(SLOTS_TOGETHER // _schedule(image, patch, PLANES_PER_STACK).slots, PATCHES_MAX // patches), 1)


def groups(shape: tuple[int, int, int], patch: int, together: int) -> Iterator[tuple[int, Runs]]:
    """The first plane and the patches of each group of stacks of a chunk (planes, rows, columns).

    Raises UnsupportedInputError before the first group where one is larger than this model takes: the first is the largest.
    """
    planes, rows, columns = shape
    step = PLANES_PER_STACK * together
    for begin in range(0, planes, step):
        firsts = range(begin, min(begin + step, planes), PLANES_PER_STACK)
        yield begin, _runs([min(PLANES_PER_STACK, planes - first) for first in firsts], (rows, columns), patch)


def _patches(image: tuple[int, int], patch: int) -> int:
    """Of each slice. Raises UnsupportedInputError where there are too many."""
    patches = -(-image[0] // patch) * -(-image[1] // patch)
    if patches > PATCHES_MAX:
        raise UnsupportedInputError(
            f"model llm_exact: expected slices of at most {PATCHES_MAX} patches of {patch} x {patch}, found {patches}; "
            "use another preset"
        )
    return patches


@lru_cache(maxsize=4)
def _schedule(image: tuple[int, int], patch: int, depth: int) -> Schedule:
    return staggered(image, patch, depth * patch * patch)


def _runs(depths: list[int], image: tuple[int, int], patch: int) -> Runs:
    patches = _patches(image, patch) * len(depths)
    schedules = [_schedule(image, patch, depth) for depth in depths]
    offsets = np.cumsum([0, *(schedule.slots for schedule in schedules)])
    if offsets[-1] > SLOTS_MAX or patches > PATCHES_MAX:
        raise UnsupportedInputError(
            f"model llm_exact: expected at most {PATCHES_MAX} patches, {SLOTS_MAX} of them side by side, "
            f"found {patches} and {offsets[-1]}; use another preset"
        )
    slot = np.concatenate([s.slot + offset for s, offset in zip(schedules, offsets, strict=False)])
    start = np.concatenate([s.start for s in schedules])
    stack = np.repeat(np.arange(len(depths)), [len(s.start) for s in schedules])
    row, column = (np.concatenate([getattr(s, name) * patch for s in schedules]) for name in ("rows", "columns"))
    order = np.lexsort([start, slot])
    return Runs(
        start[order],
        (np.array(depths, np.int64) * patch * patch)[stack[order]],
        stack[order],
        row[order],
        column[order],
        np.searchsorted(slot[order], np.arange(offsets[-1] + 1)).astype(np.int64),
        max(s.steps for s in schedules),
    )


class Known:
    """The values decoded so far of a group of stacks: `flat`, planes with margins, PLANES_BEFORE empty ones before each stack."""

    def __init__(self, stacks: int, image: tuple[int, int], patch: int) -> None:
        self.pitch = image[1] + 2 * REACH + patch
        self.plane = (image[0] + 2 * REACH + patch) * self.pitch
        self.stack = (PLANES_BEFORE + PLANES_PER_STACK) * self.plane
        self.flat = np.zeros(stacks * self.stack, np.int64)
        self.origin = PLANES_BEFORE * self.plane + REACH * self.pitch + REACH
        self.deltas = np.array([dz * self.plane + dy * self.pitch + dx for dz, dy, dx in NEIGHBOURS], np.int64)

    def places(self, stack: Ints, channel: Ints, row: Ints, column: Ints) -> Ints:
        """Where voxels stand in `flat`."""
        return self.origin + stack * self.stack + channel * self.plane + row * self.pitch + column
