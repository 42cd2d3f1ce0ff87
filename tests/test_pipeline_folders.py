"""A folder becomes a folder of archives and comes back as it was, or says what is missing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_inputs import contents, files_of, npy, smooth, written

from medzip import pipeline, sources
from medzip.errors import (
    ArchiveDamagedError,
    MedzipError,
    StorageError,
    UnsupportedInputError,
    UsageError,
    VerificationError,
)
from medzip.tree import MANIFEST

FILES = {
    "one/scan.npy": npy(smooth((3, 5, 6))),
    "two/deep/scan.npy": npy(smooth((2, 5, 6), seed=6)),
    **{f"two/series/{name}": data for name, data in files_of("dcm", smooth((3, 4, 5), "u2")).items()},
    "scan.nii.gz": files_of("nii.gz", smooth((2, 4, 4)))["scan.nii.gz"],
    "notes.txt": b"kept as well",
    "two/empty.txt": b"",
    "two/broken.nii": b"\x5c\x01\0\0 no scan at all",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folder `source`, which holds all kinds of things, and `archive`, made from it."""
    folder = tmp_path_factory.mktemp("folders")
    source = written(folder / "source", FILES)
    (source / "hollow" / "inside").mkdir(parents=True)
    (source / "link to file").symlink_to("one/scan.npy")
    (source / "two" / "link to folder").symlink_to("../one")
    (source / "link to nothing").symlink_to("/nowhere/at all")
    pipeline.compress(source, folder / "archive")
    return folder


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Path:
    """A copy of the archives that a test may change."""
    return Path(shutil.copytree(made / "archive", tmp_path / "archive"))


def test_the_tree_comes_back_as_it_was(made: Path, tmp_path: Path) -> None:
    names = {name for name, data in contents(made / "archive").items() if data is not None}
    assert {"one/scan.npy.mdz", "two/deep/scan.npy.mdz", "scan.nii.gz.mdz", "rest.mdz", MANIFEST} <= names
    restored = pipeline.decompress(made / "archive", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(made / "source")
    assert restored.bytes == sum(map(len, FILES.values()))
    assert pipeline.verify(made / "archive", against=made / "source").files == len(FILES)


def test_without_an_output_the_archives_are_beside_the_folder_and_come_back_there(tmp_path: Path) -> None:
    source = written(tmp_path / "study", {"scan.npy": npy(smooth((1, 3, 3)))})
    pipeline.compress(source)
    before = contents(source)
    with pytest.raises(UsageError):
        pipeline.decompress(tmp_path / "study.mdz")
    source.rename(tmp_path / "aside")
    pipeline.decompress(tmp_path / "study.mdz")
    assert contents(source) == before


def test_a_folder_without_files_comes_back(tmp_path: Path) -> None:
    (tmp_path / "source" / "a" / "b").mkdir(parents=True)
    pipeline.compress(tmp_path / "source", tmp_path / "archive")
    assert pipeline.verify(tmp_path / "archive").files == 0
    pipeline.decompress(tmp_path / "archive", tmp_path / "back")
    assert contents(tmp_path / "back") == {"a": None, "a/b": None}


def remove_an_archive(archive: Path) -> None:
    (archive / "one" / "scan.npy.mdz").unlink()


def replace_an_archive(archive: Path) -> None:
    shutil.copy(archive / "two" / "deep" / "scan.npy.mdz", archive / "one" / "scan.npy.mdz")


def remove_the_manifest(archive: Path) -> None:
    (archive / MANIFEST).unlink()


@pytest.mark.parametrize("change", [remove_an_archive, replace_an_archive, remove_the_manifest])
def test_what_is_missing_or_replaced_is_noticed(archive: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    change(archive)
    with pytest.raises(ArchiveDamagedError):
        pipeline.decompress(archive, tmp_path / "back")
    assert not (tmp_path / "back").exists() or not [data for data in contents(tmp_path / "back").values() if data is not None]
    if change is not remove_the_manifest:
        with pytest.raises(ArchiveDamagedError):
            pipeline.verify(archive)
        with pytest.raises(ArchiveDamagedError):
            pipeline.verify(archive.parent, fast=True)


def test_an_archive_that_the_manifest_does_not_name_is_no_part_of_the_tree(archive: Path, made: Path, tmp_path: Path) -> None:
    shutil.copy(archive / "one" / "scan.npy.mdz", archive / "other.mdz")
    pipeline.decompress(archive, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(made / "source")


def test_salvage_brings_back_the_other_archives_of_a_tree(archive: Path, made: Path, tmp_path: Path) -> None:
    remove_an_archive(archive)
    damaged = archive / "two" / "deep" / "scan.npy.mdz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    restored = pipeline.decompress(archive, tmp_path / "back", salvage=True)
    lost = {"one/scan.npy", "two/deep/scan.npy"}
    expected = {name: data for name, data in contents(made / "source").items() if name not in lost | {"one", "two/deep"}}
    assert {name: data for name, data in contents(tmp_path / "back").items() if name not in ("one", "two/deep")} == expected
    assert len(restored.lost) == 2
    assert all(any(f"{name}.mdz" in line for line in restored.lost) for name in lost)


def test_salvage_needs_no_manifest(archive: Path, tmp_path: Path) -> None:
    remove_the_manifest(archive)
    restored = pipeline.decompress(archive, tmp_path / "back", salvage=True)
    assert {name: data for name, data in contents(tmp_path / "back").items() if isinstance(data, bytes)} == FILES
    assert len(restored.lost) == 1
    assert MANIFEST in restored.lost[0]


HOSTILE: dict[str, Any] = {
    "no map": [],
    "no format": {"medzip_tree": None},
    "no files": {"files": None},
    "no links": {"links": []},
    "archive outside": {"files": [{"path": "x", "bytes": 1, "sha256": "", "archive": "../other.mdz"}]},
    "file without size": {"files": [{"path": "x", "sha256": "", "archive": "rest.mdz"}]},
    "folder outside": {"folders": ["../x"]},
    "absolute folder": {"folders": ["/tmp/x"]},
    "link outside": {"links": {"../x": "y"}},
    "link with a zero": {"links": {"x\0y": "y"}},
    "link to a zero": {"links": {"x": "a\0b"}},
    "link of no text": {"links": {"x\ud800": "y"}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_manifests_are_refused(archive: Path, tmp_path: Path, name: str) -> None:
    manifest = json.loads((archive / MANIFEST).read_text())
    changed = manifest | HOSTILE[name] if isinstance(HOSTILE[name], dict) else HOSTILE[name]
    (archive / MANIFEST).write_text(json.dumps(changed))
    with pytest.raises(MedzipError):
        pipeline.decompress(archive, tmp_path / "back")
    assert not (tmp_path / "back").exists() or not [data for data in contents(tmp_path / "back").values() if data is not None]


def test_a_manifest_nested_too_deep_is_refused(archive: Path, tmp_path: Path) -> None:
    (archive / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(ArchiveDamagedError):
        pipeline.decompress(archive, tmp_path / "back")


def test_no_link_of_a_manifest_leads_a_file_out_of_the_folder(archive: Path, tmp_path: Path) -> None:
    manifest = json.loads((archive / MANIFEST).read_text())
    (tmp_path / "elsewhere").mkdir()
    manifest["links"] = {"one": str(tmp_path / "elsewhere"), **manifest["links"]}
    (archive / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(MedzipError):
        pipeline.decompress(archive, tmp_path / "back")
    assert contents(tmp_path / "elsewhere") == {}
    assert not [data for data in contents(tmp_path / "back").values() if isinstance(data, bytes)]


# Failures


def test_one_file_that_fails_leaves_the_others_made_and_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{name}.npy": npy(smooth((1, 3, 3))) for name in "abc"}
    source = written(tmp_path / "source", files)
    read = sources.read

    def failing(group: sources.Group) -> Any:
        if group.name != "a.npy.mdz":
            return read(group)
        raise StorageError("a.npy: the disk gave up")

    monkeypatch.setattr(sources, "read", failing)
    made = []
    with pytest.raises(StorageError, match=r"a\.npy"):
        for archive in pipeline.compress_each(source, tmp_path / "archive", remove=True):
            made.append(archive.archive)
    assert made == [str(tmp_path / "archive" / f"{name}.npy.mdz") for name in "bc"]
    assert contents(source) == files
    assert set(contents(tmp_path / "archive")) == {"b.npy.mdz", "c.npy.mdz"}
    with pytest.raises(ArchiveDamagedError):
        pipeline.decompress(tmp_path / "archive", tmp_path / "back")


def test_every_failure_is_named(tmp_path: Path) -> None:
    source = written(tmp_path / "source", {f"{name}.npy": npy(smooth((1, 3, 3))) for name in "ab"})
    pipeline.compress(source, tmp_path / "archive")
    (tmp_path / "archive" / MANIFEST).unlink()
    with pytest.raises(UsageError, match=r"(?s)a\.npy\.mdz.*b\.npy\.mdz"):
        pipeline.compress(source, tmp_path / "archive")
    pipeline.compress(source, tmp_path / "archive", overwrite=True)
    pipeline.verify(tmp_path / "archive", against=source)


def test_a_folder_whose_archives_exist_is_not_overwritten_unless_asked(archive: Path, made: Path) -> None:
    before = contents(archive)
    with pytest.raises(UsageError):
        pipeline.compress(made / "source", archive)
    assert contents(archive) == before
    pipeline.compress(made / "source", archive, overwrite=True)
    assert contents(archive) == before


def test_a_folder_needs_a_folder_for_its_archives(tmp_path: Path) -> None:
    source = written(tmp_path / "source", {"scan.npy": npy(smooth((1, 3, 3)))})
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StorageError):
        pipeline.compress(source, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("read", [pipeline.decompress, pipeline.verify])
def test_a_folder_without_archives_is_an_error(tmp_path: Path, read: Callable[..., Any]) -> None:
    (tmp_path / "empty.mdz").mkdir()
    with pytest.raises(MedzipError):
        read(tmp_path / "empty.mdz")
    with pytest.raises(StorageError):
        read(tmp_path / "missing.mdz")


def test_verify_against_another_folder_fails(made: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(made / "source", tmp_path / "other", symlinks=True))
    (other / "notes.txt").write_bytes(b"changed")
    with pytest.raises(VerificationError, match=r"notes\.txt"):
        pipeline.verify(made / "archive", against=other)
    (other / "notes.txt").unlink()
    with pytest.raises(VerificationError, match=r"notes\.txt"):
        pipeline.verify(made / "archive", against=other)


def test_decompress_overwrites_nothing_unless_asked(made: Path, tmp_path: Path) -> None:
    written(tmp_path / "back", {"two/deep/scan.npy": b"mine"})
    with pytest.raises(UsageError):
        pipeline.decompress(made / "archive", tmp_path / "back")
    assert {name: data for name, data in contents(tmp_path / "back").items() if data is not None} == {
        "two/deep/scan.npy": b"mine"
    }
    pipeline.decompress(made / "archive", tmp_path / "back", overwrite=True)
    pipeline.decompress(made / "archive", tmp_path / "back", overwrite=True)
    assert contents(tmp_path / "back") == contents(made / "source")


def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("file names are text here")
    (tmp_path / "source").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/source/\xff.npy")).write_bytes(npy(np.zeros((1, 2, 2), "u1")))
    with pytest.raises(UnsupportedInputError):
        pipeline.compress(tmp_path / "source", tmp_path / "archive")


def test_a_folder_of_one_series_can_become_one_archive(tmp_path: Path) -> None:
    source = written(tmp_path / "series", files_of("dcm", smooth((3, 4, 5), "u2")))
    [made] = pipeline.compress(source, tmp_path / "one.mdz")
    assert made.archive == str(tmp_path / "one.mdz")
    pipeline.decompress(tmp_path / "one.mdz", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(source)
    written(source, {"notes.txt": b"no part of the series"})
    with pytest.raises(UsageError, match="2 archives"):
        pipeline.compress(source, tmp_path / "two.mdz")
    assert not (tmp_path / "two.mdz").exists()
