"""The features of `features.py`, compiled: the same integers, tile by tile.

All arrays are arguments of one function and none is sliced: numba counts references with atomic operations, which would take
longer than the features. Indices are unsigned where LLVM cannot see their sign: numba would ask each one whether it counts from
the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.features import (
    CODE_OF_MEAN,
    CODE_OF_TEXTURE,
    ERROR_FLOOR,
    TEXTURE_FLOOR,
    inverse_of,
)
from medzip.entropy_model.pixel.fitted import FITTED_BITS
from medzip.exact.compiled.setup import njit
from medzip.exact.tables import INVERSE_OCTAVE, MANTISSA_CODES
from medzip.exact.tables import octave_code as octave_codes

# (first place in NEIGHBOURS) of all runs of neighbours that stand beside each other; ROW runs the other way.
_BESIDE = [
    i
    for i in range(len(around.ROW), len(around.NEIGHBOURS))
    if i == len(around.ROW) or around.NEIGHBOURS[i][:2] != around.NEIGHBOURS[i - 1][:2]
]
_RUNS = np.array(_BESIDE, np.int64)
_RUNS_IN_PLANE = sum(i < around.IN_PLANE for i in _BESIDE)
_IN_ROW = len(around.ROW)
_MANTISSA = MANTISSA_CODES.astype(np.int32)
_INVERSE = INVERSE_OCTAVE.astype(np.int32)
_NEAREST = np.array(around.NEAREST, np.int64)
_WEIGHTS = np.array(around.ERROR_WEIGHTS, np.int64)
_RUN, _ALL, _IN_PLANE = around.RUN, len(around.NEIGHBOURS), around.IN_PLANE
_ERRORS, _INSIDE = len(around.ERRORS), around.ERRORS_IN_PLANE
_W, _N, _NE, _NW = around.WEST, around.NORTH, around.NORTH_EAST, around.NORTH_WEST
_LEFT, _RIGHT, _TOP, _BOTTOM, _SHIFT_ABOVE = around.LEFT, around.RIGHT, around.TOP, around.BOTTOM, around.SHIFT_ABOVE


def _emit_leading_zeros(_typing: Any, _value: Any) -> Any:
    """Of an int64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), generate


_leading_zeros: Any = intrinsic(_emit_leading_zeros)


def _emit_copy_run(_typing: Any, target: Any, _to: Any, source: Any, _start: Any) -> Any:
    """(target, to, source, start): target[to : to + RUN] = source[start : start + RUN], flat arrays, indices not checked.

    What is too much is overwritten by the next run.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 2)]
        run = ir.VectorType(context.get_data_type(target.dtype), around.RUN).as_pointer()
        places = [builder.gep(array.data, [arguments[i]]) for array, i in zip(arrays, (1, 3), strict=True)]
        into, out_of = (builder.bitcast(place, run) for place in places)
        builder.store(builder.load(out_of, align=4), into, align=4)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64), generate


copy_run: Any = intrinsic(_emit_copy_run)


@njit
def octave_code(amount: Any) -> Any:
    """floor(16 log2(amount)) by the first 9 bits of an int64 >= 1."""
    octave = 63 - _leading_zeros(np.int64(amount))
    mantissa = (amount << 8) >> octave
    if octave > 50:
        mantissa = amount >> (octave - 8)
    return 16 * octave + np.int64(_MANTISSA[np.uint64(mantissa & 255)])


@njit
def steps_of(code: Any) -> Any:
    """How `scaled` uses a scale code: (limit, shift before, factor, rounding, shift); 32-bit numbers but the limit."""
    octave = code >> 4
    before = max(octave - 8, 0)
    shift = 11 + octave - before
    # Counts of 0..31 and 0..63, as LLVM must know to shift whole vectors.
    return np.int64(1) << (octave + 4), before & 63, _INVERSE[code & 15], np.int32(1 << (shift - 1)), np.int32(shift & 31)


@njit
def scaled(difference: Any, steps: Any) -> Any:
    """One difference, of any integer type, in units of a scale code, as int8."""
    limit, before, factor, rounding, shift = steps
    kind = type(difference)
    inside = min(max(difference, kind(-limit)), kind(limit))
    short = np.int32(inside >> kind(before))
    product = np.int32(np.int32(np.int32(short * factor) + rounding) >> shift)
    return np.int8(min(max(product, np.int32(-127)), np.int32(127)))


@njit
def fitted_prediction(positions: Any, taps: Any, local: Any, top: Any) -> Any:
    """The fitted prediction from the first len(taps) positions."""
    total = np.int64(0)
    near = positions.dtype.type(local)
    for i in range(len(taps)):
        total += np.int64(positions[i] - near) * np.int64(taps[i])
    return min(max(local + ((total + (1 << (FITTED_BITS - 1))) >> FITTED_BITS), 0), top)


def chunk_constants(rows: int, columns: int, taps: tuple[Any, Any], top: int) -> tuple[Any, ...]:
    """What `look` needs to know of a chunk, in the types that it is compiled for; `top` is a position."""
    return (
        around.deltas(around.NEIGHBOURS, rows, columns),
        around.deltas(around.IN_SECOND_PLANE, rows, columns),
        around.deltas(around.ERRORS, rows, columns),
        taps[0].astype(np.int32),
        taps[1].astype(np.int32),
        top,
        inverse_of(top),
        (int(octave_codes(np.array([top + 1]))[0]) >> 1) - 80,
    )


@njit
def look(
    values: Any,
    wrong: Any,
    wrong_fitted: Any,
    places: Any,
    planes: Any,
    n: Any,
    near: Any,
    near_second: Any,
    error_places: Any,
    taps: Any,
    taps_in_plane: Any,
    top: Any,
    inverse_top: Any,
    code_of_top: Any,
    predictions: Any,
    features: Any,
    fitted_predictions: Any,
    scales: Any,
) -> None:
    """`features.look` for the n samples at flat indices `places` of planes `planes`; what lies between is `chunk_constants`.

    `values`, `wrong` and `wrong_fitted` are int32 or int64, with `neighbourhood.RUN` elements more than the planes with
    margins hold; `features` is int8 (at least n, FEATURES), the last three are int64 (at least n,).
    """
    wide = values.dtype.type
    seen, off = np.zeros(_ALL + _RUN, values.dtype), np.zeros(_ERRORS + 6, values.dtype)
    fitted_errors = np.zeros(_INSIDE, values.dtype)
    rest = np.zeros(12, np.int64)
    for j in range(n):
        at, plane = places[j], planes[j]
        for i in range(_IN_ROW):
            seen[i] = values[np.uint64(at - 1 - i)]
        for r in range(_RUNS_IN_PLANE if plane == 0 else len(_RUNS)):
            first = _RUNS[r]
            copy_run(seen, first, values, at + (near_second[first] if plane == 1 else near[first]))
        local = (3 * (np.int64(seen[_W]) + np.int64(seen[_N])) + np.int64(seen[_NE]) + np.int64(seen[_NW]) + 4) >> 3
        predicted = predictions[j]
        fitted = fitted_prediction(seen, taps_in_plane if plane == 0 else taps, local, top)

        for i in range(_INSIDE):
            place = np.uint64(at + error_places[i])
            off[i], fitted_errors[i] = wrong[place], wrong_fitted[place]
        for i in range(_INSIDE, _ERRORS):
            off[i] = wrong[np.uint64(at + error_places[i])] if plane > 0 else wide(0)
        here, before, here_fitted, four = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        for i in range(_INSIDE):
            here += abs(np.int64(off[i])) * _WEIGHTS[i]
            here_fitted += abs(np.int64(fitted_errors[i])) * _WEIGHTS[i]
        for i in range(_INSIDE, _ERRORS):
            before += abs(np.int64(off[i])) * _WEIGHTS[i]
        for i in range(4):
            four += abs(np.int64(off[i]))
            off[_ERRORS + i] = fitted_errors[i]
        off[_ERRORS + 4], off[_ERRORS + 5] = wide(fitted - predicted), wide(local - predicted)
        raw = octave_code((here + (here >> 1) if plane == 0 else here + before) + ERROR_FLOOR)
        scale = raw - CODE_OF_MEAN

        texture, equal, centre = np.int64(0), np.int64(0), wide(predicted)
        for i in range(len(_NEAREST)):
            value = seen[np.uint64(_NEAREST[i])]
            texture += abs(np.int64(wide(value - centre)))
            equal += value == seen[_W]
        texture_code = octave_code(texture + TEXTURE_FLOOR)
        steps = steps_of(texture_code - CODE_OF_MEAN + CODE_OF_TEXTURE)
        for i in range(_ALL):
            features[j, i] = scaled(wide(seen[i] - centre), steps)
        if plane == 0:
            for i in range(_IN_PLANE, _ALL):
                features[j, i] = 0
        steps = steps_of(scale)
        for i in range(_ERRORS + 6):
            features[j, _ALL + i] = scaled(off[i], steps)

        rest[0] = texture_code + CODE_OF_TEXTURE - raw
        rest[1] = octave_code(5 * four + ERROR_FLOOR) - raw
        rest[2] = octave_code(here_fitted + (here_fitted >> 1) + ERROR_FLOOR) - raw
        rest[3] = octave_code(3 * before + ERROR_FLOOR) - raw if plane > 0 else np.int64(0)
        rest[4] = (scale >> 1) - 80
        rest[5] = scaled(predicted, steps)
        rest[6] = scaled(top - predicted, steps)
        rest[7] = ((predicted * inverse_top) >> 32) - 127
        rest[8] = code_of_top
        rest[9] = 64 if plane > 0 else 0
        rest[10] = 64 if plane > 1 else 0
        rest[11] = 12 * equal - 60
        for i in range(12):
            features[j, _ALL + _ERRORS + 6 + i] = np.int8(min(max(rest[i], -127), 127))
        fitted_predictions[j], scales[j] = fitted, scale


@njit
def place_of(plane: Any, row: Any, column: Any, rows: Any, columns: Any) -> Any:
    """Where a sample stands in the flat array of planes with margins."""
    return (plane * (rows + _TOP + _BOTTOM) + row + _TOP) * (columns + _LEFT + _RIGHT) + column + _LEFT


@njit
def rows_of_step(begin: Any, columns: Any, step: Any, first: Any, last: Any) -> Any:
    """(first, last): rows first..last - 1, sorted by the steps with which they `begin`, have a sample in this step; from those of
    the step before."""
    while last < len(begin) and begin[last] <= step:
        last += 1
    while first < last and begin[first] + columns <= step:
        first += 1
    return first, last


@njit
def keep(array: Any, at: Any, value: Any, row: Any, column: Any, rows: Any, columns: Any) -> None:
    """Writes what is known of a sample to its place and to the margins that repeat it (`neighbourhood.with_margins`)."""
    stride = columns + _LEFT + _RIGHT
    array[at] = value
    if row == 0 and column + _SHIFT_ABOVE < columns + _RIGHT:
        for up in range(1, _TOP + 1):
            array[at + _SHIFT_ABOVE - up * stride] = value
    if column == 0:
        for left in range(1, _LEFT + 1):
            array[at + stride - left] = value
    if column == columns - 1:
        for right in range(1, _RIGHT + 1):
            array[at + right] = value
    if row == rows - 1:
        for down in range(1, _BOTTOM + 1):
            array[at + down * stride] = value
            if column == 0 and down < _BOTTOM:
                for left in range(1, _LEFT + 1):
                    array[at + (down + 1) * stride - left] = value
            if column == columns - 1:
                for right in range(1, _RIGHT + 1):
                    array[at + down * stride + right] = value
