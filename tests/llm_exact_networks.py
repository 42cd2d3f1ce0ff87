"""Small exact language models made of fixed integers: the codec does not care what a network learned.

Everything comes from SHAKE-256, so that it is the same in every process and with every version of numpy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pixel_networks import integers

from medzip.coder.range_coder import Decoder, Encoder
from medzip.entropy_model.contract import Chunk, ChunkHeader
from medzip.entropy_model.llm.offsets import FEATURES
from medzip.entropy_model.llm_exact import model, reference
from medzip.entropy_model.llm_exact.model import ExactLanguageModel
from medzip.entropy_model.llm_exact.network import Layer, Network, Scaled, tensors_of
from medzip.exact import kernels
from medzip.exact.linear import WEIGHT_MAX, Linear
from medzip.exact.mixture import Mixture
from medzip.weights.registry import Weights, read_weights
from medzip.weights.tensors import write_tensors

HIDDEN, HEADS, SIZE, INNER, PATCH, LAYERS, MIXTURES = 24, 3, 8, 40, 4, 2, 3
# Cosines and sines of the angles 1, 1/10, 1/100 and 1/1000 in units of 2^-30.
ROTOR = [[580145183, 903522590], [1068377587, 107195315], [1073688137, 10737239], [1073741287, 1073742]]


def random_network(seed: str = "random") -> Network:
    """Activations and outputs of ordinary size."""
    return _network(WEIGHT_MAX, lambda name, low, high, shape: integers(f"{seed} {name}", low, high, shape))


def extreme_network(seed: str = "extreme") -> Network:
    """All weights +-127, multipliers at their bounds, shifts at which rows saturate, scores that leave one position."""

    def ends(name: str, low: int, high: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return np.where(integers(f"{seed} {name}", 0, 1, shape) > 0, high, low)

    network = _network(WEIGHT_MAX, ends)
    layers = tuple(
        Layer(a.qkv, a.out, a.gate_up, a.down, *(3, 6, 9, 4, 2, 8) if i else (0, 0, 0, 0, 0, 0), 32767, 20 if i else 60)
        for i, a in enumerate(network.layers)
    )
    return Network(
        network.embed, network.row, network.column, network.channel, layers, network.head, network.bias, network.rotor, 2, 20
    )  # fmt: skip


def _network(largest: int, draw: Any) -> Network:

    def scaled(name: str, outputs: int, inputs: int) -> Scaled:
        weight = draw(f"{name} weight", -largest, largest, (outputs, inputs)).astype(np.int8)
        multiplier = draw(f"{name} multiplier", 8000, 32767, (outputs,)).astype(np.int32)
        return Scaled(Linear(weight, np.zeros(outputs, np.int32)), multiplier)

    def table(name: str, *shape: int) -> NDArray[np.int32]:
        result: NDArray[np.int32] = draw(name, -(1 << 13), 1 << 13, shape).astype(np.int32)
        return result

    layers = tuple(
        Layer(
            scaled(f"{i} qkv", (HEADS + 2) * SIZE, HIDDEN),
            scaled(f"{i} out", HIDDEN, HEADS * SIZE),
            scaled(f"{i} gate up", 2 * INNER, HIDDEN),
            scaled(f"{i} down", HIDDEN, INNER),
            *(21, 23, 13, 15, 12, 27, 20000, 33),
        )
        for i in range(LAYERS)
    )
    return Network(
        scaled("embed", HIDDEN + 1, FEATURES),
        table("row", PATCH, HIDDEN),
        table("column", PATCH, HIDDEN),
        table("channel", 3, HIDDEN),
        layers,
        scaled("head", 3 * MIXTURES, HIDDEN),
        draw("bias", -40, 40, (3 * MIXTURES,)).astype(np.int32),
        np.array(ROTOR, np.int32),
        17,
        24,
    )


def write_network(path: Path, network: Network, licence_class: str = "open") -> Weights:
    """The weights file of a network: the same bytes every time."""
    write_tensors(path, tensors_of(network), {"kind": "llm_exact", "licence_class": licence_class})
    return read_weights(path)


def digests(weights: Path, samples: NDArray[np.int64]) -> tuple[str, str]:
    """SHA-256 of a chunk's payload, and how it was computed. The chunk was decoded again and is the same."""
    exact, coder = ExactLanguageModel(read_weights(weights)), Encoder()
    side = exact.encode(Chunk(samples.astype(np.uint32)), coder)
    payload = coder.finish()
    assert np.array_equal(exact.decode(ChunkHeader(samples.shape, "<u4", side), Decoder(payload)), samples)
    compiled = exact._compiled()
    way = kernels.fastest().name if compiled is None else compiled.VARIANT.name
    return hashlib.sha256(payload).hexdigest(), way


def mixtures_of(network: Network, samples: NDArray[np.int64], together: int = 2) -> dict[int, tuple[tuple[int, ...], ...]]:
    """The mixture of each sample, by its flat index, as the definition makes them."""
    found: dict[int, tuple[tuple[int, ...], ...]] = {}
    flat = samples.reshape(-1)

    def code(index: NDArray[np.int64], mixture: Mixture) -> NDArray[np.int64]:
        for i, place in enumerate(index.tolist()):
            found[place] = tuple(tuple(part[i].tolist()) for part in (mixture.weight, mixture.mean, mixture.scale))
        return flat[index]

    reference.visit(samples.shape, int(samples.max()), network, together, code)
    return found


def without_numba(monkeypatch: Any) -> None:
    """From now on models compute in numpy."""
    monkeypatch.setattr(model, "_compiled", lambda: None)
