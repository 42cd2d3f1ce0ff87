"""`regression.py` compiled: the same integers, all rows of a step of the wavefront together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from medzip.entropy_model import wavefront
from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.compiled_features import copy_run, octave_code, place_of, rows_of_step
from medzip.entropy_model.pixel.neighbourhood import ROWS_AHEAD, SEGMENT
from medzip.entropy_model.pixel.regression import (
    ALL,
    DECAY_BITS,
    EQUATION_MAX,
    EQUATION_SHIFT,
    IN_PLANE,
    REGRESSORS,
    ROWS_KEPT,
    SOFTENER,
)
from medzip.exact.compiled.lanes import F64, I32, LANES
from medzip.exact.compiled.least_squares import BLOCK, SYSTEMS, eliminate, substitute, work_of
from medzip.exact.compiled.setup import njit
from medzip.exact.least_squares import TAP_BITS
from medzip.exact.tables import INVERSE_OCTAVE

_VECTOR = ir.VectorType(I32, LANES)
_EQUATION, _RUN = ALL + 1, around.RUN
_BLOCKS = _EQUATION // LANES
# Row k of the sums begins with the block of eight that the diagonal passes through.
_VECTORS_OF_ROW = [_BLOCKS - k // LANES for k in range(_EQUATION)]
_SUMS = LANES * sum(_VECTORS_OF_ROW)
# Where the vectors of the sums begin in the work of the solver.
_IN_WORK = np.array([k * (ALL + BLOCK) + LANES * b for k in range(ALL) for b in range(k // LANES, _BLOCKS)]) * SYSTEMS
_INVERSE = INVERSE_OCTAVE.astype(np.int32)
_OF_TEXTURE = np.array([i in around.NEAREST for i in REGRESSORS] + [False], np.int32)
_W, _N, _NE, _NW = (REGRESSORS.index(i) for i in (around.WEST, around.NORTH, around.NORTH_EAST, around.NORTH_WEST))
# Where regressors that stand beside each other begin: behind those in the sample's own row, which run the other way.
_IN_ROW = 3
_ABOVE, _BEFORE = np.array([3, 10, 15]), np.array([18, 19, 22])


def _vectors(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Callable[[Any], Any]:
    """Pointers to vectors of eight of a flat array, counted from the element at index `at`."""
    base = builder.gep(context.make_array(kind)(context, builder, array).data, [at])
    vectors = builder.bitcast(base, ir.VectorType(context.get_data_type(kind.dtype), LANES).as_pointer())
    return lambda index: builder.gep(vectors, [index])


def _emit_add_products(_typing: Any, sums: Any, _to: Any, equations: Any, _start: Any) -> Any:
    """(sums, to, equations, start): adds all products of the equations of a segment to its sums."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        data = context.make_array(equations)(context, builder, arguments[2]).data
        rows = [builder.gep(data, [builder.add(arguments[3], _index(t * _EQUATION))]) for t in range(SEGMENT)]
        target = _vectors(context, builder, sums, *arguments[:2])

        def block(t: int, b: int) -> Any:
            # LLVM sees that such factors fit 16 bits, and takes the quicker multiplication.
            words = builder.bitcast(builder.gep(rows[t], [_index(b * LANES)]), ir.VectorType(ir.IntType(16), LANES).as_pointer())
            return builder.sext(builder.load(words, align=2), _VECTOR)

        first = 0
        for group in range(_BLOCKS):
            seen = {(t, b): block(t, b) for t in range(SEGMENT) for b in range(group, _BLOCKS)}
            count = _BLOCKS - group
            with cgutils.for_range(builder, _index(LANES)) as loop:
                at = builder.add(_index(first), builder.mul(loop.index, _index(count)))
                places = [target(builder.add(at, _index(b))) for b in range(count)]
                totals = [builder.load(place, align=4) for place in places]
                for t in range(SEGMENT):
                    own = builder.gep(rows[t], [builder.add(loop.index, _index(group * LANES))])
                    factor = _everywhere(builder, builder.sext(builder.load(own, align=2), I32))
                    for b in range(count):
                        totals[b] = builder.add(totals[b], builder.mul(factor, seen[t, group + b]))
                for place, total in zip(places, totals, strict=True):
                    builder.store(total, place, align=4)
            first += LANES * count
        return context.get_dummy_value()

    return types.void(sums, types.int64, equations, types.int64), generate


def _index(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _everywhere(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    return builder.shuffle_vector(
        builder.insert_element(undefined, value, ir.Constant(I32, 0)), undefined, ir.Constant(_VECTOR, [0] * LANES)
    )


def _emit_begin_sums(_typing: Any, sums: Any, _total: Any, _at: Any, places: Any) -> Any:
    """(sums, totals, at, places): `Regression._begin` of one segment.

    `places` are where the sums of a segment begin, of the one above, the left one, the right one two rows above, and of the three
    in the plane before.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        total = _vectors(context, builder, sums, *arguments[1:3])
        found = [builder.extract_value(arguments[3], i) for i in range(len(places))]
        to, above, left, right, *before = (_vectors(context, builder, sums, arguments[0], at) for at in found)
        one, decay = (ir.Constant(_VECTOR, [n] * LANES) for n in (1, DECAY_BITS))
        with cgutils.for_range(builder, _index(_SUMS // LANES)) as loop:
            past, *others = (
                builder.load(vectors(loop.index), align=4) for vectors in (above, left, before[1], right, before[0], before[2])
            )
            doubled = builder.add(builder.add(past, others[0]), others[1])
            single = builder.add(builder.add(others[2], others[3]), others[4])
            builder.store(builder.add(builder.shl(doubled, one), single), total(loop.index), align=4)
            builder.store(builder.sub(past, builder.ashr(past, decay)), to(loop.index), align=4)
        return context.get_dummy_value()

    return types.void(sums, sums, types.int64, places), generate


def _emit_to_work(_typing: Any, totals: Any, _at: Any, work: Any, _to: Any) -> Any:
    """(totals, at, work, to): eight numbers of each of eight systems, turned so that systems are beside each other, as floats."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        source = _vectors(context, builder, totals, *arguments[:2])
        target = _vectors(context, builder, work, *arguments[2:])
        rows = [builder.load(source(_index(i * _SUMS // LANES)), align=4) for i in range(SYSTEMS)]
        for step in (4, 2, 1):
            # Of rows that are `step` apart, the elements `step` apart change places.
            low = ir.Constant(_VECTOR, [i if not i & step else i - step + LANES for i in range(LANES)])
            high = ir.Constant(_VECTOR, [i + step if not i & step else i + LANES for i in range(LANES)])
            for i in range(SYSTEMS):
                if not i & step:
                    one, other = rows[i], rows[i + step]
                    rows[i], rows[i + step] = builder.shuffle_vector(one, other, low), builder.shuffle_vector(one, other, high)
        for i, row in enumerate(rows):
            builder.store(builder.sitofp(row, ir.VectorType(F64, LANES)), target(_index(i)), align=8)
        return context.get_dummy_value()

    return types.void(totals, types.int64, work, types.int64), generate


_to_work: Any = intrinsic(_emit_to_work)
_add_products: Any = intrinsic(_emit_add_products)
_begin_sums: Any = intrinsic(_emit_begin_sums)


class State(NamedTuple):
    """What the compiled functions keep of a chunk. Rows are numbered in the order in which they begin; those of a step have their
    taps and the equations of their segment at their number modulo the most samples of a step. `window` holds the first and the
    last row (not included) whose segments began last: their equations are added to the sums before the next begin. `together` is
    `neighbourhood.planes_together`."""

    sums: NDArray[np.int32]
    taps: NDArray[np.int32]
    equations: NDArray[np.int16]
    local: NDArray[np.int64]
    code: NDArray[np.int64]
    window: NDArray[np.int64]
    together: int
    deltas: NDArray[np.int64]
    totals: NDArray[np.int32]
    work: NDArray[np.float64]
    solution: NDArray[np.int32]


def new_state(shape: tuple[int, int, int], widest: int) -> State:
    """For a chunk of `shape` (planes, rows, columns) with at most `widest` samples in a step."""
    planes, rows, columns = shape
    # A plane's sums are kept until the next plane ends.
    begin = around.first_steps(shape)
    ends = begin[1:] + around.STEP_OF_ROW * (rows - 1) + columns
    kept = int(max(np.searchsorted(begin, ends) - np.arange(planes - 1), default=1))
    return State(
        sums=np.zeros((kept, _segments(columns), ROWS_KEPT, _SUMS), np.int32).reshape(-1),
        taps=np.zeros((widest, _EQUATION), np.int32),
        equations=np.zeros((widest, SEGMENT, _EQUATION), np.int16),
        local=np.zeros(widest, np.int64),
        code=np.zeros(widest, np.int64),
        window=np.zeros(2, np.int64),
        together=around.planes_together(columns),
        deltas=around.deltas([around.NEIGHBOURS[i] for i in REGRESSORS], rows, columns),
        totals=np.zeros(SYSTEMS * _SUMS, np.int32),
        work=work_of(ALL),
        solution=np.zeros(ALL * SYSTEMS, np.int32),
    )


@njit
def _segments(columns: Any) -> Any:
    return (columns + SEGMENT - 1) // SEGMENT + 2


@njit
def _sums_at(sums: Any, plane: Any, row: Any, segment: Any, segments: Any) -> Any:
    """Where the sums of a segment begin; those of segment -1 and of the one behind the last are zeros."""
    kept = len(sums) // (segments * ROWS_KEPT * _SUMS)
    return ((plane % kept * segments + segment + 1) * ROWS_KEPT + (row & (ROWS_KEPT - 1))) * _SUMS


@njit
def begin_segments(state: Any, order: Any, first: Any, last: Any, step: Any, rows: Any, columns: Any) -> None:
    """Sums and taps for the segments of rows first..last - 1 that begin with this step."""
    sums, taps, equations, _, _, window, together, _, totals, work, solution = state
    plane_of, row_of, begin = order
    segments = _segments(columns)
    none, widest = _sums_at(sums, 0, 0, -1, segments), len(taps)
    for i in range(window[0], window[1]):
        to = _sums_at(sums, plane_of[i], row_of[i], (step - SEGMENT - begin[i]) // SEGMENT, segments)
        _add_products(sums, to, equations, i % widest * SEGMENT * _EQUATION)
    window[0], window[1] = first, last
    for i in range(first, last):
        # What a short segment lacks counts nothing.
        for turn in range(columns - (step - begin[i]), SEGMENT):
            for k in range(_EQUATION):
                equations[i % widest, turn, k] = 0
    for start in range(first, last, SYSTEMS):
        for system in range(SYSTEMS):
            i = start + system
            if i < last:
                plane, row, segment = plane_of[i], row_of[i], (step - begin[i]) // SEGMENT
                ahead = min(row + ROWS_AHEAD, rows - 1)
                places = (
                    _sums_at(sums, plane, row, segment, segments),
                    _sums_at(sums, plane, row - 1, segment, segments) if row > 0 else none,
                    _sums_at(sums, plane, row, segment - 1, segments),
                    _sums_at(sums, plane, row - 2, segment + 1, segments) if row > 1 else none,
                    _sums_at(sums, plane - 1, ahead, segment - 1, segments) if plane % together > 0 else none,
                    _sums_at(sums, plane - 1, ahead, segment, segments) if plane % together > 0 else none,
                    _sums_at(sums, plane - 1, ahead, segment + 1, segments) if plane % together > 0 else none,
                )
                _begin_sums(sums, totals, system * _SUMS, places)
        for i in range(len(_IN_WORK)):
            _to_work(totals, i * LANES, work, _IN_WORK[i])
        eliminate(work, ALL)
        substitute(work, ALL, solution)
        for i in range(start, min(start + SYSTEMS, last)):
            slot = i % widest
            for k in range(ALL):
                taps[slot, k] = solution[k * SYSTEMS + i - start]


@njit
def _equation(difference: Any, limit: Any, before: Any, factor: Any) -> Any:
    kind = type(difference)
    short = np.int32(min(max(difference, kind(-limit)), kind(limit)) >> kind(before))
    scaled = np.int32(np.int32(short * factor) + np.int32(1 << (EQUATION_SHIFT - 1))) >> np.int32(EQUATION_SHIFT)
    return np.int16(min(max(np.int32(scaled), np.int32(-EQUATION_MAX)), np.int32(EQUATION_MAX)))


@njit
def _scale(code: Any) -> Any:
    """(limit, shift before, factor) of an equation."""
    octave = code >> 4
    return np.int64(1) << (octave + 4), (octave - 10) & 63, _INVERSE[code & 15]


@njit
def predict(state: Any, values: Any, places: Any, order: Any, first: Any, n: Any, step: Any, top: Any, predicted: Any) -> None:
    """`Regression.predict` for the samples at flat indices `places` in rows `first` and following, whose segments have begun."""
    _, taps, equations, locals_, codes, _, _, deltas, _, _, _ = state
    plane_of = order[0]
    wide = values.dtype.type
    widest, turn = len(codes), step % SEGMENT
    difference = np.zeros(_EQUATION + _RUN, values.dtype)
    for j in range(n):
        at, plane = places[j], plane_of[first + j]
        for i in range(_IN_ROW):
            difference[i] = values[at - 1 - i]
        for i in _ABOVE:
            copy_run(difference, i, values, at + deltas[i])
        nearest = 3 * (np.int64(difference[_W]) + np.int64(difference[_N]))
        local = (nearest + np.int64(difference[_NE]) + np.int64(difference[_NW]) + 4) >> 3
        near = wide(local)
        if plane > 0:
            for i in _BEFORE:
                copy_run(difference, i, values, at + deltas[i])
        else:
            for i in range(IN_PLANE, ALL):
                difference[i] = near
        difference[ALL] = near
        slot = (first + j) % widest
        texture, total = np.int64(SOFTENER), np.int64(0)
        for i in range(_EQUATION):
            difference[i] -= near
        for i in range(_EQUATION):
            texture += np.int64(abs(difference[i]) * wide(_OF_TEXTURE[i]))
            total += np.int64(difference[i]) * np.int64(taps[slot, i])
        code = octave_code(texture)
        limit, before, factor = _scale(code)
        for i in range(_EQUATION):
            equations[slot, turn, i] = _equation(difference[i], limit, before, factor)
        locals_[j], codes[j] = local, code
        predicted[j] = min(max(local + ((total + (1 << (TAP_BITS - 1))) >> TAP_BITS), 0), top)


@njit
def learn(state: Any, values: Any, places: Any, first: Any, n: Any, step: Any) -> None:
    """`Regression.learn`: `values` now hold the samples at `places`."""
    _, _, equations, locals_, codes, _, _, _, _, _, _ = state
    wide = values.dtype.type
    for j in range(n):
        limit, before, factor = _scale(codes[j])
        target = wide(values[places[j]] - wide(locals_[j]))
        equations[(first + j) % len(codes), step % SEGMENT, ALL] = _equation(target, limit, before, factor)


def predictions(values: NDArray[Any], shape: tuple[int, int, int], top: int) -> NDArray[Any]:
    """The predictions of all samples (planes, rows, columns) of a chunk whose positions, flat with margins, are known; in their
    type."""
    order = around.rows_in_order(shape)
    widest = wavefront.widest(order, shape[2])
    predicted = np.empty(shape, values.dtype)
    places, found = (np.zeros(widest, np.int64) for _ in range(2))
    _all_predictions(new_state(shape, widest), values, order, shape, top, places, found, predicted)
    return predicted


@njit
def _all_predictions(state: Any, values: Any, order: Any, shape: Any, top: Any, places: Any, found: Any, predicted: Any) -> None:
    _, rows, columns = shape
    plane_of, row_of, begin = order
    step, first, last = 0, 0, 0
    while first < len(begin):
        first, last = rows_of_step(begin, columns, step, first, last)
        n = last - first
        for i in range(n):
            plane, row, column = plane_of[first + i], row_of[first + i], step - begin[first + i]
            places[i] = place_of(plane, row, column, rows, columns)
        if step % SEGMENT == 0:
            begin_segments(state, order, first, last, step, rows, columns)
        predict(state, values, places, order, first, n, step, top, found)
        learn(state, values, places, first, n, step)
        for i in range(n):
            predicted[plane_of[first + i], row_of[first + i], step - begin[first + i]] = found[i]
        step += 1
