"""One row of a table: a configuration trained for so many minutes, then measured on held-out volumes."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fine_tune import keeping, llm
from fine_tune.base_layers import named
from fine_tune.datasets import catalogue
from fine_tune.evaluate.cross_entropy import stack_bits
from fine_tune.layouts import Layout
from fine_tune.options import configuration
from medzip.coder.range_coder import Decoder, Encoder
from medzip.entropy_model.contract import Chunk, ChunkHeader
from medzip.entropy_model.llm.load import load_network
from medzip.entropy_model.llm.model import LanguageModel
from medzip.entropy_model.llm.network import NeighbourNetwork
from medzip.errors import VerificationError
from medzip.weights.registry import read_weights

STEPS_TO_MEASURE = 4


@dataclass(frozen=True)
class Outcome:
    """`weights` counts those of the transformer, `kmac` thousands of products a voxel there; bits are a sample's, over the
    middles of all held-out volumes: `base` and `entropy` of the base layer and of the residual (cross-entropy), `coded`
    of a stack that was really coded, base included (None: not asked for), `jpeg_xl` lossless at effort 7. Seconds of training,
    and of coding and decoding a million voxels."""

    name: str
    weights: int
    kmac: float
    steps: int
    seconds: float
    base: float
    entropy: float
    jpeg_xl: float
    coded: float | None = None
    coded_jpeg_xl: float | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None

    @property
    def total(self) -> float:
        return self.base + self.entropy


def measured(table: dict[str, Any], row: dict[str, Any], data: Path, results: Path, threads: int) -> Outcome:
    """The row, trained if it is not in the folder `results` yet; goes on with a training that was cut."""
    run = results / row["name"].replace(" ", "_").replace("/", "_")
    done = run / "outcome.json"
    if done.exists():
        return Outcome(**json.loads(done.read_text()))
    run.mkdir(parents=True, exist_ok=True)
    config = configuration(Path(table["config"]), [*table.get("set", []), *row.get("set", [])])
    network, layout, training, held_out = llm.setup(config, data)
    volumes = llm.volumes_of(data, training, config)
    steps = _steps(network, layout, volumes, config, 60 * table["minutes"], run)
    began = time.monotonic()
    for step, average in llm.fit(network, layout, volumes, config, run, steps):
        if step == steps:
            keeping.keep(average, run, keeping.Card(config, step, math.nan, training, held_out))
    seconds = time.monotonic() - began
    stacks = [_middle(catalogue.load(data, one).samples, table.get("side", 128)) for one in held_out]
    outcome = _outcome(row["name"], run / "weights.safetensors", config, stacks, threads, table.get("coded", 1))
    outcome = Outcome(**(asdict(outcome) | {"steps": steps, "seconds": round(seconds)}))
    done.write_text(json.dumps(asdict(outcome), indent=1))
    return outcome


def _steps(network: Any, layout: Layout, volumes: list[Any], config: dict[str, Any], seconds: float, run: Path) -> int:
    """How many steps of training fit into so many seconds, measured once for a run on a copy of the network."""
    told = run / "steps.json"
    if told.exists():
        return int(json.loads(told.read_text()))
    import copy

    tried, source = copy.deepcopy(network), layout.source(volumes, seed=0)
    optimizers, times = llm.optimizers(tried, config), []
    for _ in range(STEPS_TO_MEASURE):
        began = time.monotonic()
        layout.loss(tried, source.draw(config["patches"])).backward()
        for optimizer in optimizers:
            optimizer.step()
        times.append(time.monotonic() - began)
    steps = max(int(seconds / min(times)), 1)
    told.write_text(json.dumps(steps))
    return steps


def _middle(samples: NDArray[np.int32], side: int) -> NDArray[np.integer[Any]]:
    """The middle of the stack in the middle of a volume, at most so many rows and columns, in as few bits as hold it."""
    starts = [max((length - limit) // 2, 0) for length, limit in zip(samples.shape, (3, side, side), strict=True)]
    z, y, x = (slice(start, start + limit) for start, limit in zip(starts, (3, side, side), strict=True))
    return samples[z, y, x].astype(np.uint8 if samples.max() < 256 else np.uint16)


def _outcome(name: str, path: Path, config: dict[str, Any], stacks: list[NDArray[Any]], threads: int, coded: int) -> Outcome:
    network, layer = load_network(path), named(config.get("base")) if config["network"]["layout"] == "prompts" else None
    bits = base_bits = jpeg_xl = 0.0
    codings = []
    for number, stack in enumerate(stacks):
        payload, seen = layer.encode(stack) if layer else (b"", None)
        base_bits += 8 * len(payload)
        bits += stack_bits(network, stack, int(stack.min()), int(stack.max()), seen)
        jpeg_xl += 8 * _jpeg_xl_bytes(stack)
        if number < coded:
            codings.append(_really_coded(LanguageModel(read_weights(path), threads), stack, len(payload), seen))
    samples = sum(stack.size for stack in stacks)
    backbone = network.backbone
    linear = sum(w.numel() for n, w in backbone.named_parameters() if w.ndim == 2 and "embed_tokens" not in n)
    tokens = 1 if isinstance(network, NeighbourNetwork) or not config["network"].get("local_prompt", True) else 2
    size, jxl, encoding, decoding = (sum(part) for part in zip(*codings, strict=True)) if codings else (None,) * 4
    first = sum(stack.size for stack in stacks[:coded])
    return Outcome(
        name=name,
        weights=linear,
        kmac=tokens * linear / 1000,
        steps=0,
        seconds=0.0,
        base=base_bits / samples,
        entropy=bits / samples,
        jpeg_xl=jpeg_xl / samples,
        coded=None if size is None else 8 * size / first,
        coded_jpeg_xl=None if jxl is None else 8 * jxl / first,
        encode_seconds=None if encoding is None else encoding * 1e6 / first,
        decode_seconds=None if decoding is None else decoding * 1e6 / first,
    )


def _jpeg_xl_bytes(stack: NDArray[Any]) -> int:
    from medzip import chunk_kinds

    return sum(len(chunk_kinds.KINDS["jpeg_xl"].encode(plane[None])) for plane in stack)


def _really_coded(
    model: LanguageModel, stack: NDArray[Any], base_bytes: int, seen: NDArray[Any] | None
) -> tuple[int, int, float, float]:
    """Bytes of a stack and of its lossless JPEG XL, seconds of coding and decoding. Raises VerificationError."""
    coder, began = Encoder(), time.monotonic()
    side = model.encode(Chunk(stack, seen), coder)
    payload, encoded = coder.finish(), time.monotonic()
    with torch.inference_mode():
        back = model.decode(ChunkHeader(stack.shape, stack.dtype.str, side, seen), Decoder(payload))
    if not np.array_equal(back, stack):
        raise VerificationError("expected the stack that was coded, found another after decoding")
    return len(payload) + base_bytes, _jpeg_xl_bytes(stack), encoded - began, time.monotonic() - encoded
