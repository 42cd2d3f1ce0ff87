"""Headers of a series are coded side by side: small, the same bytes whatever is in them, and damage is noticed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_inputs import contents, flipped, rewritten, smooth, written
from test_sources_dicom import BIG, EXPLICIT, IMPLICIT, image

import medzip
from medzip import skeleton
from medzip.container import packed
from medzip.container.reader import ArchiveReader
from medzip.errors import ArchiveDamagedError, MedzipError, UnsupportedArchiveError
from medzip.sources.dicom import DicomSource
from medzip.sources.dicom_fields import fields
from medzip.volume import EncodedFrame, FileSkeleton, Interleaved, Literal, Skeleton, Voxels

LIMIT = 1 << 26
SOURCE = DicomSource()


def slice_file(number: int, syntax: str = EXPLICIT, private: bytes = b"", after: bytes = b"") -> bytes:
    """A slice whose header says what differs from one to the next."""
    texts = {
        0x00080018: ("UI", f"1.2.3.{number}"),
        0x0020000E: ("UI", "1.2"),
        0x00200013: ("IS", str(number)),
        0x00200032: ("DS", f"-10\\{number / 4:g}\\{100 - 2.5 * number:.2f}"),
        0x00200037: ("DS", "1\\0\\0\\0\\1\\0"),
        0x00291010: ("UN", private.decode("latin-1")),
    }
    samples = smooth((1, 4, 5), seed=number)
    return image(samples, syntax, texts=texts, after=after)


def series(count: int, **others: Any) -> Skeleton:
    found, _ = SOURCE.split((f"{n:05}.dcm", slice_file(n, **others)) for n in range(count))
    return skeleton.ordered(found)


def length(size: int, value: bytes) -> bytes:
    return len(value).to_bytes(abs(size), "little" if size > 0 else "big") if size else b""


def in_columns(payload: bytes) -> bool:
    return isinstance(packed.unpack(payload, "SKEL", LIMIT)[0], dict)


def whole(files: Skeleton) -> list[tuple[str, list[object]]]:
    """Files, literals side by side being one."""
    return [(file.name, skeleton._merged(file)) for file in files.files]


def stays(files: Skeleton) -> bytes:
    """The payload, after it was found to give the files."""
    payload, blobs = skeleton.pack(files)
    assert whole(skeleton.unpack(payload, dict(enumerate(blobs)), "archive", LIMIT)) == whole(files)
    return payload


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_a_slice_more_costs_next_to_nothing(syntax: str) -> None:
    few, many = stays(series(30, syntax=syntax)), stays(series(300, syntax=syntax))
    assert in_columns(many)
    assert len(many) < len(few) + 60 < 700


def test_private_values_of_all_files_are_coded_together_whatever_their_length() -> None:
    large = np.random.default_rng(1).bytes(90_000)
    texts = {0x00091001: ("UN", large.decode("latin-1"))}
    plain = [image(smooth((1, 4, 5)), texts=texts | {0x00200013: ("IS", str(n))}).replace(b"\xc3", b"\xc4") for n in range(4)]
    found, _ = SOURCE.split((str(n), data) for n, data in enumerate(plain))
    payload, blobs = skeleton.pack(skeleton.ordered(found))
    assert not blobs and len(payload) < 2 * len(large)


def test_long_values_that_are_not_alike_stay_chunks_of_their_own() -> None:
    chance = np.random.default_rng(2)
    files = [slice_file(n) + b"\xfc\xff\xfc\xff" + chance.bytes(70_000) for n in range(3)]
    found, _ = SOURCE.split((str(n), data) for n, data in enumerate(files))
    payload, blobs = skeleton.pack(skeleton.ordered(found))
    assert len(blobs) == 3
    lost = skeleton.unpack(payload, {0: blobs[0], 2: blobs[2]}, "archive", LIMIT)
    kept = whole(skeleton.unpack(payload, dict(enumerate(blobs)), "archive", LIMIT))
    assert [file for file in kept if file[0] != "1"] == whole(lost)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([EXPLICIT, IMPLICIT, BIG]),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=4),
    st.integers(1, 800),
)
def test_fields_are_the_header_whatever_it_holds(syntax: str, changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(slice_file(3, syntax))
    for place, byte in changes:
        data[place % len(data)] = byte
    found = fields(bytes(data[:end])) or []
    pieces = b"".join(field.head + length(field.length_bytes, field.value) + field.value for field in found)
    assert pieces == (data[:end] if found else b"")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 700), st.integers(0, 255)), max_size=8), st.randoms())
def test_series_that_break_the_rules_come_back(changes: list[tuple[int, int, int]], chance: Any) -> None:
    files = [bytearray(slice_file(n)) for n in range(20)]
    for number, place, byte in changes:
        files[number][place % len(files[number])] = byte
    chance.shuffle(files)
    parts: list[FileSkeleton] = []
    for number, data in enumerate(files):
        with contextlib.suppress(MedzipError):
            parts += SOURCE.split([(str(number), bytes(data))])[0].files
    stays(Skeleton(tuple(parts)))


def test_all_segments_have_a_place_in_columns() -> None:
    files = []
    for n in range(40):
        turns = Interleaved((Voxels(0, 2 * n, 2, "<i2"), Voxels(1, 2 * n, 2, "<i2")), (2, 1))
        frames = EncodedFrame("rle", bytes([0, n]), (4,), Voxels(2, n, 1, "<i2")), EncodedFrame("jpeg_xl", bytes([n]))
        segments = (Literal(b"text %d" % n), turns, Voxels(3, 2 * n, 2, "<i2"), frames[0], Literal(b"end"), frames[1])
        files.append(FileSkeleton(f"file {n}", segments))
    assert in_columns(stays(Skeleton(tuple(files))))


def test_the_example_of_the_format() -> None:
    structure = {
        "names": 0,
        "fields": [[b"A", 0, 1], [b"n", 2, 2]],
        "templates": [[0, 0, [0, None, 1, "<u2", False]]],
        "files": [[0, 2]],
        "columns": [["numbers", 2, 1, 0, False, [b"7", b"1"], 0], ["same", 2, 3], ["bytes", 2, None]],
    }
    found = skeleton.unpack(packed.pack(structure, b"abc\x01\x02xyz"), {}, "archive", LIMIT)
    first, second = Literal(b"Aabcn\x01\x00x"), Literal(b"Aabcn\x02\x00yz")
    slices = (Voxels(0, 0, 1, "<u2"), Voxels(0, 1, 1, "<u2"))
    assert found == Skeleton((FileSkeleton("7", (first, slices[0])), FileSkeleton("8", (second, slices[1]))))


STRUCTURE, DATA = packed.unpack(skeleton.pack(series(30))[0], "SKEL", LIMIT)
FILES = STRUCTURE["files"]
STEPS = STRUCTURE["templates"][0]
WRONG: dict[str, dict[str, Any]] = {
    "no names": {"names": None},
    "other names": {"names": 10**6},
    "no fields": {"fields": None},
    "a field too few": {"fields": STRUCTURE["fields"][:-1]},
    "a field that nothing names": {"fields": [*STRUCTURE["fields"], [b"", 0, 0]]},
    "a length of three bytes": {"fields": [[head, 3, column] for head, _, column in STRUCTURE["fields"]]},
    "files without a template": {"files": [[1, 30]]},
    "a file too few": {"files": [[0, 29]]},
    "a file too many": {"files": [[0, 31]]},
    "files below zero": {"files": [[0, -1], [0, 31]]},
    "a step before the first field": {"templates": [[-1, *STEPS]]},
    "a step too far": {"templates": [[*STEPS, 999]]},
    "a field named twice": {"templates": [[0, -1, *STEPS[1:]]]},
    "a boolean for a step": {"templates": [[False, *STEPS]]},
    "a blob below zero": {"templates": [[*STEPS, [-1]]]},
    "a volume below zero": {"templates": [[*STEPS, [-1, None, 1, "<i2", False]]]},
    "a frame without a recipe": {"templates": [[*STEPS, ["rle", "x", [], None]]]},
    "text for an entry": {"templates": [[*STEPS, "text"]]},
    "templates that are none": {"templates": [5]},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_other_structures_are_damage(wrong: str) -> None:
    with pytest.raises(ArchiveDamagedError):
        skeleton.unpack(packed.pack({**STRUCTURE, **WRONG[wrong]}, DATA), {}, "archive", LIMIT)


def test_one_long_value_for_many_files_is_refused_before_it_takes_memory() -> None:
    columns = [["same", 10**5, 1], ["same", 10**5, 1 << 16]]
    structure = {"names": 0, "files": [[0, 10**5]], "templates": [[0]], "fields": [[b"", 0, 1]], "columns": columns}
    with pytest.raises(UnsupportedArchiveError):
        skeleton.unpack(packed.pack(structure, b"a" + bytes(1 << 16)), {}, "archive", LIMIT)


def test_a_series_comes_back_from_its_archive_and_every_flipped_bit_of_its_tables_is_noticed(tmp_path: Path) -> None:
    files = {f"CT.{n}.dcm": slice_file(n, private=b"abc" * 40) for n in range(40)}
    [made] = medzip.compress(written(tmp_path / "in", files), tmp_path / "out", preset="parametric")
    with ArchiveReader(Path(made.archive)) as reader:
        assert in_columns(reader.skeleton)
    medzip.decompress(tmp_path / "out", tmp_path / "back")
    assert contents(tmp_path / "back") == files

    for bit in range(0, 8 * 300, 211):

        def changed(payload: bytes, bit: int = bit) -> bytes:
            structure, data = packed.unpack(payload, "SKEL", LIMIT)
            return packed.pack(structure, flipped(data, bit % (8 * len(data))))

        bad = rewritten(Path(made.archive), tmp_path / "bad.mdz", skeleton=changed)
        with pytest.raises(MedzipError):
            medzip.verify(bad)
