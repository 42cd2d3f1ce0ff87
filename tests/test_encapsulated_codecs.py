"""Codecs of encapsulated frames: what they decode is what the standards say, and what they encode are the very same bytes."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from encapsulated_files import image, rle
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels.encoders.base import EncodeRunner
from pydicom.pixels.encoders.native import _encode_frame as pydicom_rle
from pydicom.uid import RLELossless

from medzip.errors import ArchiveDamagedError
from medzip.sources.encapsulated.contract import Layout, NotReproducibleError, RecipeWriter, Samples
from medzip.sources.encapsulated.frames import CODECS

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import unmdz

ROOT = Path(__file__).resolve().parents[1]
LARGE = 1 << 12
"""Samples from which on the second decoder is too slow for a test."""


def layout_of(samples: Samples) -> Layout:
    return Layout(samples.shape[0], samples.shape[1], 3 if samples.ndim == 3 else 1, samples.dtype)


def assert_made_again(codec: str, stream: bytes, expected: Samples) -> bytes:
    """Decodes a stream, compares samples and the stream that medzip and unmdz make of them, and gives the recipe."""
    samples, recipe = CODECS[codec].decode(stream, layout_of(expected))
    assert samples is not None and samples.dtype == expected.dtype
    np.testing.assert_array_equal(samples, expected)
    assert CODECS[codec].encode(samples, recipe) == stream
    if samples.size < LARGE or codec == "rle":
        channels = np.moveaxis(samples.reshape(*samples.shape[:2], -1), -1, 0)
        assert unmdz.CODECS[codec](unmdz.Cursor(recipe, "a recipe"), channels) == stream
    return recipe


@settings(deadline=None, max_examples=40)
@given(
    shape=st.sampled_from([(1, 1), (7, 5), (3, 300), (20, 17, 3)]),
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "u4"]),
    seed=st.integers(0, 999),
)
def test_rle_comes_back_wherever_an_encoder_ends_its_runs(shape: tuple[int, ...], dtype: str, seed: int) -> None:
    samples = image(shape, dtype, most=127, seed=seed)
    assert_made_again("rle", rle(samples, np.random.default_rng(seed)), samples)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_a_usual_rle_encoder_costs_next_to_nothing(dtype: str) -> None:
    samples = image((200, 310), dtype, most=255)
    runner = EncodeRunner(RLELossless)
    runner.set_options(
        rows=200, columns=310, samples_per_pixel=1, number_of_frames=1, pixel_representation=0, bits_stored=samples.itemsize * 8,
        bits_allocated=samples.itemsize * 8, photometric_interpretation="MONOCHROME2",
    )  # fmt: skip
    runner.set_source(samples)
    recipe = assert_made_again("rle", pydicom_rle(samples.tobytes(), runner), samples)
    assert len(recipe) < 20


@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless_jpeg_of_another_encoder_comes_back(predictor: int) -> None:
    for samples, bits in ((image((19, 31)), 12), (image((19, 31, 3), "u1", 255), 8), (image((5, 40), most=65535), 16)):
        stream = imagecodecs.jpeg8_encode(samples, lossless=True, predictor=predictor, bitspersample=bits)
        assert len(assert_made_again("jpeg_lossless", stream, samples)) < 300


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(payload)) + payload


def frame(marker: int, bits: int, shape: tuple[int, ...]) -> bytes:
    """Start of image and frame header, of components numbered from 0."""
    channels = shape[2] if len(shape) == 3 else 1
    return b"\xff\xd8" + segment(marker, struct.pack(">BHHB", bits, *shape[:2], channels) + b"".join(
        bytes([c, 0x11, 0]) for c in range(channels)))  # fmt: skip


def scan_header(components: range, parameters: tuple[int, int, int]) -> bytes:
    return segment(0xDA, bytes([len(components)]) + b"".join(bytes([c, 0]) for c in components) + bytes(parameters))


Head = Callable[[tuple[int, ...]], bytes]
EOI = b"\xff\xd9"


def coded(
    codec: str, samples: Samples, head: Head, parameters: tuple[int, int, int], decode: Callable[[bytes], Samples]
) -> bytes:
    """The coded data of one scan, behind `head` of the shape of `samples`, proved by another decoder.

    The codecs here leave the last byte of a scan to the recipe. Of an image with more rows it is part of the coded data; its
    bits of the rows too many are made zeros until that decoder takes them.
    """
    taller, made = np.concatenate([samples, samples[::-1], samples]), []
    for size in (samples, taller):
        begin = head(size.shape) + scan_header(range(size.shape[2] if size.ndim == 3 else 1), parameters)
        recipe = RecipeWriter()
        for number in (1, 1) if codec == "jpeg_lossless" else (1,):
            recipe.number(number)
        recipe.block(begin)
        if codec == "jpeg_ls":
            recipe.number(0)
        recipe.block(b"")
        made.append(CODECS[codec].encode(size, recipe.finish())[len(begin) :])
    begin = head(samples.shape) + scan_header(range(samples.shape[2] if samples.ndim == 3 else 1), parameters)
    last = made[1][len(made[0])] if len(made[1]) > len(made[0]) else 0
    for end in (*(bytes([last & 256 - (1 << zeros)]) for zeros in range(8)), b""):
        with contextlib.suppress(imagecodecs.JpeglsError, imagecodecs.Jpeg8Error):
            if np.array_equal(decode(begin + made[0] + end + EOI), samples):
                return made[0] + end
    pytest.fail("the other decoder does not see the samples")


def stream_of(
    codec: str, samples: Samples, head: Head, parameters: tuple[int, int, int], together: bool, decode: Callable[[bytes], Samples]
) -> bytes:
    """A stream with headers that no usual encoder writes: `head` of its shape, then a scan of all components or of each."""
    channels = samples.shape[2] if samples.ndim == 3 else 1
    scans = [samples] if together or channels == 1 else [samples[..., c] for c in range(channels)]
    data = [coded(codec, part, head, parameters, decode) for part in scans]
    width = channels // len(scans)
    headers = [scan_header(range(c * width, c * width + width), parameters) for c in range(len(scans))]
    return head(samples.shape) + b"".join(header + part for header, part in zip(headers, data, strict=True)) + EOI


@pytest.mark.parametrize(("shift", "rows", "together"), [(0, 0, True), (0, 1, True), (2, 0, True), (1, 2, False), (0, 3, False)])
@pytest.mark.parametrize("shape", [(19, 31), (6, 33, 3)])
@pytest.mark.parametrize("predictor", [1, 4, 7])
def test_lossless_jpeg_with_restarts_and_point_transform_is_that_of_the_standard(
    shape: tuple[int, ...], shift: int, rows: int, together: bool, predictor: int
) -> None:
    bits = 8 if len(shape) == 3 else 12
    samples = image(shape, "u1" if bits == 8 else "u2", (1 << bits) - 1) >> shift << shift
    table = bytes([0, 0, 0, 0, 15, 2, *[0] * 11, *range(17)])

    def head(shape: tuple[int, ...]) -> bytes:
        restarts = segment(0xDD, struct.pack(">H", rows * shape[1])) if rows else b""
        return frame(0xC3, bits, shape) + segment(0xC4, table) + restarts

    stream = stream_of("jpeg_lossless", samples, head, (predictor, 0, shift), together, imagecodecs.jpeg8_decode)
    np.testing.assert_array_equal(imagecodecs.jpeg8_decode(stream), samples)
    assert_made_again("jpeg_lossless", stream, samples)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.sampled_from([(1, 1), (2, 1), (1, 9), (23, 37), (9, 8, 3)]),
    most=st.sampled_from([255, 4095, 65535]),
    near=st.sampled_from([0, 0, 1, 3, 9]),
    seed=st.integers(0, 999),
)
def test_jpeg_ls_of_charls_comes_back_lossless_and_near_lossless(shape: tuple[int, ...], most: int, near: int, seed: int) -> None:
    most = 255 if len(shape) == 3 else most
    samples = image(shape, "u1" if most == 255 else "u2", most, seed)
    stream = imagecodecs.jpegls_encode(samples, level=near)
    decoded = imagecodecs.jpegls_decode(stream).reshape(shape)
    assert near or (decoded == samples).all()
    assert_made_again("jpeg_ls", stream, decoded)


@pytest.mark.parametrize("interleave", [0, 1, 2])
@pytest.mark.parametrize("preset", [(0, 0, 0, 0, 0), (255, 4, 9, 30, 64), (0, 3, 8, 0, 31)])
def test_charls_decodes_what_is_encoded_in_all_interleave_modes(interleave: int, preset: tuple[int, ...]) -> None:
    samples = image((21, 18, 3), "u1", 200)

    def head(shape: tuple[int, ...]) -> bytes:
        return frame(0xF7, 8, shape) + segment(0xF8, struct.pack(">B5H", 1, *preset))

    if preset[4] == 31 and interleave == 2:
        pytest.skip("CharLS takes no such stream, so it is kept")
    stream = stream_of("jpeg_ls", samples, head, (0, interleave, 0), bool(interleave), imagecodecs.jpegls_decode)
    np.testing.assert_array_equal(imagecodecs.jpegls_decode(stream), samples)
    assert_made_again("jpeg_ls", stream, samples)


def test_exceptions_that_go_back_are_kept_as_they_were_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of several components take turns, so a pixel of the second may lie before one of the first."""
    from medzip.sources.encapsulated import jpeg_ls_loops

    samples = image((6, 40))
    stream, decode = imagecodecs.jpegls_encode(samples, level=2), jpeg_ls_loops.decode_scan
    decoded = imagecodecs.jpegls_decode(stream)
    assert_made_again("jpeg_ls", stream, decoded)
    monkeypatch.setattr(jpeg_ls_loops, "decode_scan", lambda *scan: (decode(*scan)[0], [7, 3]))
    with pytest.raises(NotReproducibleError):
        CODECS["jpeg_ls"].decode(stream, layout_of(decoded))


def test_signed_samples_have_their_sign() -> None:
    samples = np.array([[-2048, -1, 0], [5, 2047, -7]], "i2")
    stream = imagecodecs.jpeg8_encode((samples & 4095).astype("u2"), lossless=True, predictor=1, bitspersample=12)
    assert_made_again("jpeg_lossless", stream, samples)


def test_a_jpeg_comes_back_from_jpeg_xl_and_is_smaller() -> None:
    samples = image((64, 80, 3), "u1", 255)
    stream = imagecodecs.jpeg8_encode(samples, level=85) + b"\0"
    nothing, recipe = CODECS["jpeg_xl"].decode(stream, layout_of(samples))
    assert nothing is None and len(recipe) < len(stream)
    assert CODECS["jpeg_xl"].encode(None, recipe) == stream


def streams() -> dict[str, tuple[bytes, Samples]]:
    samples, colours = image((12, 17)), image((12, 17, 3), "u1", 255)
    return {
        "rle": (rle(samples, np.random.default_rng(1)), samples),
        "jpeg_lossless": (imagecodecs.jpeg8_encode(samples, lossless=True, predictor=5, bitspersample=12), samples),
        "jpeg_ls": (
            imagecodecs.jpegls_encode(colours, level=2),
            imagecodecs.jpegls_decode(imagecodecs.jpegls_encode(colours, level=2)),
        ),
        "jpeg_xl": (imagecodecs.jpeg8_encode(colours), colours),
    }


@settings(deadline=None, max_examples=150)
@given(
    codec=st.sampled_from(["rle", "jpeg_lossless", "jpeg_ls"]),
    place=st.integers(0, 10_000),
    value=st.integers(0, 255),
    cut=st.booleans(),
)
def test_a_broken_stream_is_refused_or_made_again(codec: str, place: int, value: int, cut: bool) -> None:
    stream, samples = streams()[codec]
    place %= len(stream)
    stream = stream[:place] if cut else stream[:place] + bytes([value]) + stream[place + 1 :]
    try:
        decoded, recipe = CODECS[codec].decode(stream, layout_of(samples))
        made = CODECS[codec].encode(decoded, recipe)
    except (NotReproducibleError, ArchiveDamagedError):
        return
    assert abs(len(made) - len(stream)) <= len(stream)  # equal or not is for its caller to find out


@settings(deadline=None, max_examples=200)
@given(
    codec=st.sampled_from(["rle", "jpeg_lossless", "jpeg_ls", "jpeg_xl"]),
    place=st.integers(0, 10_000),
    value=st.integers(0, 255),
    cut=st.booleans(),
)
def test_a_broken_recipe_is_damage_or_gives_other_bytes(codec: str, place: int, value: int, cut: bool) -> None:
    stream, samples = streams()[codec]
    decoded, recipe = CODECS[codec].decode(stream, layout_of(samples))
    place %= len(recipe)
    recipe = recipe[:place] if cut else recipe[:place] + bytes([value]) + recipe[place + 1 :]
    with contextlib.suppress(ArchiveDamagedError):
        assert isinstance(CODECS[codec].encode(decoded, recipe), bytes)


@pytest.mark.parametrize("codec", ["rle", "jpeg_lossless", "jpeg_ls"])
def test_samples_that_do_not_fit_a_recipe_are_damage(codec: str) -> None:
    stream, samples = streams()[codec]
    decoded, recipe = CODECS[codec].decode(stream, layout_of(samples))
    assert decoded is not None
    for other in (None, decoded[:-1], decoded[:, :-1], np.stack([decoded] * 2)):
        with pytest.raises(ArchiveDamagedError):
            CODECS[codec].encode(other, recipe)


DIGEST = """
import hashlib, sys
sys.path.insert(0, "tests")
from test_encapsulated_codecs import CODECS, layout_of, streams
for codec, (stream, samples) in streams().items():
    decoded, recipe = CODECS[codec].decode(stream, layout_of(samples))
    assert CODECS[codec].encode(decoded, recipe) == stream
    print(codec, hashlib.sha256((b"" if decoded is None else decoded.tobytes()) + recipe).hexdigest())
"""


def test_plain_python_gives_the_same_as_compiled_loops() -> None:
    found = []
    for setting in ("0", "1"):
        environment = os.environ | {"NUMBA_DISABLE_JIT": setting, "PYTHONPATH": str(ROOT)}
        call = [sys.executable, "-c", DIGEST]
        found.append(subprocess.run(call, capture_output=True, text=True, check=True, env=environment, cwd=ROOT).stdout)
    assert found[0] == found[1] and found[0].count("\n") == 4
