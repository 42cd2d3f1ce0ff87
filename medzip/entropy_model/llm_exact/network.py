"""The exact language model in integers: what its weights file holds, and its definition in numpy.

A causal transformer of the Llama kind with one key/value head. Every linear layer multiplies int8 with int8, and its sums with a
multiplier for each output. The weights of norms are part of the layers behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.llm.offsets import FEATURES
from medzip.entropy_model.llm_exact import arithmetic
from medzip.entropy_model.llm_exact.arithmetic import (
    BYTE_MAX,
    FACTOR_BITS,
    ROOT_BITS,
    SHIFT_MAX,
    SHIFT_MIN,
    WIDTH_MAX,
    Ints,
    bit_length,
    gated,
    in_bytes,
    inverse_norm,
    limited,
    powers,
    rounded,
    turned,
)
from medzip.entropy_model.llm_exact.features import Look
from medzip.errors import ModelMissingError
from medzip.exact.linear import Linear
from medzip.exact.mixture import MEAN_MAX, POSITION_BITS, SCALE_CODES, SMALLEST_SCALE_EXPONENT, Mixture
from medzip.exact.tables import INVERSE_OCTAVE
from medzip.weights.tensors import read_tensors

Sums = Callable[[NDArray[np.int8]], NDArray[np.int32]]

CHANNELS = 3
MULTIPLIER_MAX = (1 << 15) - 1
HALF_BITS = 12
"""Sums times multipliers lose so many bits before they are multiplied again."""
NORM_BITS = 10
VALUE_BITS = 7
"""What attention gives is in units of 2^-7 of a value's."""
MIXTURES_MAX = 8
MEAN_REACH = 64 << POSITION_BITS
DEVIATION_LEAST, DEVIATION_MOST = -8 * 16, 6 * 16
# Below this many octaves a component has no weight.
OCTAVES = 14
HEADS_MAX, PATCH_MAX, LAYERS_MAX, HEAD_SIZE_MAX = 64, 32, 64, 128


@dataclass(frozen=True)
class Scaled:
    """A linear layer, and `multiplier` int32 (outputs,), 0..2^15 - 1, that brings the sums to one unit."""

    linear: Linear
    multiplier: NDArray[np.int32]


@dataclass(frozen=True)
class Layer:
    """`qkv` gives heads queries, a key and a value; `out` reads what attention gives; `gate_up` and `down` are the MLP.

    The shifts bring sums times multipliers to the units of what follows; `score` over 2^`score_shift` scales products of queries
    and keys.
    """

    qkv: Scaled
    out: Scaled
    gate_up: Scaled
    down: Scaled
    qkv_shift: int
    out_shift: int
    gate_shift: int
    up_shift: int
    product_shift: int
    down_shift: int
    score: int
    score_shift: int

    @property
    def linears(self) -> tuple[Linear, ...]:
        return self.qkv.linear, self.out.linear, self.gate_up.linear, self.down.linear

    @property
    def shifts(self) -> tuple[int, ...]:
        """As a weights file lists them."""
        return (
            self.qkv_shift, self.out_shift, self.gate_shift, self.up_shift, self.product_shift, self.down_shift, self.score,
            self.score_shift,
        )  # fmt: skip


class Cache:
    """Keys and values (layers, slots, positions, head size), int8: what attention has seen."""

    def __init__(self, layers: int, slots: int, positions: int, size: int) -> None:
        self.keys, self.values = (np.zeros((layers, slots, positions, size), np.int8) for _ in range(2))


@dataclass(frozen=True)
class Network:
    """`embed` makes the residual stream out of features and, as its last output, a part of all means. `row`, `column` (patch,
    hidden) and `channel` (3, hidden), int32, say which voxel; `head` gives 3 K numbers, to which `bias` is added; `rotor` is as
    `arithmetic.angles` takes it, int32 (head size / 2, 2). Raises ModelMissingError where shapes or numbers do not fit.
    """

    embed: Scaled
    row: NDArray[np.int32]
    column: NDArray[np.int32]
    channel: NDArray[np.int32]
    layers: tuple[Layer, ...]
    head: Scaled
    bias: NDArray[np.int32]
    rotor: NDArray[np.int32]
    embed_shift: int
    head_shift: int

    def __post_init__(self) -> None:
        if not (self._fits() and self._within()):
            raise ModelMissingError(
                "exact language model: expected tensors that fit each other, with numbers in their bounds, found others; "
                "install the package again"
            )

    def _fits(self) -> bool:
        hidden, size, places = self.hidden, self.head_size, self.heads * self.head_size
        inner = self.layers[0].down.linear.inputs if self.layers else 0
        shapes = ((places + 2 * size, hidden), (hidden, places), (2 * inner, hidden), (hidden, inner))
        return (
            1 <= len(self.layers) <= LAYERS_MAX
            and self.rotor.ndim == 2
            and self.rotor.shape[1] == 2
            and 2 <= size <= HEAD_SIZE_MAX
            and 1 <= self.heads <= HEADS_MAX
            and 1 <= self.patch <= PATCH_MAX
            and max(hidden, inner) <= WIDTH_MAX
            and self.embed.linear.inputs == FEATURES
            and self.embed.linear.outputs == hidden + 1
            and self.row.shape == self.column.shape == (self.patch, hidden)
            and self.channel.shape == (CHANNELS, hidden)
            and self.head.linear.inputs == hidden
            and self.head.linear.outputs % 3 == 0
            and 1 <= self.mixtures <= MIXTURES_MAX
            and self.bias.shape == (3 * self.mixtures,)
            and all(
                (a.outputs, a.inputs) == shape for layer in self.layers for a, shape in zip(layer.linears, shapes, strict=True)
            )
        )

    def _within(self) -> bool:
        int32s = (self.row, self.column, self.channel, self.bias, self.rotor)
        shifts = [self.embed_shift, self.head_shift, *(shift for layer in self.layers for shift in layer.shifts[:6])]
        return (
            all(a.dtype == np.int32 for a in int32s)
            and all(np.abs(a.astype(np.int64)).max(initial=0) <= arithmetic.LIMIT for a in int32s[:-1])
            and np.abs(self.rotor.astype(np.int64)).max() <= 1 << arithmetic.ROTOR_BITS
            and all(0 <= shift <= 60 for shift in shifts)
            and all(0 < layer.score <= MULTIPLIER_MAX and 0 <= layer.score_shift <= 120 for layer in self.layers)
            and all(
                s.multiplier.dtype == np.int32
                and s.multiplier.shape == (s.linear.outputs,)
                and s.multiplier.min() >= 0
                and s.multiplier.max() <= MULTIPLIER_MAX
                for s in self.scaled()
            )
        )

    def scaled(self) -> Iterator[Scaled]:
        """All linear layers, in the order in which they compute."""
        yield self.embed
        for layer in self.layers:
            yield from (layer.qkv, layer.out, layer.gate_up, layer.down)
        yield self.head

    @property
    def hidden(self) -> int:
        return int(self.row.shape[1])

    @property
    def patch(self) -> int:
        return len(self.row)

    @property
    def head_size(self) -> int:
        return 2 * len(self.rotor)

    @property
    def heads(self) -> int:
        return self.layers[0].out.linear.inputs // self.head_size if self.layers else 0

    @property
    def mixtures(self) -> int:
        return self.head.linear.outputs // 3

    @property
    def positions(self) -> int:
        return CHANNELS * self.patch**2

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of all linear layers, each once: what kernels are to be tested with."""
        return tuple(sorted({(s.linear.outputs, s.linear.inputs) for s in self.scaled()}))

    def cache(self, slots: int) -> Cache:
        return Cache(len(self.layers), slots, self.positions, self.head_size)


class Computer:
    """The network's definition. `sums` compute the linear parts of `network.scaled()`."""

    def __init__(self, network: Network, sums: list[Sums]) -> None:
        self._network = network
        self._embed, *layers, self._head = [
            (part, s.multiplier.astype(np.int64)) for part, s in zip(sums, network.scaled(), strict=True)
        ]
        self._layers = [layers[i : i + 4] for i in range(0, len(layers), 4)]
        self._angles = arithmetic.angles(network.rotor, network.positions)

    def outputs(self, features: NDArray[np.int8], place: Ints, slots: Ints, cache: Cache) -> Ints:
        """int8 (n, FEATURES) of the voxels number `place` of their patches -> logits, means and deviations, (3, n, K).

        Logits are in sixteenths of an octave, means in units of 2^-12 of the local scale, deviations in sixteenths of an octave
        of it.
        """
        network, patch = self._network, self._network.patch
        made = rounded(_products(self._embed, features), network.embed_shift)
        channel, within = np.divmod(place, patch**2)
        where = network.row[within // patch].astype(np.int64) + network.column[within % patch] + network.channel[channel]
        state = limited(made[:, :-1] + where)
        for number in range(len(network.layers)):
            state = self._layer(number, state, place, slots, cache)
        rows, _ = in_bytes(state)
        made_last = _normed(self._head, rows, inverse_norm(rows), network.head_shift) + network.bias
        logit, mean, deviation = np.moveaxis(made_last.reshape(len(place), 3, -1), 1, 0)
        return np.stack([logit, mean + made[:, -1:], deviation])

    def _layer(self, number: int, state: Ints, place: Ints, slots: Ints, cache: Cache) -> Ints:
        layer, (qkv, out, gate_up, down) = self._network.layers[number], self._layers[number]
        rows, _ = in_bytes(state)
        root = inverse_norm(rows)
        made = limited(rounded(_products(qkv, rows), layer.qkv_shift))
        attended = self._attend(layer, made, root, place, slots, cache.keys[number], cache.values[number])
        rows, exponent = in_bytes(attended)
        state = limited(state + rounded(_products(out, rows), np.maximum(layer.out_shift - exponent, 0)[:, None]))

        rows, _ = in_bytes(state)
        root = inverse_norm(rows)
        sums, multiplier = gate_up[0](rows).astype(np.int64), gate_up[1]
        gate_sums, up_sums = np.split(sums, 2, axis=1)
        gate_multiplier, up_multiplier = np.split(multiplier, 2)
        gate = limited(rounded(rounded(gate_sums * root[:, None], NORM_BITS) * gate_multiplier, layer.gate_shift))
        up = limited(rounded(up_sums * up_multiplier, layer.up_shift))
        rows, exponent = in_bytes(gated(gate, up, layer.product_shift))
        halfway = rounded(_products(down, rows), HALF_BITS) * root[:, None]
        return limited(state + rounded(halfway, np.maximum(layer.down_shift - exponent, 0)[:, None]))

    def _attend(
        self, layer: Layer, made: Ints, root: Ints, place: Ints, slots: Ints, keys: NDArray[np.int8], values: NDArray[np.int8]
    ) -> Ints:
        """What attention gives for queries, keys and values `made` (n, (heads + 2) size): (n, heads size)."""
        n, size = len(made), self._network.head_size
        vectors = made.reshape(n, -1, size)
        turning = turned(vectors[:, :-1], self._angles[place][:, None])
        keys[slots, place] = _in_cache(turning[:, -1], root)
        values[slots, place] = _in_cache(vectors[:, -1], root)
        queries, exponent = in_bytes(turning[:, :-1])
        reach = int(place.max()) + 1
        scores = queries.astype(np.int64) @ keys[slots, :reach].astype(np.int64).transpose(0, 2, 1)
        factor, shift = _score_factor(layer, root[:, None], exponent)
        octaves = ((scores >> score_shift(size)) * factor[..., None]) >> shift[..., None]
        later = np.arange(reach) > place[:, None, None]
        octaves = np.where(later, np.iinfo(np.int64).min, octaves)
        less = np.where(later, 0, octaves.max(axis=2, keepdims=True) - octaves)
        weights = np.where(later, 0, rounded(powers(less) * 255, arithmetic.SIGMOID_BITS))
        inverse = (1 << 32) // weights.sum(axis=2, keepdims=True)
        mean = rounded((weights @ values[slots, :reach].astype(np.int64)) * inverse, 32 - VALUE_BITS)
        return mean.reshape(n, -1)


def score_shift(size: int) -> int:
    """So many bits products of a query and a key of `size` numbers have too many."""
    return max((size * BYTE_MAX**2).bit_length() - arithmetic.SCORE_BITS, 0)


def _products(layer: tuple[Sums, Ints], rows: NDArray[np.int8]) -> Ints:
    return layer[0](rows).astype(np.int64) * layer[1]


def _normed(layer: tuple[Sums, Ints], rows: NDArray[np.int8], root: Ints, shift: int) -> Ints:
    """Sums of rows whose norm is 1 / root."""
    return rounded(rounded(layer[0](rows).astype(np.int64) * root[:, None], NORM_BITS) * layer[1], shift)


def _in_cache(rows: Ints, root: Ints) -> NDArray[np.int8]:
    return np.clip(rounded(rows * root[:, None], ROOT_BITS), -BYTE_MAX, BYTE_MAX).astype(np.int8)


def _score_factor(layer: Layer, root: Ints, exponent: Ints) -> tuple[Ints, Ints]:
    """What scores are multiplied with, below 2^12, and shifted by after that, for each row and head."""
    factor = root * layer.score
    spare = np.maximum(bit_length(factor) - FACTOR_BITS, 0)
    return factor >> spare, np.clip(layer.score_shift - spare - exponent, SHIFT_MIN, SHIFT_MAX)


def mixture(outputs: Ints, look: Look) -> Mixture:
    """The mixtures of Gaussians of n voxels for `outputs` (3, n, K), on the axis of values that begins at the chunk's lowest."""
    logit, mean, deviation = outputs
    less = logit.max(axis=1, keepdims=True) - logit
    weight = INVERSE_OCTAVE[less & 15] >> (np.minimum(less >> 4, 62) + weight_shift(logit.shape[1]))
    weight = np.where(less < 16 * OCTAVES, weight, 0)
    exponent = look.exponent[:, None]
    position = (look.predicted[:, None] << POSITION_BITS) + (np.clip(mean, -MEAN_REACH, MEAN_REACH) << exponent)
    scale = 16 * (exponent - SMALLEST_SCALE_EXPONENT) + np.clip(deviation, DEVIATION_LEAST, DEVIATION_MOST)
    return Mixture(weight, np.clip(position, -MEAN_MAX, MEAN_MAX), np.clip(scale, 0, SCALE_CODES - 1), "gaussian")


def weight_shift(mixtures: int) -> int:
    """So many bits are taken off 2^15 that the weights of all components cannot pass it together."""
    return (mixtures - 1).bit_length()


def read_network(path: Path) -> Network:
    """The network of a weights file. Raises ModelMissingError where the file holds no exact language model."""
    tensors = read_tensors(path)
    try:
        count = sum(name.endswith(".qkv.weight") for name in tensors)
        layers = tuple(_layer_of(tensors, f"layers.{i}") for i in range(count))
        embed_shift, head_shift = (int(shift) for shift in tensors["shifts"])
        return Network(
            _scaled_of(tensors, "embed"),
            tensors["row"],
            tensors["column"],
            tensors["channel"],
            layers,
            _scaled_of(tensors, "head"),
            tensors["head.bias"],
            tensors["rotor"],
            embed_shift,
            head_shift,
        )
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ModelMissingError(
            f"{path}: expected the tensors of an exact language model: {error}; install the package again"
        ) from error


def tensors_of(network: Network) -> dict[str, NDArray[Any]]:
    """As a weights file names them."""
    named = {"embed": network.embed, "head": network.head}
    tensors: dict[str, NDArray[Any]] = {
        "row": network.row,
        "column": network.column,
        "channel": network.channel,
        "head.bias": network.bias,
        "rotor": network.rotor,
        "shifts": np.array([network.embed_shift, network.head_shift], np.int32),
    }
    for i, layer in enumerate(network.layers):
        parts = {"qkv": layer.qkv, "out": layer.out, "gate_up": layer.gate_up, "down": layer.down}
        named |= {f"layers.{i}.{name}": scaled for name, scaled in parts.items()}
        tensors[f"layers.{i}.shifts"] = np.array(layer.shifts, np.int32)
    for name, scaled in named.items():
        tensors[f"{name}.weight"], tensors[f"{name}.multiplier"] = scaled.linear.weight, scaled.multiplier
    return tensors


def _scaled_of(tensors: dict[str, NDArray[Any]], name: str) -> Scaled:
    weight = tensors[f"{name}.weight"]
    return Scaled(Linear(weight, np.zeros(len(weight), np.int32)), tensors[f"{name}.multiplier"])


def _layer_of(tensors: dict[str, NDArray[Any]], name: str) -> Layer:
    qkv, out, gate_up, down = (_scaled_of(tensors, f"{name}.{part}") for part in ("qkv", "out", "gate_up", "down"))
    return Layer(qkv, out, gate_up, down, *(int(shift) for shift in tensors[f"{name}.shifts"]))
