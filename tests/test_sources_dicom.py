"""DICOM: every byte comes back, the words coded are those of the file, and slices lie in the order of the patient."""

from __future__ import annotations

import io
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medzip.errors import UnsupportedInputError
from medzip.sources import groups, read
from medzip.sources.dicom import DicomSource
from medzip.volume import Literal, Skeleton, Volume, Voxels, join

EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
LONG = {"OB", "OW", "OF", "OD", "SQ", "UN", "UT"}
SOURCE = DicomSource()


def element(tag: int, vr: str, value: bytes, syntax: str = EXPLICIT, length: int | None = None) -> bytes:
    """One data element as PS3.5 section 7.1 writes it; `length` replaces the true one."""
    order = ">" if syntax == BIG else "<"
    value += b" " * (len(value) % 2) if vr not in LONG else b"\0" * (len(value) % 2)
    length = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", length) + value
    if vr in LONG:
        return head + vr.encode() + b"\0\0" + struct.pack(order + "I", length) + value
    return head + vr.encode() + struct.pack(order + "H", length) + value


def undefined_sequence(syntax: str) -> bytes:
    """A private sequence of undefined length whose item of undefined length holds pixel data that is not the image's."""
    order = ">" if syntax == BIG else "<"
    icon = element(0x7FE00010, "OW", b"icon", syntax)
    item = struct.pack(order + "HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + icon + struct.pack(order + "HHI", 0xFFFE, 0xE00D, 0)
    end = struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0)
    return element(0x00091010, "SQ", b"", syntax, 0xFFFFFFFF) + item + end


def image(
    samples: NDArray[np.generic],
    syntax: str = EXPLICIT,
    *,
    channels: int = 1,
    planar: bool = False,
    texts: dict[int, tuple[str, str]] | None = None,
    after: bytes = b"",
    excess: bytes = b"",
    bits: int | None = None,
    vr: str = "OW",
) -> bytes:
    """A file with `samples` (frames, rows, columns) or, as stored, (frames, rows, columns, 3) or (frames, 3, rows, columns)."""
    order = ">" if syntax == BIG else "<"
    rows, columns = samples.shape[2:4] if planar else samples.shape[1:3]
    numbers = {
        0x00280002: channels,
        0x00280006: int(planar),
        0x00280010: rows,
        0x00280011: columns,
        0x00280100: bits or samples.dtype.itemsize * 8,
        0x00280103: int(samples.dtype.kind == "i"),
    }
    values = {tag: ("US", struct.pack(order + "H", number)) for tag, number in numbers.items()}
    values |= {tag: (kind, text.encode()) for tag, (kind, text) in (texts or {}).items()}
    if len(samples) > 1:
        values[0x00280008] = ("IS", str(len(samples)).encode())
    body = element(0x00080060, "CS", b"MR", syntax) + undefined_sequence(syntax)
    body += b"".join(element(tag, kind, value, syntax) for tag, (kind, value) in sorted(values.items()))
    stored = samples.astype(samples.dtype.newbyteorder(order)).tobytes() + excess
    meta = element(0x00020010, "UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    return bytes(range(128)) + b"DICM" + meta + body + element(0x7FE00010, vr, stored, syntax) + after


def taken_apart(*files: bytes) -> tuple[Skeleton, list[Volume]]:
    """The split of some files, after proving that join gives the same bytes."""
    skeleton, volumes = SOURCE.split((f"{index}.dcm", data) for index, data in enumerate(files))
    assert [b"".join(join(file, volumes)) for file in skeleton.files] == list(files)
    return skeleton, volumes


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4"]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    syntax=st.sampled_from([EXPLICIT, IMPLICIT, BIG]),
    colour=st.sampled_from([None, "interleaved", "planar"]),
    seed=st.integers(0, 99),
)
def test_native_pixels_are_coded_as_allocated_words(
    dtype: str, shape: tuple[int, int, int], syntax: str, colour: str | None, seed: int
) -> None:
    frames, rows, columns = shape
    stored_shape = {None: shape, "interleaved": (*shape, 3), "planar": (frames, 3, rows, columns)}[colour]
    data = np.random.default_rng(seed).bytes(int(np.prod(stored_shape)) * np.dtype(dtype).itemsize)
    samples = np.frombuffer(data, dtype).reshape(stored_shape)
    vr = "OB" if samples.itemsize == 1 else "OW"
    file = image(samples, syntax, channels=3 if colour else 1, planar=colour == "planar", after=b"tail", vr=vr)
    _, [volume] = taken_apart(file)
    expected = np.moveaxis(samples, 1, -1) if colour == "planar" else samples
    assert volume.samples.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume.samples, expected)


def test_pydicom_reads_the_same_samples_from_the_same_file() -> None:
    samples = np.arange(24, dtype="<i2").reshape(2, 3, 4) - 12
    file = image(samples, texts={0x00280004: ("CS", "MONOCHROME2")})
    dataset = pydicom.dcmread(io.BytesIO(file))
    dataset.BitsStored, dataset.HighBit = 16, 15
    _, [volume] = taken_apart(file)
    np.testing.assert_array_equal(volume.samples, dataset.pixel_array)


@pytest.mark.parametrize(("tag", "vr", "dtype"), [(0x7FE00008, "OF", "<f4"), (0x7FE00009, "OD", "<f8")])
def test_float_pixel_data_keeps_every_bit_of_every_nan(tag: int, vr: str, dtype: str) -> None:
    words = np.random.default_rng(1).bytes(12 * np.dtype(dtype).itemsize - 8) + b"\x01\x00\x80\x7f\xff\xff\xff\xff"
    stub = image(np.zeros((1, 3, 4), f"u{np.dtype(dtype).itemsize}"))
    file = stub[: stub.rindex(b"\xe0\x7f\x10\x00")] + element(tag, vr, words)
    _, [volume] = taken_apart(file)
    assert volume.samples.dtype == np.dtype(dtype)
    assert volume.samples.tobytes() == words


def test_big_endian_signalling_nans_survive() -> None:
    words = struct.pack(">4I", 0x7F800001, 0xFFBFFFFF, 0x80000000, 0x00000001)
    stub = image(np.zeros((1, 2, 2), "u4"), BIG)
    file = stub[: stub.rindex(b"\x7f\xe0\x00\x10")] + element(0x7FE00008, "OF", words, BIG)
    _, [volume] = taken_apart(file)
    assert volume.samples.dtype.isnative and volume.samples.shape == (1, 2, 2)


def placed(place: float, number: int, samples: NDArray[np.generic], series: str = "1.2.3") -> bytes:
    texts = {
        0x0020000E: ("UI", series),
        0x00200013: ("IS", str(number)),
        0x00200032: ("DS", f"10\\20\\{place}"),
        0x00200037: ("DS", "1\\0\\0\\0\\1\\0"),
        0x00280030: ("DS", "0.5\\0.25"),
    }
    return image(samples, texts=texts)


def test_slices_lie_along_their_normal_whatever_the_order_of_files_and_numbers() -> None:
    places = [30.0, -10.0, 10.0, 0.0, 20.0]
    files = [placed(place, 9 - index, np.full((1, 2, 3), place, "i2")) for index, place in enumerate(places)]
    skeleton, [volume] = taken_apart(*files)
    assert volume.samples[:, 0, 0].tolist() == sorted(places)
    assert [s.first for f in skeleton.files for s in f.segments if isinstance(s, Voxels)] == [4, 0, 2, 1, 3]
    # PS3.3 C.7.6.2.1.1: columns advance by the second value of PixelSpacing, rows by the first.
    expected = [[0.25, 0, 0, 10], [0, 0.5, 0, 20], [0, 0, 10, -10], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, expected)


def test_instance_number_then_name_order_slices_without_positions() -> None:
    def numbered(number: str, value: int) -> bytes:
        return image(np.full((1, 2, 2), value, "u2"), texts={0x00200013: ("IS", number)})

    _, [volume] = taken_apart(numbered("2", 20), numbered("", 98), numbered("10", 100), numbered("1", 10), numbered("x", 99))
    assert volume.samples[:, 0, 0].tolist() == [10, 20, 100, 98, 99]
    assert volume.affine is None


def test_duplicates_other_sizes_and_files_without_pixels_are_no_error() -> None:
    slice_ = placed(1.0, 1, np.ones((1, 2, 3), "u2"))
    larger = placed(2.0, 2, np.ones((1, 4, 4), "u2"))
    several = placed(2.0, 2, np.ones((3, 2, 3), "u2"))
    report = b"\0" * 128 + b"DICM" + element(0x00080060, "CS", b"SR")
    skeleton, volumes = taken_apart(slice_, larger, slice_, several, report)
    assert [volume.samples.shape for volume in volumes] == [(1, 2, 3), (1, 4, 4), (3, 2, 3)]
    assert skeleton.files[4].segments == (Literal(report),)


SMALL = np.arange(12, dtype="u2").reshape(1, 3, 4)
KEPT_WHOLE = {
    "encapsulated": image(SMALL)[: -len(SMALL.tobytes()) - 4] + b"\xff\xff\xff\xff" + SMALL.tobytes(),
    "one bit": image(SMALL, bits=1),
    "64 bits": image(SMALL, bits=64),
    "12 bits packed": image(SMALL, bits=12),
    "two channels": image(SMALL, channels=2),
    "too short": image(SMALL, texts={0x00280008: ("IS", "2")}),
    "too long": image(SMALL, excess=SMALL.tobytes()),
    "subsampled colour": image(SMALL, texts={0x00280004: ("CS", "YBR_FULL_422")}),
    "private syntax": image(SMALL).replace(EXPLICIT.encode() + b"\0", b"1.2.3.4.5.6.7.8.9.0\0"),
    "deflated": image(SMALL, EXPLICIT + ".99"),
}


@pytest.mark.parametrize("reason", KEPT_WHOLE)
def test_pixel_data_that_no_volume_describes_stays_as_it_is(reason: str) -> None:
    skeleton, volumes = taken_apart(KEPT_WHOLE[reason])
    assert volumes == []
    assert all(isinstance(segment, Literal) for segment in skeleton.files[0].segments)


def test_big_endian_pixels_of_a_little_endian_data_set_are_read_as_such() -> None:
    file = image(SMALL, IMPLICIT).replace(IMPLICIT.encode() + b"\0", b"1.2.840.113619.5.2")
    _, [volume] = taken_apart(file)
    np.testing.assert_array_equal(volume.samples, SMALL.byteswap())


@pytest.mark.parametrize("head", [b"", b"\x08\x00", bytes(4096), bytes(range(256)), b"\x08\x00\x05\x00" * 9, b"\x02\x00" * 99])
def test_other_bytes_are_not_taken_for_dicom(head: bytes) -> None:
    assert not SOURCE.detect(head)


def test_padding_of_less_than_a_frame_stays_literal() -> None:
    skeleton, [volume] = taken_apart(image(SMALL, excess=b"padding!"))
    np.testing.assert_array_equal(volume.samples, SMALL)
    assert skeleton.files[0].segments[-1] == Literal(b"padding!")


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_a_data_set_without_preamble_is_recognised(syntax: str, tmp_path: Path) -> None:
    body = element(0x00080016, "UI", b"1.2", syntax) + image(SMALL, syntax)[132 + 8 + len(syntax) + len(syntax) % 2 :]
    path = tmp_path / "bare"
    path.write_bytes(body)
    [group] = groups(path)
    skeleton, [volume] = read(group)
    np.testing.assert_array_equal(volume.samples, SMALL)
    assert b"".join(join(skeleton.files[0], [volume])) == body


def test_unknown_sequence_in_an_explicit_data_set_is_implicit_inside() -> None:
    inner = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + element(0x00091011, "LO", b"private value", IMPLICIT)
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    unknown = element(0x00091010, "UN", b"", length=0xFFFFFFFF) + inner + ends
    file = image(SMALL)
    start = file.index(element(0x00080060, "CS", b"MR"))
    _, [volume] = taken_apart(file[:start] + unknown + file[start:])
    np.testing.assert_array_equal(volume.samples, SMALL)


def test_series_sizes_and_orientations_become_archives_and_the_rest_stays_together(tmp_path: Path) -> None:
    flat, square = np.ones((1, 2, 3), "u2"), np.ones((1, 3, 3), "u2")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for index in range(3):
        (tmp_path / "ab"[index % 2] / f"{index}").write_bytes(placed(index, index, flat))
        (tmp_path / "a" / f"other{index}").write_bytes(placed(index, index, flat, series="1.2.4"))
    (tmp_path / "a" / "size").write_bytes(placed(9, 9, square))
    turned = placed(8, 8, flat).replace(b"1\\0\\0\\0\\1\\0", b"0\\1\\0\\0\\0\\1")
    (tmp_path / "a" / "turned").write_bytes(turned)
    (tmp_path / "a" / "report").write_bytes(b"\0" * 128 + b"DICM" + element(0x00080060, "CS", b"SR"))
    (tmp_path / "a" / "cut").write_bytes(placed(7, 7, flat)[:-1])
    found = groups(tmp_path)
    named = {tuple(name for name, _ in group.files): group for group in found}
    assert set(named) == {
        ("a/0", "a/2", "b/1"),
        ("a/other0", "a/other1", "a/other2"),
        ("a/size",),
        ("a/turned",),
        ("a/cut", "a/report"),
    }
    assert named["a/cut", "a/report"].name == "rest.mdz"
    assert all(group.name.startswith("series-") for group in found if group.source == "dicom")
    assert groups(tmp_path) == found


def test_every_truncation_is_refused_or_restored() -> None:
    file = image(SMALL)
    refused = 0
    for length in range(132, len(file)):
        try:
            taken_apart(file[:length])
        except UnsupportedInputError:
            refused += 1
    # What may pass is a file that ends between two elements.
    assert refused > 0.9 * (len(file) - 132)


@settings(deadline=None, max_examples=150)
@given(changes=st.lists(st.tuples(st.integers(128, 420), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_are_refused_or_restored(changes: list[tuple[int, int]]) -> None:
    file = bytearray(placed(1.0, 1, np.ones((1, 6, 6), "u2")))
    for position, value in changes:
        file[min(position, len(file) - 1)] = value
    try:
        taken_apart(bytes(file))
    except UnsupportedInputError as error:
        assert "0.dcm" in str(error)


def test_sequences_nested_without_end_are_refused() -> None:
    depth = 100_000
    nested = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) * depth
    file = b"\0" * 128 + b"DICM" + element(0x00091010, "SQ", b"", length=0xFFFFFFFF) + nested
    with pytest.raises(UnsupportedInputError, match="deep"):
        taken_apart(file)


def test_no_header_value_reaches_a_message() -> None:
    secret = element(0x00100010, "PN", b"Doe^Jane") + element(0x00100020, "LO", b"4711", length=4000)
    with pytest.raises(UnsupportedInputError) as caught:
        taken_apart(b"\0" * 128 + b"DICM" + secret)
    assert "Doe" not in str(caught.value) and "4711" not in str(caught.value)


def test_the_archive_name_of_a_series_is_a_digest_and_not_its_uid() -> None:
    names = [SOURCE.archive_name(io.BytesIO(file), len(file), "a/b") for file in (placed(1, 1, SMALL), placed(2, 2, SMALL))]
    assert all(first == second for first, second in pairwise(names))
    assert names[0] is not None and len(names[0]) == len("series-.mdz") + 16 and "1.2.3" not in names[0]
