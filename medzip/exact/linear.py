"""The integer linear layer of the pixel network and the activation behind it: the reference that every kernel must equal.

int8 weights x int8 activations, int32 sums. A layer proves when it is made that the true sum lies within +-2^30. Kernels may
therefore add in any order and let partial sums wrap modulo 2^32, and the activation cannot overflow 32 bits either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WEIGHT_MAX = 127
ACTIVATION_MAX = 127
SHIFT_MAX = 30

# The activation adds half a step, at most 2^29, and a residual: below 2^31 as long as sums stay below this.
SUM_BOUND = 1 << 30
FLOAT32_BOUND = 1 << 24

# Negative sums are divided by 2^4: the leaky slope is 1/16.
LEAK_BITS = 4


@dataclass(frozen=True)
class Linear:
    """y = weight x + bias with `weight` int8 (outputs, inputs) within +-127 and `bias` int32 (outputs,).

    Raises ValueError for other dtypes or shapes, no weights, a weight of -128, and sum|w| 128 + |bias| of 2^30 or more.
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.weight.dtype != np.int8 or self.weight.ndim != 2 or not self.weight.size:
            raise ValueError(f"expected int8 weights (outputs, inputs), found {self.weight.dtype} {self.weight.shape}")
        if self.bias.dtype != np.int32 or self.bias.shape != self.weight.shape[:1]:
            raise ValueError(f"expected int32 biases ({len(self.weight)},), found {self.bias.dtype} {self.bias.shape}")
        if (self.weight < -WEIGHT_MAX).any():
            raise ValueError(f"weights must lie within +-{WEIGHT_MAX}, found -128")
        if self.largest_sum >= SUM_BOUND:
            raise ValueError(f"sum|w| 128 + |bias| must be below 2^30, found {self.largest_sum}")

    @property
    def outputs(self) -> int:
        return len(self.bias)

    @property
    def inputs(self) -> int:
        return int(self.weight.shape[1])

    @property
    def largest_sum(self) -> int:
        """The bound max over outputs of sum|w| 128 + |bias|: no partial sum in the order of any kernel is larger."""
        sums = np.abs(self.weight.astype(np.int64)).sum(axis=1) * 128 + np.abs(self.bias.astype(np.int64))
        return int(sums.max())

    @property
    def fits_float32(self) -> bool:
        """Whether float32 holds every partial sum exactly."""
        return self.largest_sum < FLOAT32_BOUND


def accumulate(linear: Linear, x: NDArray[np.int8]) -> NDArray[np.int32]:
    """weight x + bias for each row of `x`: int8 (n, inputs) -> int32 (n, outputs), in int64 without BLAS."""
    sums = x.astype(np.int64) @ linear.weight.T.astype(np.int64) + linear.bias
    result: NDArray[np.int32] = sums.astype(np.int32)
    return result


def hidden(
    accumulated: NDArray[np.int32], shift: NDArray[np.int32], residual: NDArray[np.int8] | None = None
) -> NDArray[np.int8]:
    """The activation behind a hidden layer: int32 (n, outputs) within +-2^30 -> int8 (n, outputs) within +-127.

    t = max(a, a >> 4), the leaky ReLU of slope 1/16; r = (t + 2^(shift - 1)) >> shift, rounding half up, for `shift`
    (outputs,) in 0..30; then the `residual` is added, and the result clipped. Raises ValueError for a shift out of range.
    """
    if shift.size and (shift.min() < 0 or shift.max() > SHIFT_MAX):
        raise ValueError(f"shifts must lie in 0..{SHIFT_MAX}, found {shift.min()}..{shift.max()}")
    sums, steps = accumulated.astype(np.int64), shift.astype(np.int64)
    leaky = np.maximum(sums, sums >> LEAK_BITS)
    rounded = (leaky + ((1 << steps) >> 1)) >> steps
    if residual is not None:
        rounded += residual
    result: NDArray[np.int8] = np.clip(rounded, -ACTIVATION_MAX, ACTIVATION_MAX).astype(np.int8)
    return result
