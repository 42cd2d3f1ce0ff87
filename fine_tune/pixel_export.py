"""From a checkpoint of `fine_tune.pixel` to the integer weights that medzip finds.

python -m fine_tune.pixel_export RUN/checkpoint.pt medzip/weights/open-pixel-1.safetensors --licence-class open
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from fine_tune.pixel_network import STEP, weight_shift
from medzip.doctor import coded_by_integer_model
from medzip.entropy_model.pixel.network import read_network
from medzip.weights.registry import read_weights
from medzip.weights.tensors import write_tensors


def integers(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The tensors of the integer network: weights int8, biases and shifts int32."""
    result = {}
    for name in sorted({name.rsplit(".", 1)[0] for name in state}):
        weight, bias = state[f"{name}.weight"].double(), state[f"{name}.bias"].double()
        shift = weight_shift(weight)
        result[f"{name}.weight"] = torch.round(weight * 2**shift).to(torch.int8).numpy()
        result[f"{name}.bias"] = torch.round(bias / STEP * 2 ** shift[:, 0]).to(torch.int32).numpy()
        result[f"{name}.shift"] = shift[:, 0].to(torch.int32).numpy()
    return result


def main() -> None:
    arguments = argparse.ArgumentParser(description="Export a trained pixel network for medzip.")
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("target", type=Path)
    arguments.add_argument("--kind", default="pixel")
    arguments.add_argument("--licence-class", choices=["open", "research"], required=True)
    given = arguments.parse_args()
    state = torch.load(given.checkpoint, weights_only=False)
    metadata = {"kind": given.kind, "licence_class": given.licence_class, "step": str(state["step"])}
    tensors = integers(state["average"])
    write_tensors(given.target, tensors, metadata)
    write_tensors(given.target, tensors, metadata | {"self_test": coded_by_integer_model(read_weights(given.target))})
    network, weights = read_network(given.target), read_weights(given.target)
    print(f"{given.target}: {network.multiplications} multiplications a sample, step {state['step']}, SHA-256 {weights.sha256}")


if __name__ == "__main__":
    main()
