"""Where the voxels lie that the layout `neighbours` sees: (slice, row, column) offsets inside a stack of three slices."""

from __future__ import annotations

from collections.abc import Sequence

Offset = tuple[int, int, int]

REACH = 5
"""How far, in voxels, any neighbour lies from its voxel in a row or column."""

ROW: list[Offset] = [(0, 0, -d) for d in range(1, 6)]
ABOVE: list[Offset] = (
    [(0, -1, d) for d in range(-4, 4)]
    + [(0, -2, d) for d in range(-4, 4)]
    + [(0, -3, d) for d in range(-3, 3)]
    + [(0, -4, d) for d in range(-2, 3)]
)
SLICE_BEFORE: list[Offset] = [(-1, dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
SECOND_SLICE_BEFORE: list[Offset] = [(-2, dy, dx) for dy in range(-1, 2) for dx in range(-1, 2)]
NEIGHBOURS: list[Offset] = ROW + ABOVE + SLICE_BEFORE + SECOND_SLICE_BEFORE
IN_SLICE = len(ROW) + len(ABOVE)


def _places(offsets: Sequence[tuple[int, int]]) -> list[int]:
    return [NEIGHBOURS.index((0, dy, dx)) for dy, dx in offsets]


WEST, NORTH, NORTH_EAST, NORTH_WEST = _places([(0, -1), (-1, 0), (-1, 1), (-1, -1)])
NEAREST = _places([(0, -1), (-1, 0), (-1, 1), (-1, -1), (0, -2), (-2, 0), (-1, 2), (-1, -2), (-2, -1), (-2, 1)])
FEATURES = len(NEIGHBOURS) + 7
