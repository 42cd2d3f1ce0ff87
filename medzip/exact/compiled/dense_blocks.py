"""The integer dot products of x86-64 CPUs as numba intrinsics: a matrix product whose sums stay in registers.

A block of `rows` x `vectors` sums starts with the bias, takes one 32-bit group of inputs after the other, and is stored once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from medzip.exact.linear import ACTIVATION_MAX, LEAK_BITS

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


@dataclass(frozen=True)
class Instruction:
    """Multiplies a 32-bit group of inputs with the weights of `lanes` outputs and adds to `lanes` sums of 32 bits.

    `feature` is LLVM's name of what the CPU must have. `operand` is what activations are given as: uint8, with 128 added, or
    int16; weights are signed and as wide. `emit` takes (builder, sums, inputs, weights), all vectors of 32-bit lanes.
    """

    feature: str
    lanes: int
    operand: type[np.uint8] | type[np.int16]
    rows: int
    vectors: int
    emit: Callable[[Any, Any, Any, Any], Any]


def dot_bytes(name: str) -> Callable[[Any, Any, Any, Any], Any]:
    """vpdpbusd: four products of unsigned and signed bytes each; sums wrap around, nothing saturates."""

    def emit(builder: Any, sums: Any, inputs: Any, weights: Any) -> Any:
        return _call(builder, name, sums.type, sums, inputs, weights)

    return emit


def dot_words(name: str) -> Callable[[Any, Any, Any, Any], Any]:
    """pmaddwd: two products of signed 16-bit integers each. Its sibling for bytes, pmaddubsw, saturates: never."""

    def emit(builder: Any, sums: Any, inputs: Any, weights: Any) -> Any:
        words = ir.VectorType(ir.IntType(16), 2 * sums.type.count)
        products = _call(builder, name, sums.type, builder.bitcast(inputs, words), builder.bitcast(weights, words))
        return builder.add(sums, products)

    return emit


def matrix_product(instruction: Instruction) -> Any:
    """A function (x, weights, bias, out) for compiled code: all C-contiguous, nothing is checked.

    x: `operand` (multiple of `rows`, inputs); weights: (columns, groups of inputs, `lanes`, inputs in a group);
    bias: int32 (columns x lanes,); out: int32 (at least x's rows, at least columns x lanes).
    """

    @intrinsic
    def product(_typing: Any, x: Any, weights: Any, bias: Any, out: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, weights, bias, out = (
                context.make_array(k)(context, builder, a) for k, a in zip(signature.args, arguments, strict=True)
            )
            _emit_product(builder, instruction, x, weights, bias, out, _Sums)
            return context.get_dummy_value()

        kinds = (x, weights, bias, out)
        return (types.void(*kinds), emit) if all(map(_contiguous, kinds)) else None

    return product


def hidden_product(instruction: Instruction) -> Any:
    """The same with the activation of `medzip.exact.linear.hidden`: a function (x, weights, bias, shift, residual, out).

    shift: int32 (columns x lanes,), 0..30; residual: None or int8, out: int8, both at least as large as
    sums must be.
    """

    @intrinsic
    def product(_typing: Any, x: Any, weights: Any, bias: Any, shift: Any, residual: Any, out: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, weights, bias, shift, residual, out = (
                context.make_array(k)(context, builder, a) if isinstance(k, types.Array) else None
                for k, a in zip(signature.args, arguments, strict=True)
            )
            _emit_product(builder, instruction, x, weights, bias, out, partial(_Activations, shift=shift, residual=residual))
            return context.get_dummy_value()

        kinds = (x, weights, bias, shift, residual, out)
        return (types.void(*kinds), emit) if all(k is types.none or _contiguous(k) for k in kinds) else None

    return product


def _contiguous(kind: Any) -> bool:
    return isinstance(kind, types.Array) and kind.layout == "C"


class _Sums:
    """Stores a block's sums as they are."""

    def __init__(self, builder: Any, columns: list[Any], vector: Any) -> None:
        self.builder, self.columns, self.vector = builder, columns, vector

    def store(self, total: Any, row: Any, j: int, out: Any) -> None:
        offset = _offset(self.builder, out, row, self.columns[j])
        self.builder.store(total, pointer(self.builder, out, offset, self.vector), align=4)


class _Activations:
    """Stores what the activation makes of a block's sums."""

    def __init__(self, builder: Any, columns: list[Any], vector: Any, shift: Any, residual: Any) -> None:
        self.builder, self.columns, self.vector, self.residual = builder, columns, vector, residual
        self.bytes = ir.VectorType(_I8, vector.count)
        # No count is above 30; the mask tells LLVM.
        shifts = (load(builder, shift, column, vector) for column in columns)
        self.shifts = [builder.and_(counts, self.lanes(31)) for counts in shifts]
        self.halves = [builder.lshr(builder.shl(self.lanes(1), counts), self.lanes(1)) for counts in self.shifts]

    def lanes(self, value: int) -> Any:
        return ir.Constant(self.vector, [value] * self.vector.count)

    def store(self, total: Any, row: Any, j: int, out: Any) -> None:
        builder = self.builder
        total = self.larger(total, builder.ashr(total, self.lanes(LEAK_BITS)))
        total = builder.ashr(builder.add(total, self.halves[j]), self.shifts[j])
        if self.residual is not None:
            offset = _offset(builder, self.residual, row, self.columns[j])
            added = builder.load(pointer(builder, self.residual, offset, self.bytes), align=1)
            total = builder.add(total, builder.sext(added, self.vector))
        total = self.larger(total, self.lanes(-ACTIVATION_MAX))
        largest = self.lanes(ACTIVATION_MAX)
        total = builder.select(builder.icmp_signed("<", total, largest), total, largest)
        offset = _offset(builder, out, row, self.columns[j])
        builder.store(builder.trunc(total, self.bytes), pointer(builder, out, offset, self.bytes), align=1)

    def larger(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed(">", a, b), a, b)


def _emit_product(builder: Any, instruction: Instruction, x: Any, weights: Any, bias: Any, out: Any, finish: Any) -> None:
    rows, columns = builder.extract_value(x.shape, 0), builder.extract_value(weights.shape, 0)
    zero, width = number(0), number(instruction.vectors)
    whole = builder.mul(builder.udiv(columns, width), width)
    for start, stop, vectors in ((zero, whole, instruction.vectors), (whole, columns, 1)):
        # Columns outside: their weights stay in the first-level cache while the rows pass by.
        with (
            cgutils.for_range_slice(builder, start, stop, number(vectors), _I64) as (column, _),
            cgutils.for_range_slice(builder, zero, rows, number(instruction.rows), _I64) as (row, _),
        ):
            _emit_block(builder, instruction, vectors, row, column, x, weights, bias, out, finish)


def _emit_block(
    builder: Any,
    instruction: Instruction,
    vectors: int,
    row: Any,
    column: Any,
    x: Any,
    weights: Any,
    bias: Any,
    out: Any,
    finish: Any,
) -> None:
    lanes, vector = number(instruction.lanes), ir.VectorType(_I32, instruction.lanes)
    groups = builder.extract_value(weights.shape, 1)
    rows = [builder.add(row, number(i)) for i in range(instruction.rows)]
    columns = [builder.mul(builder.add(column, number(j)), lanes) for j in range(vectors)]
    row_starts = [builder.mul(i, groups) for i in rows]
    column_starts = [builder.mul(j, groups) for j in columns]
    biases = [load(builder, bias, j, vector) for j in columns]

    before, loop, after = builder.block, builder.append_basic_block("groups"), builder.append_basic_block("finish")
    builder.branch(loop)
    builder.position_at_end(loop)
    group = builder.phi(_I64)
    sums = [[builder.phi(vector) for _ in columns] for _ in rows]
    offset = builder.mul(group, lanes)
    loaded = [load(builder, weights, builder.add(start, offset), vector) for start in column_starts]
    group.add_incoming(number(0), before)
    for line, start in zip(sums, row_starts, strict=True):
        inputs = splat(builder, load(builder, x, builder.add(start, group), _I32), vector)
        for j, total in enumerate(line):
            line[j] = instruction.emit(builder, total, inputs, loaded[j])
            total.add_incoming(biases[j], before)
            total.add_incoming(line[j], loop)
    following = builder.add(group, number(1))
    group.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, groups), loop, after)

    builder.position_at_end(after)
    last = finish(builder, columns, vector)
    for i, line in zip(rows, sums, strict=True):
        for j, total in enumerate(line):
            last.store(total, i, j, out)


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Calls one of LLVM's own functions."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def number(value: int) -> Any:
    return ir.Constant(_I64, value)


def _offset(builder: Any, array: Any, row: Any, column: Any) -> Any:
    return builder.add(builder.mul(row, builder.extract_value(array.shape, 1)), column)


def pointer(builder: Any, array: Any, offset: Any, kind: Any) -> Any:
    """Where a `kind` begins, `offset` of its elements into the array's memory."""
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    elements = builder.bitcast(array.data, element.as_pointer())
    return builder.bitcast(builder.gep(elements, [offset]), kind.as_pointer())


def load(builder: Any, array: Any, offset: Any, kind: Any) -> Any:
    return builder.load(pointer(builder, array, offset, kind), align=4)


def splat(builder: Any, scalar: Any, vector: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    first = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(single, undefined, first)
