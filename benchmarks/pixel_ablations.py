"""What each part of the pixel model is worth: small trainings at an equal budget, each against the same control.

    python -m benchmarks.pixel_ablations --data DATA --results R.json [--steps 1000] [--rows PATTERNS]

A pool of samples of training volumes is drawn once, with all that any row looks at; each row trains a network on its columns of
the pool and is measured by the cross-entropy of samples of held-out volumes. Results are kept row by row: the same command goes
on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.ablation_columns import COLUMNS, FIRST, Pool, draw
from fine_tune.datasets.manifest import load, rows, windowed
from fine_tune.pixel_network import LEAK, bits, rounded, weight_shift

TRAINING = 1_200_000
HELD_OUT = 20_000
BATCH = 4096
RATE = 0.003
FEATURES = tuple(range(FIRST))


@dataclass(frozen=True)
class Row:
    """One training. `columns` of the pool are what the network sees; `volumes` are patterns of paths to train on."""

    name: str
    columns: tuple[int, ...] = FEATURES
    hidden: tuple[int, ...] = (192, 192, 96)
    mixtures: int = 4
    gaussian: bool = False
    rounding: str = "trained"
    volumes: str = "*"
    regression: bool = True
    seed: int = 1
    teacher: tuple[int, ...] = field(default=())


def _without(*names: str) -> tuple[int, ...]:
    left_out = {column for name in names for column in COLUMNS[name]}
    return tuple(column for column in FEATURES if column not in left_out)


def _with(*names: str) -> tuple[int, ...]:
    return FEATURES + tuple(column for name in names for column in COLUMNS[name])


ROWS = [
    Row("control"),
    Row("control, other seed", seed=2),
    Row("no local regression: the fitted prediction instead", regression=False),
    Row("no fitted prediction", _without("fitted")),
    Row("no errors", _without("errors")),
    Row("reach 2 in the plane", _without("beyond 2")),
    Row("reach 8 in the plane", _with("wide in plane")),
    Row("no plane before", _without("before", "second before")),
    Row("one plane before", _without("second before")),
    Row("three planes before", _with("third before")),
    Row("plane before 7x7 instead of 5x5", _with("wide before")),
    Row("means of 4x4 blocks of the plane before, 5x5 of them", _with("blocks before")),
    Row("base layer: means of 4x4 blocks (its own bits not counted)", _with("base")),
    Row("running means of errors (learned while decoding)", _with("running error")),
    Row("running means of bias (learned while decoding)", _with("running bias")),
    Row("noise by value, of the chunk", _with("noise by value")),
    Row("width 96-96-48", hidden=(96, 96, 48)),
    Row("width 384-384-192", hidden=(384, 384, 192)),
    Row("one layer of 192", hidden=(192,)),
    Row("five layers 192-192-192-192-96", hidden=(192, 192, 192, 192, 96)),
    Row("K = 1", mixtures=1),
    Row("K = 2", mixtures=2),
    Row("K = 8", mixtures=8),
    Row("Gaussian components", gaussian=True),
    Row("float network", rounding="none"),
    Row("rounded after training", rounding="after"),
    Row("trained on MR only", volumes="mr*"),
    Row("trained on CT only", volumes="ct*"),
    Row("distilled from 384-384-192", teacher=(384, 384, 192)),
]


class _Float(nn.Module):
    """`PixelNetwork` for any number of columns, with or without rounding."""

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        self.mixtures, self.rounding = row.mixtures, row.rounding == "trained"
        widths = [inputs, *row.hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(widths[-1] + inputs, 3 * row.mixtures)
        with torch.no_grad():
            self.out.weight *= 0.1
            self.out.weight[:, widths[-1] :] = 0
            self.out.bias.zero_()
            self.out.bias[row.mixtures : 2 * row.mixtures] = torch.linspace(-0.5, 0.5, row.mixtures)

    def _linear(self, layer: nn.Linear, value: Tensor) -> Tensor:
        weight = rounded(layer.weight, torch.exp2(-weight_shift(layer.weight))) if self.rounding else layer.weight
        return nn.functional.linear(value, weight, layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = features
        for i, layer in enumerate(self.hidden):
            made = nn.functional.leaky_relu(self._linear(layer, state), LEAK)
            made = made + state if i and made.shape == state.shape else made
            state = rounded(made.clamp(-127 / 16, 127 / 16), 1 / 16) if self.rounding else made
        logit, mean, scale = self._linear(self.out, torch.cat([state, features], 1)).view(-1, 3, self.mixtures).unbind(1)
        return logit, mean, scale


def _trained(row: Row, pool: Pool, steps: int, teacher: Callable[[Any], Any] | None = None) -> _Float:
    torch.manual_seed(row.seed)
    generator = np.random.default_rng(row.seed)
    network = _Float(len(row.columns), row)
    matrices = [layer.weight for layer in network.hidden]
    others = [weight for weight in network.parameters() if not any(weight is matrix for matrix in matrices)]
    optimizers = [
        torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.99), weight_decay=1e-4),
        torch.optim.Muon(matrices, lr=RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    allowed = np.flatnonzero([fnmatch(name, row.volumes) for name in pool.names])
    index = np.flatnonzero(np.isin(pool.volume, allowed))
    for step in range(steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (step + 1) / 60, 2 * (steps - step) / steps)
            optimizer.zero_grad(set_to_none=True)
        chosen = index[generator.integers(0, len(index), BATCH)]
        batch = pool.batch(chosen, row.columns)
        loss = bits(network, batch, row.gaussian).mean()
        if teacher is not None:
            loss = 0.5 * loss + 0.5 * bits(network, teacher(chosen), row.gaussian).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
    return network


def _drawn_from(network: _Float, row: Row, pool: Pool) -> Callable[[Any], Any]:
    """Batches whose samples are drawn from a teacher's mixtures: their mean bits are the cross-entropy to the teacher."""
    generator = np.random.default_rng(7)

    def batch(chosen: NDArray[np.int64]) -> Any:
        seen = pool.batch(chosen, row.columns)
        with torch.no_grad():
            logit, mean, scale = (part.numpy() for part in network(torch.from_numpy(seen.features).float() / 16))
        share = np.exp2(logit - logit.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        which = (generator.random((len(share), 1)) > share.cumsum(axis=1)[:, :-1]).sum(axis=1) if share.shape[1] > 1 else 0
        at = np.arange(len(share)), which
        unit = np.exp2(seen.scale / 16)
        uniform = generator.uniform(1e-6, 1 - 1e-6, len(share))
        drawn = seen.predicted + unit * (mean[at] + np.exp2(np.clip(scale[at], -8, 6)) * np.log(uniform / (1 - uniform)))
        return replace(seen, position=np.clip(16 * np.rint(drawn / 16), 0, seen.top).astype(np.int64))

    return batch


def measured(row: Row, training: Pool, held_out: Pool, steps: int) -> dict[str, Any]:
    """Bits a sample of each held-out volume, multiplications a sample, seconds of training."""
    began = time.monotonic()
    teacher = None
    if row.teacher:
        large = replace(row, hidden=row.teacher)
        teacher = _drawn_from(_trained(large, training, steps), row, training)
    network = _trained(row, training, steps, teacher)
    network.rounding = row.rounding != "none"
    with torch.no_grad():
        found = [
            float(
                bits(
                    network,
                    held_out.batch(np.flatnonzero(held_out.volume == i), row.columns),
                    row.gaussian,
                ).mean()
            )
            for i in range(len(held_out.names))
        ]
    weights = sum(layer.weight.numel() for layer in [*network.hidden, network.out])
    return {"bits": dict(zip(held_out.names, found, strict=True)), "weights": weights, "seconds": time.monotonic() - began}


def table(results: dict[str, Any]) -> str:
    """Markdown: bits over those of the control, for MRNet, CT and other MR."""
    control = results["control"]

    def group(found: dict[str, Any], prefix: str) -> float:
        return float(np.mean([b for name, b in found["bits"].items() if name.startswith(prefix)]))

    lines = ["| row | weights | MRNet | CT | MR | seconds |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, found in results.items():
        cells = [
            f"{group(found, p):.4f}" if name == "control" else f"{group(found, p) / group(control, p) - 1:+.2%}"
            for p in ("mrnet", "ct", "mr_")
        ]
        lines.append(f"| {name} | {found['weights']:,} | {' | '.join(cells)} | {found['seconds']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description="Ablations of the pixel model at an equal, small budget.")
    arguments.add_argument("--data", type=Path, required=True, help="folder with MANIFEST.tsv")
    arguments.add_argument("--results", type=Path, required=True, help="JSON file that keeps the results")
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--rows", default="*", help="patterns of names, divided by commas")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    generator = np.random.default_rng(3)
    open_volumes = [load(given.data, row) for row in rows(given.data, ["train/*"])]
    eight_bit = [windowed(volume, generator) for volume in open_volumes[::3]]
    mrnet = [load(given.data, row) for row in rows(given.data, ["mrnet/train/*"])[::3]]
    # The JPEG 2000 series has no voxels to measure before it is decoded.
    dev = rows(given.data, ["mrnet/dev/112[579]_*", "dev/*"], ["dev/ct_siemens_mct_body*"])
    held_out = [load(given.data, row) for row in dev]

    @cache
    def pools(regression: bool) -> tuple[Pool, Pool]:
        return (
            draw([*open_volumes, *eight_bit, *mrnet], TRAINING, 1, regression),
            draw(held_out, HELD_OUT * len(held_out), 2, regression),
        )

    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    for row in ROWS:
        if row.name not in results and any(fnmatch(row.name, pattern) for pattern in given.rows.split(",")):
            results[row.name] = measured(row, *pools(row.regression), given.steps)
            given.results.write_text(json.dumps(results, indent=1))
            print(row.name, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
