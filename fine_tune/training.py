"""The training loop that all models share: learning rates, averaged weights, checkpoints to go on from, the curve.

Under `accelerate launch` or torchrun each process draws batches of its own; the first one keeps what is to be kept.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

SECONDS_BETWEEN_CHECKPOINTS = 120
SECONDS_BETWEEN_LINES = 15

Network = TypeVar("Network", bound=nn.Module)


def rate_factor(step: int, steps: int, warmup: int, decay: float) -> float:
    """Warm up, stay, fall to zero over the last `decay` share: a training can be prolonged without being begun again."""
    falling = (steps - step) / max(decay * steps, 1)
    return min(1.0, (step + 1) / warmup, max(falling, 0.0))


class _Averaged:
    """Exponential moving average of the trained weights: what is validated and shipped."""

    def __init__(self, network: nn.Module, decay: float = 0.998) -> None:
        self.network, self.decay = copy.deepcopy(network).requires_grad_(False), decay

    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, weight in zip(self.network.parameters(), network.parameters(), strict=True):
                average.lerp_(weight, 1 - decay)


def _save(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def trained(
    network: Network,
    optimizing: list[torch.optim.Optimizer],
    losses: Callable[[int], Callable[[], Tensor]],
    config: dict[str, Any],
    run: Path,
    steps: int,
) -> Iterator[tuple[int, Network]]:
    """Train to step `steps`; gives (step, averaged network) at each checkpoint and at the end, even where nothing is left.

    `losses` gets a seed and gives a function for the mean bits of one random batch after another. `config` tells the seed,
    over how many steps learning rates warm up and over which share of them they fall, how many batches make a step
    (`accumulate`), and whether tensorboard is to be told (`tensorboard`); the rates given are the highest. RUN/curve.csv holds
    step, seconds and a running mean of the bits.
    """
    average, step, spent, recent = _Averaged(network), 0, 0.0, math.nan
    process, batches = int(os.environ.get("RANK", 0)), config.get("accumulate", 1)
    for optimizer in optimizing:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
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
        _save(checkpoint, state | {"optimizers": [optimizer.state_dict() for optimizer in optimizing], "recent": recent})

    loss_of_next = losses(config["seed"] + step + 1_000_003 * process)
    tell = _Curve(run, config.get("tensorboard", False)) if process == 0 else None
    began = saved_at = told_at = time.monotonic()
    while step < steps:
        factor = rate_factor(step, steps, config["warmup"], config["decay"])
        for optimizer in optimizing:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.zero_grad(set_to_none=True)
        bits = 0.0
        for _ in range(batches):
            loss = loss_of_next() / batches
            loss.backward()
            bits += loss.item()
        nn.utils.clip_grad_norm_((w for w in network.parameters() if w.requires_grad), 1.0)
        for optimizer in optimizing:
            optimizer.step()
        step += 1
        average.update(network, step)
        recent = bits if math.isnan(recent) else 0.98 * recent + 0.02 * bits
        now = time.monotonic()
        if tell and (now - told_at > SECONDS_BETWEEN_LINES or step == steps):
            told_at = now
            tell(step, spent + now - began, recent)
        if now - saved_at > SECONDS_BETWEEN_CHECKPOINTS and step < steps:
            saved_at = now
            if process == 0:
                keep()
            yield step, average.network
    if process == 0:
        keep()
    yield step, average.network


class _Curve:
    """What a training tells while it runs: a line, a row of RUN/curve.csv, and tensorboard if it is asked to."""

    def __init__(self, run: Path, tensorboard: bool) -> None:
        self._file, self._writer = run / "curve.csv", None
        if not self._file.exists():
            self._file.write_text("step,seconds,bits\n")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(run / "tensorboard")  # type: ignore[no-untyped-call]  # torch

    def __call__(self, step: int, seconds: float, bits: float) -> None:
        print(f"step {step}  {seconds:.0f} s  {bits:.4f} bits/sample", flush=True)
        with self._file.open("a") as file:
            file.write(f"{step},{seconds:.0f},{bits:.4f}\n")
        if self._writer is not None:
            self._writer.add_scalar("bits", bits, step)  # type: ignore[no-untyped-call]  # torch
