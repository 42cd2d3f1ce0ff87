"""The ways to compute a linear layer, and which of them this process may use: none is trusted by name.

torch._int_mm gives wrong sums without a word where the CPU has no VNNI or ONEDNN_MAX_CPU_ISA hides it, and only for large
operands. So a kernel is used after a known-answer test at the extremes of weights and activations; otherwise the next one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medzip.exact.compiled.setup import available
from medzip.exact.linear import FLOAT32_BOUND, SHIFT_MAX, SUM_BOUND, WEIGHT_MAX, Linear, accumulate, hidden

if TYPE_CHECKING:
    from medzip.exact.compiled.dense import Variant

Layer = Callable[[NDArray[np.int8]], NDArray[np.int32]]
Shapes = tuple[tuple[int, int], ...]

# (outputs, inputs): the pixel network's, and what leaves remainders in every block.
SHAPES: Shapes = ((192, 96), (192, 192), (96, 192), (16, 192), (37, 91))

# Rows that a compiled kernel takes at once: their activations and sums stay in the second-level cache.
_TILE = 128


@dataclass(frozen=True)
class Kernel:
    """`layer(linear)` gives a function that equals `accumulate(linear, x)`: int8 (n, inputs) -> int32 (n, outputs)."""

    name: str
    layer: Callable[[Linear], Layer]


@cache
def fastest(shapes: Shapes = SHAPES) -> Kernel:
    """The first kernel that gives the reference's sums in this process, for layers of these (outputs, inputs)."""
    return next(kernel for kernel in kernels() if gives_known_answers(kernel, shapes))


@cache
def compiled_variant(shapes: Shapes = SHAPES) -> Variant | None:
    """What compiled code calls for linear layers and activations, after the same test; None without numba."""
    for variant in _variants():
        if gives_known_answers(_compiled(variant), shapes) and _activates_as_known(variant):
            return variant
    return None


def kernels() -> Iterator[Kernel]:
    """All kernels that this process could try, in the order of their measured speed; the last is the reference.

    torch is not imported for this: loading it takes longer than it saves.
    """
    yield from (_compiled(variant) for variant in _variants() if variant.instruction is not None)
    if "torch" in sys.modules:
        yield Kernel("torch int8", _torch_layer)
    yield Kernel("numpy float32", _float32_layer)
    yield from (_compiled(variant) for variant in _variants() if variant.instruction is None)
    yield Kernel("numpy int64", _reference_layer)


def gives_known_answers(kernel: Kernel, shapes: Shapes = SHAPES) -> bool:
    """Whether the kernel equals the reference for all extremes of weights, activations and biases; an error counts as no."""
    return _without_error(
        lambda: all(
            np.array_equal(kernel.layer(linear)(x), accumulate(linear, x))
            for outputs, inputs in shapes
            for linear in _extreme_layers(outputs, inputs)
            for x in _extreme_activations(inputs)
        )
    )


def _without_error(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except Exception:
        # Whatever it is, what fails in a test is not used.
        return False


def _extreme_layers(outputs: int, inputs: int) -> Iterator[Linear]:
    """Every pattern of weights in some outputs, with biases that reach the bounds of float32 and of the sums."""
    rows = _patterns(inputs, -WEIGHT_MAX, WEIGHT_MAX)
    weight = rows[np.arange(outputs) % len(rows)]
    largest = Linear(weight, np.zeros(outputs, np.int32)).largest_sum
    sign = np.where(np.arange(outputs) // len(rows) % 2, -1, 1)
    for bound in (FLOAT32_BOUND, SUM_BOUND):
        yield Linear(weight, (sign * max(bound - 1 - largest, 0)).astype(np.int32))


def _extreme_activations(inputs: int) -> Iterator[NDArray[np.int8]]:
    rows = _patterns(inputs, -128, 127)
    yield rows
    yield rows[:1]
    # One row as a transposed column: contiguous for numpy, which does not care that rows are 1 byte apart.
    yield rows[:1].reshape(-1, 1).T


def _patterns(length: int, low: int, high: int) -> NDArray[np.int8]:
    """int8 (19, length): constant, alternating and random extremes, random values, a lone extreme at either end."""
    random = np.random.default_rng(length)
    at = np.arange(length)
    extremes = [np.full(length, value) for value in (high, low)]
    for period in (1, 2, 4, 8):
        extremes += [np.where(at // period % 2, high, low), np.where(at // period % 2, low, high)]
    extremes += [np.where(at == place, value, 0) for place in (0, length - 1) for value in (high, low)]
    extremes += [random.choice([low, high], length) for _ in range(3)]
    extremes += [random.integers(low, high + 1, length) for _ in range(2)]
    return np.array(extremes, np.int8)


def _activates_as_known(variant: Variant) -> bool:
    """Whether `dense_hidden` equals the reference for every shift: for sums at their limits and around each rounding."""
    from medzip.exact.compiled.dense import INPUTS, OUTPUTS, padded

    factors = np.array([-4096, -2032, -17, -16, -2, -1, 0, 1, 2, 3, 253, 254, 255, 256])
    half_steps = (1 << np.arange(SHIFT_MAX + 1)) >> 1
    near = (half_steps[:, None, None] * factors[:, None] + np.array([-1, 0, 1])).reshape(SHIFT_MAX + 1, -1)
    # Sums that are all bias: the activation is what is looked at here.
    sums = np.clip(near, 1 - SUM_BOUND, SUM_BOUND - 1).astype(np.int32)
    outputs, n = sums.size, 9
    shift = np.zeros(padded(outputs, OUTPUTS), np.int32)
    shift[:outputs] = np.repeat(np.arange(SHIFT_MAX + 1), sums.shape[1])
    weights, bias = variant.pack(Linear(np.zeros((outputs, INPUTS), np.int8), sums.ravel()))
    residual = np.resize(np.array([-128, 127, 0, -1, 1], np.int8), (16, len(bias)))
    reached = np.broadcast_to(bias, (n, len(bias)))

    def agrees(added: NDArray[np.int8] | None) -> bool:
        out = np.zeros((16, len(bias)), np.int8)
        variant.dense_hidden(np.zeros((n, INPUTS), np.int8), weights, bias, shift, added, n, out)
        return np.array_equal(out[:n], hidden(reached, shift, None if added is None else added[:n]))

    return _without_error(lambda: agrees(None) and agrees(residual))


def _variants() -> tuple[Variant, ...]:
    if not available():
        return ()
    from medzip.exact.compiled import dense

    return dense.variants()


def _compiled(variant: Variant) -> Kernel:
    return Kernel(f"numba {variant.name}", lambda linear: _compiled_layer(variant, linear))


def _compiled_layer(variant: Variant, linear: Linear) -> Layer:
    from medzip.exact.compiled.dense import INPUTS, aligned_zeros, padded

    weights, bias = variant.pack(linear)

    def layer(x: NDArray[np.int8]) -> NDArray[np.int32]:
        tile = aligned_zeros((_TILE, padded(linear.inputs, INPUTS)), np.int8)
        sums: NDArray[Any] = aligned_zeros((_TILE, len(bias)), np.int32)
        result = np.empty((len(x), linear.outputs), np.int32)
        for start in range(0, len(x), _TILE):
            rows = x[start : start + _TILE]
            tile[: len(rows), : linear.inputs] = rows
            variant.dense(tile, weights, bias, len(rows), sums)
            result[start : start + _TILE] = sums[: len(rows), : linear.outputs]
        return result

    return layer


def _torch_layer(linear: Linear) -> Layer:
    import torch

    # Copies, as torch._int_mm trusts strides that np.ascontiguousarray leaves wrong where an axis has length 1.
    weight, bias = torch.from_numpy(np.array(linear.weight.T, order="C")), linear.bias

    def layer(x: NDArray[np.int8]) -> NDArray[np.int32]:
        sums: NDArray[np.int32] = torch._int_mm(torch.from_numpy(np.array(x, order="C")), weight).numpy()
        sums += bias
        return sums

    return layer


def _float32_layer(linear: Linear) -> Layer:
    """Exact below 2^24; layers beyond that go to the reference."""
    if not linear.fits_float32:
        return _reference_layer(linear)
    weight, bias = np.ascontiguousarray(linear.weight.T.astype(np.float32)), linear.bias.astype(np.float32)
    return lambda x: (x.astype(np.float32) @ weight + bias).astype(np.int32)


def _reference_layer(linear: Linear) -> Layer:
    return lambda x: accumulate(linear, x)
