"""Native pixel data whose samples are no words in a row: bits, swapped bytes, colours of half the width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources_dicom import BIG, EXPLICIT, image, taken_apart

from medzip.volume import Literal


def bitmap(frames: int, rows: int, columns: int, after: bytes = b"", last: int = 0) -> tuple[bytes, np.ndarray]:
    """A file of one bit a sample and its samples; `last` is added to the last byte of the pixel data."""
    samples = np.random.default_rng(rows).integers(0, 2, (frames, rows, columns), "u1")
    packed = bytearray(np.packbits(samples, axis=None, bitorder="little").tobytes())
    packed[-1] += last
    stored = np.frombuffer(packed + bytes(len(packed) % 2), "u1").reshape(1, 1, -1)
    file = image(stored, bits=1, vr="OB", texts={0x00280008: ("IS", str(frames))})
    columns_as_stored = b"\x28\x00\x11\x00US\x02\x00" + stored.shape[2].to_bytes(2, "little")
    rows_as_stored = b"\x28\x00\x10\x00US\x02\x00\x01\x00"
    assert file.count(columns_as_stored) == file.count(rows_as_stored) == 1
    file = file.replace(columns_as_stored, columns_as_stored[:8] + columns.to_bytes(2, "little"))
    return file.replace(rows_as_stored, rows_as_stored[:8] + rows.to_bytes(2, "little")) + after, samples


@settings(deadline=None, max_examples=30)
@given(frames=st.integers(1, 4), rows=st.integers(1, 9), columns=st.integers(1, 20))
def test_bits_are_samples_even_where_frames_end_inside_a_byte(frames: int, rows: int, columns: int) -> None:
    file, samples = bitmap(frames, rows, columns)
    _, [volume] = taken_apart(file)
    assert (volume.samples == samples).all()


def test_bits_behind_the_last_sample_that_are_not_zero_keep_the_file_whole() -> None:
    file, _ = bitmap(1, 3, 3, last=128)
    skeleton, volumes = taken_apart(file)
    assert volumes == [] and skeleton.files[0].segments == (Literal(file),)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 3, 3), (3, 3, 5)])
def test_bytes_in_big_endian_words_are_put_in_their_order(shape: tuple[int, int, int]) -> None:
    samples = np.random.default_rng(0).integers(0, 256, shape, "u1")
    stored = samples.tobytes() + bytes(samples.size % 2)
    swapped = np.frombuffer(stored, ">u2").astype("<u2").tobytes()
    file = image(samples, BIG)
    begin = file.index(samples.tobytes())
    _, [volume] = taken_apart(file[:begin] + swapped + file[begin + len(stored) :])
    assert (volume.samples == samples).all()


def test_half_wide_colours_are_volumes_of_their_own() -> None:
    bright, blue, red = (np.random.default_rng(i).integers(0, 256, (2, 3, n), "u1") for i, n in enumerate((8, 4, 4)))
    four = np.concatenate([bright.reshape(2, 3, 4, 2), blue[..., None], red[..., None]], axis=3)
    stored = four.reshape(2, 3, 16)
    file = image(stored, channels=3, vr="OB", texts={0x00280004: ("CS", "YBR_FULL_422")})
    width = b"\x28\x00\x11\x00US\x02\x00"
    file = file.replace(width + b"\x10\x00", width + b"\x08\x00")
    _, volumes = taken_apart(file)
    assert [(volume.samples == part).all() for volume, part in zip(volumes, (bright, blue, red), strict=True)] == [True] * 3


def test_a_number_of_frames_that_is_no_number_follows_from_the_length() -> None:
    frames = np.arange(36, dtype="u2").reshape(3, 3, 4)
    file = image(frames, EXPLICIT).replace(b"IS\x02\x003 ", b"IS\x02\x003A")
    _, [volume] = taken_apart(file)
    assert (volume.samples == frames).all()


def test_packed_files_and_others_of_a_series_number_their_volumes_apart() -> None:
    plain, another = (image(first + np.arange(12, dtype="u2").reshape(1, 3, 4)) for first in (0, 5))
    packed, _ = bitmap(1, 6, 7)
    last, samples = bitmap(1, 5, 7)
    _, volumes = taken_apart(plain, packed, another, last)
    assert [volume.samples.shape for volume in volumes] == [(1, 6, 7), (1, 5, 7), (2, 3, 4)]
    assert (volumes[1].samples == samples).all()
