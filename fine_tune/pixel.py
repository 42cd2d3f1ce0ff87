"""Train the pixel network (presets `default`, `fast`, `max`): setup > main > fit > validate.

    python -m fine_tune.pixel --config fine_tune/configs/open_pixel.yaml --data DATA --run RUN

RUN keeps the checkpoint; the same command goes on from it. `--steps N` ends the training at step N, over whose last
`decay` share the learning rate falls to zero. The network is trained with its weights and activations rounded as the
integer network rounds them, on the integer features that the codec computes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from fine_tune.datasets import synthetic
from fine_tune.datasets.manifest import TrainingVolume, load, rows, windowed
from fine_tune.datasets.voxels import PixelVolume, joined
from fine_tune.pixel_network import PixelNetwork, bits
from fine_tune.training import trained

VOLUMES_PER_STEP = 8


def setup(config: dict[str, Any], data: Path) -> tuple[PixelNetwork, list[PixelVolume], list[PixelVolume]]:
    """The network, the volumes to train on and those held out."""
    torch.manual_seed(config["seed"])
    generator = np.random.default_rng(config["seed"])
    volumes = [load(data, row) for row in rows(data, config["include"], config.get("exclude", ()))]
    if config.get("windowed", False):
        volumes += [windowed(volume, generator) for volume in volumes if volume.top > 255]
    made_up = [synthetic.noisy(generator) for _ in range(config.get("synthetic", 0))]
    network = PixelNetwork(**config["network"])
    if start := config.get("start"):
        network.load_state_dict(torch.load(start, weights_only=False)["average"])
    turned = [PixelVolume(_turned(volume, generator) if config.get("turned") else volume.samples) for volume in volumes]
    turned += [PixelVolume(samples) for samples in made_up]
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
    return [
        torch.optim.AdamW(others, lr=config["rate"], betas=(0.9, 0.99), weight_decay=1e-4),
        torch.optim.Muon(matrices, lr=config["muon_rate"], weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]


def fit(
    network: PixelNetwork, volumes: list[PixelVolume], config: dict[str, Any], run: Path, steps: int
) -> Iterator[tuple[int, PixelNetwork]]:
    """Train to step `steps`; gives (step, averaged network) at each checkpoint and at the end, even where nothing is left."""
    share = np.array([volume.size for volume in volumes], float) ** 0.7
    share /= share.sum()

    def losses(seed: int) -> Callable[[], Tensor]:
        generator = np.random.default_rng(seed)

        def loss() -> Tensor:
            chosen = generator.choice(len(volumes), VOLUMES_PER_STEP, p=share)
            count = config["batch"] // VOLUMES_PER_STEP
            return bits(network, joined([volumes[i].draw(generator, count) for i in chosen])).mean()

        return loss

    return trained(network, optimizers(network, config), losses, config, run, steps)


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
