"""From a trained language model of layout `neighbours` to the integers of preset `llm`, and what that costs.

    python -m fine_tune.llm_exact_export --config fine_tune/configs/open_llm.yaml --data DATA \\
        medzip/weights/open-llm-1.safetensors medzip/weights/open-llm-exact-1.safetensors

The configuration's training volumes set the ranges of keys and values; over patches of its volumes for validation the code
lengths of both models are compared, in the symbols that archives hold.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from fine_tune.datasets import catalogue
from fine_tune.datasets.patches import PatchSource, collate
from fine_tune.llm_quantize import calibrated, quantized
from medzip.doctor import coded_by_integer_model
from medzip.entropy_model.llm.coding import to_integers
from medzip.entropy_model.llm.load import load_network
from medzip.entropy_model.llm.network import NeighbourNetwork
from medzip.entropy_model.llm_exact.features import Look, look
from medzip.entropy_model.llm_exact.model import ExactLanguageModel
from medzip.entropy_model.llm_exact.network import Computer, Network, mixture, tensors_of
from medzip.exact import kernels
from medzip.exact.symbols import code_length
from medzip.weights.registry import read_weights
from medzip.weights.tensors import write_tensors

CALIBRATION_PATCHES = 96
PATCHES_AT_ONCE = 8


def exported(network: NeighbourNetwork, source: PatchSource) -> Network:
    """The exact network, with ranges from patches that `source` draws."""
    batches = [source.draw(PATCHES_AT_ONCE).features for _ in range(CALIBRATION_PATCHES // PATCHES_AT_ONCE)]
    return quantized(network, calibrated(network, batches))


def compared(network: NeighbourNetwork, exact: Network, source: PatchSource, patches: int) -> tuple[float, float]:
    """Bits per sample of the float and of the exact model over patches that `source` draws, in symbols as archives hold them."""
    parts = source.parts(patches)
    batch, count = collate(parts), sum(int(inside.sum()) for _, _, inside, _, _ in parts)
    with torch.no_grad():
        made = network(batch.features)
    floats = [to_integers(batch.prediction[i], batch.scale[i], *(part[i] for part in made)) for i in range(patches)]
    integers = [mixture(outputs, seen) for outputs, seen in _exact_outputs(exact, parts)]
    bits = [0.0, 0.0]
    for part, *pair in zip(parts, floats, integers, strict=True):
        _, sample, inside, top, _ = part
        at = np.flatnonzero(inside)
        for model, mixtures in enumerate(pair):
            bits[model] += code_length(sample[at].astype(np.int64), mixtures.rows(at), 0, int(top[0]))
    return bits[0] / count, bits[1] / count


def _exact_outputs(exact: Network, parts: list[Any]) -> list[tuple[Any, Look]]:
    """Outputs (3, tokens, K) and looks of each patch: all patches side by side, voxel after voxel."""
    kernel, cache, slots = kernels.fastest(exact.shapes), exact.cache(len(parts)), np.arange(len(parts))
    computer = Computer(exact, [kernel.layer(scaled.linear) for scaled in exact.scaled()])
    looks = [look(near.astype(np.int64), channel.astype(np.int64), int(top[0])) for near, _, _, top, channel in parts]
    outputs = [
        computer.outputs(np.stack([seen.features[place] for seen in looks]), np.full(len(parts), place), slots, cache)
        for place in range(exact.positions)
    ]
    return list(zip(np.stack(outputs, axis=2).transpose(1, 0, 2, 3), looks, strict=True))


def main() -> None:
    arguments = argparse.ArgumentParser(description="Export a trained language model in integers.")
    arguments.add_argument("source", type=Path)
    arguments.add_argument("target", type=Path)
    arguments.add_argument("--config", type=Path, required=True, help="configuration of the training")
    arguments.add_argument("--data", type=Path, required=True, help="the data of the training")
    arguments.add_argument("--patches", type=int, default=48, help="how many to compare on")
    given = arguments.parse_args()
    config = yaml.safe_load(given.config.read_text())
    network, weights = load_network(given.source), read_weights(given.source)
    if not isinstance(network, NeighbourNetwork):
        raise SystemExit(f"{given.source}: expected layout 'neighbours', found 'prompts'")
    patch = network.config.patch
    training, others = catalogue.chosen(given.data, config)
    exact = exported(network, PatchSource([catalogue.load(given.data, row) for row in training], patch, seed=5))
    metadata = {"kind": ExactLanguageModel.name, "licence_class": weights.licence_class, "made_from": weights.sha256}
    tensors = tensors_of(exact)
    write_tensors(given.target, tensors, metadata)
    write_tensors(given.target, tensors, metadata | {"self_test": coded_by_integer_model(read_weights(given.target))})
    print(f"{given.target}: SHA-256 {read_weights(given.target).sha256}", flush=True)
    held_out = [catalogue.load(given.data, row) for row in others]
    before, after = compared(network, exact, PatchSource(held_out, patch, seed=1), given.patches)
    print(f"{given.patches} held-out patches: {before:.4f} bits in floats, {after:.4f} in integers: {after / before - 1:+.3%}")


if __name__ == "__main__":
    main()
