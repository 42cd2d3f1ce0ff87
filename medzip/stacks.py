"""Slices to planes, planes to stacks of three, and back.

A stack is three adjacent planes, coded as an image codec codes red, green and blue: the method's unit. An RGB frame is
a stack of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PLANES_PER_STACK = 3


def planes(samples: NDArray[Any]) -> NDArray[Any]:
    """A volume's samples, (slices, rows, columns[, 3]), as (planes, rows, columns); a frame's colours become adjacent planes.

    A view where numpy can give one.
    """
    if samples.ndim == 3:
        return samples
    return np.moveaxis(samples, -1, 1).reshape(-1, *samples.shape[1:3])


def samples(planes: NDArray[Any], colours: bool) -> NDArray[Any]:
    """The inverse of `planes`: (slices, rows, columns), or (slices, rows, columns, 3) where the volume has colours."""
    if not colours:
        return planes
    return np.moveaxis(planes.reshape(-1, PLANES_PER_STACK, *planes.shape[1:]), 1, -1)


def stacks(planes: NDArray[Any]) -> NDArray[Any]:
    """(planes, rows, columns) as (stacks, 3, rows, columns); the last plane is repeated where the last stack is not full."""
    missing = -len(planes) % PLANES_PER_STACK
    if missing:
        planes = np.concatenate([planes, np.repeat(planes[-1:], missing, axis=0)])
    return planes.reshape(-1, PLANES_PER_STACK, *planes.shape[1:])


def unstack(stacks: NDArray[Any], n_planes: int) -> NDArray[Any]:
    """The inverse of `stacks`: the first `n_planes` planes, (planes, rows, columns)."""
    return stacks.reshape(-1, *stacks.shape[2:])[:n_planes]


def chunks(n_planes: int, planes_per_chunk: int, at_least: int = 1) -> list[tuple[int, int]]:
    """(first plane, number of planes) of every chunk: as equal as can be, of whole stacks but for the last.

    `planes_per_chunk` is the most, rounded down to whole stacks, but to one at least; `at_least` so many chunks are made where
    there are as many stacks.
    """
    n_stacks = -(-n_planes // PLANES_PER_STACK)
    count = max(-(-n_stacks // max(planes_per_chunk // PLANES_PER_STACK, 1)), min(at_least, n_stacks))
    ends = [min((i + 1) * n_stacks // count * PLANES_PER_STACK, n_planes) for i in range(count)]
    return [(first, end - first) for first, end in zip([0, *ends], ends, strict=False)]
