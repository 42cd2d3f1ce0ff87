"""The entropy model 'llm_exact': a causal language model in integers over neighbouring voxels; the same bits on every machine."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.coder.range_coder import Decoder, Encoder
from medzip.entropy_model.contract import Chunk, ChunkHeader, Requirements, integer_range
from medzip.entropy_model.llm_exact import stacks
from medzip.entropy_model.llm_exact.network import Network, read_network
from medzip.entropy_model.llm_exact.reference import visit
from medzip.errors import ArchiveDamagedError, UnsupportedInputError
from medzip.exact.compiled.setup import available
from medzip.exact.mixture import Mixture
from medzip.exact.symbols import decode_samples, encode_samples
from medzip.weights.registry import Weights

Ints = NDArray[np.int64]


@cache
def _compiled() -> ModuleType | None:
    """The compiled loop, or None where numba is not here, or may not compile, or computes something else."""
    if not available():
        return None
    try:
        from medzip.entropy_model.llm_exact import compiled
    except ImportError:
        return None
    return compiled


class ExactLanguageModel:
    """The entropy model 'llm_exact' with one set of weights, for integers of 8 to 32 bits; it ignores a base layer."""

    name = "llm_exact"

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._network: Network = read_network(weights.path)

    def requirements(self) -> Requirements:
        """Its weights; portable."""
        return Requirements(self._weights.sha256, True, self._weights.licence_class)

    def encode(self, chunk: Chunk, coder: Encoder) -> dict[str, Any]:
        """Codes the chunk; returns its range and how many stacks are side by side.

        Raises UnsupportedInputError for 64-bit samples and for slices too large.
        """
        samples = chunk.samples
        low, high = integer_range(self.name, samples)
        _, *image = samples.shape
        together = stacks.together((image[0], image[1]), self._network.patch) if high > low else 1
        values = samples.astype(np.int64) - low
        if high > low and (compiled := self._compiled()):
            coder.take(compiled.encode(values, high - low, together, compiled.Packed.of(self._network)))
        elif high > low:
            flat = values.reshape(-1)

            def code(index: Ints, mixture: Mixture) -> Ints:
                encode_samples(flat[index], mixture, 0, high - low, coder)
                return flat[index]

            visit(values.shape, high - low, self._network, together, code)
        return {"low": low, "high": high, "together": together}

    def decode(self, header: ChunkHeader, coder: Decoder) -> NDArray[np.integer[Any]]:
        """The samples that `encode` coded. Raises ArchiveDamagedError where the header makes no sense."""
        low, high, together = _checked(header)
        try:
            values = self._values(header.shape, high - low, together, coder)
        except UnsupportedInputError as error:
            raise ArchiveDamagedError(f"chunk header: {error}") from error
        decoded: NDArray[np.integer[Any]] = (values + low).astype(header.dtype)
        return decoded

    def _values(self, shape: tuple[int, int, int], high: int, together: int, coder: Decoder) -> Ints:
        if not high:
            return np.zeros(shape, np.int64)
        if compiled := self._compiled():
            packed = compiled.Packed.of(self._network)
            found: Ints = compiled.decode(coder.data, shape, high, together, packed)
            return found
        values = np.zeros(shape, np.int64)
        flat = values.reshape(-1)

        def code(index: Ints, mixture: Mixture) -> Ints:
            flat[index] = decode_samples(mixture, 0, high, coder)
            return flat[index]

        visit(shape, high, self._network, together, code)
        return values

    def _compiled(self) -> ModuleType | None:
        compiled = _compiled()
        return compiled if compiled and compiled.suits(self._network) else None


def _checked(header: ChunkHeader) -> tuple[int, int, int]:
    dtype = np.dtype(header.dtype)
    low, high, together = (header.side.get(key) for key in ("low", "high", "together"))
    if (
        dtype.kind in "iu"
        and dtype.itemsize <= 4
        and type(low) is int
        and type(high) is int
        and type(together) is int
        and np.iinfo(dtype).min <= low <= high <= np.iinfo(dtype).max
        and (low == high or all(header.shape))
        and 1 <= together <= stacks.SLOTS_TOGETHER
    ):
        return low, high, together
    raise ArchiveDamagedError(
        "chunk header of model llm_exact: expected a dtype of 8 to 32 bits, a range that fits the shape and a number of stacks, "
        "found others; restore the archive from a copy"
    )
