"""Damaged and hostile archives, and broken decoders: never a wrong byte."""

from __future__ import annotations

import contextlib
import functools
import gzip
import os
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from pipeline_inputs import Change, contents, files_of, flipped, npy, rewritten, smooth, written

from medzip import chunk_kinds, chunks, pipeline, prove, restore, sources
from medzip.cli import main
from medzip.container import cbor
from medzip.container.reader import ArchiveReader
from medzip.entropy_model.pixel.model import Pixel
from medzip.errors import ArchiveDamagedError, MedzipError, TruncatedArchiveError, UsageError, VerificationError
from medzip.volume import Literal

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def archive_of(folder: Path, files: dict[str, bytes], **options: Any) -> Path:
    """The archive of a scan, or of the series or the rest in a folder."""
    source = written(folder / "source", files)
    [made] = pipeline.compress(source if len(files) > 1 else source / next(iter(files)), folder / "archive", **options)
    return Path(made.archive)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """An archive of two chunks that decode fast, and what it restores."""
    samples = smooth((36, 4, 5), "f4") * np.float32(0.1)
    files = {"scan.npy": npy(samples) + b"behind the samples"}
    return archive_of(tmp_path_factory.mktemp("scan"), files), files


@pytest.fixture(scope="module")
def model_scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """An archive of a chunk that the entropy model coded, and what it restores."""
    files = files_of("npy", smooth((3, 16, 16)))
    path = archive_of(tmp_path_factory.mktemp("model"), files)
    assert pipeline.info(path)["chunks"] == {"model": 1}
    return path, files


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """An archive of two files of which one is a chunk of its own, and what it restores."""
    files = {"zeros.bin": bytes(70_000), "notes.txt": b"text"}
    return archive_of(tmp_path_factory.mktemp("rest"), files), files


def outcome(archive: Path, expected: dict[str, bytes]) -> tuple[str, ...] | type[MedzipError]:
    """What verify and decompress agree on: sections that were repaired, where the right files came, or an error and none."""
    folder = archive.parent / "outcome"
    try:
        restored = pipeline.decompress(archive, folder)
    except MedzipError as error:
        with pytest.raises(MedzipError):
            pipeline.verify(archive)
        assert not folder.exists() or not list(folder.iterdir())
        return type(error)
    assert contents(folder) == expected
    for name in expected:
        (folder / name).unlink()
    repaired = pipeline.verify(archive).repaired
    assert set(restored.repaired) <= set(repaired)
    return repaired


# Damage


def test_every_truncation_is_refused(scan: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    data, short = scan[0].read_bytes(), tmp_path / "short.mdz"
    for length in range(len(data)):
        short.write_bytes(data[:length])
        assert outcome(short, scan[1]) is TruncatedArchiveError


def test_random_bit_flips_are_repaired_or_refused(scan: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    data, damaged, dice = scan[0].read_bytes(), tmp_path / "damaged.mdz", random.Random(7)
    repaired, refused = 0, 0
    for bit in dice.sample(range(8 * len(data)), 1000):
        damaged.write_bytes(flipped(data, bit))
        found = outcome(damaged, scan[1])
        if isinstance(found, tuple):
            assert len(found) == 1
            repaired += 1
        else:
            assert found is ArchiveDamagedError
            refused += 1
    assert repaired > 100
    assert refused > 100


def test_a_flip_in_a_chunk_of_the_model_never_reaches_the_decoder(
    model_scan: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the decoder saw damaged bytes")

    monkeypatch.setattr(Pixel, "decode", fail)
    with ArchiveReader(model_scan[0]) as reader:
        [section] = [section for section in reader.sections if section.type == "CHNK"]
    data, damaged = model_scan[0].read_bytes(), tmp_path / "damaged.mdz"
    for bit in random.Random(8).sample(range(8 * section.offset, 8 * section.end), 300):
        damaged.write_bytes(flipped(data, bit))
        assert outcome(damaged, model_scan[1]) is ArchiveDamagedError


def test_slices_of_undamaged_chunks_can_still_be_had(scan: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    archive = with_damaged_chunk(scan[0], 0, tmp_path / "damaged.mdz")
    expected = np.load(scan[0].parents[1] / "source" / "scan.npy")
    with pipeline.open(archive) as opened:
        np.testing.assert_array_equal(opened.volumes[0][18:], expected[18:])
        with pytest.raises(ArchiveDamagedError, match="CHNK"):
            opened.volumes[0][17:19]
    output = tmp_path / "slices.npy"
    assert main(["extract", str(archive), "--slices", "34:36", "-o", str(output)]) == 0
    np.testing.assert_array_equal(np.load(output), expected[34:])
    assert main(["extract", str(archive), "--slices", "15:36", "-o", str(tmp_path / "more.npy")]) == 3
    assert not (tmp_path / "more.npy").exists()


def with_damaged_chunk(archive: Path, number: int, target: Path) -> Path:
    with ArchiveReader(archive) as reader:
        section = reader.chunks[number].section
    target.write_bytes(flipped(archive.read_bytes(), 8 * (section.end - 5)))
    return target


# Good checksums over bad contents


HUGE = 10**12
HEADS: dict[str, Change] = {
    "no list of volumes": lambda head: head | {"volumes": 7},
    "no maps of volumes": lambda head: head | {"volumes": [7]},
    "no volumes": lambda head: head | {"volumes": []},
    "another volume": lambda head: head | {"volumes": 2 * head["volumes"]},
}
for name, change in {
    "no shape": {"shape": None},
    "text for a shape": {"shape": "36"},
    "text in a shape": {"shape": ["36", 4, 5]},
    "two axes": {"shape": [36, 4]},
    "an empty axis": {"shape": [36, 4, 0]},
    "a negative axis": {"shape": [-36, 4, 5]},
    "four colours": {"shape": [36, 4, 5, 4]},
    "more slices than chunks": {"shape": [37, 4, 5]},
    "fewer slices than chunks": {"shape": [35, 4, 5]},
    "huge slices": {"shape": [36, HUGE, 5]},
    "huge everything": {"shape": [HUGE, HUGE, HUGE]},
    "colours": {"shape": [12, 4, 5, 3]},
    "other rows": {"shape": [36, 5, 5]},
    "no dtype": {"dtype": None},
    "objects": {"dtype": "|O"},
    "long texts": {"dtype": "<U1000000000"},
    "structures": {"dtype": "f4,f4"},
    "wider samples": {"dtype": "<f8"},
    "integers": {"dtype": "<u4"},
    "affine of text": {"affine": ["x"] * 16},
    "affine of 15": {"affine": [0.5] * 15},
    "affine of lists": {"affine": [[[1]], 2]},
}.items():
    HEADS[name] = lambda head, change=change: head | {"volumes": [head["volumes"][0] | change]}

NAMES = ["../x", "a/../../x", "/etc/x", "", ".", "..", "a//b", "a/", "x\0y", 5, None]
FILES: dict[str, Change] = {
    **{f"name {name!r}": lambda files, name=name: [files[0] | {"name": name}] for name in NAMES},
    "a name twice": lambda files: files * 2,
    "another file": lambda files: [*files, files[0] | {"name": "other"}],
    "no file": lambda _: [],
    "no maps": lambda _: [5],
    "no list": lambda _: {"name": "x"},
    "no name": lambda files: [{"bytes": 1, "sha256": files[0]["sha256"]}],
    "no digest": lambda _: [{"bytes": 1, "name": "x"}],
    "huge digest": lambda files: [files[0] | {"sha256": HUGE}],
    "short digest": lambda files: [files[0] | {"sha256": b"x"}],
    "other digest": lambda files: [files[0] | {"sha256": bytes(32)}],
    "negative size": lambda files: [files[0] | {"bytes": -1}],
    "size of text": lambda files: [files[0] | {"bytes": "1"}],
    **{
        f"original {original!r}": lambda files, original=original: [files[0] | {"original": original}]
        for original in (None, "x", {"bytes": 1}, {"bytes": -1, "sha256": bytes(32)}, {"bytes": 1, "sha256": b"x"})
    },
    "an original of an original": lambda files: [files[0] | {"original": files[0] | {"original": files[0]}}],
}


@pytest.mark.parametrize("case", [("head", name) for name in HEADS] + [("files", name) for name in FILES], ids=" ".join)
def test_hostile_heads_and_file_tables_are_refused(
    scan: tuple[Path, dict[str, bytes]], tmp_path: Path, case: tuple[str, str]
) -> None:
    change = {"head": HEADS, "files": FILES}[case[0]][case[1]]
    archive = rewritten(scan[0], tmp_path / "hostile.mdz", **{case[0]: change})
    with little_memory():
        read_in_every_way(archive, scan[1], tmp_path)
    allowed = {archive, tmp_path / "outcome", *(tmp_path / "salvaged").rglob("*"), tmp_path / "salvaged"}
    assert set(tmp_path.rglob("*")) <= allowed


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_out_of_the_folder_are_refused_even_where_the_skeleton_has_them_too(
    scan: tuple[Path, dict[str, bytes]], tmp_path: Path, name: Any
) -> None:
    def renamed(payload: bytes) -> bytes:
        data = zstandard.decompress(payload)
        end = 4 + struct.unpack_from("<I", data)[0]
        [[_, segments]] = cbor.decode(data[4:end], "", 1 << 20)
        return packed([[name, segments]], data[end:])

    (tmp_path / "in").mkdir()
    archive = rewritten(
        scan[0], tmp_path / "in" / "hostile.mdz", files=lambda files: [files[0] | {"name": name}], skeleton=renamed
    )
    for read in (pipeline.info, pipeline.open, pipeline.verify, lambda path: pipeline.decompress(path, tmp_path / "in" / "out")):
        with pytest.raises(ArchiveDamagedError, match=r"name, size|names of files inside"):
            read(archive)
    with pytest.raises(ArchiveDamagedError, match=r"name, size|names of files inside"):
        pipeline.decompress(archive, tmp_path / "in" / "out", salvage=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]


def read_in_every_way(archive: Path, files: dict[str, bytes], folder: Path) -> None:
    assert isinstance(outcome(archive, files), type)
    for read in (pipeline.info, lambda path: pipeline.open(path).volumes[0][0]):
        with contextlib.suppress(MedzipError, IndexError):
            read(archive)
    with contextlib.suppress(MedzipError):
        pipeline.decompress(archive, folder / "salvaged", salvage=True)


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


VALUES: list[Any] = [None, -1, 0, 1, HUGE, 1.5, True, "x", "model", "zstd", b"x", [], [1], {}, {"layer": "none"}]


@pytest.mark.parametrize("which", ["scan", "model_scan", "rest"])
def test_hostile_chunk_headers_are_refused(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Every key taken away, and every value replaced by every other kind of value, in maps within maps too."""
    archive, files = request.getfixturevalue(which)
    with ArchiveReader(archive) as reader:
        header = reader.chunks[0].header
    hostile = tmp_path / "hostile.mdz"
    refused = 0
    for changed in [*variants(header), header | {"base": {"layer": "none", "section": 0, "crc": 0}}, header | {"blob": HUGE}]:
        try:
            rewritten(archive, hostile, header=lambda found, new=changed: new if found == header else found)
        except ValueError:  # no index can say this of a chunk
            continue
        found = outcome(hostile, files)
        refused += isinstance(found, type)
        with contextlib.suppress(MedzipError):
            pipeline.info(hostile)
    assert refused > 30


def variants(header: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for key, value in header.items():
        found.append({other: header[other] for other in header if other != key})
        found += [header | {key: new} for new in VALUES if (new, type(new)) != (value, type(value))]
        found += [header | {key: inner} for inner in (variants(value) if isinstance(value, dict) else [])]
    return found


def packed(structure: Any, literals: bytes = b"") -> bytes:
    encoded = cbor.encode(structure)
    return zstandard.compress(struct.pack("<I", len(encoded)) + encoded + literals)


VOXELS = [0, 0, 36, "<f4", False]
SKELETONS: dict[str, bytes] = {
    "no zstd": b"skeleton",
    "nothing": b"",
    "too short": zstandard.compress(b"\1\0"),
    "structure too long": zstandard.compress(b"\xff\xff\xff\xff"),
    "more than its frame says": zstandard.compress(b"") + b"more",
    "no structure": packed(5),
    "no pairs": packed([5]),
    "no segments": packed([["scan.npy", 5]]),
    "no files": packed([]),
    "a file twice": packed([["scan.npy", [VOXELS]]] * 2),
    "another name": packed([["../x", [VOXELS]]]),
    "no name": packed([[5, [VOXELS]]]),
    "a longer literal": packed([["scan.npy", [HUGE]]], b"short"),
    "more literals": packed([["scan.npy", [VOXELS]]], b"more"),
    "a negative literal": packed([["scan.npy", [-1]]]),
    "a blob that is not there": packed([["scan.npy", [[5]]]]),
    "a blob from the end": packed([["scan.npy", [[-1]]]]),
    "a map for a blob": packed([["scan.npy", [{"1": 2}]]]),
    "text for a segment": packed([["scan.npy", ["x"]]]),
    "another volume": packed([["scan.npy", [[1, 0, 36, "<f4", False]]]]),
    "more slices": packed([["scan.npy", [[0, 1, 36, "<f4", False]]]]),
    "huge count": packed([["scan.npy", [[0, 0, HUGE, "<f4", False]]]]),
    "negative first": packed([["scan.npy", [[0, -1, 36, "<f4", False]]]]),
    "objects": packed([["scan.npy", [[0, 0, 36, "|O", False]]]]),
    "long texts": packed([["scan.npy", [[0, 0, 36, "<U1000000000", False]]]]),
    "no dtype": packed([["scan.npy", [[0, 0, 36, 5, False]]]]),
    "planes of grey": packed([["scan.npy", [[0, 0, 36, "<f4", True]]]]),
    "planar by number": packed([["scan.npy", [[0, 0, 36, "<f4", 1]]]]),
    "other bytes": packed([["scan.npy", [VOXELS]]]),
    "turns without runs": packed([["scan.npy", [[[], []]]]]),
    "more turns than runs": packed([["scan.npy", [[[VOXELS], [1, 1]]]]]),
    "no turn": packed([["scan.npy", [[[VOXELS], [0]]]]]),
    "a literal that takes turns": packed([["scan.npy", [[[4], [1]]]]], b"1234"),
    "pixels that are left over": packed([["scan.npy", [[[VOXELS], [7]]]]]),
    "a codec that is none": packed([["scan.npy", [["x", 0, [], [0, 0, "<f4"]]]]]),
    "a recipe for other samples": packed([["scan.npy", [["rle", 0, [], [0, 0, "<f4"]]]]]),
    "a recipe in a recipe": packed([["scan.npy", [["rle", ["rle", 0, [], None], [], None]]]]),
    "a map for a slice": packed([["scan.npy", [["rle", 0, [], {"1": 2}]]]]),
    "a slice that is not there": packed([["scan.npy", [["rle", 0, [], [0, 36, "<f4"]]]]]),
    "negative lengths": packed([["scan.npy", [["rle", 0, [-1], [0, 0, "<f4"]]]]]),
    "side information that is not there": packed([["scan.npy", [[HUGE, [VOXELS]]]]]),
    "side information for another stream": packed([["scan.npy", [[4, [VOXELS]]]]], b"1234"),
    "a stream of streams without end": packed(
        [["scan.npy", [functools.reduce(lambda inner, _: [0, [inner]], range(40), VOXELS)]]]
    ),
    "a recipe that is not there": packed([["scan.npy", [["rle", HUGE, [], [0, 0, "<f4"]]]]]),
}


@pytest.mark.parametrize("name", SKELETONS)
def test_hostile_skeletons_are_refused(scan: tuple[Path, dict[str, bytes]], tmp_path: Path, name: str) -> None:
    archive = rewritten(scan[0], tmp_path / "hostile.mdz", skeleton=lambda _: SKELETONS[name])
    with little_memory():
        assert isinstance(outcome(archive, scan[1]), type)


def test_a_skeleton_that_unpacks_to_more_than_memory_holds_is_refused(
    scan: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    bomb = (
        zstandard.ZstdCompressor().compress(bytes(1 << 24)).replace(struct.pack("<I", 1 << 24), struct.pack("<I", (1 << 32) - 1))
    )
    archive = rewritten(scan[0], tmp_path / "hostile.mdz", skeleton=lambda _: bomb)
    assert isinstance(outcome(archive, scan[1]), type)


def test_nothing_is_written_through_a_link_that_leads_out(scan: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    archive = rewritten(scan[0], tmp_path / "hostile.mdz", files=lambda files: [files[0] | {"name": "link/scan.npy"}])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    for salvage in (False, True):
        with pytest.raises(UsageError):
            pipeline.decompress(archive, tmp_path / "out", salvage=salvage)
    assert contents(tmp_path / "elsewhere") == {}


# Broken decoders and sources


def flipping(decode: Callable[..., Any]) -> Callable[..., Any]:
    def broken(*arguments: Any) -> Any:
        samples = np.array(decode(*arguments))
        samples.reshape(-1)[-1] += 1
        return samples

    return broken


def breaks_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples' CRC is not checked any more: the SHA-256 of the file has to notice alone."""
    monkeypatch.setattr(chunks, "_proved", lambda samples, _: samples)


def break_numeric(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = type("Numeric", (), {})()
    numeric = chunk_kinds.KINDS["numeric"]
    for name in ("name", "accepts", "encode"):
        setattr(kinds, name, getattr(numeric, name))
    kinds.decode = flipping(numeric.decode)
    monkeypatch.setitem(chunk_kinds.KINDS, "numeric", kinds)


def dropping(join: Callable[..., Any]) -> Callable[..., Any]:
    def broken(*arguments: Any) -> Any:
        *pieces, last = join(*arguments)
        yield from (*pieces, last[:-1])

    return broken


def forgetting(read: Callable[..., Any]) -> Callable[..., Any]:
    """A source that takes a file apart and loses what stands behind the samples."""

    def broken(group: sources.Group) -> Any:
        files, volumes = read(group)
        [file] = files.files
        *segments, _ = file.segments
        assert isinstance(file.segments[-1], Literal)
        return type(files)((type(file)(file.name, tuple(segments)),)), volumes

    return broken


@pytest.mark.parametrize("fault", ["model", "model, noticed by CRC", "numeric", "join", "source", "exception"])
def test_compress_notices_a_broken_decoder_and_leaves_no_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    samples = smooth((3, 16, 16)) if fault.startswith("model") else smooth((36, 4, 5), "f4") * np.float32(0.1)
    files = {"scan.npy": npy(samples) + b"behind"}
    source = written(tmp_path, files) / "scan.npy"
    if "CRC" not in fault:
        breaks_nothing_else(monkeypatch)
    if fault.startswith("model"):
        monkeypatch.setattr(Pixel, "decode", flipping(Pixel.decode))
    if fault == "numeric":
        break_numeric(monkeypatch)
    if fault == "join":
        monkeypatch.setattr(prove, "join", dropping(prove.join))
    if fault == "source":
        monkeypatch.setattr(sources, "read", forgetting(sources.read))
    if fault == "exception":
        monkeypatch.setattr(chunk_kinds.KINDS["numeric"].__class__, "decode", chunk_kinds.KINDS["zstd"].decode)
    with pytest.raises(VerificationError):
        pipeline.compress(source)
    assert contents(tmp_path) == files


def test_decompress_and_verify_notice_a_broken_decoder(
    model_scan: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pixel, "decode", flipping(Pixel.decode))
    for expected in (ArchiveDamagedError, VerificationError):
        with pytest.raises(expected):
            pipeline.decompress(model_scan[0], tmp_path / "back")
        with pytest.raises(expected):
            pipeline.verify(model_scan[0])
        breaks_nothing_else(monkeypatch)
    monkeypatch.undo()
    monkeypatch.setattr(restore, "join", dropping(restore.join))
    with pytest.raises(VerificationError):
        pipeline.decompress(model_scan[0], tmp_path / "back")
    assert contents(tmp_path / "back") == {}


# Salvage


def test_salvage_gives_zeros_for_lost_slices_and_says_which(
    scan: tuple[Path, dict[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = with_damaged_chunk(scan[0], 1, tmp_path / "damaged.mdz")
    assert outcome(archive, scan[1]) is ArchiveDamagedError
    assert main(["decompress", str(archive), "-o", str(tmp_path / "back"), "--salvage"]) == 3
    assert "slices 18 to 35" in capsys.readouterr().err
    salvaged = (tmp_path / "back" / "scan.npy.salvaged").read_bytes()
    whole = scan[1]["scan.npy"]
    lost = 18 * 4 * 5 * 4
    end = len(whole) - len(b"behind the samples")
    assert salvaged == whole[: end - lost] + bytes(lost) + whole[end:]
    assert set(contents(tmp_path / "back")) == {"scan.npy.salvaged"}


def test_salvage_of_a_gzip_file_gives_what_it_held(tmp_path: Path) -> None:
    content = npy(smooth((40, 4, 5)).astype("<f8"))
    source = written(tmp_path / "source", {"scan.npy.gz": gzip.compress(content)}) / "scan.npy.gz"
    [made] = pipeline.compress(source, tmp_path / "a.mdz")
    archive = with_damaged_chunk(Path(made.archive), 0, tmp_path / "damaged.mdz")
    pipeline.decompress(archive, tmp_path / "back", salvage=True)
    [(name, salvaged)] = contents(tmp_path / "back").items()
    header, zeros = len(content) - 40 * 4 * 5 * 8, 4 * 5 * 8
    assert name == "scan.npy.salvaged" and len(salvaged) == len(content)
    assert salvaged[: header + zeros] == content[:header] + bytes(zeros)


@pytest.mark.parametrize("damage", ["chunk", "truncated"])
def test_salvage_of_a_series_gives_the_files_whose_slices_are_intact(tmp_path: Path, damage: str) -> None:
    files = files_of("dcm", smooth((36, 3, 4), "u2"))
    archive = archive_of(tmp_path, files)
    damaged = with_damaged_chunk(archive, 1, tmp_path / "damaged.mdz")
    if damage == "truncated":
        with ArchiveReader(archive) as reader:
            damaged.write_bytes(archive.read_bytes()[: reader.chunks[1].section.end - 6])
    restored = pipeline.decompress(damaged, tmp_path / "back", salvage=True)
    lost = {
        f"{number:03}.dcm" for number in range(1, 19)
    }  # the last slices along the normal; files are numbered the other way round
    assert contents(tmp_path / "back") == {name: data for name, data in files.items() if name not in lost}
    assert {name for name in files if any(name in line for line in restored.lost)} == lost
    assert len(restored.files) == 18


def test_salvage_of_whole_files_gives_those_whose_chunks_are_intact(rest: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    damaged = with_damaged_chunk(rest[0], 0, tmp_path / "damaged.mdz")
    restored = pipeline.decompress(damaged, tmp_path / "back", salvage=True)
    assert contents(tmp_path / "back") == {"notes.txt": b"text"}
    assert any("zeros.bin" in line for line in restored.lost)


def test_salvage_of_an_intact_archive_is_decompress(scan: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    restored = pipeline.decompress(scan[0], tmp_path / "back", salvage=True)
    assert restored.lost == ()
    assert contents(tmp_path / "back") == scan[1]
