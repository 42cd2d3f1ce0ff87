"""sample_data/ holds what its manifest says, may be passed on, and can be read."""

from __future__ import annotations

import csv
import hashlib
import sys
from pathlib import Path

import pytest

from medzip import sources
from medzip.volume import join

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "sample_data"
with (FOLDER / "MANIFEST.tsv").open(newline="") as file:
    MANIFEST = list(csv.DictReader(file, delimiter="\t"))
ABOUT = {"MANIFEST.tsv", "README.md", "LICENSES.txt"}

every_file = pytest.mark.parametrize("row", MANIFEST, ids=lambda row: row["file"])


@every_file
def test_file_is_the_one_of_the_manifest(row: dict[str, str]) -> None:
    assert hashlib.sha256((FOLDER / row["file"]).read_bytes()).hexdigest() == row["sha256"]


@every_file
def test_shape_and_dtype_are_those_of_the_manifest_and_the_bytes_come_back(row: dict[str, str]) -> None:
    [group] = sources.groups(FOLDER / row["file"], "content")
    skeleton, [volume] = sources.read(group)
    assert "x".join(map(str, volume.samples.shape)) == row["shape"]
    assert volume.samples.dtype.name == row["dtype"]
    [(_, content)] = sources.contents(group)
    assert b"".join(join(skeleton.files[0], [volume])) == b"".join(content)


def test_manifest_names_every_file_and_no_other() -> None:
    there = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert there - ABOUT == {row["file"] for row in MANIFEST}


def test_licences_allow_redistribution_and_their_texts_are_there() -> None:
    texts = (FOLDER / "LICENSES.txt").read_text()
    assert {row["licence"] for row in MANIFEST} == {"MIT", "BSD-3-Clause"}
    assert all(f"= {row['source'].split(':')[0]} =" in texts for row in MANIFEST)


def test_all_stays_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 5_000_000


def test_demo_scan_is_two_stacks() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from demo import SCAN
    finally:
        sys.path.pop(0)
    [group] = sources.groups(SCAN)
    _, [volume] = sources.read(group)
    assert len(volume.samples) <= 6


def test_series_are_one_archive_each() -> None:
    for folder, slices in (("mr_head_series", 6), ("ct_heart_series", 5)):
        [group] = sources.groups(FOLDER / folder)
        _, [volume] = sources.read(group)
        assert (len(group.files), len(volume.samples)) == (slices, slices)


def test_mr_series_is_sorted_into_the_slices_of_the_demo_scan() -> None:
    [series] = sources.groups(FOLDER / "mr_head_series")
    [scan] = sources.groups(FOLDER / "mr_head_6_slices.nii")
    [[from_series], [from_scan]] = [sources.read(group)[1] for group in (series, scan)]
    assert (from_series.samples == from_scan.samples).all()
