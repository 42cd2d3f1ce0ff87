"""Adapters: small changes of the pixel network for one chunk, found while encoding and stored in the chunk's header.

An adapter changes every bias, and the weights of every layer by a product of two thin integer matrices (Hu et al., LoRA, ICLR
2022). The changed network has the shapes of the old one and is integer like it, so that decoding takes no longer.
`adaptation_fit.py` finds adapters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel.network import Layer, Network
from medzip.errors import ArchiveDamagedError, ModelMissingError
from medzip.exact.linear import WEIGHT_MAX, Linear

Ints = NDArray[np.int64]

RANK_MAX = 8
NUMBER_MAX = 127
ADAPTER_BYTES_MAX = 1 << 16
BIAS_BITS = 2
"""Changes of biases are in units of 2^-2 of an activation's."""
WEIGHT_BITS = 3
"""Changes of weights are in units of 2^-3 of a weight's."""
_PARAMETER_BITS = 3


@dataclass(frozen=True)
class Change:
    """Of one layer: `bias` (outputs,), `left` (outputs, rank) and `right` (rank, inputs), int64 within +-127."""

    bias: Ints
    left: Ints
    right: Ints


def merged(network: Network, adapter: bytes) -> Network:
    """The network that the adapter makes of `network`; b"" changes nothing.

    Raises ArchiveDamagedError where `adapter` is none of this network's.
    """
    return changed(network, read_adapter(network, adapter)) if adapter else network


def changed(network: Network, changes: list[Change]) -> Network:
    """The network with all layers changed. Raises ArchiveDamagedError where a layer's sums would pass their bound."""
    try:
        layers = tuple(_changed(layer, change) for layer, change in zip(network.layers, changes, strict=True))
        return Network(layers[:-1], layers[-1])
    except (ValueError, ModelMissingError) as error:
        raise _damaged(f"changes that no network of integers can take ({error})") from error


def _changed(layer: Layer, change: Change) -> Layer:
    linear, shift = layer.linear, layer.shift.astype(np.int64)
    weight = linear.weight + ((change.left @ change.right + dither(linear.outputs, linear.inputs)) >> WEIGHT_BITS)
    bias = linear.bias + ((change.bias << shift) >> BIAS_BITS)
    if np.abs(bias).max() >= 1 << 31:
        raise ValueError("a bias beyond 32 bits")
    return Layer(Linear(np.clip(weight, -WEIGHT_MAX, WEIGHT_MAX).astype(np.int8), bias.astype(np.int32)), layer.shift)


@cache
def dither(outputs: int, inputs: int) -> Ints:
    """What is added before a change of the weights (outputs, inputs) is rounded down, 0..2^WEIGHT_BITS - 1.

    A change of an eighth of a weight's unit then moves an eighth of the weights by one, where plain rounding would lose it.
    Knuth's multiplicative hash (TAOCP 3, 6.4) scatters them.
    """
    place = np.arange(outputs * inputs, dtype=np.int64).reshape(outputs, inputs)
    return (place * 2654435761 % (1 << 32)) >> (32 - WEIGHT_BITS)


def write_adapter(changes: list[Change]) -> bytes:
    """One byte with the rank, then Rice codes (Rice and Plaunt, IEEE Trans. Comm. 1971), most significant bits first.

    For each layer `bias`, `left` and `right`, row by row, the last two where the rank is not 0; each of them begins with a
    parameter k of 3 bits. A number q is coded as u = 2 q or, if negative, -2 q - 1: u >> k ones, a zero, the low k bits of u.
    Zero bits fill the last byte.
    """
    bits = "".join(_coded(numbers) for change in changes for numbers in (change.bias, change.left, change.right) if numbers.size)
    padded = bits + "0" * (-len(bits) % 8)
    return bytes([changes[0].left.shape[1]]) + int(padded, 2).to_bytes(len(padded) // 8, "big")


def read_adapter(network: Network, adapter: bytes) -> list[Change]:
    """The changes that `write_adapter` wrote. Raises ArchiveDamagedError for anything that it never writes."""
    if not 1 < len(adapter) <= ADAPTER_BYTES_MAX:
        raise _damaged(f"{len(adapter)} bytes")
    rank = adapter[0]
    if rank > RANK_MAX:
        raise _damaged(f"rank {rank}")
    bits = _Bits(adapter[1:])
    changes = []
    for layer in network.layers:
        shapes = (layer.linear.outputs,), (layer.linear.outputs, rank), (rank, layer.linear.inputs)
        changes.append(Change(*(bits.numbers(int(np.prod(shape))).reshape(shape) for shape in shapes)))
    bits.finish()
    return changes


def _coded(numbers: Ints) -> str:
    unsigned = np.where(numbers < 0, -2 * numbers - 1, 2 * numbers).ravel()
    k = min(range(1 << _PARAMETER_BITS), key=lambda k: int((unsigned >> k).sum()) + k * unsigned.size)
    low = [f"{u & ((1 << k) - 1):0{k}b}" if k else "" for u in unsigned.tolist()]
    return f"{k:0{_PARAMETER_BITS}b}" + "".join(
        "1" * (u >> k) + "0" + rest for u, rest in zip(unsigned.tolist(), low, strict=True)
    )


class _Bits:
    """Reads Rice codes."""

    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def numbers(self, count: int) -> Ints:
        if not count:
            return np.zeros(0, np.int64)
        k = self._fixed(_PARAMETER_BITS)
        unsigned = np.array([self._unary() << k | self._fixed(k) for _ in range(count)], np.int64)
        if unsigned.max() > 2 * NUMBER_MAX:
            raise _damaged(f"a number beyond +-{NUMBER_MAX}")
        return np.where(unsigned & 1, -(unsigned >> 1) - 1, unsigned >> 1)

    def finish(self) -> None:
        rest = self._bits[self._at :]
        if len(rest) >= 8 or "1" in rest:
            raise _damaged("more bits than it has numbers")

    def _fixed(self, count: int) -> int:
        self._at += count
        if self._at > len(self._bits):
            raise _damaged("fewer bits than it has numbers")
        return int(self._bits[self._at - count : self._at] or "0", 2)

    def _unary(self) -> int:
        end = self._bits.find("0", self._at, self._at + 2 * NUMBER_MAX + 1)
        if end < 0:
            raise _damaged("fewer bits than it has numbers, or a number beyond its bound")
        count, self._at = end - self._at, end + 1
        return count


def _damaged(found: str) -> ArchiveDamagedError:
    return ArchiveDamagedError(
        f"adapter of model pixel: expected Rice codes of a change for each layer, found {found}; restore the archive from a copy"
    )
