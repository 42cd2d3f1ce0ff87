"""JPEG XL in pydicom: what it writes it reads, and so it does what other encoders write."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian

from medzip import pydicom_plugin

ROOT = Path(__file__).resolve().parents[1]
pydicom_plugin.register()


def dataset(samples: np.ndarray, stored: int, photometric: str = "MONOCHROME2") -> pydicom.Dataset:
    """A native dataset of samples (frames, rows, columns[, 3])."""
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    made.NumberOfFrames, made.Rows, made.Columns = samples.shape[:3]
    made.SamplesPerPixel = 3 if samples.ndim == 4 else 1
    made.PhotometricInterpretation = photometric
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * samples.dtype.itemsize, stored, stored - 1
    made.PixelRepresentation = int(samples.dtype.kind == "i")
    if samples.ndim == 4:
        made.PlanarConfiguration = 0
    data = samples.tobytes()
    made.PixelData = data + bytes(len(data) % 2)
    made["PixelData"].VR = "OW"
    return made


def read_back(compressed: pydicom.Dataset) -> pydicom.Dataset:
    buffer = io.BytesIO()
    compressed.save_as(buffer, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(["u1", "i1", "u2", "i2"]),
    stored=st.integers(1, 16),
    colour=st.booleans(),
    frames=st.integers(1, 3),
    syntax=st.sampled_from([pydicom_plugin.LOSSLESS, pydicom_plugin.JPEG_XL]),
    seed=st.integers(0, 99),
)
def test_pixels_come_back(dtype: str, stored: int, colour: bool, frames: int, syntax: str, seed: int) -> None:
    kind = np.dtype(dtype if not colour else dtype.replace("i", "u"))
    stored = min(stored, 8 * kind.itemsize)
    low, high = (-(1 << (stored - 1)), 1 << (stored - 1)) if kind.kind == "i" else (0, 1 << stored)
    shape = (frames, 5, 7, 3) if colour else (frames, 5, 7)
    samples = np.random.default_rng(seed).integers(low, high, shape).astype(kind)
    made = dataset(samples, stored, "RGB" if colour else "MONOCHROME2")
    expected = made.pixel_array
    made.compress(syntax, generate_instance_uid=False)
    found = read_back(made)
    assert found.file_meta.TransferSyntaxUID == syntax
    assert found.pixel_array.dtype == expected.dtype
    np.testing.assert_array_equal(found.pixel_array, expected)
    np.testing.assert_array_equal(expected.reshape(samples.shape), samples)
    found.decompress(generate_instance_uid=False)
    np.testing.assert_array_equal(found.pixel_array, expected)


@settings(deadline=None, max_examples=40)
@given(stored=st.integers(1, 16), signed=st.booleans(), dirty=st.booleans(), wide=st.booleans(), seed=st.integers(0, 99))
def test_every_bit_of_the_words_is_coded(stored: int, signed: bool, dirty: bool, wide: bool, seed: int) -> None:
    bits = 16 if wide else 8
    stored = min(stored, bits)
    words = np.random.default_rng(seed).integers(0, 1 << (bits if dirty else stored), (9, 11)).astype(f"u{bits // 8}")
    if signed and not dirty:
        words = ((words << (bits - stored)).view(f"i{bits // 8}") >> (bits - stored)).view(words.dtype)
    found = imagecodecs.jpegxl_decode(pydicom_plugin.encoded(words, stored, signed=signed)).astype(words.dtype)
    kept = words.dtype.type((1 << stored) - 1)
    np.testing.assert_array_equal(found & kept, words & kept)
    if dirty and int(words.max()) >> stored and not signed:
        np.testing.assert_array_equal(found, words)


def test_planar_colours_become_interleaved() -> None:
    samples = np.random.default_rng(1).integers(0, 256, (2, 5, 7, 3)).astype("u1")
    made = dataset(samples, 8, "RGB")
    made.PixelData = np.ascontiguousarray(np.moveaxis(samples, -1, 1)).tobytes()
    made.PlanarConfiguration = 1
    np.testing.assert_array_equal(made.pixel_array, samples)
    made.compress(pydicom_plugin.LOSSLESS)
    np.testing.assert_array_equal(read_back(made).pixel_array, samples)


def test_ybr_is_converted_as_it_is_without_compression() -> None:
    made = dataset(np.random.default_rng(1).integers(0, 256, (1, 5, 7, 3)).astype("u1"), 8, "YBR_FULL")
    expected = made.pixel_array
    made.compress(pydicom_plugin.LOSSLESS)
    np.testing.assert_array_equal(read_back(made).pixel_array, expected)


def encapsulated(made: pydicom.Dataset, streams: list[bytes], syntax: str) -> pydicom.Dataset:
    made.PixelData = encapsulate(streams)
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    made.file_meta.TransferSyntaxUID = syntax
    return read_back(made)


def netpbm(frame: np.ndarray) -> bytes:
    """PGM or PPM; of more than 8 bits with all 16, for cjxl 0.7 scales what has another maximum."""
    kind, maximum = b"P6" if frame.ndim == 3 else b"P5", 255 if frame.dtype.itemsize == 1 else 65535
    return b"%s\n%d %d\n%d\n" % (kind, *frame.shape[1::-1], maximum) + frame.astype(frame.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    ("dtype", "stored", "colour"), [("u1", 8, False), ("u2", 16, False), ("u2", 12, False), ("i2", 16, False), ("u1", 8, True)]
)
@pytest.mark.parametrize("frames", [1, 2])
def test_files_of_cjxl_are_read(tmp_path: Path, dtype: str, stored: int, colour: bool, frames: int) -> None:
    if not shutil.which("cjxl"):
        pytest.skip("cjxl (libjxl-tools) is not installed here")
    low, high = (-(1 << (stored - 1)), 1 << (stored - 1)) if dtype[0] == "i" else (0, 1 << stored)
    shape = (frames, 40, 50, 3) if colour else (frames, 40, 50)
    samples = np.random.default_rng(3).integers(low, high, shape).astype(dtype)
    streams = []
    for frame in samples.view(dtype.replace("i", "u")):
        (tmp_path / "frame.pnm").write_bytes(netpbm(frame))
        call = ["cjxl", "frame.pnm", "frame.jxl", "-d", "0", "-e", "7", "--quiet"]
        subprocess.run(call, cwd=tmp_path, check=True, capture_output=True)
        streams.append((tmp_path / "frame.jxl").read_bytes())
    made = dataset(samples, stored, "RGB" if colour else "MONOCHROME2")
    found = encapsulated(made, streams, pydicom_plugin.LOSSLESS)
    np.testing.assert_array_equal(found.pixel_array.reshape(samples.shape), samples)


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "XYB", "RGB"])
def test_colours_that_are_lossy_inside_are_given_as_rgb(photometric: str) -> None:
    ramp = np.linspace(0, 255, 40 * 50 * 3).reshape(40, 50, 3).astype("u1")
    if photometric == "YBR_FULL_422":
        jpeg = imagecodecs.jpeg8_encode(ramp, level=90)
        stream, syntax = imagecodecs.jpegxl_encode_jpeg(jpeg, numthreads=1), pydicom_plugin.JPEG_RECOMPRESSION
        assert imagecodecs.jpegxl_decode_jpeg(stream) == jpeg
    else:
        stream, syntax = imagecodecs.jpegxl_encode(ramp, distance=1, effort=7, numthreads=1), pydicom_plugin.JPEG_XL
    found = encapsulated(dataset(ramp[None], 8, photometric), [bytes(stream)], syntax)
    assert np.abs(found.pixel_array.astype(int) - ramp).mean() < 3


@pytest.mark.parametrize("stream", [b"", b"\xff\x0a", b"no codestream", bytes(pydicom_plugin.encoded(np.zeros((4, 4), "u1"), 8))])
def test_bad_codestreams_are_errors(stream: bytes) -> None:
    made = dataset(np.zeros((1, 5, 7), "u1"), 8)
    with pytest.raises((ValueError, RuntimeError)):
        _ = encapsulated(made, [stream], pydicom_plugin.LOSSLESS).pixel_array


def test_what_jpeg_xl_has_no_place_for_is_refused() -> None:
    with pytest.raises(ValueError, match="JPEG XL"):
        dataset(np.zeros((1, 5, 7), "u4"), 32).compress(pydicom_plugin.LOSSLESS)
    with pytest.raises(ValueError, match="8 or 16"):
        pydicom_plugin.encoded(np.zeros((5, 7), "i2"), 16)
    # pydicom's word for a transfer syntax that no plugin writes.
    with pytest.raises(NotImplementedError):
        dataset(np.zeros((1, 5, 7), "u1"), 8).compress(pydicom_plugin.JPEG_RECOMPRESSION)


def test_the_file_works_alone_and_can_be_registered_twice(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_bytes((ROOT / "medzip" / "pydicom_plugin.py").read_bytes())
    made = dataset(np.arange(35, dtype="u1").reshape(1, 5, 7), 8)
    made.compress(pydicom_plugin.LOSSLESS)
    made.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    code = "import alone, pydicom, sys; alone.register(); alone.register(); print(pydicom.dcmread('image.dcm').pixel_array.sum())"
    code += "; assert 'medzip' not in sys.modules"
    call: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "text": True, "check": True}
    assert subprocess.run([sys.executable, "-c", code], **call).stdout.split() == [str(sum(range(35)))]
