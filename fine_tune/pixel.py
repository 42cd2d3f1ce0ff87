"""Train the pixel network (presets `default`, `fast`, `max`): setup > main > fit > validate.

    python -m fine_tune.pixel --config fine_tune/configs/open_pixel.yaml --data DATA --run RUN

RUN keeps the checkpoint; the same command goes on from it. `--steps N` ends the training at step N, over whose last
`decay` share the learning rate falls to zero. The network is trained with its weights and activations rounded as the
integer network rounds them, on the integer features that the codec computes.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from fine_tune.datasets.manifest import TrainingVolume, load, rows, windowed
from fine_tune.datasets.voxels import PixelVolume, joined
from fine_tune.llm import SECONDS_BETWEEN_CHECKPOINTS, Averaged, rate_factor, save
from fine_tune.pixel_network import PixelNetwork, bits

VOLUMES_PER_STEP = 8


def setup(config: dict[str, Any], data: Path) -> tuple[PixelNetwork, list[PixelVolume], list[PixelVolume]]:
    """The network, the volumes to train on and those held out."""
    torch.manual_seed(config["seed"])
    generator = np.random.default_rng(config["seed"])
    volumes = [load(data, row) for row in rows(data, config["include"], config.get("exclude", ()))]
    if config.get("windowed", False):
        volumes += [windowed(volume, generator) for volume in volumes if volume.top > 255]
    network = PixelNetwork(**config["network"])
    if start := config.get("start"):
        network.load_state_dict(torch.load(start, weights_only=False)["average"])
    turned = [PixelVolume(_turned(volume, generator) if config.get("turned") else volume.samples) for volume in volumes]
    held_out = [PixelVolume(load(data, row).samples) for row in rows(data, config["validate"])]
    return network, turned, held_out


def _turned(volume: TrainingVolume, generator: np.random.Generator) -> Any:
    """One of the sixteen ways to look at a volume: planes from either end, rows and columns flipped or exchanged."""
    samples = volume.samples
    if generator.integers(2):
        samples = samples.transpose(0, 2, 1)
    return np.flip(samples, [axis for axis in range(3) if generator.integers(2)])


def optimizers(network: PixelNetwork, config: dict[str, Any]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the hidden layers, AdamW for all else."""
    matrices = [layer.weight for layer in network.hidden]
    others = [weight for weight in network.parameters() if not any(weight is matrix for matrix in matrices)]
    result: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=config["rate"], betas=(0.9, 0.99), weight_decay=1e-4),
        torch.optim.Muon(matrices, lr=config["muon_rate"], weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    for optimizer in result:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return result


def fit(
    network: PixelNetwork, volumes: list[PixelVolume], config: dict[str, Any], run: Path, steps: int
) -> Iterator[tuple[int, PixelNetwork]]:
    """Train to step `steps`; gives (step, averaged network) at each checkpoint and at the end, even where nothing is left."""
    average, optimizing, step, spent, recent = Averaged(network), optimizers(network, config), 0, 0.0, math.nan
    checkpoint = run / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        network.load_state_dict(state["network"])
        average.network.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizing, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, spent, recent = state["step"], state["seconds"], state["recent"]

    def keep() -> None:
        seconds = spent + time.monotonic() - began
        state = {"network": network.state_dict(), "average": average.network.state_dict(), "step": step, "seconds": seconds}
        save(checkpoint, state | {"optimizers": [optimizer.state_dict() for optimizer in optimizing], "recent": recent})

    generator = np.random.default_rng(config["seed"] + step)
    share = np.array([volume.size for volume in volumes], float) ** 0.7
    share /= share.sum()
    began = saved_at = time.monotonic()
    while step < steps:
        factor = rate_factor(step, steps, config["warmup"], config["decay"])
        for optimizer in optimizing:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.zero_grad(set_to_none=True)
        chosen = generator.choice(len(volumes), VOLUMES_PER_STEP, p=share)
        batch = joined([volumes[i].draw(generator, config["batch"] // VOLUMES_PER_STEP) for i in chosen])
        loss = bits(network, batch).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizing:
            optimizer.step()
        step += 1
        average.update(network, step)
        recent = loss.item() if math.isnan(recent) else 0.99 * recent + 0.01 * loss.item()
        if step % 100 == 0:
            print(f"step {step}  {spent + time.monotonic() - began:.0f} s  {recent:.4f} bits/sample", flush=True)
        if time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS and step < steps:
            saved_at = time.monotonic()
            keep()
            yield step, average.network
    keep()
    yield step, average.network


def validate(network: PixelNetwork, volumes: list[PixelVolume], count: int) -> list[float]:
    """Bits per sample of each held-out volume, over the same `count` samples every time."""
    with torch.no_grad():
        return [float(bits(network, volume.draw(np.random.default_rng(1), count)).mean()) for volume in volumes]


def main() -> None:
    arguments = argparse.ArgumentParser(description="Train the pixel network of medzip.")
    arguments.add_argument("--config", type=Path, required=True)
    arguments.add_argument("--data", type=Path, required=True, help="folder with MANIFEST.tsv")
    arguments.add_argument("--run", type=Path, required=True, help="folder of this training: checkpoint and result")
    arguments.add_argument("--steps", type=int, help="end at this step instead of the configuration's")
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    config = yaml.safe_load(given.config.read_text())
    given.run.mkdir(parents=True, exist_ok=True)
    network, volumes, held_out = setup(config, given.data)
    count = sum(weight.numel() for weight in network.parameters())
    print(f"{len(volumes)} volumes, {sum(v.size for v in volumes) / 1e6:.0f} M samples, {count} weights", flush=True)
    for step, average in fit(network, volumes, config, given.run, given.steps or config["steps"]):
        found = validate(average, held_out, config.get("validation_samples", 4096))
        print(f"step {step}  held out {np.mean(found):.4f} bits/sample: {' '.join(f'{b:.3f}' for b in found)}", flush=True)


if __name__ == "__main__":
    main()
