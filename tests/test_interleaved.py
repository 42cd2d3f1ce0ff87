"""Pixels that take turns, bits and swapped bytes: what a skeleton says of them comes back from SKEL, and lies are damage."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from pipeline_inputs import rewritten
from test_sources_dicom_packed import bitmap

import medzip
from medzip import skeleton
from medzip.container import cbor
from medzip.errors import ArchiveDamagedError
from medzip.volume import BITS, SWAPPED, FileSkeleton, Interleaved, Literal, Skeleton, Volume, Voxels, join

BRIGHT = np.arange(48, dtype="u1").reshape(2, 3, 8)
COLOUR = np.arange(100, 124, dtype=">u2").reshape(2, 3, 4)
VOLUMES = [Volume(BRIGHT), Volume(COLOUR)]
RUNS = (Voxels(0, 0, 2, "|u1"), Voxels(1, 0, 2, ">u2"))


def stored(*segments: Interleaved | Voxels | Literal) -> bytes:
    return b"".join(join(FileSkeleton("a", segments), VOLUMES))


def test_turns_are_pixels_of_each_run() -> None:
    expected = b"".join(
        bright.tobytes() + colour.tobytes()
        for frame, colours in zip(BRIGHT, COLOUR, strict=True)
        for bright, colour in zip(frame.reshape(-1, 2), colours.reshape(-1, 1), strict=True)
    )
    assert stored(Interleaved(RUNS, (2, 1))) == expected


def test_runs_may_be_places_of_one_volume() -> None:
    runs = (Voxels(0, 1, 1, "|u1"), Voxels(0, 0, 1, "|u1"))
    assert stored(Interleaved(runs, (8, 8))) == np.stack([BRIGHT[1], BRIGHT[0]], axis=1).tobytes()


def test_bits_and_swapped_bytes_are_one_string_for_all_slices() -> None:
    assert stored(Voxels(0, 0, 1, SWAPPED)) == BRIGHT[0].reshape(-1, 2)[:, ::-1].tobytes()
    odd = [Volume(np.array([[[1, 2, 3]], [[4, 5, 6]], [[7, 8, 9]]], "u1"))]
    assert b"".join(join(FileSkeleton("a", (Voxels(0, 0, 3, SWAPPED),)), odd)) == bytes([2, 1, 4, 3, 6, 5, 8, 7, 0, 9])
    bits = [Volume(np.array([[[1, 0, 1]], [[1, 1, 1]], [[0, 0, 1]]], "u1"))]
    assert b"".join(join(FileSkeleton("a", (Voxels(0, 0, 3, BITS),)), bits)) == bytes([0b00111101, 0b1])


WRONG = {
    "a turn of nothing": Interleaved(RUNS, (2, 0)),
    "turns that do not fit": Interleaved(RUNS, (1, 1)),
    "a rest": Interleaved(RUNS, (5, 1)),
    "fewer slices": Interleaved((RUNS[0], Voxels(1, 0, 1, ">u2")), (2, 1)),
    "slices that are not there": Interleaved((RUNS[0], Voxels(1, 1, 2, ">u2")), (2, 1)),
    "a volume that is not there": Interleaved((RUNS[0], Voxels(2, 0, 2, ">u2")), (2, 1)),
    "bits": Interleaved((Voxels(0, 0, 2, BITS), RUNS[1]), (2, 1)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_pixels_that_do_not_take_turns_are_damage(wrong: str) -> None:
    with pytest.raises(ArchiveDamagedError):
        stored(WRONG[wrong])


def test_a_skeleton_comes_back_from_its_section() -> None:
    segments = (Literal(b"before"), Interleaved(RUNS, (2, 1)), Literal(b"after"), Voxels(0, 0, 2, BITS))
    files = Skeleton((FileSkeleton("a", segments), FileSkeleton("b", (Voxels(0, 1, 1, SWAPPED), Literal(b"end")))))
    packed, blobs = skeleton.pack(files)
    assert skeleton.unpack(packed, dict(enumerate(blobs)), "archive", 1 << 20) == files


ENTRIES: dict[str, Any] = {
    "no runs": [[], []],
    "another number of turns": [[[0, 0, 1, "|u1", False]], [1, 1]],
    "a turn below zero": [[[0, 0, 1, "|u1", False]], [-1]],
    "a run that is none": [[[0, 0, 1, "|u1"]], [1]],
    "runs inside runs": [[[[[0, 0, 1, "|u1", False]], [1]]], [1]],
}


@pytest.mark.parametrize("wrong", ENTRIES)
def test_other_entries_are_damage(wrong: str) -> None:
    encoded = cbor.encode([["a", [ENTRIES[wrong]]]])
    payload = zstandard.ZstdCompressor().compress(struct.pack("<I", len(encoded)) + encoded)
    with pytest.raises(ArchiveDamagedError):
        skeleton.unpack(payload, {}, "archive", 1 << 20)


def test_bits_of_a_volume_of_other_than_bytes_are_damage(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(bitmap(2, 5, 7)[0])
    [made] = medzip.compress(tmp_path / "a.dcm", preset="parametric")
    medzip.decompress(made.archive, tmp_path / "out")
    assert (tmp_path / "out" / "a.dcm").read_bytes() == (tmp_path / "a.dcm").read_bytes()

    def of_words(head: dict[str, Any]) -> dict[str, Any]:
        return head | {"volumes": [volume | {"dtype": "<u2"} for volume in head["volumes"]]}

    bad = rewritten(Path(made.archive), tmp_path / "bad.mdz", head=of_words)
    with pytest.raises(ArchiveDamagedError), medzip.open(bad) as archive:
        archive.skeleton()
