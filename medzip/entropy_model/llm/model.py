"""The language model as an entropy model: presets `llm` and `paper`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medzip.coder.range_coder import Decoder, Encoder
from medzip.entropy_model.contract import Chunk, ChunkHeader, Requirements
from medzip.entropy_model.llm.cache import ATTENTION, SlotCache, register
from medzip.entropy_model.llm.coding import Exchange, Layout, code_stacks
from medzip.entropy_model.llm.layouts import NeighbourLayout, PromptLayout
from medzip.entropy_model.llm.load import load_network
from medzip.entropy_model.llm.network import NeighbourNetwork
from medzip.errors import ArchiveDamagedError, UnsupportedInputError
from medzip.exact.mixture import Mixture
from medzip.exact.symbols import decode_samples, encode_samples
from medzip.weights.registry import Weights

SLOTS_TOGETHER = 64
"""Patches side by side: more of them spare steps, but their keys and values leave a CPU's cache."""

SMALL_NETWORK = 20_000_000
"""Weights below which a network runs on one thread."""

WIDEST = 1 << 24
"""Float32 holds integers up to here: a chunk whose values spread wider goes to another kind."""

MOST_THREADS = 1 << 10
"""More than any machine has that wrote archives; a hostile header must not start more."""

_TORCH = threading.Lock()


class LanguageModel:
    """Predicts each voxel of a stack with a causal language model; a mixture of Gaussians goes to the range coder.

    Float arithmetic: the archive is not portable. The chunk's side information holds what the decoder sets again
    (threads) and what it must meet (torch, instruction set); whether it did, the CRC of the samples tells.
    """

    def __init__(self, weights: Weights, threads: int | None = None) -> None:
        self.name = weights.kind
        self._weights = weights
        register()
        self._network = load_network(weights.path, ATTENTION)
        # A step of a small network is too short to be shared well, and fewer threads are less for a decoder to match.
        small = sum(weight.numel() for weight in self._network.parameters()) < SMALL_NETWORK
        self._threads = threads or (1 if small else torch.get_num_threads())

    def requirements(self) -> Requirements:
        return Requirements(
            weights=self._weights.sha256,
            portable=False,
            licence_class=self._weights.licence_class,
            platform=platform(self._threads),
        )

    def encode(self, chunk: Chunk, coder: Encoder) -> dict[str, Any]:
        samples = chunk.samples.astype(np.int64)
        low, high = int(samples.min()), int(samples.max())
        if high - low >= WIDEST:
            raise UnsupportedInputError(f"the language model codes values that spread less than {WIDEST}, found {high - low}")

        flat = samples.reshape(-1)

        def exchange(mixture: Mixture, places: NDArray[np.int64]) -> NDArray[np.int64]:
            encode_samples(flat[places], mixture, low, high, coder)
            return flat[places]

        together = self._together(samples.shape[1:])
        with self._alone(self._threads):
            self._run(samples.shape, low, high, chunk.base, together, exchange)
        return {"low": low, "high": high, "threads": self._threads, "together": together}

    def decode(self, header: ChunkHeader, coder: Decoder) -> NDArray[np.integer[Any]]:
        samples = np.zeros(header.shape, np.int64)
        flat = samples.reshape(-1)
        low, high, threads, together = _checked(header)

        def exchange(mixture: Mixture, places: NDArray[np.int64]) -> NDArray[np.int64]:
            flat[places] = decode_samples(mixture, low, high, coder)
            return flat[places]

        with self._alone(threads):
            self._run(header.shape, low, high, header.base, together, exchange)
        return samples.astype(header.dtype)

    def _together(self, image: tuple[int, ...]) -> int:
        """How many stacks to code side by side."""
        network, stack = self._network, (3, image[0], image[1])
        if isinstance(network, NeighbourNetwork):
            slots = NeighbourLayout.schedule_for(network, stack).slots
        else:
            slots = PromptLayout.schedule_for(network, stack).slots
        return max(SLOTS_TOGETHER // slots, 1)

    def _layout(self, shape: tuple[int, int, int], low: int, high: int, base: NDArray[Any] | None) -> Layout:
        if isinstance(self._network, NeighbourNetwork):
            return NeighbourLayout(self._network, shape, low, high)
        if base is None:
            raise UnsupportedInputError(f"model {self.name!r} needs a base layer, found none; choose another preset")
        return PromptLayout(self._network, shape, low, high, base)

    def _run(
        self, shape: tuple[int, ...], low: int, high: int, base: NDArray[Any] | None, together: int, exchange: Exchange
    ) -> None:
        """All stacks of a chunk of `shape` (planes, rows, columns), so many side by side."""
        planes, rows, columns = shape
        plane, backbone = rows * columns, self._network.config.backbone
        for begin in range(0, planes, 3 * together):
            stacks = [
                self._layout(
                    (min(3, planes - first), rows, columns), low, high, None if base is None else base[first : first + 3]
                )
                for first in range(begin, min(begin + 3 * together, planes), 3)
            ]
            cache = SlotCache(
                layers=backbone["num_hidden_layers"],
                slots=sum(layout.schedule.slots for layout in stacks),
                heads=backbone["num_key_value_heads"],
                length=max(layout.prefix + layout.length for layout in stacks),
                head_size=backbone["head_dim"],
            )

            def shifted(mixture: Mixture, places: NDArray[np.int64], begin: int = begin) -> NDArray[np.int64]:
                return exchange(mixture, places + begin * plane)

            code_stacks(self._network.backbone, cache, stacks, (rows, columns), self._network.config.patch, shifted)

    @contextmanager
    def _alone(self, threads: int) -> Iterator[None]:
        """One chunk at a time, with so many threads: torch has one number of threads for all that runs in a process."""
        with _TORCH, torch.inference_mode():
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                yield
            finally:
                torch.set_num_threads(before)


def _checked(header: ChunkHeader) -> tuple[int, int, int, int]:
    """Lowest and highest value, threads, and stacks side by side, of a chunk's side information."""
    limits = np.iinfo(header.dtype)
    match header.side:
        case {"low": int(low), "high": int(high), "threads": int(threads), "together": int(together)} if (
            limits.min <= low <= high <= limits.max
            and high - low < WIDEST
            and type(threads) is int  # torch refuses True
            and 1 <= threads <= MOST_THREADS
            and 1 <= together <= SLOTS_TOGETHER
        ):
            return low, high, threads, together
    raise ArchiveDamagedError(
        "chunk header of a language model: expected a range of values and numbers of threads and stacks, found others; "
        "restore the archive from a copy"
    )


def platform(threads: int) -> dict[str, Any]:
    """What float results depend on, as far as it can be named."""
    return {
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "dtype": "float32",
        "threads": threads,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "onednn": os.environ.get("ONEDNN_MAX_CPU_ISA", "default"),
    }
