"""NumPy files: every byte comes back, nothing is unpickled or evaluated, and lying headers are refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medzip.errors import UnsupportedInputError
from medzip.sources.npy import NpySource
from medzip.volume import Literal, Skeleton, Volume, join


def npy(array: NDArray[np.generic], version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version)
    return buffer.getvalue()


def taken_apart(data: bytes) -> tuple[Skeleton, list[Volume]]:
    """The split of a file, after proving that join gives the same bytes."""
    skeleton, volumes = NpySource().split([("a.npy", data)])
    assert b"".join(join(skeleton.files[0], volumes)) == data
    return skeleton, volumes


@settings(deadline=None, max_examples=80)
@given(
    array=hnp.arrays(
        dtype=hnp.boolean_dtypes() | hnp.integer_dtypes(endianness="?") | hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
        shape=hnp.array_shapes(min_dims=1, max_dims=5, min_side=1, max_side=4),
    ),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0)]),
    fortran=st.booleans(),
)
def test_samples_are_those_of_the_file(array: NDArray[np.generic], version: tuple[int, int], fortran: bool) -> None:
    array = np.asfortranarray(array) if fortran else array
    _, [volume] = taken_apart(npy(array, version) + b"after")
    in_file = array.tobytes(order="F" if fortran and not array.flags.c_contiguous else "C")
    assert volume.samples.astype(volume.samples.dtype.newbyteorder(array.dtype.byteorder)).tobytes() == in_file


@pytest.mark.parametrize("dtype", ["<c8", ">c16"])
def test_real_and_imaginary_parts_are_two_volumes(dtype: str) -> None:
    array = np.frombuffer(np.random.default_rng(0).bytes(24 * np.dtype(dtype).itemsize), dtype).reshape(4, 3, 2)
    _, [real, imaginary] = taken_apart(npy(array) + b"after")
    assert (real.samples == array.real).all() and (imaginary.samples == array.imag).all()


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((7,), "i2", (1, 1, 7)),
        ((5, 7), "i2", (1, 5, 7)),
        ((4, 5, 7), "i2", (4, 5, 7)),
        ((2, 4, 5, 7), "i2", (8, 5, 7)),
        ((4, 5, 7, 1), "i2", (4, 5, 7)),
        ((4, 5, 7, 3), "u1", (4, 5, 7, 3)),
        ((5, 7, 3), "u1", (1, 5, 7, 3)),
        ((2, 4, 5, 7, 3), "u1", (8, 5, 7, 3)),
        ((4, 5, 7, 3), "u2", (20, 7, 3)),
    ],
)
def test_axes_become_slices_rows_and_columns(shape: tuple[int, ...], dtype: str, expected: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    _, [volume] = taken_apart(npy(array))
    np.testing.assert_array_equal(volume.samples, array.reshape(expected))


def test_fortran_order_is_coded_as_its_transpose() -> None:
    array = np.asfortranarray(np.arange(24, dtype="i4").reshape(2, 3, 4))
    _, [volume] = taken_apart(npy(array))
    np.testing.assert_array_equal(volume.samples, array.T)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["text", "more"]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(3, [("x", "<i4"), ("y", "<f8", (2,))]),
        np.zeros((0, 3, 3), "u1"),
        np.array(5),
    ],
    ids=["text", "dates", "structured", "empty", "scalar"],
)
def test_arrays_without_image_samples_are_kept_whole(array: NDArray[np.generic]) -> None:
    data = npy(array)
    skeleton, volumes = taken_apart(data)
    assert volumes == [] and skeleton.files[0].segments == (Literal(data),)


def with_header(text: bytes, version: int = 1) -> bytes:
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


GOOD = b"{'descr': '<i2', 'fortran_order': False, 'shape': (2,)}"
LIES = {
    "objects": with_header(GOOD.replace(b"<i2", b"|O")),
    "a type that is none": with_header(GOOD.replace(b"<i2", b"<i2; import os")),
    "code": with_header(b"__import__('os').abort()"),
    "other fields": with_header(GOOD.replace(b"shape", b"shade")),
    "negative axis": with_header(GOOD.replace(b"(2,)", b"(-2, -1)")),
    "true as axis": with_header(GOOD.replace(b"(2,)", b"(True,)")),
    "10^12 samples": with_header(GOOD.replace(b"(2,)", b"(1000000000000,)")),
    "too short": with_header(GOOD) + b"abc",
    "deep nesting": with_header(b"(" * 60_000),
    "deep sign": with_header(b"-" * 60_000 + b"1"),
    "header longer than the file": with_header(GOOD)[:40],
    "header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "version 9": with_header(GOOD).replace(b"\x01\x00", b"\x09\x00", 1),
    "not UTF-8": with_header(GOOD.replace(b"<i2", b"\xff\xfe"), version=3),
    "magic alone": b"\x93NUMPY",
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie_are_refused(lie: str) -> None:
    assert NpySource().detect(LIES[lie])
    with pytest.raises(UnsupportedInputError, match=r"a\.npy: expected"):
        taken_apart(LIES[lie])


@settings(deadline=None, max_examples=200)
@given(changes=st.lists(st.tuples(st.integers(6, 127), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_headers_are_refused_or_restored(changes: list[tuple[int, int]]) -> None:
    data = bytearray(npy(np.zeros((2, 3, 4), "i2")))
    for position, value in changes:
        data[position] = value
    try:
        taken_apart(bytes(data))
    except UnsupportedInputError as error:
        assert "a.npy" in str(error)
