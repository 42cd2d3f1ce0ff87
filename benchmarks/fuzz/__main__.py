"""Runs targets: `python -m benchmarks.fuzz dicom images --minutes 30 --seeds FOLDER --finds FOLDER`, or inputs that were found:
`python -m benchmarks.fuzz dicom --again INPUT`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz.archives import Container
from benchmarks.fuzz.contract import Target
from benchmarks.fuzz.runner import Limits, fuzz
from benchmarks.fuzz.scans import dicom, images
from benchmarks.fuzz.streams import Columns, DeflateStreams

TARGETS: dict[str, Callable[[Path | None], Target]] = {
    "dicom": dicom,
    "images": images,
    "container": Container,
    "deflate": DeflateStreams,
    "columns": Columns,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="+", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=30, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--seeds", type=Path, help="a folder of scans (container: of archives) to start from, beside what is here"
    )
    parser.add_argument("--finds", type=Path, default=Path("finds"), help="where inputs go that break a promise")
    parser.add_argument("--memory", type=int, default=2048, help="MiB that a process may take beyond what it has at its start")
    parser.add_argument("--seconds", type=int, default=20, help="of CPU time for one input; more is a hang")
    parser.add_argument("--again", type=Path, help="an input to run once, here")
    chosen = parser.parse_args()
    before = set(chosen.finds.glob("*.bin"))
    for name in chosen.targets:
        target = TARGETS[name](chosen.seeds)
        if chosen.again:
            print(name, "taken" if target.run(chosen.again.read_bytes()) else "left")
            continue
        limits = Limits(chosen.memory << 20, chosen.seconds)
        began = time.monotonic()
        result = fuzz(target, name, 60 * chosen.minutes, chosen.seed, limits, chosen.finds)
        minutes = (time.monotonic() - began) / 60
        print(
            f"{name}: {len(target.seeds)} seeds, {result.executions:,} executions in {minutes:.1f} min "
            f"({result.cpu / 60:.1f} min of CPU time), "
            f"{result.taken:,} taken, slowest {result.slowest:.1f} s of CPU time, {result.children} processes",
            flush=True,
        )
    found = sorted(set(chosen.finds.glob("*.bin")) - before)
    print(f"{len(found)} finds", *found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
