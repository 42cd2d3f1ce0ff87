"""How an encoder finds an adapter: gradient descent through the integer network on samples of the chunk, in float.

What is found here shapes no bit by itself: `adaptation.merged` makes the network of it, in integers, for encoder and decoder.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel.adaptation import BIAS_BITS, NUMBER_MAX, WEIGHT_BITS, Change, changed, dither, write_adapter
from medzip.entropy_model.pixel.chunk_samples import Batch, ChunkSamples
from medzip.entropy_model.pixel.features import POSITION_BITS
from medzip.entropy_model.pixel.network import ACTIVATION_BITS, MEAN_REACH, Network
from medzip.errors import ArchiveDamagedError
from medzip.exact.linear import ACTIVATION_MAX, LEAK_BITS, WEIGHT_MAX

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

RANKS = (2, 8)
"""The adapters that compete."""
STEPS = 1500
BATCH = 1024
SAMPLES_MIN = 1 << 16
"""A chunk with fewer samples cannot pay for an adapter."""

_JUDGED = 1 << 19
_TILE = 1 << 14
_RATE = 0.12
_WARMUP = 20
_MOMENTS = (0.9, 0.98)
_LN2 = math.log(2)
_FLOOR = 1e-4
_OCTAVES = 40


def fitted_adapter(network: Network, samples: Ints, high: int, taps: tuple[Ints, Ints]) -> bytes:
    """The adapter with which `samples` (planes, rows, columns), 0..high, take the fewest bytes, its own counted; b"" for none.

    `taps` are those of the chunk. The same for the same chunk on the same machine.
    """
    if samples.size < SAMPLES_MIN or not high:
        return b""
    from threadpoolctl import threadpool_limits

    # These products are small: BLAS threads that wait for each other took six times as long beside another job.
    with threadpool_limits(1):
        return _smallest(network, ChunkSamples(samples, high, taps))


def _smallest(network: Network, chunk: ChunkSamples) -> bytes:
    adapters = [(network, b"")]
    # A network whose sums are near their bound may not take changes.
    with suppress(ArchiveDamagedError):
        for rank in RANKS:
            changes = _fit(network, chunk, rank)
            adapters.append((changed(network, changes), write_adapter(changes)))
    size = [_bits(candidate, chunk) + 8 * len(adapter) for candidate, adapter in adapters]
    return adapters[int(np.argmin(size))][1]


def _bits(network: Network, chunk: ChunkSamples) -> float:
    """What the chunk's samples take: measured on half a million of them, evenly spread, if there are more."""
    index = np.arange(min(chunk.size, _JUDGED)) * chunk.size // min(chunk.size, _JUDGED)
    layers = _Layers.of(network)
    total = 0.0
    for start in range(0, len(index), _TILE):
        batch = chunk.batch(index[start : start + _TILE])
        states, _ = layers.forward(batch.features)
        total += float(_cost(states[-1], batch, chunk.top)[0].sum())
    return total * chunk.size / len(index)


def _fit(network: Network, chunk: ChunkSamples, rank: int) -> list[Change]:
    """Changes of this rank by Adam (Kingma and Ba, ICLR 2015), rounded as they are stored in every step."""
    generator = np.random.default_rng(rank)
    numbers: list[Doubles] = []
    for layer in network.layers:
        outputs, inputs = layer.linear.weight.shape
        numbers += [np.zeros(outputs), np.zeros((outputs, rank)), generator.standard_normal((rank, inputs))]
    first, second = ([np.zeros_like(n) for n in numbers] for _ in range(2))
    for step in range(STEPS):
        batch = chunk.batch(generator.integers(0, chunk.size, BATCH))
        gradients = _gradients(network, _rounded(numbers), batch, chunk.top)
        rate = _RATE * min(1, (step + 1) / _WARMUP) * (1 + math.cos(math.pi * step / STEPS)) / 2
        for n, gradient, m, v in zip(numbers, gradients, first, second, strict=True):
            # What a number costs grows by about two bits with each doubling.
            gradient += 2 / (_LN2 * chunk.size) * np.sign(n) / (1 + np.abs(n))
            m += (1 - _MOMENTS[0]) * (gradient - m)
            v += (1 - _MOMENTS[1]) * (gradient * gradient - v)
            mean, square = m / (1 - _MOMENTS[0] ** (step + 1)), v / (1 - _MOMENTS[1] ** (step + 1))
            n -= rate * mean / (np.sqrt(square) + 1e-12)
    return _rounded(numbers)


def _rounded(numbers: list[Doubles]) -> list[Change]:
    rounded = [np.clip(np.rint(n), -NUMBER_MAX, NUMBER_MAX).astype(np.int64) for n in numbers]
    return [Change(*rounded[i : i + 3]) for i in range(0, len(rounded), 3)]


def _gradients(network: Network, changes: list[Change], batch: Batch, top: int) -> list[Doubles]:
    """Of the mean bits of a sample by all numbers of all changes, as if nothing had been rounded."""
    layers = _Layers.of(changed(network, changes))
    states, slopes = layers.forward(batch.features)
    _, of_outputs = _cost(states[-1], batch, top)
    found: list[Doubles] = []
    for layer, change, (of_weight, of_bias) in zip(
        network.layers, changes, layers.backward(states, slopes, of_outputs), strict=True
    ):
        product = change.left @ change.right
        moved = layer.linear.weight + ((product + dither(*product.shape)) >> WEIGHT_BITS)
        step = np.exp2(-layer.shift.astype(float) - WEIGHT_BITS)[:, None]
        of_product = np.where(np.abs(moved) <= WEIGHT_MAX, of_weight, 0) * step
        found += [of_bias.astype(float) * 2.0**-BIAS_BITS, of_product @ change.right.T, change.left.T @ of_product]
    return found


@dataclass(frozen=True)
class _Layers:
    """The integer network in float32: weights (outputs, inputs), biases in units of an activation, whether inputs are added."""

    weights: list[Floats]
    biases: list[Floats]
    added: list[bool]

    @classmethod
    def of(cls, network: Network) -> _Layers:
        steps = [np.exp2(-layer.shift.astype(np.float32)) for layer in network.layers]
        linears = [layer.linear for layer in network.layers]
        return cls(
            [linear.weight.astype(np.float32) * step[:, None] for linear, step in zip(linears, steps, strict=True)],
            [linear.bias.astype(np.float32) * step for linear, step in zip(linears, steps, strict=True)],
            [i > 0 and linear.inputs == linear.outputs for i, linear in enumerate(linears[:-1])],
        )

    def forward(self, features: NDArray[np.int8]) -> tuple[list[Floats], list[Floats]]:
        """The input of each layer and the network's outputs, (n, width) in units of an activation; slopes of the activations."""
        states, slopes = [features.astype(np.float32)], []
        for weight, bias, added in zip(self.weights[:-1], self.biases[:-1], self.added, strict=True):
            made = states[-1] @ weight.T
            made += bias
            slopes.append(np.where(made > 0, np.float32(1), np.float32(2.0**-LEAK_BITS)))
            made *= slopes[-1]
            if added:
                made += states[-1]
            made += np.float32(0.5)
            np.floor(made, out=made)
            slopes[-1] *= np.abs(made) <= ACTIVATION_MAX
            states.append(np.clip(made, -ACTIVATION_MAX, ACTIVATION_MAX, out=made))
        states[-1] = np.concatenate([states[-1], states[0]], axis=1)
        states.append(states[-1] @ self.weights[-1].T + self.biases[-1])
        return states, slopes

    def backward(self, states: list[Floats], slopes: list[Floats], of_outputs: Floats) -> list[tuple[Floats, Floats]]:
        """Gradients by weights and biases of each layer, from those by the outputs and what `forward` gave."""
        found = [(of_outputs.T @ states[-2], of_outputs.sum(axis=0))]
        of_state = of_outputs @ self.weights[-1][:, : slopes[-1].shape[1]]
        for before, slope, weight, added in zip(
            states[-3::-1], slopes[::-1], self.weights[-2::-1], self.added[::-1], strict=True
        ):
            of_made = of_state * slope
            found.append((of_made.T @ before, of_made.sum(axis=0)))
            beside = of_state * (slope != 0) if added else 0
            of_state = of_made @ weight + beside
        return found[::-1]


def _cost(outputs: Floats, batch: Batch, top: int) -> tuple[Doubles, Floats]:
    """Bits of each sample (n,) under its mixture of logistics, and the gradient of their mean by `outputs` (n, 3 K)."""
    n = len(outputs)
    logit, mean, octaves = np.moveaxis(outputs.astype(np.float64).reshape(n, 3, -1) * 2.0**-ACTIVATION_BITS, 1, 0)
    mean, octaves = np.clip(mean, -MEAN_REACH, MEAN_REACH), np.clip(octaves, -_OCTAVES, _OCTAVES)
    unit = np.exp2(batch.scale / 16)[:, None]
    share = np.exp2(logit - logit.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    deviation = np.maximum(unit * np.exp2(octaves), 1)
    half = 1 << (POSITION_BITS - 1)
    difference = (batch.position - batch.predicted)[:, None] - mean * unit
    above = np.where((batch.position >= top)[:, None], np.inf, np.clip((difference + half) / deviation, -700, 700))
    below = np.where((batch.position <= 0)[:, None], -np.inf, np.clip((difference - half) / deviation, -700, 700))
    # Both tails are computed where they are small, so that differences keep their precision.
    sign = np.where(difference > 0, -1.0, 1.0)
    mass = sign * (_logistic(sign * above) - _logistic(sign * below))
    # A little of the mass is spread over all values, so that none costs without bound: the coder does the like.
    mixed = (share * mass).sum(axis=1, keepdims=True)
    total = mixed + _FLOOR / ((top >> POSITION_BITS) + 1)
    density_above, density_below = _density(above), _density(below)
    finite_above, finite_below = (np.where(np.isfinite(edge), edge, 0) for edge in (above, below))
    of_mean = (density_below - density_above) * unit / deviation
    of_octaves = _LN2 * (density_below * finite_below - density_above * finite_above) * (deviation > 1)
    of_total = -(2.0**-ACTIVATION_BITS) / (_LN2 * n * total)
    gradient = np.stack([_LN2 * share * (mass - mixed), share * of_mean, share * of_octaves], axis=1) * of_total[:, None]
    return -np.log2(total[:, 0]), gradient.reshape(n, -1).astype(np.float32)


def _logistic(x: Doubles) -> Doubles:
    return 1 / (1 + np.exp(-x))


def _density(x: Doubles) -> Doubles:
    """The derivative of the logistic function."""
    half = np.exp(-np.abs(x) / 2)
    density: Doubles = (half / (1 + half * half)) ** 2
    return density
