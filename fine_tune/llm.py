"""Train the language models of presets `llm` and `paper`: setup > main > fit > validate.

    python -m fine_tune.llm --config fine_tune/configs/open_llm.yaml --data DATA --run RUN

RUN keeps the checkpoint; the same command goes on from it. `--steps N` ends the training at step N, over whose last
`decay` share the learning rate falls to zero.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from fine_tune.datasets.manifest import TrainingVolume, load, rows, windowed
from fine_tune.layouts import Layout, layout_of
from fine_tune.training import trained
from medzip.entropy_model.llm.network import NetworkConfig


def setup(config: dict[str, Any], data: Path) -> tuple[nn.Module, Layout, list[TrainingVolume]]:
    """The network, its layout, and the volumes to train on."""
    torch.manual_seed(config["seed"])
    generator = np.random.default_rng(config["seed"])
    volumes = [load(data, row) for row in rows(data, config["include"], config.get("exclude", ()))]
    for volume in list(volumes):
        if volume.top > 255 and config.get("windowed", False):
            volumes += [windowed(volume, generator)]
    layout = layout_of(NetworkConfig(**config["network"]))
    network = layout.network()
    if start := config.get("start"):
        from safetensors.torch import load_file

        network.load_state_dict(load_file(start))
    if rank := config.get("lora_rank"):
        from peft import LoraConfig, inject_adapter_in_model

        network.backbone.requires_grad_(False)
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        network.backbone = inject_adapter_in_model(lora, network.backbone)
    return network, layout, volumes


def optimizers(network: nn.Module, config: dict[str, Any]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the backbone, AdamW for all else (and for everything when `muon_rate` is not set)."""
    learning = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    matrices = [w for name, w in learning if "muon_rate" in config and name.startswith("backbone.") and w.ndim == 2]
    others = [w for _, w in learning if not any(w is matrix for matrix in matrices)]
    result: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=config["rate"], betas=(0.9, 0.95), weight_decay=0.01)]
    if matrices:
        result.append(torch.optim.Muon(matrices, lr=config["muon_rate"], weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    return result


def fit(
    network: nn.Module, layout: Layout, volumes: list[TrainingVolume], config: dict[str, Any], run: Path, steps: int
) -> Iterator[tuple[int, nn.Module]]:
    """Train to step `steps`; gives (step, averaged network) at each checkpoint and at the end, even where nothing is left."""

    def losses(seed: int) -> Callable[[], Tensor]:
        source = layout.source(volumes, seed=seed)
        return lambda: layout.loss(network, source.draw(config["patches"]))

    return trained(network, optimizers(network, config), losses, config, run, steps)


def validate(network: nn.Module, layout: Layout, volumes: list[TrainingVolume], patches: int) -> float:
    """Bits per sample over patches drawn from held-out volumes, the same ones every time."""
    source = layout.source(volumes, seed=1)
    network.eval()
    with torch.no_grad():
        losses = [layout.loss(network, source.draw(16)) for _ in range(patches // 16)]
    network.train()
    return float(torch.stack(losses).mean())


def merged(network: nn.Module) -> dict[str, Tensor]:
    """The weights with LoRA updates merged in, under the names of a network without LoRA, in half precision."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if hasattr(child, "merge") and hasattr(child, "base_layer"):
                child.merge()
                setattr(module, name, child.base_layer)
    return {name: weight.half().contiguous() for name, weight in network.state_dict().items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description="Train a language model of medzip.")
    arguments.add_argument("--config", type=Path, required=True)
    arguments.add_argument("--data", type=Path, required=True, help="folder with MANIFEST.tsv")
    arguments.add_argument("--run", type=Path, required=True, help="folder of this training: checkpoint and result")
    arguments.add_argument("--steps", type=int, help="end at this step instead of the configuration's")
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    config = yaml.safe_load(given.config.read_text())
    given.run.mkdir(parents=True, exist_ok=True)
    network, layout, volumes = setup(config, given.data)
    held_out = [load(given.data, row) for row in rows(given.data, config["validate"])]
    count = sum(weight.numel() for weight in network.parameters())
    print(f"{len(volumes)} volumes, {count} weights", flush=True)
    for step, average in fit(network, layout, volumes, config, given.run, given.steps or config["steps"]):
        from safetensors.torch import save_file

        bits = validate(average, layout, held_out, config.get("validation_patches", 64)) if held_out else math.nan
        print(f"step {step}  held out {bits:.4f} bits/sample", flush=True)
        card = {
            "network": json.dumps(config["network"], sort_keys=True),
            "kind": config["kind"],
            "licence_class": config["licence_class"],
            "step": str(step),
            "held_out": f"{bits:.4f}",
        }
        save_file(merged(average), given.run / "weights.safetensors", metadata=card)


if __name__ == "__main__":
    main()
