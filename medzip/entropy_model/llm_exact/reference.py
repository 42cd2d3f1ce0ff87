"""The exact language model in numpy, step by step: the definition, and the way where nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.llm_exact.features import look
from medzip.entropy_model.llm_exact.network import Computer, Network, mixture
from medzip.entropy_model.llm_exact.stacks import Known, Runs, groups
from medzip.exact import kernels
from medzip.exact.mixture import Mixture

Ints = NDArray[np.int64]
Code = Callable[[Ints, Mixture], Ints]


def visit(shape: tuple[int, int, int], top: int, network: Network, together: int, code: Code) -> None:
    """Visits every voxel of a chunk once, so many stacks side by side.

    `code` gets the flat indices (n,) of a step's voxels and their mixtures, and gives the voxels, 0..`top`.
    """
    kernel = kernels.fastest(network.shapes)
    computer = Computer(network, [kernel.layer(s.linear) for s in network.scaled()])
    for begin, runs in groups(shape, network.patch, together):
        group = _Group(begin, runs, shape, top, network)
        for step in range(runs.steps):
            group.advance(step, computer, code)


class _Group:
    """Stacks side by side: what is known of them, and which patch each slot holds."""

    def __init__(self, begin: int, runs: Runs, shape: tuple[int, int, int], top: int, network: Network) -> None:
        self._begin, self._runs, self._shape, self._top, self._patch = begin, runs, shape, top, network.patch
        self._known = Known(int(runs.stack.max()) + 1, shape[1:], network.patch)
        self._cache = network.cache(runs.slots)
        self._current = runs.first[:-1].copy()

    def advance(self, step: int, computer: Computer, code: Code) -> None:
        """Passes the voxels that are due at this step through the network, and codes those that lie inside the image."""
        slots, run, place = self._due(step)
        if not len(slots):
            return
        runs, (_, rows, columns) = self._runs, self._shape
        channel, within = np.divmod(place, self._patch**2)
        row, column = runs.row[run] + within // self._patch, runs.column[run] + within % self._patch
        at = self._known.places(runs.stack[run], channel, row, column)
        neighbours = self._known.flat[at[:, None] + self._known.deltas]
        seen = look(neighbours, channel, self._top)
        mixtures = mixture(computer.outputs(seen.features, place, slots, self._cache), seen)
        inside = np.flatnonzero((row < rows) & (column < columns))
        plane = self._begin + 3 * runs.stack[run] + channel
        if len(inside):
            values = code(((plane * rows + row) * columns + column)[inside], mixtures.rows(inside))
            self._known.flat[at[inside]] = values

    def _due(self, step: int) -> tuple[Ints, Ints, Ints]:
        """The slots that hold a patch at this step, the patches' numbers, and which of its voxels is due."""
        runs, current = self._runs, self._current
        last = runs.first[1:] - 1
        over = runs.start[current] + runs.length[current] <= step
        current += over & (current < last)
        started, place = runs.start[current] <= step, step - runs.start[current]
        slots = np.flatnonzero(started & (place < runs.length[current]))
        return slots, current[slots], place[slots]
