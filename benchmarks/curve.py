"""Bytes against speed: every codec and medzip preset on the same volumes, each in a process of its own.

    python -m benchmarks.curve --data DATA --results RESULTS.json [--volumes 'mrnet/dev/*'] [--codecs 'medzip*' tomoz]
    python -m benchmarks.curve --results RESULTS.json --synthetic 100 --codecs 'medzip*' tomoz 'JPEG XL e7'

Prints a Markdown table and writes docs/curve.svg and docs/curve.png. Every volume is a .npy file; all codecs but medzip get the
bytes of its skeleton added. Other codecs run from memory to memory, medzip from file to file, checksums included. Cold: a fresh
process, imports and reading counted, compiled code from the cache; warm: the best of up to three more runs in it. Memory is the
process's peak, Python's own 30 MB or so included. --synthetic makes volumes of so many slices of 512x512, 12 bits in uint16
(a phantom with Rician noise of sigma 20). RESULTS keeps what is done: run again to go on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.one_codec import MEDZIP, STARTED, ZSTD
from benchmarks.weights_tag import weights_tag
from medzip.bench.codecs import JPEG_XL, voxel_codecs
from medzip.presets import PRESETS

ROOT = Path(__file__).parents[1]
CURVE = ROOT / "docs" / "curve"
VOLUMES = ("mrnet/dev/1126_*", "dev/ct_siemens_sensation16_chest", "dev/mr_skyra_child_mprage", "dev/mr_ge_uhp_epi")
PRESET_NAMES = tuple(f"{MEDZIP}{name}" for name in ("fast", "default", "max") if name in PRESETS)
SINGLE = (ZSTD, "pcodec")
"""These code a volume as one piece on one thread."""

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One codec on one volume: sums of which make a line of the table."""

    volume: str
    codec: str
    threads: int
    models: str

    def key(self, operation: str) -> str:
        """In the results; medzip's names its weights."""
        weights = ""
        if self.codec.startswith(MEDZIP):
            weights = f" ({self.models}: {weights_tag(self.codec.removeprefix(MEDZIP), self.models)})"
        return f"{self.volume} | {self.codec}{weights} | {self.threads} | {operation}"

    @property
    def operations(self) -> tuple[str, ...]:
        return ("encode", "compress", "decode") if self.codec.startswith(MEDZIP) else ("encode", "decode")


def all_rows(volumes: list[str], patterns: list[str], models: str) -> list[Row]:
    """What is to be measured: codecs that match a pattern, with one thread and with two where they can use them."""
    names = [ZSTD, *(codec.name for codec in voxel_codecs()), *PRESET_NAMES]
    chosen = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    return [Row(v, name, n, models) for v in volumes for name in chosen for n in ((1,) if name in SINGLE else (1, 2))]


def run(operation: str, row: Row, scan: Path, coded: Path) -> dict[str, Any]:
    """What `benchmarks.one_codec` says."""
    command = [sys.executable, "-m", "benchmarks.one_codec", operation, row.codec, str(scan), str(coded)]
    command += ["--threads", str(row.threads), "--models", row.models]
    environment = os.environ | {STARTED: str(time.time())}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(row: Row, scan: Path, results: Results) -> Iterator[str]:
    """Runs all operations of a row, if one is not in the results; gives the keys of what was added."""
    if all(row.key(operation) in results for operation in row.operations):
        return
    with tempfile.TemporaryDirectory() as folder:
        coded = Path(folder, "coded.mdz")
        for operation in row.operations:
            results[row.key(operation)] = run(operation, row, scan, coded)
            yield row.key(operation)


def describe(scan: Path) -> dict[str, Any]:
    """What the table needs to know of a volume: samples, and bytes that are no samples."""
    from medzip.bench.measure import read_scans

    [found] = read_scans(scan)
    return {"samples": found.samples, "skeleton": found.skeleton_bytes, "sample_bytes": found.volumes[0].samples.nbytes}


def make_volumes(data: Path | None, patterns: list[str], synthetic: list[int], folder: Path) -> dict[str, Path]:
    """Name and .npy file of every volume."""
    from benchmarks import phantoms

    made = {}
    for slices in synthetic:
        name = f"synthetic {slices}x512x512"
        made[name] = folder / f"{name}.npy"
        phantoms.save(made[name], phantoms.Phantom("rician", 20.0, 12), (slices, 512, 512))
    if data is not None:
        from benchmarks.volumes import saved
        from fine_tune.datasets.manifest import rows

        made |= {row["path"]: saved(data, row, folder) for row in rows(data, patterns)}
    return made


@dataclass(frozen=True)
class Line:
    """One codec over all volumes; speeds in 10^6 voxels a second, memory (the most of all volumes) in MiB.

    `compress` is encode with verification, medzip's only.
    """

    codec: str
    threads: int
    bpsp: float
    ratio: float
    encode: float
    encode_cold: float
    compress: float | None
    decode: float
    decode_cold: float
    encode_memory: float
    decode_memory: float


def summed(rows: list[Row], results: Results, volumes: dict[str, dict[str, Any]]) -> list[Line]:
    """One line for each codec and number of threads: sums of bytes and of seconds. `volumes` as `describe` tells."""
    samples = sum(volume["samples"] for volume in volumes.values())
    chosen: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        chosen.setdefault((row.codec, row.threads), []).append(row)

    def total(group: list[Row], operation: str, what: str) -> float:
        return float(sum(results[row.key(operation)][what] for row in group))

    def speed(group: list[Row], operation: str, what: str = "warm") -> float:
        return float(samples / total(group, operation, what) / 1e6)

    def memory(group: list[Row], operation: str) -> float:
        return float(max(results[row.key(operation)]["peak_memory"] for row in group)) / (1 << 20)

    def size(group: list[Row]) -> float:
        skeletons = 0 if group[0].codec.startswith(MEDZIP) else sum(volumes[row.volume]["skeleton"] for row in group)
        return total(group, "encode", "bytes") + skeletons

    reference = chosen.get((JPEG_XL, 1))
    return [
        Line(
            codec=codec,
            threads=threads,
            bpsp=8 * size(group) / samples,
            ratio=size(group) / size(reference) if reference else float("nan"),
            encode=speed(group, "encode"),
            encode_cold=speed(group, "encode", "cold"),
            compress=speed(group, "compress") if "compress" in group[0].operations else None,
            decode=speed(group, "decode"),
            decode_cold=speed(group, "decode", "cold"),
            encode_memory=memory(group, "encode"),
            decode_memory=memory(group, "decode"),
        )
        for (codec, threads), group in chosen.items()
    ]


def table(lines: list[Line]) -> str:
    """Markdown."""
    heading = "codec | threads | bpsp | / JPEG XL e7 | encode Mvoxel/s | cold | with verification | decode Mvoxel/s | cold"
    text = [f"| {heading} | encode MiB | decode MiB |", "| --- |" + " ---: |" * 10]
    for one in lines:
        speeds = (one.encode, one.encode_cold, one.compress, one.decode, one.decode_cold)
        cells = " | ".join("" if speed is None else f"{speed:.3g}" for speed in speeds)
        memory = f"{one.encode_memory:,.0f} | {one.decode_memory:,.0f}"
        text.append(f"| {one.codec} | {one.threads} | {one.bpsp:.3f} | {one.ratio:.4f} | {cells} | {memory} |")
    return "\n".join(text)


def main() -> None:
    arguments = argparse.ArgumentParser(description="Bytes against speed of every codec.")
    arguments.add_argument("--data", type=Path, help="the data folder; without it only --synthetic volumes are measured")
    arguments.add_argument("--results", type=Path, required=True)
    arguments.add_argument("--volumes", nargs="+", default=list(VOLUMES), help="patterns of paths in the manifest")
    arguments.add_argument("--synthetic", nargs="+", type=int, default=[], metavar="SLICES")
    arguments.add_argument("--codecs", nargs="+", default=["*"], help="patterns of names")
    arguments.add_argument("--models", choices=["open", "all"], default="open")
    arguments.add_argument("--plot", type=Path, default=CURVE, help="where the plots go, without suffix (default: docs/curve)")
    given = arguments.parse_args()
    results: Results = json.loads(given.results.read_text()) if given.results.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        scans = make_volumes(given.data, given.volumes, given.synthetic, Path(folder))
        volumes = {name: describe(scan) for name, scan in scans.items()}
        rows = all_rows(list(volumes), given.codecs, given.models)
        compile_all(rows, Path(folder))
        for row in rows:
            for key in measure(row, scans[row.volume], results):
                given.results.write_text(json.dumps(results, indent=1))
                print(f"{key}: {results[key]['warm']:.2f} s", file=sys.stderr, flush=True)
    lines = summed(rows, results, volumes)
    print(f"{', '.join(volumes)}\n\n{table(lines)}")
    from benchmarks.curve_plot import plot

    plot([line for line in lines if line.threads == 1], given.plot)


def compile_all(rows: list[Row], folder: Path) -> None:
    """Fills the cache of compiled code, so that no row counts what happens once in an installation's life."""
    from benchmarks import phantoms

    scan = folder / "tiny.npy"
    phantoms.save(scan, phantoms.PHANTOMS[1], (3, 32, 32))
    for row in {Row("", row.codec, 1, row.models) for row in rows if row.codec.startswith(MEDZIP)}:
        for operation in row.operations:
            run(operation, row, scan, folder / "tiny.mdz")


if __name__ == "__main__":
    main()
