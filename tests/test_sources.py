"""Files and folders become groups, and what a group restores is what lay on the disk."""

from __future__ import annotations

import gzip
import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medzip.errors import MedzipError, StorageError, UnsupportedInputError, UsageError
from medzip.sources import Group, content_size, contents, groups, read
from medzip.sources.wrappers import gzip as gzip_wrapper
from medzip.volume import Literal, Voxels, join

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def npy(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(seed).integers(0, 999, (3, 40, 40), dtype="u2"))
    return buffer.getvalue()


def restored(group: Group) -> dict[str, bytes]:
    """What join gives for each file of a group, after comparing it with the disk."""
    skeleton, volumes = read(group)
    joined = {file.name: b"".join(join(file, volumes)) for file in skeleton.files}
    assert joined == {name: b"".join(pieces) for name, pieces in contents(group)}
    return joined


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_is_restored_whole_from_its_groups(tmp_path: Path) -> None:
    files = {
        "b.npy": npy(1),
        "sub/deep/a.npy": npy(2),
        "sub/zipped.npy.gz": gzip.compress(npy(3)),
        "notes.txt": b"notes",
        "empty": b"",
        "sub/broken.npy": npy(4)[:-1],
        "other.gz": gzip.compress(b"no scan"),
    }
    found = groups(written(tmp_path, files))
    assert [(group.name, group.source) for group in found] == [
        ("b.npy.mdz", "npy"),
        ("rest.mdz", "stored"),
        ("sub/deep/a.npy.mdz", "npy"),
        ("sub/zipped.npy.gz.mdz", "npy"),
    ]
    assert {name: data for group in found for name, data in restored(group).items()} == files
    assert {group.guarantee for group in found} == {"file"}


def test_guarantee_content_codes_what_is_inside_gzip_and_drops_gz_from_the_name(tmp_path: Path) -> None:
    path = written(tmp_path, {"a.npy.gz": gzip.compress(npy()[:100]) + gzip.compress(npy()[100:])}) / "a.npy.gz"
    [group] = groups(path, guarantee="content")
    assert (group.name, group.source, group.guarantee) == ("a.npy.gz.mdz", "npy", "content")
    assert restored(group) == {"a.npy": npy()}
    assert len(read(group)[1]) == 1


def test_guarantee_content_leaves_alone_what_is_not_gzip(tmp_path: Path) -> None:
    found = groups(written(tmp_path, {"a.npy": npy(), "b.txt": b"b"}), guarantee="content")
    assert {group.guarantee for group in found} == {"file"}


def test_guarantee_content_never_restores_two_files_under_one_name(tmp_path: Path) -> None:
    files = {"a.npy": npy(1), "a.npy.gz": gzip.compress(npy(2)), "c.npy.GZ": gzip.compress(npy(3)), "c.npy.gz": b""}
    files["c.npy.gz"] = gzip.compress(npy(4))
    found = groups(written(tmp_path, files), guarantee="content")
    names = [name for group in found for name, _ in group.files]
    assert sorted(names) == ["a.npy", "a.npy.gz", "c.npy", "c.npy.gz"]
    assert [group.guarantee for group in found] == ["file", "file", "content", "file"]


def test_content_size_tells_what_guarantee_content_would_code(tmp_path: Path) -> None:
    files = {"a.npy.gz": npy(), "cut.npy.gz": npy()[:-1], "c.gz": b"c"}
    written(tmp_path, {"b.npy": npy()} | {name: gzip.compress(data) for name, data in files.items()})
    sizes = {group.name: content_size(group) for group in groups(tmp_path)}
    assert sizes == {"a.npy.gz.mdz": len(npy()), "cut.npy.gz.mdz": None, "b.npy.mdz": None, "rest.mdz": None}


@pytest.mark.parametrize("damage", ["cut", "checksum", "garbage behind"])
def test_damaged_gzip_is_refused_alone_and_kept_whole_in_a_folder(damage: str, tmp_path: Path) -> None:
    good = gzip.compress(npy())
    data = {"cut": good[:-9], "checksum": good[:-8] + bytes(8), "garbage behind": good + b"garbage"}[damage]
    path = written(tmp_path, {"a.npy.gz": data}) / "a.npy.gz"
    with pytest.raises(UnsupportedInputError, match="gzip"):
        groups(path, guarantee="content")
    [group] = groups(tmp_path, guarantee="content")
    assert (group.name, group.guarantee) == ("rest.mdz", "file")
    assert restored(group) == {"a.npy.gz": data}
    assert content_size(groups(path)[0]) is None


def test_a_gzip_bomb_is_refused_before_it_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_wrapper, "MAX_CONTENT_BYTES", 1 << 21)
    path = written(tmp_path, {"a.npy.gz": gzip.compress(npy() + bytes(1 << 23))}) / "a.npy.gz"
    with pytest.raises(UnsupportedInputError, match="at most"):
        groups(path, guarantee="content")


def test_a_file_that_nobody_reads_is_refused_with_a_list_of_what_is_read(tmp_path: Path) -> None:
    for name, data in {"a.txt": b"text", "empty": b"", "c.gz": gzip.compress(b"text")}.items():
        with pytest.raises(UnsupportedInputError, match=r"DICOM.*NIfTI.*NumPy.*--store"):
            groups(written(tmp_path, {name: data}) / name)


def test_what_is_missing_or_no_file_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        groups(tmp_path / "missing.nii")
    with pytest.raises(UsageError, match="guarantee"):
        groups(tmp_path, guarantee="most")
    group = Group("a.mdz", "stored", (("a", tmp_path / "gone"),))
    with pytest.raises(StorageError, match="a: expected a readable file"):
        read(group)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_links_and_pipes_in_a_folder_are_neither_followed_nor_opened(tmp_path: Path) -> None:
    outside = written(tmp_path / "outside", {"a.npy": npy()})
    inside = written(tmp_path / "inside", {"b.npy": npy()})
    (inside / "folder").symlink_to(outside, target_is_directory=True)
    (inside / "file").symlink_to(outside / "a.npy")
    os.mkfifo(inside / "pipe")
    assert [group.name for group in groups(inside)] == ["b.npy.mdz"]
    assert [group.name for group in groups(inside / "file")] == ["file.mdz"]
    with pytest.raises(UnsupportedInputError, match="pipe"):
        groups(inside / "pipe")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_a_storage_error(tmp_path: Path) -> None:
    (written(tmp_path, {"a.npy": npy()}) / "a.npy").chmod(0)
    with pytest.raises(StorageError, match=r"a\.npy"):
        groups(tmp_path)


def test_shared_archives_step_aside_for_files_of_the_same_name(tmp_path: Path) -> None:
    found = groups(written(tmp_path, {"rest": npy(), "notes.txt": b"notes"}))
    assert [(group.name, group.source) for group in found] == [("_rest.mdz", "stored"), ("rest.mdz", "npy")]


def test_a_name_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(bytes(tmp_path / "a") + b"\xff.npy")).write_bytes(npy())
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    with pytest.raises(UnsupportedInputError, match="Unicode"):
        groups(tmp_path)


def test_a_file_that_changed_after_grouping_is_refused_or_restored(tmp_path: Path) -> None:
    path = written(tmp_path, {"a.npy": npy()}) / "a.npy"
    [group] = groups(path)
    path.write_bytes(npy()[:-5])
    with pytest.raises(UnsupportedInputError):
        read(group)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there")
@pytest.mark.parametrize("guarantee", ["file", "content"])
def test_unusual_files_of_other_projects_come_back(guarantee: str) -> None:
    coded: Counter[str] = Counter()
    count = 0
    for group in groups(DATA / "awkward", guarantee):
        count += len(restored(group))
        skeleton, _ = read(group)
        coded[group.source] += sum(any(isinstance(s, Voxels) for s in file.segments) for file in skeleton.files)
    assert count == sum(path.is_file() for path in (DATA / "awkward").rglob("*"))
    assert coded["dicom"] >= 30 and coded["nifti"] >= 10


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there")
def test_damaged_files_named_alone_are_refused_or_restored() -> None:
    refused = set()
    for path in sorted((DATA / "awkward" / "damaged").rglob("*")):
        if path.is_file():
            try:
                [group] = groups(path)
                restored(group)
            except MedzipError:
                refused.add(path.name)
    assert {"MR_truncated.dcm", "rtplan_truncated.dcm", "crash-1.nii"} <= refused


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there")
def test_a_real_series_is_one_volume_with_slices_that_advance() -> None:
    [group] = groups(DATA / "dev" / "mr_ge_uhp_epi")
    skeleton, [volume] = read(group)
    assert len(skeleton.files) == len(volume.samples) == 20
    assert volume.affine is not None and abs(np.linalg.det(volume.affine)) > 0
    assert all(isinstance(file.segments[0], Literal) for file in skeleton.files)
