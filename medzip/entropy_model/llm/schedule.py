"""In which order the patches of a stack advance, and which of them advance together."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Schedule:
    """Patch i occupies `slot[i]` from step `start[i]` on, one voxel a step, for as many steps as a sequence has voxels.

    `rows` and `columns` are the patch's place in the grid of patches. Slots are rows of the batch that the language model
    sees at every step; a slot holds one patch after another.
    """

    start: NDArray[np.int64]
    slot: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    slots: int
    steps: int

    def at(self, step: int, length: int) -> NDArray[np.int64]:
        """The patches (indices) that advance at this step, when a sequence has `length` voxels."""
        return np.flatnonzero((self.start <= step) & (step < self.start + length))


def staggered(image: tuple[int, int], patch: int, length: int) -> Schedule:
    """Each patch starts one row of voxels after the one on its left and a channel plus two rows after the one above.

    So when voxel j of a patch is due, its left neighbour has finished the same row, and the three above have finished the
    same slice: every voxel before it in the image's own raster order is decoded, and of the slices before everything
    within two voxels (`tests/test_llm.py` proves it for each neighbour; docs/decisions/0003).
    """
    down, across = -(-image[0] // patch), -(-image[1] // patch)
    rows, columns = (grid.ravel() for grid in np.mgrid[0:down, 0:across])
    start = columns * patch + rows * (patch * patch + 2 * patch)
    return _assigned(start, rows, columns, length)


def lockstep(image: tuple[int, int], patch: int, length: int, group: int) -> Schedule:
    """Groups of so many patches advance together; a group begins when the one before it has ended."""
    down, across = -(-image[0] // patch), -(-image[1] // patch)
    rows, columns = (grid.ravel() for grid in np.mgrid[0:down, 0:across])
    start = np.arange(down * across) // group * length
    return _assigned(start, rows, columns, length)


def _assigned(start: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64], length: int) -> Schedule:
    """Give each patch, in order of its start, the first slot that is free."""
    slot = np.zeros(len(start), np.int64)
    free: list[int] = []
    taken: list[tuple[int, int]] = []
    for index in np.argsort(start, kind="stable"):
        now = int(start[index])
        while taken and taken[0][0] <= now:
            heapq.heappush(free, heapq.heappop(taken)[1])
        found = heapq.heappop(free) if free else len(taken)
        slot[index] = found
        heapq.heappush(taken, (now + length, found))
    return Schedule(start, slot, rows, columns, int(slot.max()) + 1, int(start.max()) + length)
