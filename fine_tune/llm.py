"""Train the language models of presets `llm` and `paper`: setup > main > fit > validate.

    python -m fine_tune.llm --config fine_tune/configs/open_llm.yaml --data DATA --run RUN
    accelerate launch --num_processes 4 -m fine_tune.llm --config ... --data DATA --run RUN

RUN keeps the checkpoint; the same command goes on from it. `--steps N` ends the training at step N, over whose last
`decay` share the learning rate falls to zero. The two stages of the published method are two configurations: the first freezes a
pretrained backbone (`freeze: true`) and trains everything around it, the second starts from the first (`start`) and adds LoRA
(`lora`). docs/fine_tune.md walks through both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from fine_tune import backbones, keeping
from fine_tune.datasets import catalogue
from fine_tune.datasets.manifest import TrainingVolume, windowed
from fine_tune.layouts import Layout, layout_of
from fine_tune.options import configuration, parser, told
from fine_tune.training import trained
from medzip.entropy_model.llm.network import NetworkConfig

Rows = list[catalogue.Row]


def setup(config: dict[str, Any], data: Path) -> tuple[nn.Module, Layout, Rows, Rows]:
    """The network, its layout, and which volumes to train on and to hold out. Raises UsageError for settings that contradict."""
    torch.manual_seed(config["seed"])
    training, held_out = catalogue.chosen(data, config)
    asked = config["network"]["backbone"]
    config["network"] = config["network"] | {"backbone": backbones.described(asked)}
    layout = layout_of(NetworkConfig(**config["network"]), config.get("base"))
    network = layout.network()
    if start := config.get("start"):
        from safetensors.torch import load_file

        network.load_state_dict(load_file(start))
    elif backbones.is_pretrained(asked):
        backbones.load_into(network, asked)
    if config.get("freeze") or config.get("lora"):
        network.backbone.requires_grad_(False)  # type: ignore[union-attr, operator]  # a module of the network
    if lora := config.get("lora"):
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(r=lora["rank"], lora_alpha=lora.get("alpha", 2 * lora["rank"]), target_modules="all-linear")
        network.backbone = get_peft_model(network.backbone, settings)  # type: ignore[assignment, arg-type]
    return network, layout, training, held_out


def volumes_of(data: Path, rows: Rows, config: dict[str, Any]) -> list[TrainingVolume]:
    """The volumes of these rows, and with `windowed` those of more than 8 bits once more as an 8-bit window."""
    generator = np.random.default_rng(config["seed"])
    volumes = [catalogue.load(data, row) for row in rows]
    return volumes + [windowed(v, generator) for v in volumes if config.get("windowed", False) and v.top > 255]


def optimizers(network: nn.Module, config: dict[str, Any]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the backbone, AdamW for all else (and for everything when `muon_rate` is not set)."""
    learning = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    matrices = [w for name, w in learning if "muon_rate" in config and name.startswith("backbone.") and w.ndim == 2]
    others = [w for _, w in learning if not any(w is matrix for matrix in matrices)]
    result: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=config["rate"], betas=(0.9, 0.95), weight_decay=0.01)]
    if matrices:
        result.append(torch.optim.Muon(matrices, lr=config["muon_rate"], weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    return result


class Objective(nn.Module):
    """The loss as a module, which is what accelerate distributes."""

    def __init__(self, network: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.network, self.layout = network, layout

    def forward(self, batch: Any) -> Tensor:
        return self.layout.loss(self.network, batch)


def fit(
    network: nn.Module, layout: Layout, volumes: list[TrainingVolume], config: dict[str, Any], run: Path, steps: int
) -> Iterator[tuple[int, nn.Module]]:
    """Train to step `steps`; gives (step, averaged network) at each checkpoint and at the end, even where nothing is left."""
    # The backbone's table of words learns nothing.
    together = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(
        mixed_precision=config.get("precision", "no"), cpu=config.get("device") == "cpu", kwargs_handlers=[together]
    )
    objective = accelerator.prepare(Objective(network, layout))

    def losses(seed: int) -> Callable[[], Tensor]:
        source = layout.source(volumes, seed=seed)
        return lambda: objective(moved(source.draw(config["patches"]), accelerator.device))

    return trained(network, optimizers(network, config), losses, config, run, steps)


def moved(batch: Any, device: torch.device) -> Any:
    """A batch, a dataclass of tensors and lists of tensors, on a device."""

    def on_device(value: Any) -> Any:
        return [part.to(device) for part in value] if isinstance(value, list) else value.to(device)

    return replace(batch, **{field.name: on_device(getattr(batch, field.name)) for field in fields(batch)})


def validate(network: nn.Module, layout: Layout, volumes: list[TrainingVolume], patches: int) -> float:
    """Bits per sample over patches drawn from held-out volumes, the same ones every time; not a number where none is held out."""
    if not volumes:
        return math.nan
    source, device = layout.source(volumes, seed=1), next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        losses = [layout.loss(network, moved(source.draw(16), device)) for _ in range(patches // 16)]
    network.train()
    return float(torch.stack(losses).mean())


def main() -> None:
    given = parser("Train a language model of medzip.").parse_args()
    torch.set_num_threads(given.threads)
    config = configuration(given.config, given.set)
    given.run.mkdir(parents=True, exist_ok=True)
    network, layout, training, held_out = setup(config, given.data)
    volumes, others = volumes_of(given.data, training, config), [catalogue.load(given.data, row) for row in held_out]
    count, learning = (sum(w.numel() for w in network.parameters() if w.requires_grad or every) for every in (True, False))
    print(f"{len(volumes)} volumes, {len(others)} held out, {count} weights, {learning} of them learn", flush=True)
    for step, average in fit(network, layout, volumes, config, given.run, given.steps or config["steps"]):
        bits = validate(average, layout, others, config.get("validation_patches", 64))
        print(f"step {step}  held out {bits:.4f} bits/sample", flush=True)
        keeping.keep(average, given.run, keeping.Card(config, step, bits, training, held_out))


if __name__ == "__main__":
    told(main)
