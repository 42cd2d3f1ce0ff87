"""DICOM files with encapsulated pixel data, and compressed streams, for tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from test_sources_dicom import element

Samples = NDArray[Any]

RLE, JPEG_BASELINE, JPEG_LOSSLESS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70"
JPEG_LS, JPEG_2000, HTJ2K, JPEG_XL = (f"1.2.840.10008.1.2.4.{number}" for number in (80, 90, 201, 110))
END = bytes.fromhex("feffdde000000000")


def item(value: bytes) -> bytes:
    return bytes.fromhex("feff00e0") + struct.pack("<I", len(value)) + value


def encapsulated(
    frames: Sequence[Sequence[bytes]],
    samples: Samples,
    syntax: str,
    *,
    offsets: bool = False,
    after: bytes = END,
    photometric: str = "",
    texts: dict[int, tuple[str, str]] | None = None,
    meta_length: bool = False,
) -> bytes:
    """A file whose frames, each a list of fragments, are compressed `samples` (rows, columns[, 3]), of which the header tells.

    `offsets` fills the basic offset table, `after` stands behind the last item.
    """
    colours = samples.shape[2] if samples.ndim == 3 else 1
    photometric = photometric or ("RGB" if colours == 3 else "MONOCHROME2")
    numbers = {0x00280002: colours, 0x00280010: samples.shape[0], 0x00280011: samples.shape[1]}
    numbers |= {0x00280100: samples.itemsize * 8, 0x00280103: int(samples.dtype.kind == "i")}
    values = {tag: ("US", struct.pack("<H", number)) for tag, number in numbers.items()}
    values |= {0x00280004: ("CS", photometric.encode()), 0x00280008: ("IS", str(len(frames)).encode())}
    values |= {0x00280006: ("US", b"\0\0")} if colours == 3 else {}
    values |= {tag: (kind, text.encode()) for tag, (kind, text) in (texts or {}).items()}
    body = b"".join(element(tag, kind, value) for tag, (kind, value) in sorted(values.items()))
    meta = element(0x00020010, "UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    if meta_length:
        meta = element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta
    coded = [b"".join(map(item, fragments)) for fragments in frames]
    places = np.cumsum([0, *map(len, coded)])[:-1].astype("<u4").tobytes() if offsets else b""
    pixels = element(0x7FE00010, "OB", b"", length=0xFFFFFFFF) + item(places) + b"".join(coded)
    return bytes(128) + b"DICM" + meta + body + pixels + after


def image(shape: tuple[int, ...], dtype: str = "u2", most: int = 4095, seed: int = 3) -> Samples:
    """Samples (rows, columns[, 3]) with edges, flat parts and noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    samples = (rows * 3 + columns * 2 + random.integers(0, 5, shape[:2])) * (columns > shape[1] // 4)
    samples = np.where(rows % 7 == 3, random.integers(0, most + 1, shape[:2]), samples) % (most + 1)
    if len(shape) == 3:
        samples = np.stack([samples, samples * 2 % (most + 1), samples // 3], axis=-1)
    return samples.astype(dtype)


def photograph(seed: int = 0) -> Samples:
    """Samples (160, 200, 3) of the kind that JPEG is for."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:160, :200]
    waves = [100 * np.sin(columns / (9 + c) + seed) * np.cos(rows / (7 + c)) + random.normal(0, 3, rows.shape) for c in range(3)]
    return (128 + np.stack(waves, axis=-1)).clip(0, 255).astype("u1")


def packbits(data: bytes, random: np.random.Generator) -> bytes:
    """RLE of PS3.5 annex G by an encoder that ends its runs wherever it likes, and writes nothing now and then."""
    packed, position = bytearray(), 0
    while position < len(data):
        alike = 1
        while alike < 128 and data[position + alike : position + alike + 1] == data[position : position + 1]:
            alike += 1
        kind = random.integers(0, 8)
        if kind == 0:
            packed.append(128)
        elif alike > 1 and kind > 2:
            length = int(random.integers(2, alike + 1))
            packed += bytes([257 - length, data[position]])
            position += length
        else:
            length = min(int(random.integers(1, 129)), len(data) - position)
            packed += bytes([length - 1]) + data[position : position + length]
            position += length
    return bytes(packed)


def rle(samples: Samples, random: np.random.Generator) -> bytes:
    """A frame in RLE lossless by `packbits`."""
    words = np.ascontiguousarray(samples, samples.dtype.newbyteorder(">")).view(np.uint8)
    planes = words.reshape(samples.shape[0] * samples.shape[1], -1).T
    segments = [packbits(plane.tobytes(), random) for plane in planes]
    segments = [segment + bytes(len(segment) % 2) for segment in segments]
    offsets = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(segments)
