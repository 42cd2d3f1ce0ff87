"""What an entropy model is asked for, and what it gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medzip.coder.range_coder import Decoder, Encoder
from medzip.errors import UnsupportedInputError


@dataclass(frozen=True)
class Requirements:
    """What a decoder must have to read what this model wrote.

    `weights` is the SHA-256 (hex) of the weights file, None for a model without weights. `portable` is True only where
    everything that shapes a PMF was computed in `medzip.exact`. `licence_class` is 'open' or 'research'. `platform`
    holds what a float model must meet again (torch version, dtype, threads, instruction set); empty where portable.
    """

    weights: str | None = None
    portable: bool = True
    licence_class: str = "open"
    platform: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """Planes to be coded together, independent of all others.

    `samples` is (planes, rows, columns), integers; a plane is a slice, or one colour of an RGB frame. `base` is what the
    decoder will see of the base layer, same shape, or None. `adapts` says that a model may take minutes to fit itself to it.
    """

    samples: NDArray[np.integer[Any]]
    base: NDArray[np.integer[Any]] | None = None
    adapts: bool = False


@dataclass(frozen=True)
class ChunkHeader:
    """What the decoder knows of a chunk before its first symbol.

    `shape` is (planes, rows, columns), `dtype` the numpy dtype string of the samples, `side` what the model's `encode`
    returned, `base` as in Chunk.
    """

    shape: tuple[int, int, int]
    dtype: str
    side: dict[str, Any]
    base: NDArray[np.integer[Any]] | None = None


class EntropyModel(Protocol):
    """Codes the samples of a chunk as symbols of integer PMFs (`medzip.exact.symbols`).

    `encode` sends every symbol to the coder and returns side information (CBOR types only) for the chunk's header;
    `decode` asks the coder for the same symbols in the same order and returns samples of the header's shape and dtype.
    A model that cannot code a chunk raises UnsupportedInputError before its first symbol.
    """

    name: str

    def encode(self, chunk: Chunk, coder: Encoder) -> dict[str, Any]: ...

    def decode(self, header: ChunkHeader, coder: Decoder) -> NDArray[np.integer[Any]]: ...

    def requirements(self) -> Requirements: ...


def integer_range(model: str, samples: NDArray[np.integer[Any]]) -> tuple[int, int]:
    """The smallest and the largest sample, (0, 0) where there is none.

    Raises UnsupportedInputError for what is no integer of 8 to 32 bits, in the name of entropy model `model`.
    """
    if samples.dtype.kind not in "iu" or samples.dtype.itemsize > 4:
        raise UnsupportedInputError(f"model {model}: expected integers of 8 to 32 bits, found {samples.dtype}; use another model")
    return (int(samples.min()), int(samples.max())) if samples.size else (0, 0)
