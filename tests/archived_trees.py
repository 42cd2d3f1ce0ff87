"""Trees of tiny studies, and what an archived tree says of itself, for the tests of `medzip archive`."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pipeline_inputs import contents, npy, smooth, written
from test_sources_dicom import image

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
KEY = "ab" * 32


def slice_of(study: str, series: str, number: int, seed: int = 5) -> bytes:
    """A DICOM file of one slice of 5 x 6 samples, with a patient's name."""
    texts = {
        0x00100010: ("PN", "Doe^Jane"),
        0x0020000D: ("UI", study),
        0x0020000E: ("UI", series),
        0x00200013: ("IS", str(number)),
        0x00200032: ("DS", f"0\\0\\{number}"),
        0x00200037: ("DS", "1\\0\\0\\0\\1\\0"),
    }
    return image(smooth((1, 5, 6), seed=seed + number), texts=texts)


def studies(folder: Path, series: int = 4, slices: int = 2) -> Path:
    """A tree: `series` DICOM series, two to a study, a NIfTI-like scan, loose files, an empty folder and a link."""
    files: dict[str, bytes] = {}
    for number in range(series):
        study, uid = f"1.2.{number // 2}", f"1.2.{number // 2}.{number}"
        for place in range(slices):
            files[f"Doe_Jane/{study}/{number}/{place}.dcm"] = slice_of(study, uid, place, seed=number)
    files |= {"scan.npy": npy(smooth((2, 5, 6))), "Doe_Jane/report.txt": b"all well", "Doe_Jane/consent.txt": b"signed"}
    files["broken.dcm"] = slice_of("1.2.0", "1.2.0.0", 9)[:-20]
    written(folder, files)
    (folder / "empty").mkdir()
    (folder / "last").symlink_to("Doe_Jane")
    return folder


def key_file(folder: Path) -> Path:
    path = folder / "site.key"
    path.write_text(KEY)
    return path


def call(source: Path, destination: Path, *options: str | Path) -> list[str]:
    """The arguments of `medzip archive` with a site key that is the same for all of a test."""
    return [
        *map(str, ("archive", source, destination, "--preset", "parametric", "--key-file", key_file(source.parent))),
        *map(str, options),
    ]


def start(*arguments: str, code: str = "") -> subprocess.Popen[str]:
    """medzip in a process of its own; `code` is run in it before."""
    program = f"import sys\nfrom medzip.cli import main\nif __name__ == '__main__':\n    {code or 'pass'}\n    sys.exit(main())\n"
    command = [sys.executable, "-c", program] if code else [sys.executable, "-m", "medzip"]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *map(str, arguments)], text=True, env=ENVIRONMENT, stdout=pipe, stderr=pipe)


def finished(*arguments: str, code: str = "") -> tuple[int, str, str]:
    process = start(*arguments, code=code)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def query(destination: Path, statement: str) -> list[Any]:
    connection = sqlite3.connect(destination / "_medzip" / "ledger.sqlite")
    try:
        with connection:
            return connection.execute(statement).fetchall()
    finally:
        connection.close()


def events(destination: Path, action: str) -> list[dict[str, Any]]:
    lines = (destination / "_medzip" / "audit.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["action"] == action]


def state(destination: Path) -> dict[str, Any]:
    """All that must be the same whatever happened on the way; fails where something is left over."""
    everything = [path for path in destination.rglob("*") if path.is_file()]
    assert not [path.name for path in everything if path.suffix == ".tmp"]
    archives = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in everything if path.suffix == ".mdz"}
    rows = "SELECT name, kind, key, study, part, state, sha256, archive_bytes, original_bytes, error FROM archives ORDER BY name"
    files = "SELECT path, name, files.sha256, generation FROM files JOIN archives ON archives.id = archive ORDER BY path, name"
    return {
        "archives": archives,
        "rows": query(destination, rows),
        "files": query(destination, files),
        "waiting": query(destination, "SELECT path FROM found"),
        "sums": (destination / "SHA256SUMS").read_bytes(),
        "told": sorted((event["archive"], event["sha256"]) for event in events(destination, "committed")),
    }


def same_tree(one: Path, other: Path) -> bool:
    return contents(one) == contents(other)


def flip(path: Path, place: int) -> None:
    data = np.fromfile(path, np.uint8)
    data[place] ^= 1
    data.tofile(path)


def armed(name: str, count: int, *, after: bool = False) -> None:
    """From the call number `count` of a function of medzip.archiving on ('module.function'), the process kills itself
    before that call, or when it returns."""
    module_name, *path, attribute = name.split(".")
    holder = importlib.import_module(f"medzip.archiving.{module_name}")
    for part in path:
        holder = getattr(holder, part)
    function, calls = getattr(holder, attribute), itertools.count(1)

    def killing(*arguments: Any, **options: Any) -> Any:
        last = next(calls) == count
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        value = function(*arguments, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(holder, attribute, killing)
