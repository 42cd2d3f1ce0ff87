"""The language model as an entropy model: presets `llm` and `paper`."""

from __future__ import annotations

import os
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
from medzip.entropy_model.llm.coding import Exchange, Layout, code_stack
from medzip.entropy_model.llm.layouts import NeighbourLayout, PromptLayout
from medzip.entropy_model.llm.load import load_network
from medzip.entropy_model.llm.network import NeighbourNetwork
from medzip.errors import UnsupportedInputError
from medzip.exact.symbols import decode_samples, encode_samples
from medzip.weights.registry import Weights

SMALL_NETWORK = 20_000_000
"""Weights below which one thread is as fast as two (benchmarks.md)."""

WIDEST = 1 << 24
"""Float32 holds integers up to here: a chunk whose values spread wider goes to another kind."""


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
        # A step of a small network is too short to be shared: a second thread costs more than it brings.
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

        def send(stack: NDArray[np.int64]) -> Exchange:
            flat = stack.reshape(-1)

            def exchange(mixture: Any, places: NDArray[np.int64]) -> NDArray[np.int64]:
                encode_samples(flat[places], mixture, low, high, coder)
                return flat[places]

            return exchange

        with self._threads_set(self._threads):
            for first in range(0, len(samples), 3):
                stack = samples[first : first + 3]
                base = None if chunk.base is None else chunk.base[first : first + 3]
                self._run(stack.shape, low, high, base, send(stack))
        return {"low": low, "high": high, "threads": self._threads}

    def decode(self, header: ChunkHeader, coder: Decoder) -> NDArray[np.integer[Any]]:
        samples = np.zeros(header.shape, np.int64)
        low, high = int(header.side["low"]), int(header.side["high"])

        def receive(stack: NDArray[np.int64]) -> Exchange:
            flat = stack.reshape(-1)

            def exchange(mixture: Any, places: NDArray[np.int64]) -> NDArray[np.int64]:
                flat[places] = decode_samples(mixture, low, high, coder)
                return flat[places]

            return exchange

        with self._threads_set(int(header.side["threads"])):
            for first in range(0, len(samples), 3):
                stack = samples[first : first + 3]
                base = None if header.base is None else header.base[first : first + 3]
                self._run(stack.shape, low, high, base, receive(stack))
        return samples.astype(header.dtype)

    def _run(self, shape: tuple[int, ...], low: int, high: int, base: NDArray[Any] | None, exchange: Exchange) -> None:
        channels, rows, columns = shape
        network, size = self._network, (channels, rows, columns)
        layout: Layout
        if isinstance(network, NeighbourNetwork):
            layout = NeighbourLayout(network, size, low, high)
        else:
            if base is None:
                raise UnsupportedInputError(f"model {self.name!r} needs a base layer, found none; choose another preset")
            layout = PromptLayout(network, size, low, high, base)
        backbone = network.config.backbone
        cache = SlotCache(
            layers=backbone["num_hidden_layers"],
            slots=layout.schedule.slots,
            heads=backbone["num_key_value_heads"],
            length=layout.prefix + layout.length,
            head_size=backbone["head_dim"],
        )
        with torch.inference_mode():
            code_stack(network.backbone, cache, layout, size, network.config.patch, exchange)

    @contextmanager
    def _threads_set(self, threads: int) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


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
