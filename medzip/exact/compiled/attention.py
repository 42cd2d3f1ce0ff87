"""Products of queries with keys and of weights with values for compiled code: some rows beside a memory that grows.

A vector of sums belongs to `lanes` keys, or to `lanes` numbers of the values. Keys lie as [position / lanes][size / group][lane]
[group], values as [size / lanes][position / group][lane][group], so that 32 bits of them meet 32 bits of a row. Like the variants
of `dense.py`, each multiplies with other instructions and gives the same sums, and is used where it gave the known answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from medzip.exact.compiled import dense
from medzip.exact.compiled.dense import aligned_zeros
from medzip.exact.compiled.dense_blocks import Instruction, load, number, pointer, splat
from medzip.exact.compiled.setup import njit

ROWS = 5
"""Rows of a block of sums that stay in registers; as many as the shipped models have heads."""
LANES_MAX = 16

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@dataclass(frozen=True)
class Attention:
    """`scores(rows, keys, at, columns, stride, groups, start, out)`: sums of products of `rows`, (multiple of ROWS, size) of
    dtype `row`, with `columns` vectors of `keys`, flat, the first one at `at`, one every `stride`, both counted in 32 bits;
    `groups` times 32 bits of each row. The sums of row i begin with start[i] and go to out, int32 (rows, columns x lanes at
    least); what is behind the groups of a row does not matter.

    `mean` is the same for weights, 0..255, and values. Keys have dtype `key`, with `offset` added, values `value`.
    """

    name: str
    lanes: int
    group: int
    row: type[np.int8] | type[np.int16]
    key: type[np.uint8] | type[np.int16]
    weight: type[np.uint8] | type[np.int16]
    value: type[np.int8] | type[np.int16]
    offset: int
    scores: Any
    mean: Any


def block_product(instruction: Instruction, rows_first: bool) -> Any:
    """A function (rows, memory, at, columns, stride, groups, start, out) for compiled code; nothing is checked.

    `rows_first`: whether the rows are the instruction's inputs, which may be unsigned, or the memory is.
    """

    @intrinsic
    def product(
        _typing: Any, rows: Any, memory: Any, _at: Any, _columns: Any, _stride: Any, _groups: Any, start: Any, out: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            made = [
                context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
                for kind, value in zip(signature.args, arguments, strict=True)
            ]
            _emit(builder, instruction, rows_first, *made)
            return context.get_dummy_value()

        kinds = (rows, memory, types.int64, types.int64, types.int64, types.int64, start, out)
        return types.void(*kinds), emit

    return product


def _emit(
    builder: Any,
    instruction: Instruction,
    rows_first: bool,
    rows: Any,
    memory: Any,
    at: Any,
    columns: Any,
    stride: Any,
    groups: Any,
    start: Any,
    out: Any,
) -> None:
    count, width = builder.extract_value(rows.shape, 0), number(instruction.vectors)
    zero, whole = number(0), builder.mul(builder.udiv(columns, width), width)
    for begin, end, vectors in ((zero, whole, instruction.vectors), (whole, columns, 1)):
        with (
            cgutils.for_range_slice(builder, zero, count, number(ROWS), _I64) as (row, _),
            cgutils.for_range_slice(builder, begin, end, number(vectors), _I64) as (column, _),
        ):
            _emit_block(builder, instruction, rows_first, vectors, row, column, rows, memory, at, stride, groups, start, out)


def _emit_block(
    builder: Any,
    instruction: Instruction,
    rows_first: bool,
    vectors: int,
    row: Any,
    column: Any,
    rows: Any,
    memory: Any,
    at: Any,
    stride: Any,
    groups: Any,
    start: Any,
    out: Any,
) -> None:
    vector = ir.VectorType(_I32, instruction.lanes)
    units = builder.udiv(builder.extract_value(rows.shape, 1), number(4 // np.dtype(instruction.operand).itemsize))
    numbers = [builder.add(row, number(i)) for i in range(ROWS)]
    columns = [builder.add(column, number(j)) for j in range(vectors)]
    row_starts = [builder.mul(i, units) for i in numbers]
    column_starts = [builder.add(at, builder.mul(j, stride)) for j in columns]
    begun = [splat(builder, load(builder, start, i, _I32), vector) for i in numbers]

    before, loop, after = builder.block, builder.append_basic_block("groups"), builder.append_basic_block("finish")
    builder.branch(loop)
    builder.position_at_end(loop)
    group = builder.phi(_I64)
    sums = [[builder.phi(vector) for _ in columns] for _ in numbers]
    offset = builder.mul(group, number(instruction.lanes))
    loaded = [load(builder, memory, builder.add(place, offset), vector) for place in column_starts]
    group.add_incoming(number(0), before)
    for line, place, first in zip(sums, row_starts, begun, strict=True):
        inputs = splat(builder, load(builder, rows, builder.add(place, group), _I32), vector)
        for j, total in enumerate(line):
            pair = (inputs, loaded[j]) if rows_first else (loaded[j], inputs)
            line[j] = instruction.emit(builder, total, *pair)
            total.add_incoming(first, before)
            total.add_incoming(line[j], loop)
    following = builder.add(group, number(1))
    group.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, groups), loop, after)

    builder.position_at_end(after)
    width = builder.extract_value(out.shape, 1)
    for i, line in zip(numbers, sums, strict=True):
        for j, total in zip(columns, line, strict=True):
            place = builder.add(builder.mul(i, width), builder.mul(j, number(instruction.lanes)))
            builder.store(total, pointer(builder, out, place, vector), align=4)


# Two functions for each variant and no closure: numba caches only what it can find by name again.
_avx512_vnni_keys, _avx512_vnni_values = block_product(dense.AVX512_VNNI, False), block_product(dense.AVX512_VNNI, True)
_avx_vnni_keys, _avx_vnni_values = block_product(dense.AVX_VNNI, False), block_product(dense.AVX_VNNI, True)
_avx512_product, _avx2_product = block_product(dense.AVX512, True), block_product(dense.AVX2, True)
_sse2_product = block_product(dense.SSE2, True)


@njit
def _avx512_vnni_scores(rows: Any, keys: Any, at: Any, columns: Any, stride: Any, groups: Any, start: Any, out: Any) -> None:
    _avx512_vnni_keys(rows, keys, at, columns, stride, groups, start, out)


@njit
def _avx512_vnni_mean(rows: Any, values: Any, at: Any, columns: Any, stride: Any, groups: Any, start: Any, out: Any) -> None:
    _avx512_vnni_values(rows, values, at, columns, stride, groups, start, out)


@njit
def _avx_vnni_scores(rows: Any, keys: Any, at: Any, columns: Any, stride: Any, groups: Any, start: Any, out: Any) -> None:
    _avx_vnni_keys(rows, keys, at, columns, stride, groups, start, out)


@njit
def _avx_vnni_mean(rows: Any, values: Any, at: Any, columns: Any, stride: Any, groups: Any, start: Any, out: Any) -> None:
    _avx_vnni_values(rows, values, at, columns, stride, groups, start, out)


@njit
def _avx512_both(rows: Any, memory: Any, at: Any, columns: Any, stride: Any, groups: Any, start: Any, out: Any) -> None:
    _avx512_product(rows, memory, at, columns, stride, groups, start, out)


@njit
def _avx2_both(rows: Any, memory: Any, at: Any, columns: Any, stride: Any, groups: Any, start: Any, out: Any) -> None:
    _avx2_product(rows, memory, at, columns, stride, groups, start, out)


@njit
def _sse2_both(rows: Any, memory: Any, at: Any, columns: Any, stride: Any, groups: Any, start: Any, out: Any) -> None:
    _sse2_product(rows, memory, at, columns, stride, groups, start, out)


@njit
def _generic_both(rows: Any, memory: Any, at: Any, columns: Any, stride: Any, groups: Any, start: Any, out: Any) -> None:
    """Plain loops over int16 pairs, for LLVM to make the most of on any CPU."""
    for i in range(rows.shape[0]):
        for column in range(columns):
            for lane in range(LANES_MAX):
                total = np.int32(start[i])
                place = 2 * (at + column * stride + lane)
                for group in range(groups):
                    first = np.int32(np.int32(rows[i, 2 * group]) * np.int32(memory[place]))
                    second = np.int32(np.int32(rows[i, 2 * group + 1]) * np.int32(memory[place + 1]))
                    total = np.int32(total + np.int32(first + second))
                    place += 2 * LANES_MAX
                out[i, column * LANES_MAX + lane] = total


def _of_bytes(name: str, lanes: int, scores: Any, mean: Any) -> Attention:
    return Attention(name, lanes, 4, np.int8, np.uint8, np.uint8, np.int8, 128, scores, mean)


def _of_words(name: str, lanes: int, both: Any) -> Attention:
    return Attention(name, lanes, 2, np.int16, np.int16, np.int16, np.int16, 0, both, both)


_ALL = {
    attention.name: attention
    for attention in (
        _of_bytes("avx512_vnni", 16, _avx512_vnni_scores, _avx512_vnni_mean),
        _of_bytes("avx_vnni", 8, _avx_vnni_scores, _avx_vnni_mean),
        _of_words("avx512", 16, _avx512_both),
        _of_words("avx2", 8, _avx2_both),
        _of_words("sse2", 4, _sse2_both),
        _of_words("generic", LANES_MAX, _generic_both),
    )
}


def attention_like(variant: dense.Variant) -> Attention | None:
    """The one that multiplies as `variant` does, if it gives the known answers."""
    attention = _ALL[variant.name]
    return attention if gives_known_answers(attention) else None


def gives_known_answers(attention: Attention) -> bool:
    """Whether sums equal numpy's at the extremes, for whole and for single vectors; an error counts as no."""
    try:
        return all(_agrees(attention, size, columns) for size, columns in ((32, 7), (16, 1), (64, 48)))
    except Exception:
        # Whatever it is, what fails in a test is not used.
        return False


def _agrees(attention: Attention, size: int, columns: int) -> bool:
    random, count = np.random.default_rng(size), columns * attention.lanes
    both: tuple[tuple[Callable[..., None], Any, Any, int, tuple[int, int]], ...] = (
        (attention.scores, attention.row, attention.key, attention.offset, (-127, 127)),
        (attention.mean, attention.weight, attention.value, 0, (0, 255)),
    )
    for function, row, kind, offset, limits in both:
        rows = random.choice(np.array(limits), (2 * ROWS, size))
        rows[0], rows[1] = limits[1], limits[0]
        memory = random.choice([-127, 127], (count, size))
        memory[:3] = [[127], [-127], [0]]
        start = -offset * rows.sum(axis=1)
        blocks = memory.reshape(columns, attention.lanes, -1, attention.group).transpose(0, 2, 1, 3) + offset
        packed = aligned_zeros((blocks.size,), kind)
        packed[...] = blocks.ravel()
        out = np.zeros((2 * ROWS, count), np.int32)
        groups = size // attention.group
        stride = groups * attention.lanes
        # From the second vector on, where there is one.
        at = stride if columns > 1 else 0
        left = columns - (columns > 1)
        function(np.ascontiguousarray(rows, row), packed, at, left, stride, groups, start.astype(np.int32), out)
        expected = rows @ memory.T
        if not np.array_equal(out[:, : left * attention.lanes], expected[:, count - left * attention.lanes :]):
            return False
    return True
