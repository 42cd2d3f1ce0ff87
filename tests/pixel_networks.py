"""Small pixel networks and images made of fixed integers: the codec does not care what a network learned.

Everything comes from SHAKE-256, so that it is the same in every process and with every version of numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.coder.range_coder import Decoder, Encoder
from medzip.entropy_model.contract import Chunk, ChunkHeader
from medzip.entropy_model.pixel import model, reference
from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.features import FEATURES, POSITION_BITS
from medzip.entropy_model.pixel.model import Pixel
from medzip.entropy_model.pixel.network import Layer, Network
from medzip.exact import kernels
from medzip.exact.linear import SHIFT_MAX, SUM_BOUND, WEIGHT_MAX, Linear
from medzip.exact.mixture import Mixture
from medzip.weights.registry import Weights, read_weights
from medzip.weights.tensors import write_tensors

# As many layers as the shipped networks have: compiled code for another number of them is other code. The second layer adds
# its input.
WIDTHS = (32, 32, 16)


def integers(seed: str, low: int, high: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Evenly spread over low..high, as evenly as 32 bits allow."""
    size = int(np.prod(shape))
    words = np.frombuffer(hashlib.shake_256(seed.encode()).digest(4 * size), "<u4").astype(np.int64)
    return words.reshape(shape) % (high - low + 1) + low


def random_network(seed: str = "random", widths: tuple[int, ...] = WIDTHS, mixtures: int = 4) -> Network:
    """Activations and outputs of ordinary size: mixtures near the prediction, scales near the local one."""
    layers = []
    for i, (outputs, inputs) in enumerate(_shapes(widths, mixtures)):
        name = f"{seed} {i}"
        weight = integers(f"{name} weight", -WEIGHT_MAX, WEIGHT_MAX, (outputs, inputs)).astype(np.int8)
        bias = integers(f"{name} bias", -(1 << 14), 1 << 14, (outputs,)).astype(np.int32)
        layers.append(Layer(Linear(weight, bias), integers(f"{name} shift", 10, 13, (outputs,)).astype(np.int32)))
    return Network(tuple(layers[:-1]), layers[-1])


def extreme_network(seed: str = "extreme", widths: tuple[int, ...] = WIDTHS, mixtures: int = 4) -> Network:
    """All weights +-127, all in one output of the same sign as often as not; biases at their bound in every other output."""
    layers = []
    for i, (outputs, inputs) in enumerate(_shapes(widths, mixtures)):
        name, output = f"{seed} {i}", np.arange(outputs)
        sign = integers(f"{name} weight", 0, 1, (outputs, inputs)) * 2 - 1
        constant = integers(f"{name} constant", 0, 1, (outputs, 1)) * 2 - 1
        weight = (WEIGHT_MAX * np.where(output[:, None] % 4 < 2, sign, constant)).astype(np.int8)
        room = SUM_BOUND - 1 - 128 * WEIGHT_MAX * inputs
        bias = (output % 2 * room * (output % 4 - 2)).astype(np.int32)
        shift = integers(f"{name} shift", 4 if i == len(widths) else 0, SHIFT_MAX, (outputs,))
        # Where a bias is not at its bound, shifts at which sums reach the ends of the activation without all being there.
        shift = np.where(output % 2, shift, np.minimum(shift, 14) | 8).astype(np.int32)
        layers.append(Layer(Linear(weight, bias), shift))
    return Network(tuple(layers[:-1]), layers[-1])


def _shapes(widths: tuple[int, ...], mixtures: int) -> list[tuple[int, int]]:
    """(outputs, inputs) of all layers."""
    all_widths = (FEATURES, *widths)
    return [*zip(widths, all_widths[:-1], strict=True), (3 * mixtures, all_widths[-1] + FEATURES)]


def tensors_of(network: Network) -> dict[str, NDArray[np.int8] | NDArray[np.int32]]:
    """As a weights file names them."""
    names = [*(f"hidden.{i}" for i in range(len(network.hidden))), "out"]
    return {
        f"{name}.{part}": tensor
        for name, layer in zip(names, network.layers, strict=True)
        for part, tensor in (("weight", layer.linear.weight), ("bias", layer.linear.bias), ("shift", layer.shift))
    }


def write_network(path: Path, network: Network, licence_class: str = "open") -> Weights:
    """The weights file of a network: the same bytes every time."""
    write_tensors(path, dict(tensors_of(network)), {"kind": "pixel", "licence_class": licence_class})
    return read_weights(path)


def image(bits: int = 12, shape: tuple[int, int, int] = (5, 14, 59)) -> NDArray[np.int64]:
    """Something round on a slope with an edge and some noise, in 0..2^bits - 1, both of which occur."""
    z, y, x = np.indices(shape)
    distance = (y - 7) ** 2 * 20 + (x - 17) ** 2 * 3
    base = np.where(distance < 700, 3000 - distance - 40 * z, 200 + 11 * x + 3 * y)
    values = np.clip(base + integers(f"noise {bits}", -12, 12, shape), 1, 4094)
    values = (values << bits >> 12) + integers(f"finer {bits}", 0, (1 << max(bits - 12, 0)) - 1, shape)
    values[0, 0, 0], values[-1, -1, -1] = 0, (1 << bits) - 1
    return values


def digests(weights: Path, samples: NDArray[np.int64]) -> tuple[str, str, str]:
    """SHA-256 of a chunk's payload, SHA-256 of all its mixtures, and how they were computed.

    The chunk was decoded again and is the same.
    """
    pixel, coder, compiled = Pixel(read_weights(weights)), Encoder(), model._compiled()
    side = pixel.encode(Chunk(samples.astype(np.uint32)), coder)
    header = ChunkHeader(samples.shape, "<u4", side)
    assert np.array_equal(pixel.decode(header, Decoder(coder.finish())), samples)
    low, high, taps = model._checked(header)
    assert low == 0
    mixtures = hashlib.sha256()

    def code(index: NDArray[np.int64], mixture: Mixture) -> NDArray[np.int64]:
        for part in (mixture.weight, mixture.mean, mixture.scale):
            mixtures.update(part.astype("<i8").tobytes())
        return samples.reshape(-1)[index]

    if compiled is None:
        way = kernels.fastest().name
        reference.visit(samples.shape, high, taps, pixel._network, code)
    else:
        way = compiled._VARIANT.name
        _visit_compiled(compiled, samples.shape, high, taps, pixel, code)
    return hashlib.sha256(coder.finish()).hexdigest(), mixtures.hexdigest(), way


def _visit_compiled(
    compiled: ModuleType,
    shape: tuple[int, int, int],
    high: int,
    taps: Any,
    pixel: Pixel,
    code: Callable[..., NDArray[np.int64]],
) -> None:
    """`reference.visit` with the predictions and mixtures that the compiled loop makes."""
    loop = compiled._Loop(shape, high, taps, compiled.Packed.of(pixel._network))
    places, planes, predicted, fitted, scales, _ = loop._seen
    state, order, values, top = loop._regression, loop._order, loop._known[0], high << POSITION_BITS
    for sample in around.steps(shape):
        n = len(sample[0])
        places[:n], planes[:n] = reference.place(*sample, shape), sample[0]
        step = int(around.first_steps(shape)[planes[0]] + around.STEP_OF_ROW * sample[1][0] + sample[2][0])
        first = int(np.searchsorted(order[2], step - shape[2], side="right"))
        if step % around.SEGMENT == 0:
            compiled.begin_segments(state, order, first, first + n, step, *shape[1:])
        compiled.predict(state, values, places, order, first, n, step, top, predicted)
        compiled._mixtures(
            *loop._known, places, planes, n, loop._chunk, *loop._network, loop._sums, predicted, fitted, scales, *loop._work
        )
        index = np.ravel_multi_index(sample, shape)
        position = code(index, Mixture(*(part[:n] for part in loop._work))) << POSITION_BITS
        kept = (position, position - predicted[:n], position - fitted[:n])
        for array, amount in zip(loop._known, kept, strict=True):
            reference.keep(array, amount, *sample, shape)
        compiled.learn(state, values, places, first, n, step)
