"""`medzip.exact.least_squares` compiled, for eight systems at a time: the same bits.

Every number of a system is one of eight in a vector. `work` is flat and holds, for n unknowns, rows of n + 1 vectors, with a few
behind them that are computed but not used, the inverse pivots, the factors of a row and a solution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from medzip.exact.compiled.lanes import F64, I32, LANES
from medzip.exact.compiled.setup import njit
from medzip.exact.least_squares import RIDGE_BITS, RIDGE_MIN, TAP_BITS, TAP_MAX

SYSTEMS = LANES
_VECTOR = ir.VectorType(F64, LANES)
BLOCK = 4
"""So many vectors of a row are kept in registers."""


def _vectors(context: Any, builder: Any, kind: Any, array: Any) -> Callable[[Any], Any]:
    """Pointers to vectors of a flat float64 array, by index of the vector."""
    base = builder.bitcast(context.make_array(kind)(context, builder, array).data, _VECTOR.as_pointer())
    return lambda index: builder.gep(base, [index])


def _variable(builder: Any, value: Any) -> Any:
    place: Any = cgutils.alloca_once_value(builder, value)  # type: ignore[no-untyped-call]  # numba's
    return place


def _all(value: float) -> Any:
    return ir.Constant(_VECTOR, [value] * LANES)


def _emit_reduce(_typing: Any, work: Any, _to: Any, _factors: Any, _above: Any, _stride: Any, _rows: Any) -> Any:
    """(work, to, factors, above, stride, rows): of the BLOCK vectors from `to` on, one of `rows` rows after the other, each
    `stride` behind the last, is subtracted times its factor. The product and the difference are rounded."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        at = _vectors(context, builder, work, arguments[0])
        _, to, factors, above, stride, rows = arguments
        offsets = [ir.Constant(to.type, i) for i in range(BLOCK)]
        targets = [at(builder.add(to, i)) for i in offsets]
        sums = [_variable(builder, builder.load(target, align=8)) for target in targets]
        with cgutils.for_range(builder, rows) as loop:
            factor = builder.load(at(builder.add(factors, loop.index)), align=8)
            start = builder.add(above, builder.mul(stride, loop.index))
            for i, total in zip(offsets, sums, strict=True):
                product = builder.fmul(factor, builder.load(at(builder.add(start, i)), align=8))
                builder.store(builder.fsub(builder.load(total), product), total)
        for target, total in zip(targets, sums, strict=True):
            builder.store(builder.load(total), target, align=8)
        return context.get_dummy_value()

    return types.void(work, *[types.int64] * 5), generate


def _emit_substitute(
    _typing: Any, work: Any, taps: Any, _right: Any, _row: Any, _solution: Any, _count: Any, _inverse: Any
) -> Any:
    """(work, taps, right, row, solution, count, inverse): from `right`, `count` vectors of the row times those of the solution
    are subtracted, the last ones first; the result times the inverse is stored in front of the solution, and as taps."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        at = _vectors(context, builder, work, arguments[0])
        _, _, right, row, solution, count, inverse = arguments
        one = ir.Constant(count.type, 1)
        total = _variable(builder, builder.load(at(right), align=8))
        with cgutils.for_range(builder, count) as loop:
            k = builder.sub(builder.sub(count, one), loop.index)
            factor, known = (builder.load(at(builder.add(start, k)), align=8) for start in (row, solution))
            builder.store(builder.fsub(builder.load(total), builder.fmul(factor, known)), total)
        found = builder.fmul(builder.load(total), builder.load(at(inverse), align=8))
        builder.store(found, at(builder.sub(solution, one)), align=8)
        scaled = builder.fmul(found, _all(float(1 << TAP_BITS)))
        for sign, bound in ((">", -float(TAP_MAX)), ("<", float(TAP_MAX))):
            scaled = builder.select(builder.fcmp_ordered(sign, scaled, _all(bound)), scaled, _all(bound))
        vector = ir.VectorType(I32, LANES)
        whole = builder.fptosi(builder.fadd(scaled, _all(TAP_MAX + 0.5)), vector)
        data = context.make_array(taps)(context, builder, arguments[1]).data
        builder.store(
            builder.sub(whole, ir.Constant(vector, [TAP_MAX] * LANES)), builder.bitcast(data, vector.as_pointer()), align=4
        )
        return context.get_dummy_value()

    return types.void(work, taps, *[types.int64] * 5), generate


_reduce: Any = intrinsic(_emit_reduce)
_substitute: Any = intrinsic(_emit_substitute)


def work_of(n: int) -> NDArray[np.float64]:
    """What `eliminate` and `substitute` need for n unknowns; row k, column l of the systems at (k (n + BLOCK) + l) SYSTEMS."""
    return np.zeros((n * (n + BLOCK) + 3 * n + 1) * SYSTEMS)


@njit
def eliminate(work: Any, n: Any) -> None:
    """Adds the ridge to the products in `work`, on and above the diagonal, and eliminates."""
    stride = n + BLOCK
    inverse = np.int64(n * stride)
    factors = inverse + n
    for system in range(SYSTEMS):
        trace = 0.0
        for k in range(n):
            trace += work[(k * stride + k) * SYSTEMS + system]
        ridge = np.float64((np.int64(trace) >> RIDGE_BITS) + RIDGE_MIN)
        for k in range(n):
            work[(k * stride + k) * SYSTEMS + system] += ridge
    for i in range(n):
        for k in range(i):
            for system in range(SYSTEMS):
                factor = work[(k * stride + i) * SYSTEMS + system] * work[(inverse + k) * SYSTEMS + system]
                work[(factors + k) * SYSTEMS + system] = factor
        for column in range(i, n + 1, BLOCK):
            _reduce(work, i * stride + column, factors, column, stride, i)
        for system in range(SYSTEMS):
            pivot = work[(i * stride + i) * SYSTEMS + system]
            work[(inverse + i) * SYSTEMS + system] = 1 / (pivot if pivot > RIDGE_MIN else np.float64(RIDGE_MIN))


@njit
def substitute(work: Any, n: Any, taps: Any) -> None:
    """Taps int32 (n, SYSTEMS), flat, of what `eliminate` left."""
    stride = n + BLOCK
    inverse = np.int64(n * stride)
    solution = inverse + 2 * n + 1
    for k in range(n - 1, -1, -1):
        own = k * stride
        _substitute(work, taps[k * SYSTEMS :], own + n, own + k + 1, solution + k, n - 1 - k, inverse + k)
