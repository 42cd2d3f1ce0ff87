"""NIfTI: every byte comes back, samples and affine are nibabel's, and headers that lie are refused at once."""

from __future__ import annotations

import io
import struct
import tracemalloc

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medzip.errors import UnsupportedInputError
from medzip.sources.nifti import NiftiSource
from medzip.volume import Literal, Skeleton, Volume, join

INTEGERS_AND_FLOATS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


def taken_apart(data: bytes) -> tuple[Skeleton, list[Volume]]:
    """The split of a file, after proving that join gives the same bytes."""
    skeleton, volumes = NiftiSource().split([("a.nii", data)])
    assert b"".join(join(skeleton.files[0], volumes)) == data
    return skeleton, volumes


def nifti(array: NDArray[np.generic], order: str = "<", version: int = 1, affine: NDArray[np.float64] | None = None) -> bytes:
    header = {1: nibabel.Nifti1Header, 2: nibabel.Nifti2Header}[version](endianness=order)
    image = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version](array, affine, header, dtype=array.dtype)
    return bytes(image.to_bytes())


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(INTEGERS_AND_FLOATS),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    order=st.sampled_from("<>"),
    version=st.sampled_from([1, 2]),
    trailing=st.binary(max_size=5),
    seed=st.integers(0, 99),
)
def test_samples_are_those_of_the_file(
    dtype: str, shape: list[int], order: str, version: int, trailing: bytes, seed: int
) -> None:
    words = np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    array = np.frombuffer(words, dtype).reshape(shape)
    _, [volume] = taken_apart(nifti(array, order, version) + trailing)
    assert volume.samples.dtype == np.dtype(dtype)
    assert volume.samples.tobytes() == array.tobytes(order="F")


def test_x_y_and_everything_above_are_columns_rows_and_slices() -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype="i2").reshape(2, 3, 4, 5)
    _, [volume] = taken_apart(nifti(array))
    assert volume.samples.shape == (20, 3, 2)
    assert volume.samples[4 * 1 + 3, 2, 1] == array[1, 2, 3, 1]


def test_leading_axes_of_one_voxel_do_not_become_columns() -> None:
    _, [volume] = taken_apart(nifti(np.zeros((1, 1, 1, 1, 6, 7), "f4"), version=2))
    assert volume.samples.shape == (1, 7, 6)
    assert volume.affine is None


@pytest.mark.parametrize("order", "<>")
def test_rgb_frames_have_channels_last(order: str) -> None:
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    array = np.frombuffer(bytes(range(72)), rgb).reshape(2, 3, 4)
    _, [volume] = taken_apart(nifti(array, order))
    assert volume.samples.shape == (4, 3, 2, 3)
    assert volume.samples[3, 2, 1].tolist() == list(array[1, 2, 3])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_real_and_imaginary_parts_are_two_volumes(dtype: str, order: str) -> None:
    words = np.random.default_rng(0).bytes(24 * np.dtype(dtype).itemsize)
    array = np.frombuffer(words, dtype).reshape(2, 3, 4)
    _, [real, imaginary] = taken_apart(nifti(array, order) + b"after")
    assert real.samples.dtype == array.real.dtype
    assert real.samples.tobytes() == array.real.tobytes(order="F")
    assert imaginary.samples.tobytes() == array.imag.tobytes(order="F")


@pytest.mark.parametrize("order", "<>")
def test_alpha_is_a_volume_beside_the_colours(order: str) -> None:
    rgba = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
    array = np.frombuffer(bytes(range(96)), rgba).reshape(2, 3, 4)
    _, [colours, alpha] = taken_apart(nifti(array, order))
    assert colours.samples.shape == (4, 3, 2, 3) and alpha.samples.shape == (4, 3, 2)
    assert [*colours.samples[3, 2, 1], alpha.samples[3, 2, 1]] == list(array[1, 2, 3])


@pytest.mark.parametrize(("code", "words"), [(1536, 2), (2048, 4)])
@pytest.mark.parametrize("order", "<>")
def test_floats_of_128_bits_are_words_of_64(code: int, words: int, order: str) -> None:
    data = bytearray(nifti(np.zeros((2, 3, 4), "u8"), order)[:352])
    struct.pack_into(f"{order}2h", data, 70, code, 64 * words)
    array = np.random.default_rng(1).integers(0, 1 << 63, (4, 3, 2, words)).astype(f"{order}u8")
    _, volumes = taken_apart(bytes(data) + array.tobytes())
    assert len(volumes) == words
    assert all((volume.samples == array[..., word]).all() for word, volume in enumerate(volumes))


def test_binary_images_are_kept_whole() -> None:
    data = bytearray(nifti(np.zeros((2, 3, 4), "i2")))
    struct.pack_into("<2h", data, 70, 1, 1)
    skeleton, volumes = taken_apart(bytes(data))
    assert volumes == [] and skeleton.files[0].segments == (Literal(bytes(data)),)


PAIRS = {"nifti-1": nibabel.Nifti1Pair, "nifti-2": nibabel.Nifti2Pair, "analyze": nibabel.AnalyzeImage}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("between", [b"", b"bytes before the samples"])
def test_header_and_samples_in_two_files_come_back_together(kind: str, order: str, between: bytes) -> None:
    array = np.random.default_rng(2).integers(-99, 99, (5, 6, 7, 2)).astype("i2")
    image = PAIRS[kind](array, np.diag([2, 3, 4, 1]), PAIRS[kind].header_class(endianness=order))
    files = {name: io.BytesIO() for name in ("header", "image")}
    image.set_data_dtype("i2")
    image.file_map = {name: nibabel.FileHolder(fileobj=file) for name, file in files.items()}
    image.to_file_map()
    header, samples = bytearray(files["header"].getvalue()), files["image"].getvalue()
    if kind != "nifti-2":
        struct.pack_into(order + "f", header, 108, len(between))
    else:
        struct.pack_into(order + "q", header, 168, len(between))
    samples = between + samples[-array.nbytes :] + b"after"
    skeleton, [volume] = NiftiSource().split([("sub/a.hdr", bytes(header)), ("sub/a.img", samples)])
    assert {file.name: b"".join(join(file, [volume])) for file in skeleton.files} == {"sub/a.hdr": header, "sub/a.img": samples}
    assert (volume.samples == array.transpose(3, 2, 1, 0).reshape(14, 6, 5)).all()
    assert (volume.affine is None) == (kind == "analyze")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", ["sform", "qform"])
def test_affine_is_that_of_nibabel(version: int, order: str, code: str) -> None:
    turn = nibabel.eulerangles.euler2mat(0.3, -0.5, 2.9)
    affine = nibabel.affines.from_matvec(turn @ np.diag([0.5, 0.75, -3.0]), [10, -20, 30])
    image = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version](np.zeros((2, 3, 4), "i2"), affine)
    header = {1: nibabel.Nifti1Header, 2: nibabel.Nifti2Header}[version](endianness=order)
    swapped = type(image)(np.zeros((2, 3, 4), "i2"), affine, header)
    swapped.set_sform(affine, 1 if code == "sform" else 0)
    swapped.set_qform(affine, 1 if code == "qform" else 0)
    _, [volume] = taken_apart(swapped.to_bytes())
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)


def test_without_codes_the_affine_is_the_voxel_size() -> None:
    data = bytearray(nifti(np.zeros((2, 3, 4), "i2")))
    struct.pack_into("<8f", data, 76, 1, 0.5, 0.75, 3, 0, 0, 0, 0)
    struct.pack_into("<2h", data, 252, 0, 0)
    _, [volume] = taken_apart(bytes(data))
    np.testing.assert_allclose(volume.affine, np.diag([0.5, 0.75, 3, 1]))


def test_extensions_and_bytes_around_the_samples_stay_literal() -> None:
    data = bytearray(nifti(np.arange(24, dtype="i2").reshape(2, 3, 4)))
    struct.pack_into("<f", data, 108, 352 + 33)
    file = bytes(data[:352]) + b"between header and samples, extra" + bytes(data[352:]) + b"after"
    skeleton, [volume] = taken_apart(file)
    assert volume.samples.ravel().tolist() == np.arange(24).reshape(2, 3, 4).ravel(order="F").tolist()
    assert skeleton.files[0].segments[0] == Literal(file[:385])
    assert skeleton.files[0].segments[-1] == Literal(b"after")


def with_fields(*fields: tuple[str, int, tuple[float, ...]], version: int = 1) -> bytes:
    data = bytearray(nifti(np.zeros((2, 3, 4), "i2"), version=version))
    for form, offset, values in fields:
        struct.pack_into("<" + form, data, offset, *values)
    return bytes(data)


LIES = {
    "no axes": with_fields(("h", 40, (0,))),
    "eight axes": with_fields(("h", 40, (8,))),
    "negative axis": with_fields(("h", 44, (-3,))),
    "axis of zero": with_fields(("h", 44, (0,))),
    "too many voxels": with_fields(("4h", 40, (3, 10_000, 10_000, 10_000))),
    "2^189 voxels": with_fields(("4q", 16, (3, 1 << 62, 1 << 62, 1 << 62)), version=2),
    "unknown datatype": with_fields(("h", 70, (77,))),
    "wrong sizeof_hdr": with_fields(("i", 0, (349,))),
    "offset inside the header": with_fields(("f", 108, (100.0,))),
    "offset before the file": with_fields(("f", 108, (-1e30,))),
    "offset that is no number": with_fields(("f", 108, (float("nan"),))),
    "offset behind the file": with_fields(("f", 108, (1e30,))),
    "short by one byte": nifti(np.zeros((2, 3, 4), "i2"))[:-1],
    "short header": with_fields(version=2)[:400],
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie_are_refused_without_allocating(lie: str) -> None:
    assert NiftiSource().detect(LIES[lie])
    tracemalloc.start()
    with pytest.raises(UnsupportedInputError, match=r"a\.nii: expected"):
        NiftiSource().split([("a.nii", LIES[lie])])
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@settings(deadline=None, max_examples=200)
@given(changes=st.lists(st.tuples(st.integers(0, 347), st.integers(0, 255)), min_size=1, max_size=8))
def test_changed_headers_are_refused_or_restored(changes: list[tuple[int, int]]) -> None:
    data = bytearray(nifti(np.zeros((2, 3, 4), "i2")))
    for position, value in changes:
        data[position] = value
    try:
        taken_apart(bytes(data))
    except UnsupportedInputError as error:
        assert "a.nii" in str(error)
