"""The pixel network in integers: what its weights file holds, and its definition in numpy.

Features (n, FEATURES) pass through hidden layers; one as wide as the layer before is added to it. The last layer sees the last
hidden state and the features, and gives K logits, K means and K log scales; `mixture` makes a mixture of logistics of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel.features import FEATURES, POSITION_BITS, Look
from medzip.errors import ModelMissingError
from medzip.exact import mixture as mixtures
from medzip.exact.linear import SHIFT_MAX, Linear, hidden
from medzip.exact.mixture import MEAN_MAX, SCALE_CODES, SIGMA, Mixture
from medzip.exact.tables import INVERSE_OCTAVE
from medzip.weights.tensors import read_tensors

Ints = NDArray[np.int64]
Sums = Callable[[NDArray[np.int8]], NDArray[np.int32]]

MEAN_BITS = 8
"""Means leave the network in units of 2^-8 of the local scale."""
MEAN_REACH = 32
"""So many local scales a mean may lie from the prediction."""
ACTIVATION_BITS = 4
MIXTURES_MAX = 8
WIDTH_MULTIPLE = 16
"""Hidden layers are as wide as compiled code's blocks of outputs, so that what follows them stands where it is looked for."""
# Below this many octaves a component has no weight.
OCTAVES = 14


@dataclass(frozen=True)
class Layer:
    """A linear layer and its `shift` int32 (outputs,): how many bits its weights have behind the binary point."""

    linear: Linear
    shift: NDArray[np.int32]


@dataclass(frozen=True)
class Network:
    """`hidden` layers and the last one, `out`, of 3 K outputs. Raises ModelMissingError where shapes or shifts do not fit."""

    hidden: tuple[Layer, ...]
    out: Layer

    def __post_init__(self) -> None:
        widths = [FEATURES, *(layer.linear.outputs for layer in self.hidden)]
        inputs = [layer.linear.inputs for layer in self.hidden]
        shifts = [layer.shift for layer in self.layers]
        good = (
            inputs == widths[:-1]
            and self.out.linear.inputs == widths[-1] + FEATURES
            and self.out.linear.outputs % 3 == 0
            and 1 <= self.mixtures <= MIXTURES_MAX
            and not any(width % WIDTH_MULTIPLE for width in widths)
            and all(s.dtype == np.int32 and s.shape == (a.linear.outputs,) for s, a in zip(shifts, self.layers, strict=True))
            and all(s.min(initial=0) >= 0 and s.max(initial=0) <= SHIFT_MAX for s in shifts)
            and self.out.shift.min(initial=MEAN_BITS) >= MEAN_BITS - ACTIVATION_BITS
        )
        if not good:
            raise ModelMissingError(
                f"pixel network: expected layers that fit each other, their widths multiples of {WIDTH_MULTIPLE}, "
                f"found widths {widths}, inputs {inputs}"
            )

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (*self.hidden, self.out)

    @property
    def mixtures(self) -> int:
        return self.out.linear.outputs // 3

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of all layers: what kernels are to be tested with."""
        return tuple((layer.linear.outputs, layer.linear.inputs) for layer in self.layers)

    @property
    def multiplications(self) -> int:
        """For each sample."""
        return sum(layer.linear.weight.size for layer in self.layers)

    def outputs(self, features: NDArray[np.int8], sums: Sequence[Sums]) -> NDArray[np.int32]:
        """int8 (n, FEATURES) -> the sums of the last layer, int32 (n, 3 K); `sums` compute the linear parts of `layers`."""
        state = features
        for i, layer in enumerate(self.hidden):
            added = state if i and layer.linear.inputs == layer.linear.outputs else None
            state = hidden(sums[i](state), layer.shift, added)
        return sums[-1](np.concatenate([state, features], axis=1))

    def mixture(self, look: Look, predicted: Ints, layer_sums: Sequence[Sums]) -> Mixture:
        """The mixtures of logistics for samples, on the axis of values that begins at the chunk's lowest."""
        n, k = len(predicted), self.mixtures
        sums = self.outputs(look.features, layer_sums).astype(np.int64).reshape(n, 3, k)
        steps = self.out.shift.astype(np.int64).reshape(3, k) - np.array([[0], [MEAN_BITS - ACTIVATION_BITS], [0]])
        logit, mean, octaves = np.moveaxis((sums + ((1 << steps) >> 1)) >> steps, 1, 0)
        less = logit.max(axis=1, keepdims=True) - logit
        weight = INVERSE_OCTAVE[less & 15] >> (np.minimum(less >> 4, 62) + weight_shift(k))
        weight = np.where(less < 16 * OCTAVES, weight, 0)
        reach = MEAN_REACH << MEAN_BITS
        offset = (np.clip(mean, -reach, reach) * SIGMA[np.clip(look.scale, 0, SCALE_CODES - 1)][:, None]) >> MEAN_BITS
        position = (predicted[:, None] << (mixtures.POSITION_BITS - POSITION_BITS)) + offset
        return Mixture(
            weight, np.clip(position, -MEAN_MAX, MEAN_MAX), np.clip(look.scale[:, None] + octaves, 0, SCALE_CODES - 1), "logistic"
        )


def weight_shift(mixtures: int) -> int:
    """So many bits are taken off 2^15 that the weights of all components cannot pass it together."""
    return (mixtures - 1).bit_length()


def read_network(path: Path) -> Network:
    """The network of a weights file. Raises ModelMissingError where the file holds no pixel network."""
    tensors = read_tensors(path)
    try:
        names = [f"hidden.{i}" for i in range(sum(name.startswith("hidden.") for name in tensors) // 3)] + ["out"]
        layers = [Layer(Linear(tensors[f"{n}.weight"], tensors[f"{n}.bias"]), tensors[f"{n}.shift"]) for n in names]
    except (KeyError, ValueError) as error:
        raise ModelMissingError(f"{path}: expected the tensors of a pixel network: {error}; install the package again") from error
    return Network(tuple(layers[:-1]), layers[-1])
