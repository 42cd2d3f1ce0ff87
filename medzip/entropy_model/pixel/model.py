"""The entropy model 'pixel': a small network in integers that sees decoded neighbours; the same bits on every machine."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.coder.range_coder import Decoder, Encoder
from medzip.entropy_model.contract import Chunk, ChunkHeader, Requirements, integer_range
from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.adaptation import merged
from medzip.entropy_model.pixel.adaptation_fit import fitted_adapter
from medzip.entropy_model.pixel.costs import Costs
from medzip.entropy_model.pixel.features import POSITION_BITS
from medzip.entropy_model.pixel.fitted import ALL_TAPS, IN_PLANE_TAPS, TAP_MAX, fit
from medzip.entropy_model.pixel.network import Network, read_network
from medzip.entropy_model.pixel.reference import visit
from medzip.errors import ArchiveDamagedError
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
        from medzip.entropy_model.pixel import compiled
    except ImportError:
        return None
    return compiled


def _compiled_for(network: Network) -> ModuleType | None:
    compiled = _compiled()
    return compiled if compiled and compiled.suits(network) else None


class Pixel:
    """The entropy model 'pixel' with one set of weights, for integers of 8 to 32 bits; it ignores a base layer."""

    name = "pixel"

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._network = read_network(weights.path)

    def requirements(self) -> Requirements:
        """Its weights; portable."""
        return Requirements(self._weights.sha256, True, self._weights.licence_class)

    def encode(self, chunk: Chunk, coder: Encoder) -> dict[str, Any]:
        """Codes the chunk; returns its range, fitted taps and adapter. Raises UnsupportedInputError for 64-bit samples."""
        samples = chunk.samples
        low, high = integer_range(self.name, samples)
        values = samples.astype(np.int64) - low
        if high == low:
            return {"low": low, "high": high, "taps": []}
        shape = values.shape
        taps = fit(around.with_margins(values << POSITION_BITS).reshape(-1), shape)
        side: dict[str, Any] = {"low": low, "high": high, "taps": [part.tolist() for part in taps[_first_fitted(taps) :]]}
        adapter = fitted_adapter(self._network, values, high - low, taps) if chunk.adapts else b""
        if adapter:
            side["adapter"] = adapter
        network = merged(self._network, adapter)
        if compiled := _compiled_for(network):
            coder.take(compiled.encode(values, high - low, taps, compiled.Packed.of(network)))
        else:
            flat = values.reshape(-1)

            def code(index: Ints, mixture: Mixture) -> Ints:
                encode_samples(flat[index], mixture, 0, high - low, coder)
                return flat[index]

            visit(shape, high - low, taps, network, code)
        return side

    def decode(self, header: ChunkHeader, coder: Decoder) -> NDArray[np.integer[Any]]:
        """The samples that `encode` coded. Raises ArchiveDamagedError where the header makes no sense."""
        low, high, taps = _checked(header)
        network = merged(self._network, header.side.get("adapter", b""))
        compiled = _compiled_for(network)
        if compiled and high > low:
            values = compiled.decode(coder.data, header.shape, high - low, taps, compiled.Packed.of(network))
            decoded: NDArray[np.integer[Any]] = (values + low).astype(header.dtype)
            return decoded
        samples = np.full(header.shape, low, header.dtype)
        flat = samples.reshape(-1)

        def code(index: Ints, mixture: Mixture) -> Ints:
            values = decode_samples(mixture, 0, high - low, coder)
            flat[index] = (values + low).astype(samples.dtype)
            return values

        if high > low:
            visit(header.shape, high - low, taps, network, code)
        return samples

    def costs(self, header: ChunkHeader, samples: NDArray[np.integer[Any]]) -> Costs:
        """What each sample took of a chunk with this header. Raises ArchiveDamagedError where the header makes no sense."""
        low, high, taps = _checked(header)
        return Costs(merged(self._network, header.side.get("adapter", b"")), samples.astype(np.int64) - low, high - low, taps)


def _first_fitted(taps: tuple[Ints, Ints]) -> int:
    """How many of the two sets of taps go without saying: those of a chunk of one plane, all those of a very small one."""
    return 0 if taps[0].any() else 1 if taps[1].any() else 2


def _checked(header: ChunkHeader) -> tuple[int, int, tuple[Ints, Ints]]:
    dtype = np.dtype(header.dtype)
    low, high, taps = (header.side.get(key) for key in ("low", "high", "taps"))
    adapter = header.side.get("adapter", b"")
    if (
        dtype.kind in "iu"
        and dtype.itemsize <= 4
        and type(low) is int
        and type(high) is int
        and isinstance(adapter, bytes)
        and np.iinfo(dtype).min <= low <= high <= np.iinfo(dtype).max
        and (low == high or all(header.shape))
        and isinstance(taps, list)
        and all(isinstance(part, list) for part in taps)
        and [len(part) for part in taps] in ([], [IN_PLANE_TAPS], [ALL_TAPS, IN_PLANE_TAPS])
        and all(type(tap) is int and abs(tap) <= TAP_MAX for part in taps for tap in part)
    ):
        parts = [np.array(part, np.int64) for part in taps]
        missing = [np.zeros(ALL_TAPS, np.int64), np.zeros(IN_PLANE_TAPS, np.int64)][: 2 - len(parts)]
        return low, high, tuple(missing + parts)  # type: ignore[return-value]  # two, as just checked
    raise ArchiveDamagedError(
        "chunk header of model pixel: expected a dtype of 8 to 32 bits, a range that fits the shape, taps and bytes of an "
        "adapter, found others; restore the archive from a copy"
    )
