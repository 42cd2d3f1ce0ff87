"""A portable preset on whole held-out volumes: archives on the disk beside lossless JPEG XL and tomoz in the same run.

    python -m benchmarks.whole_volumes --data DATA --results RESULTS.json [--preset max] [--models all] [--jobs 2] [--no-verify]

Every volume of DATA/mrnet/dev and DATA/dev, all slices; container and all side information counted. JPEG XL (effort 7, one
codestream a slice) and tomoz (whole volumes) get the same skeleton bytes added. A series that is compressed already, whose stream
medzip would keep, counts as the .npy file of its voxels. RESULTS keeps what is done: run again to go on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import medzip
from benchmarks.volumes import source
from benchmarks.weights_tag import weights_tag
from fine_tune.datasets.manifest import rows
from medzip.bench.codecs import JPEG_XL, TOMOZ, voxel_codecs
from medzip.bench.measure import by_voxels, read_scans

PLANES = ("axial", "coronal", "sagittal")
Result = dict[str, Any]


def measure(data: Path, row: dict[str, str], options: dict[str, Any]) -> Result:
    """Bytes of medzip with `options` of `medzip.compress`, JPEG XL and tomoz (where installed); seconds of compressing."""
    with tempfile.TemporaryDirectory() as folder:
        scan = source(data, row, Path(folder))
        scans = read_scans(scan)
        archives = medzip.compress(scan, Path(folder, "archives"), guarantee="content", **options)
        made = [archive for archive in archives if archive.samples]
        samples = sum(archive.samples for archive in made)
        peers = {codec.name: by_voxels(codec, scans).bytes for codec in voxel_codecs() if codec.name in (JPEG_XL, TOMOZ)}
    return {
        "medzip": sum(archive.archive_bytes for archive in made),
        **peers,
        "samples": samples,
        "by_model": round(sum(archive.model_share * archive.samples for archive in made)),
        "seconds": sum(archive.seconds for archive in made),
    }


def ratio(results: Sequence[Result], reference: str = JPEG_XL, codec: str = "medzip") -> float:
    """Sum of bytes over sum of bytes."""
    return float(sum(result[codec] for result in results) / sum(result[reference] for result in results))


def line(name: str, results: Sequence[Result]) -> str:
    """A row of the table; tomoz's columns are empty where it was not measured."""
    total = {key: sum(result[key] for result in results) for key in ("medzip", JPEG_XL, "samples", "by_model", "seconds")}
    with_tomoz = all(TOMOZ in result for result in results)
    tomoz = f"{ratio(results, codec=TOMOZ):.4f} | {ratio(results, TOMOZ):.4f}" if with_tomoz else "- | -"
    bpsp = " | ".join(f"{8 * total[key] / total['samples']:.3f}" for key in ("medzip", JPEG_XL))
    share, speed = total["by_model"] / total["samples"], total["samples"] / total["seconds"] / 1e6
    return f"| {name} | {bpsp} | {ratio(results):.4f} | {tomoz} | {share:.0%} | {speed:.2f} |"


def table(results: dict[str, Result], bits: dict[str, int]) -> str:
    """Markdown. `results` and `bits` (how many are used) by path in the manifest."""
    lines = ["| volume | bpsp | JPEG XL e7 | medzip / JPEG XL | tomoz / JPEG XL | medzip / tomoz | by the model | Mvoxel/s |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    planes = {plane: [r for path, r in results.items() if path.startswith("mrnet/") and plane in path] for plane in PLANES}
    found = {plane: chosen for plane, chosen in planes.items() if chosen}
    lines += [line(f"MRNet {plane} ({len(chosen)})", chosen) for plane, chosen in found.items()]
    if found:
        mean = sum(map(ratio, found.values())) / len(found)
        lines.append(f"| MRNet, mean of {len(found)} planes | | | {mean:.4f} | | | | |")
    series = {path: result for path, result in results.items() if path.startswith("dev/")}
    lines += [line(Path(path).name, [result]) for path, result in series.items()]
    deep = [result for path, result in series.items() if bits[path] >= 10]
    if deep:
        lines.append(line(f"10 to 16 bit, total ({len(deep)})", deep))
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description="A portable preset on whole held-out volumes.")
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--results", type=Path, required=True)
    arguments.add_argument("--preset", default="default")
    arguments.add_argument("--models", choices=["open", "all"], default="open")
    arguments.add_argument("--jobs", type=int, default=1)
    arguments.add_argument("--no-verify", dest="verify", action="store_false", help="faster; sizes are the same")
    arguments.add_argument("--volumes", nargs="+", default=["mrnet/dev/*", "dev/*"], help="patterns of paths in the manifest")
    given = arguments.parse_args()
    options = {"preset": given.preset, "models": given.models, "jobs": given.jobs, "verify": given.verify}
    configuration = " ".join(f"{key}={value}" for key, value in options.items())
    configuration += f" weights={weights_tag(given.preset, given.models)}"
    results: dict[str, Result] = json.loads(given.results.read_text()) if given.results.exists() else {}
    chosen = rows(given.data, given.volumes)
    for row in chosen:
        key = f"{row['path']} {configuration}"
        if key not in results:
            results[key] = measure(given.data, row, options)
            given.results.write_text(json.dumps(results, indent=1))
            print(line(row["path"], [results[key]]), flush=True)
    done = {row["path"]: results[f"{row['path']} {configuration}"] for row in chosen}
    print(f"\n{configuration}\n\n{table(done, {row['path']: int(row['bits_used']) for row in chosen})}")


if __name__ == "__main__":
    main()
