"""The linear layer and its activation for tiles of some hundred voxels, to be called inside other compiled functions.

Every variant multiplies with other instructions and gives the sums of `medzip.exact.linear`; `medzip.exact.kernels` says
which of them this process may use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.exact.compiled.dense_blocks import Instruction, dot_bytes, dot_words, hidden_product, matrix_product
from medzip.exact.compiled.setup import cpu_features, njit
from medzip.exact.linear import ACTIVATION_MAX, LEAK_BITS, Linear

# What a tile is padded to: its rows in sums, its inputs, its outputs.
ROWS = 8
INPUTS = 4
OUTPUTS = 16

_ALIGNMENT = 64


@dataclass(frozen=True)
class Variant:
    """One way to compute linear layers: two compiled functions, whose arrays are all C-contiguous.

    `dense(x, weights, bias, n, out)` computes n rows of sums: x int8 (at least n, inputs padded to 4), `weights` and `bias` from
    `pack`, out int32. `dense_hidden(x, weights, bias, shift, residual, n, out)` goes on to the activation: shift int32 (outputs
    padded to 16,) in 0..30, residual int8 or None, out int8. `out` and `residual` are at least (n rounded up to 8, outputs
    padded to 16): the rows of `out` from n to the next multiple of 8, and columns of padding, are overwritten with anything.
    Both raise ValueError where shapes do not fit.
    """

    name: str
    dense: Any
    dense_hidden: Any
    instruction: Instruction | None

    def pack(self, linear: Linear) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Weights (columns, groups, lanes, inputs in a group) and bias (outputs padded to 16,) as `dense` takes them."""
        weights = np.zeros((padded(linear.outputs, OUTPUTS), padded(linear.inputs, INPUTS)), np.int8)
        weights[: linear.outputs, : linear.inputs] = linear.weight
        bias = aligned_zeros((len(weights),), np.int32)
        bias[: linear.outputs] = linear.bias
        kind: np.dtype[Any] = np.dtype(np.int16)
        lanes, group = 1, weights.shape[1]
        if self.instruction is not None:
            kind, lanes = np.dtype(self.instruction.operand), self.instruction.lanes
            group = 4 // kind.itemsize
        if kind == np.uint8:
            # Below 2^30 like the layer's own sums: 128 sum|w| is part of the bound that it has proved.
            bias -= 128 * weights.sum(axis=1, dtype=np.int32)
        blocks = weights.reshape(len(weights) // lanes, lanes, -1, group).transpose(0, 2, 1, 3)
        packed = aligned_zeros(blocks.shape, np.int8 if kind == np.uint8 else np.int16)
        packed[...] = blocks
        return packed, bias


def padded(count: int, multiple: int) -> int:
    """`count` rounded up to a multiple."""
    return -(-count // multiple) * multiple


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Like np.zeros, beginning at a cache line: worth a tenth of the speed of `dense`."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    result: NDArray[Any] = memory[start : start + size].view(dtype).reshape(shape)
    return result


@njit
def hidden_into(accumulated: Any, shift: Any, residual: Any, out: Any, n: Any) -> None:
    """`medzip.exact.linear.hidden` for the first n rows and as many columns as `shift`, int32, has; 32-bit operations only.

    accumulated int32, residual int8 or None, out int8: two-dimensional, C-contiguous, of any width.
    """
    for i in range(n):
        for j in range(len(shift)):
            # Counts of 0..31, as LLVM must know to shift 32-bit lanes; `shift` is at most 30.
            step = np.int32(shift[j] & 31)
            total = accumulated[i, j]
            total = max(total, np.int32(total >> LEAK_BITS))
            total = np.int32(np.int32(total + np.int32(np.int32(np.int32(1) << step) >> 1)) >> step)
            if residual is not None:
                total = np.int32(total + residual[i, j])
            out[i, j] = np.int8(min(max(total, np.int32(-ACTIVATION_MAX)), np.int32(ACTIVATION_MAX)))


@njit
def _fit(x: Any, weights: Any, bias: Any, n: Any, out: Any) -> Any:
    """n rounded up to 8. Raises ValueError where shapes do not fit."""
    columns, groups, lanes, group = weights.shape
    rows = (n + ROWS - 1) // ROWS * ROWS
    outputs = columns * lanes
    if n < 0 or x.shape[0] < n or x.shape[1] != groups * group or len(bias) != outputs:
        raise ValueError("dense: x must hold n rows of the weights' padded inputs")
    if out.shape[0] < rows or out.shape[1] < outputs:
        raise ValueError("dense: out must hold n rows, rounded up to 8, of the weights' padded outputs")
    return rows


@njit
def _fit_hidden(x: Any, weights: Any, bias: Any, shift: Any, residual: Any, n: Any, out: Any) -> Any:
    rows = _fit(x, weights, bias, n, out)
    if len(shift) != len(bias):
        raise ValueError("dense: there must be as many shifts as biases")
    if residual is not None:  # noqa: SIM102, numba leaves out the rest where there is none
        if residual.shape[0] < rows or residual.shape[1] < len(bias):
            raise ValueError("dense: residual must hold n rows, rounded up to 8, of the weights' padded outputs")
    return rows


# Plain loops here and below: numba takes half a second to compile a slice assignment or a reshape.
@njit
def _as_unsigned(x: Any, n: Any, rows: Any) -> Any:
    """int8 -> uint8 with 128 added, with room for `rows` rows."""
    result = np.empty((rows, x.shape[1]), np.uint8)
    for i in range(n):
        for k in range(x.shape[1]):
            result[i, k] = np.uint8(np.int32(x[i, k]) + np.int32(128))
    return result


@njit
def _as_words(x: Any, n: Any, rows: Any) -> Any:
    """int8 -> int16, with room for `rows` rows."""
    result = np.empty((rows, x.shape[1]), np.int16)
    for i in range(n):
        for k in range(x.shape[1]):
            result[i, k] = np.int16(x[i, k])
    return result


AVX512_VNNI = Instruction("avx512vnni", 16, np.uint8, 8, 3, dot_bytes("llvm.x86.avx512.vpdpbusd.512"))
AVX_VNNI = Instruction("avxvnni", 8, np.uint8, 4, 3, dot_bytes("llvm.x86.avx512.vpdpbusd.256"))
AVX512 = Instruction("avx512bw", 16, np.int16, 8, 3, dot_words("llvm.x86.avx512.pmaddw.d.512"))
AVX2 = Instruction("avx2", 8, np.int16, 4, 2, dot_words("llvm.x86.avx2.pmadd.wd"))
SSE2 = Instruction("sse2", 4, np.int16, 4, 2, dot_words("llvm.x86.sse2.pmadd.wd"))

# Two functions for each variant and no closure: numba caches only what it can find by name again.
_avx512_vnni_product, _avx512_vnni_hidden_product = matrix_product(AVX512_VNNI), hidden_product(AVX512_VNNI)
_avx_vnni_product, _avx_vnni_hidden_product = matrix_product(AVX_VNNI), hidden_product(AVX_VNNI)
_avx512_product, _avx512_hidden_product = matrix_product(AVX512), hidden_product(AVX512)
_avx2_product, _avx2_hidden_product = matrix_product(AVX2), hidden_product(AVX2)
_sse2_product, _sse2_hidden_product = matrix_product(SSE2), hidden_product(SSE2)


@njit
def _avx512_vnni(x: Any, weights: Any, bias: Any, n: Any, out: Any) -> None:
    _avx512_vnni_product(_as_unsigned(x, n, _fit(x, weights, bias, n, out)), weights, bias, out)


@njit
def _avx512_vnni_hidden(x: Any, weights: Any, bias: Any, shift: Any, residual: Any, n: Any, out: Any) -> None:
    rows = _fit_hidden(x, weights, bias, shift, residual, n, out)
    _avx512_vnni_hidden_product(_as_unsigned(x, n, rows), weights, bias, shift, residual, out)


@njit
def _avx_vnni(x: Any, weights: Any, bias: Any, n: Any, out: Any) -> None:
    _avx_vnni_product(_as_unsigned(x, n, _fit(x, weights, bias, n, out)), weights, bias, out)


@njit
def _avx_vnni_hidden(x: Any, weights: Any, bias: Any, shift: Any, residual: Any, n: Any, out: Any) -> None:
    rows = _fit_hidden(x, weights, bias, shift, residual, n, out)
    _avx_vnni_hidden_product(_as_unsigned(x, n, rows), weights, bias, shift, residual, out)


@njit
def _avx512(x: Any, weights: Any, bias: Any, n: Any, out: Any) -> None:
    _avx512_product(_as_words(x, n, _fit(x, weights, bias, n, out)), weights, bias, out)


@njit
def _avx512_hidden(x: Any, weights: Any, bias: Any, shift: Any, residual: Any, n: Any, out: Any) -> None:
    rows = _fit_hidden(x, weights, bias, shift, residual, n, out)
    _avx512_hidden_product(_as_words(x, n, rows), weights, bias, shift, residual, out)


@njit
def _avx2(x: Any, weights: Any, bias: Any, n: Any, out: Any) -> None:
    _avx2_product(_as_words(x, n, _fit(x, weights, bias, n, out)), weights, bias, out)


@njit
def _avx2_hidden(x: Any, weights: Any, bias: Any, shift: Any, residual: Any, n: Any, out: Any) -> None:
    rows = _fit_hidden(x, weights, bias, shift, residual, n, out)
    _avx2_hidden_product(_as_words(x, n, rows), weights, bias, shift, residual, out)


@njit
def _sse2(x: Any, weights: Any, bias: Any, n: Any, out: Any) -> None:
    _sse2_product(_as_words(x, n, _fit(x, weights, bias, n, out)), weights, bias, out)


@njit
def _sse2_hidden(x: Any, weights: Any, bias: Any, shift: Any, residual: Any, n: Any, out: Any) -> None:
    rows = _fit_hidden(x, weights, bias, shift, residual, n, out)
    _sse2_hidden_product(_as_words(x, n, rows), weights, bias, shift, residual, out)


@njit
def _generic(x: Any, weights: Any, bias: Any, n: Any, out: Any) -> None:
    """Plain loops over int16, for LLVM to make the most of on any CPU."""
    rows = _fit(x, weights, bias, n, out)
    words = _as_words(x, n, rows)
    for i in range(n):
        for j in range(len(bias)):
            total = bias[j]
            for k in range(x.shape[1]):
                total = np.int32(total + np.int32(np.int32(words[i, k]) * np.int32(weights[j, 0, 0, k])))
            out[i, j] = total


@njit
def _generic_hidden(x: Any, weights: Any, bias: Any, shift: Any, residual: Any, n: Any, out: Any) -> None:
    rows = _fit_hidden(x, weights, bias, shift, residual, n, out)
    sums = np.empty((rows, len(bias)), np.int32)
    _generic(x, weights, bias, n, sums)
    hidden_into(sums, shift, residual, out, n)


_ALL = (
    Variant("avx512_vnni", _avx512_vnni, _avx512_vnni_hidden, AVX512_VNNI),
    Variant("avx_vnni", _avx_vnni, _avx_vnni_hidden, AVX_VNNI),
    Variant("avx512", _avx512, _avx512_hidden, AVX512),
    Variant("avx2", _avx2, _avx2_hidden, AVX2),
    Variant("sse2", _sse2, _sse2_hidden, SSE2),
    Variant("generic", _generic, _generic_hidden, None),
)


def variants() -> tuple[Variant, ...]:
    """Those for which the CPU (or NUMBA_CPU_FEATURES) has the instructions, the fastest first; the last runs anywhere."""
    features = cpu_features()
    return tuple(v for v in _ALL if v.instruction is None or v.instruction.feature in features)
