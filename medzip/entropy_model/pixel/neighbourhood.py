"""Which decoded samples the pixel model sees, the margins around every plane, and the order that follows from both.

Offsets are (plane, row, column) relative to the sample. A plane is kept with margins so that every offset has a place:

- left of row y: the first sample of row y - 1 (0 for the first row), as in JPEG-LS (ITU-T T.87, clause A.2.1);
- right: the last sample of the row;
- above: the first row, shifted right by one column more than any neighbour reaches; 0 where that begins;
- below: the last row.

Sample (z, y, x) is coded at step x + STEP_OF_ROW y + first_steps[z]: all that it looks at has an earlier step, so that the
samples of a step are one batch. `tests/test_pixel_neighbourhood.py` poisons everything not yet decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model import wavefront

Ints = NDArray[np.int64]
Offset = tuple[int, int, int]

ROW: list[Offset] = [(0, 0, -d) for d in range(1, 6)]
ABOVE: list[Offset] = [
    (0, -up, column)
    for up, columns in ((1, range(-4, 4)), (2, range(-4, 4)), (3, range(-3, 3)), (4, range(-2, 3)))
    for column in columns
]
BEFORE: list[Offset] = [(-1, dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
SECOND_BEFORE: list[Offset] = [(-2, dy, dx) for dy in range(-1, 2) for dx in range(-1, 2)]
NEIGHBOURS: list[Offset] = ROW + ABOVE + BEFORE + SECOND_BEFORE
IN_SECOND_PLANE: list[Offset] = [(max(dz, -1), dy, dx) for dz, dy, dx in NEIGHBOURS]
"""What the second plane of a chunk sees instead: the plane before stands in for the one before that."""
RUN = 8
"""Compiled code reads runs of so many samples: flat arrays have so many elements more than planes with margins hold."""
IN_PLANE = len(ROW) + len(ABOVE)


def places(*offsets: tuple[int, int]) -> list[int]:
    """Where these (row, column) offsets of the sample's own plane stand in NEIGHBOURS."""
    return [NEIGHBOURS.index((0, dy, dx)) for dy, dx in offsets]


WEST, NORTH, NORTH_EAST, NORTH_WEST = places((0, -1), (-1, 0), (-1, 1), (-1, -1))
NEAREST = places((0, -1), (-1, 0), (-1, 1), (-1, -1), (0, -2), (-2, 0), (-1, 2), (-1, -2), (-2, -1), (-2, 1))

ERRORS: list[Offset] = [(0, 0, -1), (0, -1, 0), (0, -1, -1), (0, -1, 1), (0, 0, -2), (0, -2, 0), (0, -1, 2)]
ERRORS += [(-1, 0, 0), (-1, 0, 1), (-1, 1, 0), (-1, 0, -1), (-1, -1, 0)]
ERROR_WEIGHTS = (3, 3, 2, 2, 1, 1, 1, 3, 1, 1, 1, 1)
ERRORS_IN_PLANE = 7

LEFT = max(-dx for _, _, dx in NEIGHBOURS)
RIGHT = max(dx for _, _, dx in NEIGHBOURS)
TOP = max(-dy for _, dy, _ in NEIGHBOURS)
BOTTOM = max(dy for _, dy, _ in NEIGHBOURS)
SHIFT_ABOVE = 1 + max(dx for dz, _, dx in NEIGHBOURS if dz == 0)

SEGMENT = 8
"""Samples of a row that share the taps of a prediction (`regression.py`); all segments of a step begin together."""
ROWS_AHEAD = 3
"""So many rows further down, the sums of the plane before must be there when a segment begins; they look farthest ahead."""
# A segment looks at the next one two rows above, and at the next one ROWS_AHEAD rows below in the plane before.
STEP_OF_ROW = SEGMENT
STEP_OF_PLANE = SEGMENT * (2 + ROWS_AHEAD)
"""From a plane to the next of the same group."""


def planes_together(columns: int) -> int:
    """So many planes make a group, coded side by side, each behind the one before: enough for steps of about 256 samples, and
    few, so that what `regression.py` keeps of them stays in the cache."""
    return max(4, 2048 // columns)


def first_steps(shape: tuple[int, int, int]) -> Ints:
    """The step of the first sample of each plane (planes,). A group follows as soon as the first plane of the one before ends."""
    planes, rows, columns = shape
    together = planes_together(columns)
    group, place = np.divmod(np.arange(planes), together)
    result: Ints = group * max(STEP_OF_ROW * rows, STEP_OF_PLANE * together) + place * STEP_OF_PLANE
    return result


def rows_in_order(shape: tuple[int, int, int]) -> tuple[Ints, Ints, Ints]:
    """`wavefront.rows_in_order` of a chunk of this shape."""
    return wavefront.rows_in_order(shape, STEP_OF_ROW, first_steps(shape))


def steps(shape: tuple[int, int, int]) -> Iterator[tuple[Ints, Ints, Ints]]:
    """`wavefront.steps` of a chunk of this shape."""
    return wavefront.steps(shape, STEP_OF_ROW, first_steps(shape))


def local(near: NDArray[np.int64]) -> NDArray[np.int64]:
    """A mean of the four nearest, (n,), of positions (66, n) at NEIGHBOURS."""
    result: NDArray[np.int64] = (3 * (near[WEST] + near[NORTH]) + near[NORTH_EAST] + near[NORTH_WEST] + 4) >> 3
    return result


def row_stride(columns: int) -> int:
    """Samples from one row to the next in a plane with margins."""
    return columns + LEFT + RIGHT


def plane_stride(rows: int, columns: int) -> int:
    """Samples from one plane to the next."""
    return (rows + TOP + BOTTOM) * row_stride(columns)


def deltas(offsets: list[Offset], rows: int, columns: int) -> NDArray[np.int64]:
    """The offsets as distances in the flat array of planes with margins."""
    plane, row = plane_stride(rows, columns), row_stride(columns)
    return np.array([dz * plane + dy * row + dx for dz, dy, dx in offsets], np.int64)


def with_margins(planes: NDArray[Any]) -> NDArray[Any]:
    """(planes, rows, columns) with all margins filled: what a decoder has once all is decoded, same dtype."""
    count, rows, columns = planes.shape
    result = np.zeros((count, rows + TOP + BOTTOM, columns + LEFT + RIGHT), planes.dtype)
    result[:, TOP : TOP + rows, LEFT : LEFT + columns] = planes
    result[:, TOP + rows :, LEFT : LEFT + columns] = planes[:, -1:]
    result[:, TOP : TOP + rows + BOTTOM, LEFT + columns :] = result[:, TOP : TOP + rows + BOTTOM, LEFT + columns - 1, None]
    result[:, TOP + 1 :, :LEFT] = result[:, TOP:-1, LEFT, None]
    above = planes[:, 0, : columns + RIGHT - SHIFT_ABOVE]
    result[:, :TOP, LEFT + SHIFT_ABOVE : LEFT + SHIFT_ABOVE + above.shape[1]] = above[:, None]
    return result
