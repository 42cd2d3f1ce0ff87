"""Training volumes from a folder with a MANIFEST.tsv: one lossless JPEG XL file a volume, one frame a slice."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medzip import sources


@dataclass(frozen=True)
class TrainingVolume:
    """`samples` is (slices, rows, columns) int32, shifted so that the smallest is 0; `row` is its line of the manifest."""

    row: dict[str, str]
    samples: NDArray[np.int32]

    @property
    def top(self) -> int:
        return int(self.samples.max())


def rows(folder: Path, include: Sequence[str], exclude: Sequence[str] = ()) -> list[dict[str, str]]:
    """Lines of MANIFEST.tsv whose path matches one of the patterns `include` and none of `exclude`."""
    with (folder / "MANIFEST.tsv").open(newline="") as manifest:
        lines = list(csv.DictReader(manifest, delimiter="\t"))
    return [
        line
        for line in lines
        if any(fnmatch(line["path"], pattern) for pattern in include)
        and not any(fnmatch(line["path"], pattern) for pattern in exclude)
    ]


def load(folder: Path, row: dict[str, str]) -> TrainingVolume:
    """The volume of one line of the manifest: a lossless JPEG XL file, or the first one of what medzip reads there."""
    import imagecodecs

    if not row["path"].endswith(".jxl"):
        _, volumes = sources.read(next(iter(sources.groups(folder / row["path"], "content"))))
        samples = volumes[0].samples.reshape(-1, *volumes[0].samples.shape[-2:]).astype(np.int64)
        return TrainingVolume(row, (samples - samples.min()).astype(np.int32))

    shape = tuple(int(n) for n in row["shape"].split("x"))
    coded = imagecodecs.jpegxl_decode((folder / row["path"]).read_bytes()).reshape(shape).astype(np.int64)
    return TrainingVolume(row, (coded - coded.min()).astype(np.int32))


def windowed(volume: TrainingVolume, generator: np.random.Generator) -> TrainingVolume:
    """The volume as an 8-bit export would hold it: a random window, 256 levels, both ends saturated.

    Open volumes have 10 to 16 bits, many archives 8: without this, a network trained on the former meets rounding and
    saturation for the first time when it codes.
    """
    low = np.quantile(volume.samples, generator.uniform(0, 0.02))
    high = np.quantile(volume.samples, generator.uniform(0.97, 0.999))
    scaled = (volume.samples - low) * (255 / max(high - low, 1))
    return TrainingVolume(volume.row, np.clip(np.rint(scaled), 0, 255).astype(np.int32))
