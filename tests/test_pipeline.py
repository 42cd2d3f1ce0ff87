"""Files in, archives, the same files out: by property over sources, dtypes and shapes, and through another process."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pipeline_inputs import Samples, contents, files_of, npy, smooth, written

import medzip
from medzip import chunks, pipeline, prove, skeleton
from medzip.archive import Archive
from medzip.errors import UnsupportedArchiveError, UnsupportedInputError, UsageError, VerificationError
from medzip.sources.wrappers import deflate

ROOT = Path(__file__).resolve().parents[1]
SHAPES = [(1, 1, 1), (1, 5, 7), (4, 6, 5), (7, 3, 4), (3, 1, 9), (10, 4, 1), (35, 2, 3)]
PATTERNS = ["noise", "constant", "extremes", "ramp", "smooth"]


def samples_of(pattern: str, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Samples:
    size = int(np.prod(shape))
    if pattern == "noise":
        return np.frombuffer(np.random.default_rng(1).bytes(size * dtype.itemsize), dtype).reshape(shape)
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    if pattern == "constant":
        return np.full(shape, limits.max, dtype)
    if pattern == "extremes":
        return np.where(np.arange(size).reshape(shape) % 3 == 0, limits.min, limits.max).astype(dtype)
    if pattern == "ramp":
        return np.linspace(float(limits.min) / 2, float(limits.max) / 2, size).reshape(shape).astype(dtype)
    return smooth(shape, dtype.str)


@settings(deadline=None, max_examples=30)
@given(
    source=st.sampled_from(["npy", "nii", "dcm"]),
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]),
    order=st.sampled_from("<>"),
    shape=st.sampled_from(SHAPES),
    pattern=st.sampled_from(PATTERNS),
)
@example(source="nii", dtype="i2", order=">", shape=(7, 3, 4), pattern="extremes")
@example(source="dcm", dtype="u2", order="<", shape=(35, 2, 3), pattern="smooth")
def test_the_same_bytes_and_samples_come_back(
    source: str, dtype: str, order: str, shape: tuple[int, int, int], pattern: str
) -> None:
    if source == "dcm":
        order, dtype = "<", dtype[0].replace("f", "i") + min(dtype[1], "4")  # what PixelData can hold
    samples = samples_of(pattern, shape, np.dtype(order + dtype))
    files = files_of(source, samples)
    with TemporaryDirectory() as name:
        folder = Path(name)
        made = pipeline.compress(written(folder / "source", files), folder / "archives")
        assert all(archive.verified and archive.portable and archive.guarantee == "file" for archive in made)
        assert sum(archive.original_bytes for archive in made) == sum(map(len, files.values()))
        pipeline.decompress(folder / "archives", folder / "back")
        assert contents(folder / "back") == contents(folder / "source")
        with pipeline.open(made[0].archive) as archive:
            [volume] = archive.volumes
            assert volume.dtype.isnative and volume.dtype == samples.dtype.newbyteorder("=")
            assert volume[:].tobytes() == samples.astype(volume.dtype).tobytes()


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "u8", "f4"])
def test_noise_grows_by_no_more_than_headers(tmp_path: Path, dtype: str) -> None:
    samples = np.frombuffer(np.random.default_rng(2).bytes(36 * 16 * 16 * np.dtype(dtype).itemsize), dtype).reshape(36, 16, 16)
    [made] = pipeline.compress(written(tmp_path, files_of("npy", samples)) / "scan.npy")
    sections = pipeline.info(made.archive)["sections"]
    section_and_chunk_header = 24 + 8 + 64
    assert sections["CHNK"] <= samples.nbytes + 2 * section_and_chunk_header
    assert made.archive_bytes - sections["CHNK"] < 1024


@pytest.mark.parametrize("guarantee", ["file", "content"])
def test_nii_gz_comes_back_as_it_was_or_unpacked_where_asked(tmp_path: Path, guarantee: str) -> None:
    files = files_of("nii.gz", smooth((9, 24, 24)))
    source = written(tmp_path, files) / "scan.nii.gz"
    [made] = pipeline.compress(source, guarantee=guarantee)
    assert made.guarantee == guarantee
    assert made.archive.endswith("scan.nii.gz.mdz")
    pipeline.verify(made.archive, against=source)
    pipeline.verify(made.archive, against=tmp_path)
    pipeline.decompress(made.archive, tmp_path / "back")
    unpacked = {"scan.nii": gzip.decompress(files["scan.nii.gz"])}
    assert contents(tmp_path / "back") == (files if guarantee == "file" else unpacked)
    assert made.model_share == 1 and made.content_saving is None


def test_nii_gz_that_cannot_be_rebuilt_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of("nii.gz", smooth((9, 24, 24)))
    source = written(tmp_path, files) / "scan.nii.gz"
    monkeypatch.setattr(deflate, "taken_apart", lambda *_, **__: None)
    [made] = pipeline.compress(source)
    pipeline.decompress(made.archive, tmp_path / "back")
    assert contents(tmp_path / "back") == files
    assert made.model_share == 0 and made.content_saving is not None
    [other] = pipeline.compress(source, tmp_path / "content.mdz", guarantee="content")
    assert abs(made.archive_bytes - other.archive_bytes - made.content_saving) < 0.2 * made.archive_bytes


def test_a_gzip_file_is_compared_with_itself_and_not_with_another_scan_beside_it(tmp_path: Path) -> None:
    source = written(tmp_path, files_of("nii.gz", smooth((3, 9, 9)))) / "scan.nii.gz"
    written(tmp_path, files_of("nii", smooth((3, 9, 9), seed=6)))
    [made] = pipeline.compress(source, guarantee="content")
    pipeline.verify(made.archive, against=tmp_path)
    with pytest.raises(VerificationError):
        pipeline.verify(made.archive, against=tmp_path / "scan.nii")


def test_rgb_frames_come_back(tmp_path: Path) -> None:
    samples = np.random.default_rng(3).integers(0, 9, (5, 6, 7, 3)).cumsum(axis=2).astype("u1")
    [made] = pipeline.compress(written(tmp_path, {"us.npy": npy(samples)}) / "us.npy")
    pipeline.decompress(made.archive, tmp_path / "back")
    assert (tmp_path / "back" / "us.npy").read_bytes() == npy(samples)
    with pipeline.open(made.archive) as archive:
        np.testing.assert_array_equal(archive.volumes[0][1:3, 2], samples[1:3, 2])


def test_names_with_every_character_that_the_system_takes_come_back(tmp_path: Path) -> None:
    names = ["-x: 12:30 \\ \u00e4\u4e2d.npy", "sub folder/\n.npy"] if os.name == "posix" else ["\u00e4\u4e2d.npy"]
    source = written(tmp_path / "source", {name: npy(smooth((1, 3, 3))) for name in names})
    pipeline.compress(source, tmp_path / "archives")
    pipeline.decompress(tmp_path / "archives", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(source)


# Slices


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Samples]:
    """An archive of two chunks, and its samples."""
    samples = smooth((36, 3, 4), "f4")
    folder = written(tmp_path_factory.mktemp("scan"), files_of("npy", samples))
    [made] = pipeline.compress(folder / "scan.npy")
    assert sum(made.chunks.values()) == 2
    return Path(made.archive), samples


KEYS: list[Any] = [
    0,
    -1,
    np.int64(35),
    slice(None),
    slice(31, 35),
    slice(5, 2),
    slice(-3, None),
    slice(None, None, -1),
    slice(34, 2, -7),
    slice(1, 36, 33),
    slice(40, 50),
    ...,
    (),
    None,
    True,
    (3, ..., 1),
    (..., 1),
    (..., slice(1, 3), 0),
    (slice(2, 9, 3), slice(None, None, -1), -1),
    (4, 2, 3),
    (2, None, slice(None)),
    (None, 2),
    ([3, 34], 1),
    (2, slice(None), [0, 2]),
    (slice(3, 5), [0, 1], [1, 2]),
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_indexing_is_that_of_numpy(scan: tuple[Path, Samples], key: Any) -> None:
    path, samples = scan
    with pipeline.open(path) as archive:
        [volume] = archive.volumes
        found, expected = volume[key], samples[key]
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("key", [36, -37, (0, 3), (0, 0, 0, 0)], ids=repr)
def test_an_index_outside_is_an_index_error(scan: tuple[Path, Samples], key: Any) -> None:
    with pipeline.open(scan[0]) as archive, pytest.raises(IndexError):
        archive.volumes[0][key]


def test_a_lazy_volume_is_an_array_for_numpy(scan: tuple[Path, Samples]) -> None:
    path, samples = scan
    with pipeline.open(path) as archive:
        [volume] = archive.volumes
        assert (volume.shape, volume.ndim, volume.dtype, len(volume)) == (samples.shape, 3, samples.dtype, 36)
        np.testing.assert_array_equal(np.asarray(volume), samples)
        assert np.asarray(volume, np.float64).dtype == np.float64


def test_only_the_chunks_touched_are_decoded(scan: tuple[Path, Samples], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = Archive.header
    monkeypatch.setattr(Archive, "header", lambda self, chunk: decoded.append(chunk) or original(self, chunk))
    with pipeline.open(scan[0]) as archive:
        archive.volumes[0][20:]
        assert decoded == [1]
        archive.volumes[0][16:18]
        assert decoded == [1, 0]


# Limits


def test_the_memory_limit_holds_for_chunks(scan: tuple[Path, Samples]) -> None:
    with Archive(scan[0], memory_limit=1 << 16) as archive:
        np.testing.assert_array_equal(archive.volumes[0][:], scan[1])
    with Archive(scan[0], memory_limit=1 << 16) as archive:
        archive._memory_limit = 18 * 3 * 4 * 4
        np.testing.assert_array_equal(archive.volumes[0][18:], scan[1][18:])
        archive._memory_limit -= 1
        with pytest.raises(UnsupportedArchiveError, match="memory limit"):
            archive.volumes[0][17]


def test_large_slices_make_chunks_of_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path, files_of("npy", smooth((10, 4, 5), "f4"))) / "scan.npy"
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", 100)
    [made] = pipeline.compress(source)
    assert sum(made.chunks.values()) == 4
    monkeypatch.setattr(chunks, "LARGEST_STACK", 3 * 4 * 5 * 4 - 1)
    with pytest.raises(UnsupportedInputError, match=r"scan\.npy"):
        pipeline.compress(source, overwrite=True)
    pipeline.verify(made.archive, against=source)


def test_long_files_are_kept_whole_in_several_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeleton.plain, "LARGEST_BLOB", 100_000)
    files = {"notes.pdf": np.random.default_rng(4).bytes(250_000), "zeros.bin": bytes(70_000), "short.txt": b"text"}
    [made] = pipeline.compress(written(tmp_path / "source", files), tmp_path / "archives")
    assert made.chunks == {"stored": 3, "zstd": 1}
    pipeline.decompress(tmp_path / "archives", tmp_path / "back")
    assert contents(tmp_path / "back") == files


# The same archive everywhere


def test_archives_are_a_function_of_input_and_options(tmp_path: Path) -> None:
    samples = smooth((40, 6, 7))
    digests = set()
    for run, jobs in enumerate(["1", "1", "2"]):
        source = written(tmp_path / f"source {run}", files_of("nii", samples)) / "scan.nii"
        os.utime(source, (run, run))
        command = [sys.executable, "-m", "medzip", "compress", source.name, "-o", f"../{run}.mdz", "--jobs", jobs, "--quiet"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(run), "TZ": f"UTC{run}"}
        subprocess.run(command, cwd=source.parent, env=environment, check=True)
        digests.add(hashlib.sha256((tmp_path / f"{run}.mdz").read_bytes()).digest())
    assert len(digests) == 1
    pipeline.decompress(tmp_path / "0.mdz", tmp_path / "back", jobs=2)
    assert (tmp_path / "back" / "scan.nii").read_bytes() == files_of("nii", samples)["scan.nii"]


# Calls that make no sense


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "none-such"},
        {"guarantee": "voxels"},
        {"remove": True, "verify": False},
        {"weights": "anything"},
        {"preset": "llm", "models": "mine"},
        {"preset": "llm", "weights": "none-such"},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_before_work(tmp_path: Path, options: dict[str, Any]) -> None:
    source = written(tmp_path, files_of("npy", smooth((1, 3, 3)))) / "scan.npy"
    before = contents(tmp_path)
    with pytest.raises(UsageError):
        pipeline.compress(source, **options)
    assert contents(tmp_path) == before


def test_several_sources_never_share_an_archive(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / name, files_of("npy", smooth((1, 3, 3))))
    scans = [tmp_path / "a" / "scan.npy", tmp_path / "b" / "scan.npy"]
    for out in ("out", "one.mdz"):
        with pytest.raises(UsageError):
            pipeline.compress(scans, tmp_path / out, overwrite=True)
        assert not (tmp_path / out).exists()
    assert len(pipeline.compress(scans)) == 2
    pipeline.compress([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert (tmp_path / "out" / "a" / "scan.npy.mdz").exists()
    assert (tmp_path / "out" / "b" / "scan.npy.mdz").exists()


def test_the_public_api_is_the_pipeline(tmp_path: Path) -> None:
    source = written(tmp_path, files_of("npy", smooth((1, 3, 3)))) / "scan.npy"
    [made] = medzip.compress(source)
    assert isinstance(made, medzip.Compressed)
    assert isinstance(medzip.verify(made.archive), medzip.Verified)
    assert isinstance(medzip.decompress(made.archive, tmp_path / "back"), medzip.Restored)
    with medzip.open(made.archive) as archive:
        assert isinstance(archive, medzip.Archive)
    assert medzip.info(made.archive)["files"][0]["name"] == "scan.npy"


# Sources are removed only after proof


def test_a_source_goes_when_a_fresh_process_has_proved_its_archive(tmp_path: Path) -> None:
    files = files_of("dcm", smooth((3, 4, 5), "u2")) | {"notes.txt": b"kept as well"}
    source = written(tmp_path / "source", files)
    made = pipeline.compress(source, tmp_path / "archives", remove=True)
    assert [archive.removed for archive in made] == [True, True]
    assert contents(source) == {}
    pipeline.decompress(tmp_path / "archives", tmp_path / "back")
    assert contents(tmp_path / "back") == files


@pytest.mark.parametrize("what", ["before the proof", "after the proof", "archive"])
def test_what_changed_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    source = written(tmp_path, files_of("npy", smooth((2, 3, 3)))) / "scan.npy"
    run = subprocess.run

    def change(path: Path) -> None:
        path.write_bytes(path.read_bytes() + b"new")

    def changing(call: list[str], **options: Any) -> Any:
        if what == "before the proof":
            change(source)
        if what == "archive":
            change(source.with_name("scan.npy.mdz"))
        result = run(call, **options | {"env": os.environ | {"PYTHONPATH": str(ROOT)}})
        if what == "after the proof":
            change(source)
        return result

    monkeypatch.setattr(prove.subprocess, "run", changing)
    with pytest.raises(VerificationError):
        pipeline.compress(source, remove=True)
    assert source.exists()


def test_a_content_archive_removes_the_gzip_file_and_nothing_else(tmp_path: Path) -> None:
    source = written(tmp_path, files_of("nii.gz", smooth((2, 3, 3)))) / "scan.nii.gz"
    written(tmp_path, files_of("nii", smooth((2, 3, 3), seed=8)))
    [made] = pipeline.compress(source, guarantee="content", remove=True)
    assert made.removed
    assert set(contents(tmp_path)) == {"scan.nii", "scan.nii.gz.mdz"}


def test_sample_data_comes_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("mr_small.dcm", "ct_heart_series"):
        copy = shutil.copytree if (ROOT / "sample_data" / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / "sample_data" / name, source / name)
    pipeline.compress(source, tmp_path / "archives", verify=False)
    assert pipeline.verify(tmp_path / "archives", against=source).files == len(list(filter(Path.is_file, source.rglob("*"))))
    pipeline.decompress(tmp_path / "archives", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(source)
