"""Make the golden archives that are missing: `python tools/make_golden.py`. See tests/golden/README.md: none is ever replaced."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from medzip import pipeline
from medzip.entropy_model.pixel import adaptation_fit

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
Samples = NDArray[Any]


def noise(shape: tuple[int, ...], top: int) -> Samples:
    data = hashlib.shake_128(b"medzip").digest(4 * int(np.prod(shape)))
    numbers: Samples = np.frombuffer(data, "<u4") % top
    return numbers.astype(np.int64).reshape(shape)


def smooth(shape: tuple[int, ...]) -> Samples:
    steps = noise(shape, 7) - 3
    walk = steps.cumsum(axis=1).cumsum(axis=2)
    return walk - walk.min()


def npy(samples: Samples) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, samples)
    return buffer.getvalue()


def nifti(samples: Samples) -> bytes:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *samples.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 0.5, 0.5, 3, 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    struct.pack_into("<2h", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, 0.5, 0, 0, -10, 0, 0.5, 0, 20, 0, 0, 3, 30)
    header[344:348] = b"n+1\0"
    return bytes(header) + samples.astype("<i2").tobytes()


def fine(shape: tuple[int, ...], top: int) -> Samples:
    """Bell-shaped noise of 0 to top - 1."""
    data = hashlib.shake_128(b"fine").digest(8 * int(np.prod(shape)))
    sums: Samples = np.frombuffer(data, "<u2").reshape(*shape, 4).astype(np.int64).sum(axis=-1)
    return sums * top >> 18


def body(*shape: int) -> Samples:
    """Something round in air."""
    z, y, x = np.mgrid[tuple(map(slice, shape))]
    _, rows, columns = shape
    inside = 5 * (((2 * y - rows) * columns) ** 2 + ((2 * x - columns) * rows) ** 2) < 4 * (rows * columns) ** 2
    return np.where(inside, (7 * x * x + 3 * y * y + 2 * x * y + 40 * z) // 16 + fine(shape, 24), fine(shape, 6) - 1000)


def two_levels(*shape: int) -> Samples:
    """A slope on which every sample is raised, or is not: what the shipped weights do not expect."""
    z, y, x = np.mgrid[tuple(map(slice, shape))]
    slope: Samples = (5 * x * x + 3 * y * y + 30 * z) // 4
    return slope + 60 * noise(shape, 2) + fine(shape, 8)


def ridges(*shape: int) -> Samples:
    z, y, x = np.mgrid[tuple(map(slice, shape))]
    slopes: Samples = 4 * abs(x % 128 - 64) + 3 * y + 10 * z
    return slopes + fine(shape, 24)


def element(tag: int, kind: str, value: bytes, length: int | None = None) -> bytes:
    value = value + (b"\0" if kind in ("UI", "OB") else b" ") * (len(value) % 2)
    size = len(value) if length is None else length
    wide = struct.pack("<2sHI", kind.encode(), 0, size) if kind in ("OB", "OW") else struct.pack("<2sH", kind.encode(), size)
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + wide + value


def dicom(samples: Samples, number: int, syntax: bytes, pixels: bytes) -> bytes:
    """A CT slice (rows, columns) without a name."""
    values = {
        0x00080016: ("UI", b"1.2.840.10008.5.1.4.1.1.2"),
        0x00080018: ("UI", b"1.2.3.4.%d" % number),
        0x00080060: ("CS", b"CT"),
        0x0020000E: ("UI", b"1.2.3.4"),
        0x00200013: ("IS", b"%d" % number),
        0x00200032: ("DS", b"0\\0\\%d" % (5 * number)),
        0x00200037: ("DS", b"1\\0\\0\\0\\1\\0"),
        0x00280002: ("US", struct.pack("<H", 1)),
        0x00280004: ("CS", b"MONOCHROME2"),
        0x00280010: ("US", struct.pack("<H", samples.shape[0])),
        0x00280011: ("US", struct.pack("<H", samples.shape[1])),
        0x00280100: ("US", struct.pack("<H", 16)),
        0x00280101: ("US", struct.pack("<H", 16)),
        0x00280102: ("US", struct.pack("<H", 15)),
        0x00280103: ("US", struct.pack("<H", 1)),
    }
    meta = element(0x00020010, "UI", syntax)
    meta = element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta
    return bytes(128) + b"DICM" + meta + b"".join(element(tag, *value) for tag, value in values.items()) + pixels


def native(samples: Samples, number: int) -> bytes:
    pixels = element(0x7FE00010, "OW", samples.astype("<i2").tobytes())
    return dicom(samples, number, b"1.2.840.10008.1.2.1", pixels)


def packbits(data: bytes) -> bytes:
    """Runs of two equal bytes and more, and single bytes in between."""
    packed, at = bytearray(), 0
    while at < len(data):
        alike = 1
        while alike < 128 and data[at + alike : at + alike + 1] == data[at : at + 1]:
            alike += 1
        packed += bytes([257 - alike if alike > 1 else 0, data[at]])
        at += alike
    return bytes(packed) + b"\0" * (len(packed) % 2)


def run_length(samples: Samples, number: int) -> bytes:
    """A slice in RLE."""
    octets = samples.astype("<i2").view("u1")
    parts = [packbits(octets[:, byte::2].tobytes()) for byte in (1, 0)]
    frame = struct.pack("<3I", 2, 64, 64 + len(parts[0])).ljust(64, b"\0") + b"".join(parts)
    items = [bytes.fromhex("feff00e0") + struct.pack("<I", len(value)) + value for value in (b"", frame)]
    pixels = element(0x7FE00010, "OB", b"", 0xFFFFFFFF) + b"".join(items) + bytes.fromhex("feffdde000000000")
    return dicom(samples, number, b"1.2.840.10008.1.2.5", pixels)


def encapsulated(samples: Samples, number: int, syntax: bytes, stream: bytes) -> bytes:
    """A slice in a compressed transfer syntax, in one fragment."""
    fragments = (b"", stream + b"\0" * (len(stream) % 2))
    items = [bytes.fromhex("feff00e0") + struct.pack("<I", len(value)) + value for value in fragments]
    pixels = element(0x7FE00010, "OB", b"", 0xFFFFFFFF) + b"".join(items) + bytes.fromhex("feffdde000000000")
    return dicom(samples, number, syntax, pixels)


def jpegs(samples: Samples) -> dict[str, dict[str, bytes]]:
    """The same slices (slices, rows, columns), 0 to 4095, in lossless JPEG, and in JPEG-LS without loss and with some."""
    words = samples.astype("<u2")
    lossless = [imagecodecs.jpeg8_encode(one, lossless=True, predictor=1 + z, bitspersample=12) for z, one in enumerate(words)]
    ls = [imagecodecs.jpegls_encode(one, level=z % 2) for z, one in enumerate(words)]
    syntaxes = {"jpeg_lossless": (b"1.2.840.10008.1.2.4.57", lossless), "jpeg_ls": (b"1.2.840.10008.1.2.4.81", ls)}
    return {
        name: {f"{z}.dcm": encapsulated(words[z], z, syntax, stream) for z, stream in enumerate(streams)}
        for name, (syntax, streams) in syntaxes.items()
    }


def packed(samples: Samples) -> dict[str, bytes]:
    """A .npz of two arrays: deflate streams near each other."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, one=samples.astype("<i2"), two=samples.astype("<i4") * 3)
    return {"two.npz": buffer.getvalue()}


def golden() -> dict[str, tuple[str, dict[str, bytes]]]:
    """Preset and files of each archive."""
    ct, comb, long = body(4, 20, 22), 13 * body(4, 20, 22), body(24, 6, 8)
    k_space = body(4, 16, 12) * 0.5 + 1j * two_levels(4, 16, 12)
    return {
        "pixel_ct": ("default", {"scan.nii": nifti(body(6, 32, 28))}),
        "pixel_8bit": ("default", {"scan.npy": npy((body(5, 24, 27) // 8 + 125).clip(0, 255).astype("u1"))}),
        "pixel_rgb": ("default", {"frames.npy": npy((smooth((3, 16, 54)) % 256).reshape(3, 16, 18, 3).astype("u1"))}),
        "pixel_series": ("default", {f"{'dcab'[z]}.dcm": native(ct[z], z + 1) for z in range(4)}),
        "columns": ("default", {f"{z:02}.dcm": native(long[z], 24 - z) for z in range(24)}),
        "pixel_fast": ("fast", {"scan.npy": npy((body(6, 32, 28) + 1000).astype("<u2"))}),
        "pixel_max": ("max", {"scan.npy": npy(two_levels(6, 40, 40).astype("<u2"))}),
        "pixel_wide": ("default", {"scan.npy": npy(ridges(5, 2, 512).astype("<u2"))}),
        "levels": ("default", {"comb.npy": npy(comb.astype("<i4"))}),
        "complex": ("default", {"k_space.npy": npy(k_space.astype("<c8"))}),
        "rle": ("default", {"slice.dcm": run_length(ct[0], 1)}),
        "gzip": ("default", {"scan.nii.gz": gzip.compress(nifti(body(6, 32, 28)), mtime=0)}),
        "npz": ("default", packed(body(6, 24, 20))),
        **{name: ("default", files) for name, files in jpegs(body(4, 20, 22) + 1000).items()},
        "llm": ("llm", {"scan.npy": npy((body(3, 30, 31) + 1000).astype("<u2"))}),
    }


def make(target: Path, preset: str, files: dict[str, bytes]) -> dict[str, Any]:
    """The archive, and what contents.json says of it."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.mkdir()
        for file, data in files.items():
            Path(source, file).write_bytes(data)
        [made] = pipeline.compress(source if len(files) > 1 else Path(source, *files), Path(folder, "made"), preset=preset)
        shutil.copyfile(made.archive, target)
    hashes = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    return {"sha256": hashlib.sha256(target.read_bytes()).hexdigest(), "chunks": made.chunks, "files": hashes}


def main() -> None:
    adaptation_fit.SAMPLES_MIN = 0  # for `max`: otherwise only larger chunks may have an adapter
    record = GOLDEN / "contents.json"
    contents = json.loads(record.read_text())
    for name, (preset, files) in golden().items():
        target = GOLDEN / f"v1_0_{name}.mdz"
        if not target.exists():
            contents[target.name] = make(target, preset, files)
            print(target.name, contents[target.name]["chunks"], target.stat().st_size, "bytes")
    record.write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main()
