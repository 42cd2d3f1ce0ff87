"""The loops of RLE lossless. A run begins with a control byte: 0 to 127 for 1 to 128 literal bytes, 129 to 255 for 128 to 2
times the same byte, 128 for nothing (PS3.5 section G.3.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.sources.encapsulated.compiled import as_array, compiled, loop_input, loop_output

LONGEST = 128
NOTHING = 128

Bytes = NDArray[np.uint8]


def unpacked(segment: bytes, size: int) -> tuple[Bytes, Any, int] | None:
    """The first `size` bytes that a segment stands for, its control bytes, and where in it they end.

    None where the segment ends before, or a run goes beyond them.
    """
    plane, controls = loop_output(size, "u1"), loop_output(len(segment), "u1")
    runs, end = _unpack(loop_input(segment, "u1"), plane, controls)
    return (as_array(plane, "u1"), controls[:runs], end) if end >= 0 else None


def differences(plane: Bytes, controls: Any, habit: tuple[int, int, int]) -> list[int]:
    """How `controls` differ from an encoder with these habits: for each difference how many runs before it agree, and the
    control byte."""
    found = loop_output(2 * len(controls), "i8")
    count = _compare(loop_input(plane, "u1"), controls, *habit, found)
    return [int(number) for number in found[: 2 * count]]


def packed(plane: bytes, found: list[int], habit: tuple[int, int, int]) -> bytes | None:
    """A segment that stands for `plane`, None where the differences are none that it can have."""
    # A run is at most one byte longer than what it stands for, and only a difference can stand for nothing.
    out = loop_output(2 * len(plane) + len(found) + LONGEST, "u1")
    end = _pack(loop_input(plane, "u1"), loop_input(found, "i8"), *habit, out)
    return as_array(out[:end], "u1").tobytes() if end >= 0 else None


@compiled
def _unpack(segment: Any, plane: Any, controls: Any) -> Any:
    position, filled, runs = 0, 0, 0
    while filled < len(plane):
        if position + 1 >= len(segment):
            return 0, -1
        control = int(segment[position])
        controls[runs] = control
        runs += 1
        position += 1
        if control == NOTHING:
            continue
        length = control + 1 if control < NOTHING else 257 - control
        if filled + length > len(plane) or (control < NOTHING and position + length > len(segment)):
            return 0, -1
        if control < NOTHING:
            for i in range(length):
                plane[filled + i] = segment[position + i]
            position += length
        else:
            for i in range(length):
                plane[filled + i] = segment[position]
            position += 1
        filled += length
    return runs, position


@compiled
def _predicted(plane: Any, position: Any, start: Any, stop: Any, row: Any) -> Any:
    """The control byte of the run that an encoder with these habits begins at `position`."""
    last = min(len(plane), position // row * row + row, position + LONGEST)
    value, end = plane[position], position + 1
    while end < last and plane[end] == value:
        end += 1
    if end - position >= start:
        return 257 - (end - position)
    whole = min(len(plane), position // row * row + row)
    end = position + 1
    while end < last:
        if end + stop <= whole and plane[end] == plane[end + 1] and (stop == 2 or plane[end] == plane[end + 2]):
            break
        end += 1
    return end - position - 1


@compiled
def _compare(plane: Any, controls: Any, start: Any, stop: Any, row: Any, found: Any) -> Any:
    position, agreed, count = 0, 0, 0
    for i in range(len(controls)):
        control = int(controls[i])
        if control == _predicted(plane, position, start, stop, row):
            agreed += 1
        else:
            found[2 * count] = agreed
            found[2 * count + 1] = control
            agreed = 0
            count += 1
        if control < NOTHING:
            position += control + 1
        elif control > NOTHING:
            position += 257 - control
    return count


@compiled
def _pack(plane: Any, found: Any, start: Any, stop: Any, row: Any, out: Any) -> Any:
    position, end, used = 0, 0, 0
    agreeing = int(found[0]) if len(found) else -1
    while position < len(plane):
        if agreeing == 0:
            control = int(found[used + 1])
            used += 2
            agreeing = int(found[used]) if used < len(found) else -1
        else:
            control = _predicted(plane, position, start, stop, row)
            agreeing -= 1
        if control > 255:
            return -1
        out[end] = control
        end += 1
        if control == NOTHING:
            continue
        length = control + 1 if control < NOTHING else 257 - control
        if position + length > len(plane):
            return -1
        if control > NOTHING:
            for i in range(1, length):
                if plane[position + i] != plane[position]:
                    return -1
            out[end] = plane[position]
            end += 1
        else:
            for i in range(length):
                out[end + i] = plane[position + i]
            end += length
        position += length
    return end if used == len(found) else -1
