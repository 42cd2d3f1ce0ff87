"""`medzip archive` on a tree of many series: killed at random moments and resumed, its ledger deleted, its throughput measured.

    python -m benchmarks.archive_tree show --data DATA/dev --series 500 --kills 20 --preset parametric --folder NEW
    python -m benchmarks.archive_tree rate --data DATA/dev --series 60 --slices 8 --crop 0 --jobs 1 2 --folder NEW

The DICOM folders of DATA are multiplied to as many series as are asked for: some of their slices, cut to a square around the
middle where they are not compressed, with UIDs of their own and noise of one stored value in some of the samples.

`show` ends with an error unless the end state after all kills is the undisturbed one, all files come back, and both hold again
after the ledger was deleted and made again from the archives. `rate` prints series and bytes a second, and what the ledger, the
audit trail and the sums cost beside the same jobs without them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from medzip.archiving import run as runs
from medzip.archiving.jobs import Job, compress_series
from medzip.archiving.pool import Failure, Pool, Progressed

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
SERIES_OF_A_STUDY = 4
KEY = "5a" * 32
COLUMNS = "name, kind, key, study, part, state, sha256, archive_bytes, original_bytes, error"


def multiply(data: Path, folder: Path, series: int, slices: int, crop: int) -> int:
    """Writes the tree, two series in three with a folder of their own, and returns its bytes."""
    known = [sorted(path for path in source.iterdir() if path.is_file()) for source in sorted(data.iterdir()) if source.is_dir()]
    size = 0
    for number in range(series):
        files = known[number % len(known)]
        first = random.Random(number).randrange(max(len(files) - slices, 0) + 1)
        study = f"study{number // SERIES_OF_A_STUDY:05}"
        place = folder / study / (f"series{number:05}" if number % 3 else "all")
        place.mkdir(parents=True, exist_ok=True)
        for index, path in enumerate(files[first : first + slices]):
            dataset = changed(dcmread(path), f"{study}/{number}", index, crop)
            target = place / f"{number:05}_{index:03}.dcm"
            dataset.save_as(target, enforce_file_format=False)
            size += target.stat().st_size
    return size


def changed(dataset: FileDataset, series: str, index: int, crop: int) -> FileDataset:
    """A slice of another series: UIDs made of the series' name, a few other samples, and fewer of them where `crop` is not 0."""
    study = series.partition("/")[0]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[study]), generate_uid(entropy_srcs=[series])
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(index)])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        return dataset
    dtype = np.dtype(f"<{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}")
    samples = np.frombuffer(dataset.PixelData, dtype)[: dataset.Rows * dataset.Columns].reshape(dataset.Rows, dataset.Columns)
    if crop:
        top, left = (max(side - crop, 0) // 2 for side in samples.shape)
        samples = samples[top : top + crop, left : left + crop]
    flips = np.random.default_rng([len(series), index, *series.encode()]).random(samples.shape) < 0.05
    dataset.PixelData = (samples ^ flips.astype(dtype)).tobytes()
    dataset.Rows, dataset.Columns = samples.shape
    return dataset


def medzip(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """A medzip that is the first of a process group of its own."""
    command = [sys.executable, "-m", "medzip", *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, start_new_session=True)


def called(*arguments: str | Path) -> float:
    """Seconds that a call took, which has to succeed."""
    began = time.monotonic()
    if code := medzip(*arguments).wait():
        raise RuntimeError(f"medzip {arguments[0]}: expected exit code 0, found {code}")
    return time.monotonic() - began


def killed(arguments: list[str | Path], seconds: float, rng: random.Random) -> bool:
    """Whether a call was still at work when it was killed: it alone, or with its workers."""
    process = medzip(*arguments)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        if rng.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        return True


def state(destination: Path) -> dict[str, Any]:
    """All that must not depend on what happened on the way."""
    everything = [path for path in destination.rglob("*") if path.is_file()]
    archives = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in everything if path.suffix == ".mdz"}
    with closing(sqlite3.connect(destination / "_medzip" / "ledger.sqlite")) as ledger:
        rows = ledger.execute(f"SELECT {COLUMNS} FROM archives ORDER BY name").fetchall()
        joined = "files JOIN archives ON archives.id = archive ORDER BY path, name"
        files = ledger.execute(f"SELECT path, name, files.sha256, generation FROM {joined}").fetchall()
        waiting = ledger.execute("SELECT path FROM found").fetchall()
    trail = map(json.loads, (destination / "_medzip" / "audit.jsonl").read_text().splitlines())
    return {
        "archives": archives,
        "rows": rows,
        "files": files,
        "waiting": waiting,
        "sums": (destination / "SHA256SUMS").read_bytes(),
        "told": sorted((event["archive"], event["sha256"]) for event in trail if event["action"] == "committed"),
        "left over": [path.name for path in everything if path.suffix == ".tmp"],
    }


def expect_same(found: dict[str, Any], expected: dict[str, Any], when: str) -> None:
    if differing := [name for name in expected if found[name] != expected[name]]:
        raise RuntimeError(f"{when}: expected the undisturbed state, found others: {', '.join(differing)}")


def give_back(destination: Path, source: Path) -> float:
    """Seconds of a restore of all; `diff -r` has to be silent."""
    back = destination.with_name("back")
    seconds = called("restore", destination, back)
    subprocess.run(["diff", "-r", source, back], check=True)
    shutil.rmtree(back)
    return seconds


def show(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    source, calm, harried = (folder / name for name in ("source", "calm", "harried"))
    size = multiply(options.data, source, options.series, options.slices, options.crop)
    (folder / "site.key").write_text(KEY)
    common = ["--preset", options.preset, "--jobs", str(options.jobs[0]), "--key-file", folder / "site.key", "--quiet"]
    seconds = called("archive", source, calm, *common)
    undisturbed = state(calm)
    small = sum(row[7] for row in undisturbed["rows"])
    yield f"{options.series} series, {len(undisturbed['files'])} files, {size} bytes -> {small} bytes, preset {options.preset}"
    yield f"undisturbed: {len(undisturbed['archives'])} archives in {seconds:.0f} s with --jobs {options.jobs[0]}"

    rng, kills, began = random.Random(options.seed), 0, time.monotonic()
    while kills < options.kills:
        if not killed(["archive", source, harried, *common], rng.uniform(0.2, 1.5 * seconds / options.kills), rng):
            raise RuntimeError(f"expected to kill {options.kills} times, found all done after {kills}; ask for more series")
        kills += 1
    with closing(sqlite3.connect(harried / "_medzip" / "ledger.sqlite")) as ledger:
        [(done,)] = ledger.execute("SELECT count(*) FROM archives WHERE state = 'committed'")
    called("archive", source, harried, *common)
    seconds = time.monotonic() - began
    expect_same(state(harried), undisturbed, "after the kills")
    called("audit", "verify", harried)
    yield f"SIGKILL {kills} times, {done} archives committed by then; resumed: the undisturbed state, {seconds:.0f} s in all"
    yield f"restored, diff -r silent: {give_back(harried, source):.0f} s"
    (harried / "_medzip" / "ledger.sqlite").unlink()
    seconds = called("index", "rebuild", harried)
    expect_same(state(harried), undisturbed, "after the ledger was made again")
    yield f"ledger deleted and made again: the undisturbed state, {seconds:.0f} s"
    yield f"restored again, diff -r silent: {give_back(harried, source):.0f} s"


@dataclass
class _Recorder:
    """Hears nothing, and keeps the jobs of a run."""

    jobs: list[Job]

    def progress(self, phase: str, done: int, total: int) -> None: ...

    def committed(self, row: Any, result: Any) -> None: ...

    def failed(self, name: str, failure: Failure, attempts: int) -> None:  # noqa: ARG002, nothing may fail
        raise RuntimeError(f"{name}: {failure.text}")

    def submit(self, pool: Pool, tag: int, work: Any, job: Any) -> None:
        self.jobs.append(job)
        _SUBMIT(pool, tag, work, job)


_SUBMIT = Pool.submit


def without_ledger(jobs: list[Job], target: Path, size: int) -> float:
    """Seconds of the same jobs in as many workers, with nothing kept of them but their archives."""
    waiting = [replace(job, target=target / job.target.parent.name / job.target.name) for job in reversed(jobs)]
    target.mkdir()
    began = time.monotonic()
    with Pool(size) as pool:
        while waiting or pool.busy:
            while waiting and pool.free:
                _SUBMIT(pool, len(waiting), compress_series, waiting.pop())
            for _, heard in pool.wait(runs.SECONDS_BETWEEN_LOOKS):
                if isinstance(heard, Failure):
                    raise RuntimeError(heard.text)
                assert isinstance(heard, Progressed) or heard.sha256
    return time.monotonic() - began


def rate(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    source = folder / "source"
    size = multiply(options.data, source, options.series, options.slices, options.crop)
    yield f"{options.series} series, {size} bytes, preset {options.preset}"
    for workers in options.jobs:
        recorder = _Recorder([])
        Pool.submit = lambda pool, *given, keep=recorder.submit: keep(pool, *given)  # type: ignore[method-assign]
        summary = runs.archive(source, folder / f"archive{workers}", runs.Options(workers, options.preset), recorder)
        Pool.submit = _SUBMIT  # type: ignore[method-assign]
        bare = without_ledger(recorder.jobs, folder / f"bare{workers}", workers)
        yield (
            f"--jobs {workers}: {summary.seconds:.1f} s, {3600 * summary.archives / summary.seconds:.0f} series/h,"
            f" {summary.original_bytes / summary.seconds / 1e6:.2f} MB/s, {summary.original_bytes / summary.archive_bytes:.3f}x;"
            f" without walk, ledger, audit and sums {bare:.1f} s: they cost {100 * (summary.seconds / bare - 1):.1f} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["show", "rate"])
    parser.add_argument("--data", type=Path, required=True, help="folder of folders of DICOM files")
    parser.add_argument("--folder", type=Path, required=True, help="folder to work in; must not exist")
    parser.add_argument("--series", type=int, default=500)
    parser.add_argument("--slices", type=int, default=2, help="of each series")
    parser.add_argument("--crop", type=int, default=64, help="side of the square that is kept; 0: all")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    for line in {"show": show, "rate": rate}[options.what](options.folder, options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
