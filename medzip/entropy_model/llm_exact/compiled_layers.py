"""The exact language model's layers in compiled code: the integers of `network.py` and `arithmetic.py`, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np

from medzip.entropy_model.llm_exact import arithmetic, network
from medzip.entropy_model.llm_exact.arithmetic import BYTE_MAX
from medzip.exact.compiled.attention import attention_like
from medzip.exact.compiled.dense import Variant
from medzip.exact.compiled.setup import njit
from medzip.exact.kernels import compiled_variant

_CHOSEN = compiled_variant()
_LIKE = attention_like(_CHOSEN) if _CHOSEN is not None else None
if _CHOSEN is None or _LIKE is None:
    raise ImportError("no compiled linear layer gave the known answers")
VARIANT: Variant = _CHOSEN
ATTENTION = _LIKE
_dense, _scores, _mean = VARIANT.dense, ATTENTION.scores, ATTENTION.mean
_LANES, _GROUP, _OFFSET = ATTENTION.lanes, ATTENTION.group, ATTENTION.offset

_WIDE = np.int64(arithmetic.LIMIT)
_SIGMOID = arithmetic.SIGMOID.astype(np.int32)
_A, _B = (np.int32(number) for number in arithmetic._CURVE)
_ONE, _FRACTION = np.int32(arithmetic.ONE), np.int32((1 << arithmetic.OCTAVE_BITS) - 1)
_OCTAVE_BITS, _SHIFT_MAX, _SHIFT_MIN = arithmetic.OCTAVE_BITS, arithmetic.SHIFT_MAX, arithmetic.SHIFT_MIN
_SIGMOID_BITS, _STEP_BITS, _ANGLE_BITS = arithmetic.SIGMOID_BITS, arithmetic.SIGMOID_STEP_BITS, arithmetic.ANGLE_BITS
_ROOT_BITS, _FACTOR_BITS = arithmetic.ROOT_BITS, arithmetic.FACTOR_BITS
_NORM_BITS, _HALF_BITS, _VALUE_BITS = network.NORM_BITS, network.HALF_BITS, network.VALUE_BITS
_LAST_SIGMOID = np.int32(len(_SIGMOID) - 1)
_FARTHEST = np.int32(_SHIFT_MAX)
_WIDTH, _STRIDE, _BESIDE = np.uint64(_GROUP), np.uint64(_GROUP * _LANES), np.uint64(_LANES)


@njit
def exponent_of(largest: Any) -> Any:
    exponent = np.int64(0)
    while (largest >> exponent) > BYTE_MAX:
        exponent += 1
    # Rounding may reach 128 where shifting did not.
    if ((largest + ((np.int64(1) << exponent) >> 1)) >> exponent) > BYTE_MAX:
        exponent += 1
    return exponent


@njit
def in_bytes(rows: Any, i: Any, width: Any, out: Any) -> Any:
    """Row i of `rows`, int32, as int8 in row i of `out`; gives the exponent."""
    largest = np.int32(0)
    for j in range(width):
        value = rows[i, j]
        largest = max(largest, max(value, np.int32(-value)))
    exponent = exponent_of(np.int64(largest))
    step = np.int32(exponent & 31)
    half = np.int32(np.int32(np.int32(1) << step) >> 1)
    for j in range(width):
        out[i, j] = np.int8(np.int32(rows[i, j] + half) >> step)
    return exponent


@njit
def inverse_norm(rows: Any, i: Any, width: Any) -> Any:
    squares = np.int32(0)
    for j in range(width):
        value = np.int32(rows[i, j])
        squares = np.int32(squares + np.int32(value * value))
    if squares == 0:
        return np.int64(0)
    radicand = (np.int64(width) << (2 * _ROOT_BITS)) // np.int64(squares)
    root = np.int64(0)
    bit = np.int64(1) << (_ROOT_BITS + 6)
    while bit:
        larger = root + bit
        if larger * larger <= radicand:
            root = larger
        bit >>= 1
    return min(root, np.int64(1) << _ROOT_BITS)


@njit
def scale_row(sums: Any, i: Any, width: Any, multiplier: Any, shift: Any, out: Any) -> None:
    """Sums times multipliers over 2^shift, limited, to row i of `out`."""
    half = (np.int64(1) << shift) >> 1
    for j in range(width):
        value = (np.int64(sums[i, j]) * np.int64(multiplier[j]) + half) >> shift
        out[i, j] = np.int32(min(max(value, -_WIDE), _WIDE))


@njit
def add_scaled(sums: Any, i: Any, width: Any, multiplier: Any, shift: Any, state: Any) -> None:
    half = (np.int64(1) << shift) >> 1
    for j in range(width):
        value = np.int64(state[i, j]) + ((np.int64(sums[i, j]) * np.int64(multiplier[j]) + half) >> shift)
        state[i, j] = np.int32(min(max(value, -_WIDE), _WIDE))


@njit
def add_normed(sums: Any, i: Any, width: Any, multiplier: Any, root: Any, shift: Any, state: Any) -> None:
    half = (np.int64(1) << shift) >> 1
    for j in range(width):
        halfway = (np.int64(sums[i, j]) * np.int64(multiplier[j]) + (1 << (_HALF_BITS - 1))) >> _HALF_BITS
        value = np.int64(state[i, j]) + ((halfway * root + half) >> shift)
        state[i, j] = np.int32(min(max(value, -_WIDE), _WIDE))


@njit
def gate_row(sums: Any, i: Any, inner: Any, multiplier: Any, root: Any, shifts: Any, out: Any) -> None:
    """What the MLP multiplies, from the sums of gates and values, which are overwritten, to row i of `out`."""
    gate_shift, up_shift, product_shift = shifts[2], shifts[3], shifts[4]
    gate_half, up_half, product_half = (
        (np.int64(1) << gate_shift) >> 1,
        (np.int64(1) << up_shift) >> 1,
        (np.int64(1) << product_shift) >> 1,
    )
    # Three loops: LLVM makes no vectors of one with a table in it.
    for j in range(inner):
        normed = (np.int64(sums[i, j]) * root + (1 << (_NORM_BITS - 1))) >> _NORM_BITS
        wide = (normed * np.int64(multiplier[j]) + gate_half) >> gate_shift
        sums[i, j] = np.int32(min(max(wide, -_WIDE), _WIDE))
    for j in range(inner):
        gate = sums[i, j]
        step = np.int32(np.int32(max(gate, np.int32(-gate)) + np.int32(1 << _STEP_BITS >> 1)) >> _STEP_BITS)
        sigmoid = _SIGMOID[np.uint64(min(step, _LAST_SIGMOID))]
        out[i, j] = np.int32(np.int32(1 << _SIGMOID_BITS) - sigmoid) if gate < 0 else sigmoid
    for j in range(inner):
        silu = (np.int64(sums[i, j]) * np.int64(out[i, j]) + (1 << (_SIGMOID_BITS - 1))) >> _SIGMOID_BITS
        k = np.uint64(j) + np.uint64(inner)
        up = (np.int64(sums[i, k]) * np.int64(multiplier[k]) + up_half) >> up_shift
        product = (silu * min(max(up, -_WIDE), _WIDE) + product_half) >> product_shift
        out[i, j] = np.int32(min(max(product, -_WIDE), _WIDE))


@njit
def turn(rows: Any, i: Any, begin: Any, cosines: Any, sines: Any, place: Any) -> None:
    """Turns the numbers of row i from `begin` on, a vector of twice as many as there are angles."""
    pairs = cosines.shape[1]
    half = np.int64(1) << (_ANGLE_BITS - 1)
    low, high = np.uint64(begin), np.uint64(begin + pairs)
    for j in range(pairs):
        k = np.uint64(j)
        first, second = np.int64(rows[i, low + k]), np.int64(rows[i, high + k])
        cosine, sine = np.int64(cosines[place, j]), np.int64(sines[place, j])
        x, y = (first * cosine - second * sine + half) >> _ANGLE_BITS, (second * cosine + first * sine + half) >> _ANGLE_BITS
        rows[i, low + k] = np.int32(min(max(x, -_WIDE), _WIDE))
        rows[i, high + k] = np.int32(min(max(y, -_WIDE), _WIDE))


@njit
def _cached(value: Any, root: Any) -> Any:
    byte = (np.int64(value) * root + (np.int64(1) << (_ROOT_BITS - 1))) >> _ROOT_BITS
    return min(max(byte, np.int64(-BYTE_MAX)), np.int64(BYTE_MAX))


@njit
def keep_key(made: Any, i: Any, begin: Any, size: Any, root: Any, keys: Any, at: Any, padded_size: Any, place: Any) -> None:
    """`at`: where the slot's keys begin in `keys`."""
    start = np.uint64(at + place // _LANES * padded_size * _LANES + place % _LANES * _GROUP)
    first = np.uint64(begin)
    for j in range(size):
        k = np.uint64(j)
        keys[start + k // _WIDTH * _STRIDE + k % _WIDTH] = _cached(made[i, first + k], root) + _OFFSET


@njit
def keep_value(made: Any, i: Any, begin: Any, size: Any, root: Any, values: Any, at: Any, positions: Any, place: Any) -> None:
    """`positions`: a multiple of what a group holds."""
    start = np.uint64(at + place // _GROUP * _GROUP * _LANES + place % _GROUP)
    first, column = np.uint64(begin), np.uint64(positions * _LANES)
    for j in range(size):
        k = np.uint64(j)
        values[start + k // _BESIDE * column + k % _BESIDE * _WIDTH] = _cached(made[i, first + k], root)


@njit
def put_query(made: Any, i: Any, begin: Any, size: Any, queries: Any, head: Any, start: Any) -> Any:
    """A query as bytes; gives its exponent."""
    largest, first = np.int32(0), np.uint64(begin)
    for j in range(size):
        value = made[i, first + np.uint64(j)]
        largest = max(largest, max(value, np.int32(-value)))
    exponent = exponent_of(np.int64(largest))
    step = np.int32(exponent & 31)
    half, total = np.int32(np.int32(np.int32(1) << step) >> 1), np.int32(0)
    for j in range(size):
        byte = np.int32(np.int32(made[i, first + np.uint64(j)] + half) >> step)
        queries[head, j] = byte
        total = np.int32(total + byte)
    start[head] = -_OFFSET * total
    return exponent


@njit
def weigh(scores: Any, head: Any, count: Any, root: Any, exponent: Any, constants: Any, weights: Any) -> Any:
    """Scores of the first `count` positions to weights, 0 from there to the end of its group; gives their sum."""
    factor, spare = root * constants[6], np.int64(0)
    while (factor >> spare) >> _FACTOR_BITS:
        spare += 1
    times = np.int32(factor >> spare)
    # LLVM shifts 32-bit lanes where it knows that counts are below 32.
    step = np.int32(min(max(constants[7] - spare - exponent, _SHIFT_MIN), _SHIFT_MAX) & 31)
    before = np.int32(constants[8] & 31)
    largest = np.int32(-(1 << 30))
    for t in range(count):
        octaves = np.int32(np.int32(np.int32(scores[head, t] >> before) * times) >> step)
        scores[head, t] = octaves
        largest = max(largest, octaves)
    total = np.int32(0)
    for t in range(count):
        less = np.int32(largest - scores[head, t])
        fraction = np.int32(less & _FRACTION)
        bent = np.int32(_A - np.int32(np.int32(fraction * _B) >> _OCTAVE_BITS))
        power = np.int32(_ONE - np.int32(np.int32(fraction * bent) >> _OCTAVE_BITS))
        down = np.int32(min(np.int32(less >> _OCTAVE_BITS), _FARTHEST) & 31)
        power = np.int32(power >> down)
        weight = np.int32(np.int32(np.int32(power * np.int32(255)) + np.int32(1 << 14)) >> 15)
        weights[head, t] = weight
        total = np.int32(total + weight)
    for t in range(count, (count + _GROUP - 1) // _GROUP * _GROUP):
        weights[head, t] = 0
    return np.int64(total)


@njit
def attend(
    made: Any, i: Any, heads: Any, size: Any, root: Any, place: Any, constants: Any, keys: Any, values: Any, at: Any,
    positions: Any, work: Any, out: Any,
) -> None:  # fmt: skip
    """Attention of one row, whose queries and key are turned already: heads x size numbers to row i of `out`.

    `at`: where the slot's keys and values begin.
    """
    queries, start, totals, scores, weights, zeros, sums = work
    padded_size, count, unit = queries.shape[1], place + 1, at // _GROUP
    keep_key(made, i, heads * size, size, root, keys, at, padded_size, place)
    keep_value(made, i, (heads + 1) * size, size, root, values, at, positions, place)
    for head in range(heads):
        totals[head] = put_query(made, i, head * size, size, queries, head, start)
    groups = padded_size // _GROUP
    _scores(queries, keys, unit, (count + _LANES - 1) // _LANES, groups * _LANES, groups, start, scores)
    for head in range(heads):
        totals[head] = weigh(scores, head, count, root, totals[head], constants, weights)
    used = (count + _GROUP - 1) // _GROUP
    _mean(weights, values, unit, padded_size // _LANES, positions // _GROUP * _LANES, used, zeros, sums)
    for head in range(heads):
        inverse, first = (np.int64(1) << 32) // totals[head], np.uint64(head * size)
        for j in range(size):
            value = (np.int64(sums[head, j]) * inverse + (np.int64(1) << (31 - _VALUE_BITS))) >> (32 - _VALUE_BITS)
            out[i, first + np.uint64(j)] = np.int32(value)


@njit
def pass_layer(
    state: Any, n: Any, slots: Any, places: Any, first: Any, weights: Any, biases: Any, multipliers: Any, constants: Any,
    cosines: Any, sines: Any, keys: Any, values: Any, positions: Any, heads: Any, size: Any, work: Any, attention: Any,
) -> None:  # fmt: skip
    """The residual stream of n rows through one layer, whose keys and values begin `first` slots from the beginning."""
    rows, inner_rows, attended_rows, made, sums, attended, roots, exponents = work
    hidden, inner, padded_size = state.shape[1], multipliers[2].shape[0] // 2, attention[0].shape[1]
    _norm_rows(state, n, hidden, rows, roots)
    _dense(rows, weights[0], biases[0], n, sums)
    for i in range(n):
        scale_row(sums, i, (heads + 2) * size, multipliers[0], constants[0], made)
        for head in range(heads + 1):
            turn(made, i, head * size, cosines, sines, places[i])
        at = (first + slots[i]) * positions * padded_size
        attend(made, i, heads, size, roots[i], places[i], constants, keys, values, at, positions, attention, attended)
        exponents[i] = in_bytes(attended, i, heads * size, attended_rows)
    _dense(attended_rows, weights[1], biases[1], n, sums)
    for i in range(n):
        add_scaled(sums, i, hidden, multipliers[1], max(constants[1] - exponents[i], 0), state)
    _norm_rows(state, n, hidden, rows, roots)
    _dense(rows, weights[2], biases[2], n, sums)
    for i in range(n):
        gate_row(sums, i, inner, multipliers[2], roots[i], constants, made)
        exponents[i] = in_bytes(made, i, inner, inner_rows)
    _dense(inner_rows, weights[3], biases[3], n, sums)
    for i in range(n):
        add_normed(sums, i, hidden, multipliers[3], roots[i], max(constants[5] - exponents[i], 0), state)


@njit
def _norm_rows(state: Any, n: Any, hidden: Any, rows: Any, roots: Any) -> None:
    for i in range(n):
        in_bytes(state, i, hidden, rows)
        roots[i] = inverse_norm(rows, i, hidden)


@njit
def embed_rows(
    features: Any, n: Any, places: Any, weights: Any, bias: Any, multiplier: Any, shift: Any, tables: Any, patch: Any, sums: Any,
    state: Any, shared: Any,
) -> None:  # fmt: skip
    """The residual stream of n voxels, and the part that their means share."""
    row, column, channel = tables
    hidden = state.shape[1]
    half = (np.int64(1) << shift) >> 1
    _dense(features, weights, bias, n, sums)
    for i in range(n):
        z, within = places[i] // (patch * patch), places[i] % (patch * patch)
        y, x = within // patch, within % patch
        for j in range(hidden):
            value = (np.int64(sums[i, j]) * np.int64(multiplier[j]) + half) >> shift
            value += np.int64(row[y, j]) + np.int64(column[x, j]) + np.int64(channel[z, j])
            state[i, j] = np.int32(min(max(value, -_WIDE), _WIDE))
        shared[i] = (np.int64(sums[i, hidden]) * np.int64(multiplier[hidden]) + half) >> shift


@njit
def head_rows(
    state: Any, n: Any, weights: Any, zeros: Any, multiplier: Any, shift: Any, bias: Any, rows: Any, roots: Any, sums: Any,
    shared: Any, out: Any,
) -> None:  # fmt: skip
    """Logits, means and deviations of n voxels to `out` (n, 3 K)."""
    _norm_rows(state, n, state.shape[1], rows, roots)
    _dense(rows, weights, zeros, n, sums)
    half, count = (np.int64(1) << shift) >> 1, len(bias) // 3
    for i in range(n):
        for j in range(len(bias)):
            normed = (np.int64(sums[i, j]) * roots[i] + (1 << (_NORM_BITS - 1))) >> _NORM_BITS
            value = ((normed * np.int64(multiplier[j]) + half) >> shift) + np.int64(bias[j])
            out[i, j] = value + shared[i] if count <= j < 2 * count else value
