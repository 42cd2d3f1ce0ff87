"""A portable preset on whole held-out volumes: archives on the disk beside lossless JPEG XL.

    python -m benchmarks.whole_volumes --data DATA [--preset default]

Every volume of DATA/mrnet/dev, all slices, and every series and file of DATA/dev that has native voxels; container and all side
information counted, JPEG XL (effort 7, one codestream a slice) with the same skeleton bytes added.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import imagecodecs
import numpy as np

import medzip
from benchmarks.mrnet_llm import coded
from fine_tune.datasets.manifest import load, rows
from medzip import stacks
from medzip.bench.measure import Scan, read_scans


def jpeg_xl_bytes(scan: Scan) -> tuple[int, int]:
    """Bytes of lossless JPEG XL of all planes with the skeleton's added, and how many samples there are."""
    total, samples = scan.skeleton_bytes, 0
    for volume in scan.volumes:
        lowest = int(volume.samples.min())
        shifted = (volume.samples.astype(np.int64) - min(lowest, 0)).astype(np.uint16)
        total += sum(len(imagecodecs.jpegxl_encode(plane, lossless=True, effort=7)) for plane in stacks.planes(shifted).copy())
        samples += volume.samples.size
    return total, samples


def line(name: str, archive: int, reference: int, samples: int, share: float, seconds: float) -> str:
    """A row of the table."""
    speed = f"{share:.0%} | {samples / seconds / 1e6:.2f}"
    return f"| {name} | {8 * archive / samples:.3f} | {8 * reference / samples:.3f} | {archive / reference:.4f} | {speed} |"


def mrnet_lines(data: Path, preset: str, exams: str) -> Iterator[str]:
    """One row for each plane, all slices of all volumes."""
    for plane in ("axial", "coronal", "sagittal"):
        results = [coded(load(data, row).samples.astype(np.uint8), preset) for row in rows(data, [f"mrnet/dev/{exams}_{plane}*"])]
        if not results:
            continue
        total = {key: sum(result[key] for result in results) for key in ("archive", "jpeg_xl", "samples", "seconds")}
        share = sum(result["model_share"] * result["samples"] for result in results) / total["samples"]
        yield line(
            f"MRNet {plane} ({len(results)})", total["archive"], total["jpeg_xl"], total["samples"], share, total["seconds"]
        )


def series_lines(data: Path, preset: str, names: str) -> Iterator[str]:
    """One row for each entry of DATA/dev that has native voxels."""
    for source in sorted((data / "dev").glob(names)):
        scans = read_scans(source)
        if not scans:
            continue
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            made = [one for one in medzip.compress(source, folder, preset=preset, guarantee="content") if one.samples]
            seconds = time.monotonic() - began
        reference, samples = (sum(part) for part in zip(*map(jpeg_xl_bytes, scans), strict=True))
        share = sum(one.model_share * one.samples for one in made) / samples
        yield line(source.name, sum(one.archive_bytes for one in made), reference, samples, share, seconds)


def main() -> None:
    arguments = argparse.ArgumentParser(description="A portable preset on whole held-out volumes.")
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--preset", default="default")
    arguments.add_argument("--exams", default="*", help="pattern of MRNet exams")
    arguments.add_argument("--series", default="*", help="pattern of names in DATA/dev")
    given = arguments.parse_args()
    print("| volume | bpsp | JPEG XL bpsp | ratio | by the model | encode and verify, Mvoxel/s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in chain(mrnet_lines(given.data, given.preset, given.exams), series_lines(given.data, given.preset, given.series)):
        print(row, flush=True)


if __name__ == "__main__":
    main()
