"""What the rows of `pixel_ablations.py` look at: the product's features, and others that were tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fine_tune.datasets.manifest import TrainingVolume
from fine_tune.datasets.voxels import Batch
from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.chunk_samples import ChunkSamples
from medzip.entropy_model.pixel.features import CODE_OF_MEAN, CODE_OF_TEXTURE, FEATURES, POSITION_BITS, scaled
from medzip.entropy_model.pixel.fitted import fit, prediction
from medzip.entropy_model.pixel.reference import gathered, place
from medzip.exact.compiled.setup import njit

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FIRST = FEATURES
_NEAR, _ERRORS = len(around.NEIGHBOURS), len(around.NEIGHBOURS)
_KNOWN = set(around.NEIGHBOURS)
_WIDE = [
    (0, dy, dx)
    for dy in range(-7, 1)
    for dx in range(-8, 9 if dy else 0)
    if (0, dy, dx) not in _KNOWN and abs(dx) - dy <= 9 and not (dy == -1 and dx > 3)
]
_WIDE_BEFORE = [(-1, dy, dx) for dy in range(-3, 4) for dx in range(-3, 4) if (-1, dy, dx) not in _KNOWN]
_THIRD = [(-3, dy, dx) for dy in range(-1, 2) for dx in range(-1, 2)]
_BLOCK = 4
_BLOCKS = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
_BASE = [(dy, dx) for dy in range(-1, 2) for dx in range(-1, 2)]


def _columns() -> dict[str, list[int]]:
    found = {
        "beyond 2": [i for i, (dz, dy, dx) in enumerate(around.NEIGHBOURS) if dz == 0 and max(-dy, abs(dx)) > 2],
        "before": [i for i, (dz, _, _) in enumerate(around.NEIGHBOURS) if dz == -1],
        "second before": [i for i, (dz, _, _) in enumerate(around.NEIGHBOURS) if dz == -2],
        "errors": [*range(_ERRORS, _ERRORS + 16), _NEAR + 19, _NEAR + 20, _NEAR + 21],
        "fitted": [*range(_ERRORS + 12, _ERRORS + 17), _NEAR + 20],
        "local regression": [*range(_ERRORS, _ERRORS + 12), _NEAR + 16, _NEAR + 19, _NEAR + 21],
    }
    at = FIRST
    for name, count in {
        "wide in plane": len(_WIDE),
        "wide before": len(_WIDE_BEFORE),
        "third before": len(_THIRD),
        "blocks before": len(_BLOCKS),
        "base": len(_BASE),
        "running error": 4,
        "running bias": 2,
        "noise by value": 1,
    }.items():
        found[name] = list(range(at, at + count))
        at += count
    return found


COLUMNS = _columns()
"""Columns of the pool by what they show; those from FIRST on are no features of the product."""


@dataclass(frozen=True)
class Pool:
    """Samples of several volumes: int8 `columns` (n, ...), what a `Batch` holds (n,) each, `volume` their volume's number."""

    columns: NDArray[np.int8]
    predicted: Ints
    scale: Ints
    position: Ints
    top: Ints
    volume: Ints
    names: list[str]

    def batch(self, index: Ints, columns: tuple[int, ...]) -> Batch:
        """Samples, seen through `columns`."""
        features = self.columns[index][:, list(columns)]
        return Batch(features, self.predicted[index], self.scale[index], self.position[index], self.top[index])


class _FittedAlone(ChunkSamples):
    """The fitted prediction takes the place of the other."""

    def _predictions(self, values: NDArray[Any]) -> NDArray[Any]:
        found = np.empty(self.size, values.dtype)
        for index in np.array_split(np.arange(self.size), self.size // 10_000 + 1):
            plane, row, column = np.unravel_index(index, self.shape)
            near, _, _ = gathered((values, values, values), place(plane, row, column, self.shape), plane, self.shape)
            found[index] = prediction(near, plane, *self._taps, self.top)
        return found.reshape(self.shape)


def draw(volumes: list[TrainingVolume], count: int, seed: int, regression: bool) -> Pool:
    """`count` samples, as many of each volume; without the local regression, the fitted prediction takes its place."""
    generator = np.random.default_rng(seed)
    parts = [_drawn(volume.samples, generator, count // len(volumes), regression) for volume in volumes]
    names = [volume.row["path"].removeprefix("dev/").removeprefix("train/") for volume in volumes]
    arrays = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return Pool(*arrays, np.repeat(np.arange(len(volumes)), count // len(volumes)), names)


def _drawn(samples: NDArray[Any], generator: np.random.Generator, count: int, regression: bool) -> tuple[NDArray[Any], ...]:
    values = samples.astype(np.int32)
    taps = fit(around.with_margins(values << POSITION_BITS).reshape(-1), values.shape)
    chunk = (ChunkSamples if regression else _FittedAlone)(values, int(values.max()), taps)
    index = generator.integers(0, chunk.size, count)
    seen, predicted, position = chunk._look(index)
    extras = _Extras(values, chunk, index, predicted, seen.scale, seen.features).all()
    top = np.full(count, chunk.top, np.int64)
    return np.concatenate([seen.features, extras], 1), predicted, seen.scale, position, top


class _Extras:
    """The columns from FIRST on, for the samples at flat indices `index` of a chunk."""

    def __init__(
        self,
        values: NDArray[np.int32],
        chunk: ChunkSamples,
        index: Ints,
        predicted: Ints,
        scale: Ints,
        features: NDArray[np.int8],
    ) -> None:
        self.values, self.predicted, self.scale = values.astype(np.int64) << POSITION_BITS, predicted, scale
        self.plane, self.row, self.column = np.unravel_index(index, values.shape)
        texture = features[:, _NEAR + 18].astype(np.int64) - CODE_OF_TEXTURE + scale + CODE_OF_MEAN
        self.unit = texture - CODE_OF_MEAN + CODE_OF_TEXTURE
        self.errors = (self.values.reshape(-1) - chunk._predicted).reshape(values.shape).astype(np.float64)

    def all(self) -> NDArray[np.int8]:
        raw = self.scale + CODE_OF_MEAN
        parts = [
            *(self._near(offsets) for offsets in (_WIDE, _WIDE_BEFORE, _THIRD)),
            self._blocks(_BLOCKS, -1),
            self._blocks(_BASE, 0),
            *(self._code(mean, raw) for mean in self._running(np.abs(self.errors))),
            *(mean * 16 / np.exp2(self.scale / 16)[:, None] * 4 for mean in self._running(self.errors)[:1]),
            self._code(self._by_value(), raw),
        ]
        return np.clip(np.rint(np.concatenate(parts, axis=1)), -127, 127).astype(np.int8)

    def _scaled(self, positions: Ints) -> Ints:
        return scaled((positions - self.predicted[:, None]).T, self.unit).T

    def _near(self, offsets: list[around.Offset]) -> Ints:
        _, rows, columns = self.values.shape
        found = []
        for dz, dy, dx in offsets:
            plane, row = self.plane + dz, self.row + dy
            seen = self.values[np.maximum(plane, 0), np.clip(row, 0, rows - 1), np.clip(self.column + dx, 0, columns - 1)]
            known = (plane >= 0) & ((row >= 0) | (dz < 0))
            found.append(np.where(known, seen, self.predicted))
        return self._scaled(np.stack(found, 1))

    def _blocks(self, offsets: list[tuple[int, int]], dz: int) -> Ints:
        """Means of blocks around the sample's own, of the plane before or of its own plane, as a base layer would show."""
        planes, rows, columns = self.values.shape
        high, wide = -(-rows // _BLOCK), -(-columns // _BLOCK)
        padded = np.pad(self.values, ((0, 0), (0, high * _BLOCK - rows), (0, wide * _BLOCK - columns)), mode="edge")
        means = padded.reshape(planes, high, _BLOCK, wide, _BLOCK).mean(axis=(2, 4)).astype(np.int64)
        plane = np.maximum(self.plane + dz, 0)
        found = [
            means[plane, np.clip(self.row // _BLOCK + dy, 0, high - 1), np.clip(self.column // _BLOCK + dx, 0, wide - 1)]
            for dy, dx in offsets
        ]
        positions = np.stack(found, 1)
        return self._scaled(np.where((self.plane + dz >= 0)[:, None], positions, self.predicted[:, None]))

    def _running(self, amount: Floats) -> list[Floats]:
        """Decaying means of what was decoded, over 8 columns and 4 rows and over 32 and 16: left of the sample, above it."""
        found = []
        for columns, rows in ((8, 4), (32, 16)):
            along, down = (np.empty_like(amount) for _ in range(2))
            for plane in range(len(amount)):
                _decaying(amount[plane], columns, rows, along[plane], down[plane])
            above = np.maximum(self.row - 1, 0)
            left = along[self.plane, self.row, np.maximum(self.column - 1, 0)]
            first = self.row == 0
            over = down[self.plane, above, np.minimum(self.column + 3, amount.shape[2] - 1)]
            found.append(np.stack([np.where(self.column > 0, left, 0), np.where(first, 0, over)], 1))
        return found

    def _by_value(self) -> Floats:
        """The mean error of all samples of the chunk that are predicted in the same of 64 ranges of values."""
        highest = self.values.max() + 16
        of_all = (self.values.reshape(-1) - self.errors.reshape(-1)).astype(np.int64) * 64 // highest
        count = np.bincount(of_all, minlength=64)
        total = np.bincount(of_all, np.abs(self.errors).reshape(-1), 64)
        mean = (total + 30 * np.abs(self.errors).mean()) / (count + 30)
        return mean[self.predicted * 64 // highest][:, None]

    @staticmethod
    def _code(mean: Floats, raw: Ints) -> Floats:
        return 16 * np.log2(20 * mean + 80) - raw[:, None]


@njit
def _decaying(amount: Any, columns: Any, rows: Any, along: Any, down: Any) -> None:
    for y in range(amount.shape[0]):
        mean = down[y - 1, 0] if y > 0 else amount[0, 0]
        for x in range(amount.shape[1]):
            mean += (amount[y, x] - mean) / columns
            along[y, x] = mean
            before = down[y - 1, x] if y > 0 else mean
            down[y, x] = before + (mean - before) / rows
