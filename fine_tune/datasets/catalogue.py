"""The volumes of a data folder, and whose they are: lines of a MANIFEST.tsv, or all scans that medzip reads there.

Stanford's MRNet as it comes (train/axial/0000.npy and so on), BIDS folders, folders of DICOM series or of NIfTI files: all are
scans that medzip reads. Training and validation are divided by patient, never by slice or by series.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fine_tune.datasets import manifest
from fine_tune.datasets.manifest import TrainingVolume
from medzip import sources
from medzip.errors import MedzipError, UsageError

Row = dict[str, str]

_PLANES = "axial|coronal|sagittal"
_PATIENTS = (
    re.compile(rf"(?:^|/)(\d{{4}})_(?:{_PLANES})\b"),
    re.compile(rf"(?:^|/)(?:{_PLANES})/(\d{{4}})\.npy"),
    re.compile(r"\b(sub-[A-Za-z0-9]+)"),
)


def rows(folder: Path, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()) -> list[Row]:
    """Volumes whose path matches one of the patterns `include` and none of `exclude`, each with at least `path` and `patient`.

    Raises UsageError where there are none.
    """
    if (folder / "MANIFEST.tsv").exists():
        found = [row | {"patient": _by_name(row["path"])} for row in manifest.rows(folder, include, exclude)]
    else:
        found = [row for row in _scanned(folder) if _matches(row["path"], include) and not _matches(row["path"], exclude)]
    if not found:
        raise UsageError(f"{folder}: expected volumes that match {', '.join(include)}, found none")
    return found


def load(folder: Path, row: Row) -> TrainingVolume:
    """The first volume of integers of a row of `rows`; 4-D ones as one run of slices. Raises UsageError for others."""
    if (folder / "MANIFEST.tsv").exists():
        return manifest.load(folder, row)
    _, volumes = sources.read(_groups(folder)[row["path"]])
    samples = next((v.samples for v in volumes if v.samples.dtype.kind in "iub" and v.samples.ndim >= 3), None)
    if samples is None:
        raise UsageError(f"{folder / row['path']}: expected a volume of integers, found none; leave it out with `exclude`")
    stack = samples.reshape(-1, *samples.shape[-2:]).astype(np.int64)
    return TrainingVolume(row, (stack - stack.min()).astype(np.int32))


def chosen(folder: Path, config: dict[str, Any]) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out, of different patients: `include`, `exclude` and `validate` of a configuration are
    patterns of paths; without `validate`, about `validation_share` of the patients are held out. Raises UsageError."""
    training = rows(folder, config.get("include", ("*",)), config.get("exclude", ()))
    if "validate" in config:
        held_out = rows(folder, config["validate"]) if config["validate"] else []
        training = without_patients_of(training, held_out)
    else:
        training, held_out = divided(training, config.get("validation_share", 0.1), config["seed"])
    if not training:
        raise UsageError(f"{folder}: expected volumes of patients to train on, found none; lower validation_share")
    return training, held_out


def divided(found: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out: about `share` of the patients, and one at least, chosen by a hash of seed and patient
    alone, so that volumes which come later change little for those that are there."""

    def place(row: Row) -> int:
        return int.from_bytes(hashlib.sha256(f"{seed} {row['patient']}".encode()).digest()[:8], "big")

    limit = max(share * 2**64, min(map(place, found), default=0)) if share > 0 else -1
    return [row for row in found if place(row) > limit], [row for row in found if place(row) <= limit]


def without_patients_of(found: Sequence[Row], held_out: Sequence[Row]) -> list[Row]:
    """Rows of other patients than those held out."""
    theirs = {row["patient"] for row in held_out}
    return [row for row in found if row["patient"] not in theirs]


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


@cache
def _groups(folder: Path) -> dict[str, sources.Group]:
    found = sources.groups(folder, "content", encapsulated="voxels")
    return {_path(group): group for group in found if group.source != "stored"}


def _path(group: sources.Group) -> str:
    """That of the file; of a series, its number in the folder of its first file."""
    name = group.name.removesuffix(".mdz")
    return str(PurePosixPath(group.files[0][0]).parent / PurePosixPath(name).name) if group.source == "dicom" else name


def _scanned(folder: Path) -> list[Row]:
    return [{"path": path, "patient": _patient(path, group)} for path, group in _groups(folder).items()]


def _patient(path: str, group: sources.Group) -> str:
    if group.source == "dicom":
        import pydicom

        try:
            told = pydicom.dcmread(group.files[0][1], stop_before_pixels=True, specific_tags=["PatientID"]).get("PatientID")
        except (MedzipError, OSError, ValueError):
            told = None
        if told:
            return hashlib.sha256(str(told).encode()).hexdigest()[:16]
    return _by_name(path)


def _by_name(path: str) -> str:
    """The number of an MRNet exam, a BIDS subject, else the first folder of several, else the file's own name."""
    for pattern in _PATIENTS:
        if found := pattern.search(path):
            return found[1]
    parts = PurePosixPath(path).parts
    return parts[0] if len(parts) > 2 else path
