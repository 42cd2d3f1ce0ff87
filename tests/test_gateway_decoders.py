"""What peers get that take no compressed pixels: the same samples, whatever they were stored in; and workers have limits."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="the gateway's extra is not installed")

import imagecodecs
from gateways import instance
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from medzip.archiving.pool import Died, Limits, Pool
from medzip.errors import UnsupportedInputError
from medzip.gateway import decoders
from medzip.gateway.headers import read

Words = NDArray[np.unsignedinteger]
JPEG2K, HTJ2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"


def image(samples: NDArray[np.integer], *, stored: int, photometric: str = "MONOCHROME2") -> Dataset:
    """An instance with these samples (rows, columns[, 3])."""
    made = instance(1)
    made.Rows, made.Columns = samples.shape[:2]
    made.BitsAllocated, made.BitsStored, made.HighBit = samples.dtype.itemsize * 8, stored, stored - 1
    made.PixelRepresentation = int(samples.dtype.kind == "i")
    made.SamplesPerPixel, made.PhotometricInterpretation = 3 if samples.ndim == 3 else 1, photometric
    if samples.ndim == 3:
        made.PlanarConfiguration = 0
    made.PixelData = samples.tobytes()
    return made


def compressed(made: Dataset, syntax: str, stream: bytes) -> Dataset:
    made.PixelData = encapsulate([stream])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    made.file_meta.TransferSyntaxUID = UID(syntax)
    return made


def converted(made: Dataset, folder: Path, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    made.save_as(folder / "in.dcm", enforce_file_format=True)
    decoders.convert(decoders.Converting(folder / "in.dcm", folder / "out.dcm", syntax), lambda *_: None)
    back = dcmread(folder / "out.dcm")
    assert back.file_meta.TransferSyntaxUID == syntax and back.SOPInstanceUID == made.SOPInstanceUID
    assert back.PatientName == made.PatientName and back[0x0009, 0x1001].value in ("private", b"private ")
    assert read(folder / "out.dcm").values == read(folder / "in.dcm").values
    return back


def cut(samples: NDArray[np.integer], stored: int) -> Words:
    """Words with nothing in the bits that are not stored, as lossless codecs take them."""
    words = samples.view(f"u{samples.dtype.itemsize}")
    return words & words.dtype.type((1 << stored) - 1)


@pytest.mark.parametrize(("dtype", "stored"), [("u1", 8), ("u2", 12), ("i2", 12), ("i2", 16), ("u2", 16)])
@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        ("1.2.840.10008.1.2.4.70", lambda words, stored: imagecodecs.ljpeg_encode(words, bitspersample=stored)),
        ("1.2.840.10008.1.2.4.80", lambda words, stored: imagecodecs.jpegls_encode(words)),  # noqa: ARG005, one signature
        (
            JPEG2K,
            lambda words, stored: imagecodecs.jpeg2k_encode(
                words, level=0, reversible=True, codecformat="j2k", bitspersample=stored
            ),
        ),
        (HTJ2K, lambda words, stored: imagecodecs.htj2k_encode(words, reversible=True)),  # noqa: ARG005, the same
    ],
    ids=["jpeg-lossless", "jpeg-ls", "jpeg-2000", "htj2k"],
)
def test_lossless_frames_come_back_as_they_were(
    tmp_path: Path, syntax: str, encode: Callable[[Words, int], bytes], dtype: str, stored: int
) -> None:
    noise = np.random.default_rng(3)
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if dtype[0] == "i" else (0, (1 << stored) - 1)
    samples = noise.integers(low, high, (16, 20), dtype, endpoint=True)
    made = image(samples, stored=stored)
    try:
        stream = bytes(encode(np.ascontiguousarray(cut(samples, stored)), stored))
    except Exception as error:  # what this build cannot make cannot be tried
        pytest.skip(f"imagecodecs does not encode this: {type(error).__name__}")
    back = converted(compressed(made, syntax, stream), tmp_path)
    assert np.array_equal(np.frombuffer(back.PixelData, samples.dtype).reshape(samples.shape), samples)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_lossy_colours_come_back_as_colours(tmp_path: Path, photometric: str) -> None:
    rows, columns = np.mgrid[:32, :40]
    colours = np.stack([rows * 6, columns * 5, 255 - rows * 4], -1).astype("u1")
    space = "rgb" if photometric == "RGB" else "ycbcr"
    subsampling = "422" if photometric.endswith("422") else "444"
    stream = imagecodecs.jpeg8_encode(colours, level=98, colorspace="rgb", outcolorspace=space, subsampling=subsampling)
    back = converted(compressed(image(colours, stored=8, photometric=photometric), "1.2.840.10008.1.2.4.50", stream), tmp_path)
    assert back.PhotometricInterpretation == "RGB"
    off = np.frombuffer(back.PixelData, "u1").reshape(colours.shape).astype(int) - colours
    assert np.abs(off).max() < 12


def test_run_lengths_colours_and_byte_orders_come_back(tmp_path: Path) -> None:
    colours = np.random.default_rng(4).integers(0, 256, (9, 11, 3), "u1")
    made = image(colours, stored=8, photometric="RGB")
    made.compress(RLELossless, generate_instance_uid=False)
    back = converted(made, tmp_path)
    assert np.array_equal(back.pixel_array, colours) and back.PhotometricInterpretation == "RGB"
    samples = np.random.default_rng(5).integers(-900, 900, (9, 11), "i2")
    big = image(samples.astype(">i2"), stored=16)
    big.PixelRepresentation = 1
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    big["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    big.save_as(buffer, implicit_vr=False, little_endian=False, enforce_file_format=True)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        back = converted(dcmread(io.BytesIO(buffer.getvalue())), tmp_path, syntax)
        assert back.PixelData == samples.tobytes() and np.array_equal(back.pixel_array, samples)


def test_frames_of_many_come_one_by_one(tmp_path: Path) -> None:
    frames = np.random.default_rng(6).integers(0, 4000, (4, 6, 8), "u2")
    made = image(frames[0], stored=12)
    made.NumberOfFrames, made.PixelData = 4, frames.tobytes()
    made.save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    made.PixelData = encapsulate([imagecodecs.jpegls_encode(frame) for frame in frames])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    made.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.80")
    made.save_as(tmp_path / "packed.dcm", enforce_file_format=True)
    for name in ("plain", "packed"):
        job = decoders.Framing(tmp_path / f"{name}.dcm", tmp_path / "frames", (3, 1), stored=False)
        assert decoders.frames(job, lambda *_: None) == [96, 96]
        assert (tmp_path / "frames").read_bytes() == frames[2].tobytes() + frames[0].tobytes()


@pytest.mark.parametrize("syntax", [JPEG2K, "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.50", "1.2.999"])
def test_what_cannot_be_decoded_is_no_file(tmp_path: Path, syntax: str) -> None:
    made = compressed(image(np.zeros((8, 8), "u2"), stored=16), syntax, b"\xff\xd8 nothing that decodes")
    made.save_as(tmp_path / "in.dcm", enforce_file_format=True, implicit_vr=False, little_endian=True)
    with pytest.raises(UnsupportedInputError):
        decoders.convert(decoders.Converting(tmp_path / "in.dcm", tmp_path / "out.dcm", ExplicitVRLittleEndian), lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["in.dcm"]


def hang(_job: object, _progress: object) -> None:
    time.sleep(600)


def devour(_job: object, _progress: object) -> int:
    return len(bytearray(1 << 33))


def ended(limits: Limits, work: Callable[..., object]) -> object:
    with Pool(1, limits) as pool:
        pool.submit(1, work, None)
        heard: list[tuple[int, object]] = []
        while not heard:
            heard = pool.wait(0.1)
    return heard[0][1]


def test_a_worker_that_hangs_or_devours_is_ended() -> None:
    assert isinstance(ended(Limits(silent_seconds=1), hang), Died)
    found = ended(Limits(memory_bytes=1 << 32), devour)
    assert getattr(found, "type", None) == "StorageError" and "memory" in getattr(found, "text", "")
