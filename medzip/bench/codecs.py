"""The codecs that medzip is compared with.

Byte codecs (gzip, zstd) code whole files. Voxel codecs code samples: image codecs slice by slice through imagecodecs, tomoz
and pcodec whole volumes. A part (slice or volume) that a codec refuses, or makes larger, is stored.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[Any]


@dataclass(frozen=True)
class ByteCodec:
    """Codes the bytes of a file."""

    name: str
    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes], bytes]


@dataclass(frozen=True)
class VoxelCodec:
    """Codes uint8 or uint16 samples (slices, rows, columns[, 3]), in parts.

    `encode_part` may raise RuntimeError or ValueError for what it cannot code. With `whole_volumes` a part is all samples of
    one colour, (slices, rows, columns), else one slice, (rows, columns[, 3]). `threads` parts are coded at a time.
    """

    name: str
    encode_part: Callable[[Samples], bytes | bytearray | memoryview]
    decode_part: Callable[[bytes], Samples]
    whole_volumes: bool = False
    threads: int = 1

    def encode(self, samples: Samples) -> list[bytes]:
        """The parts in order; one as long as its samples is stored, a coded one is shorter."""
        return self._each(self._smaller, self._parts(samples))

    def decode(self, coded: list[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Samples:
        """The samples of `encode`, (slices, rows, columns[, 3])."""
        samples = np.empty(shape, dtype)

        def restore(job: tuple[bytes, Samples]) -> None:
            data, part = job
            stored = len(data) == part.nbytes
            part[...] = (np.frombuffer(data, dtype) if stored else self.decode_part(data)).reshape(part.shape)

        self._each(restore, list(zip(coded, self._parts(samples), strict=True)))
        return samples

    def stored_share(self, coded: list[bytes], samples: Samples) -> float:
        """The share of the samples that is stored."""
        sizes = [part.nbytes for part in self._parts(samples)]
        return sum(size for data, size in zip(coded, sizes, strict=True) if len(data) == size) / samples.nbytes

    def _each(self, work: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
        if self.threads == 1:
            return [work(part) for part in parts]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(work, parts))

    def _parts(self, samples: Samples) -> list[Samples]:
        if not self.whole_volumes:
            return list(samples)
        return [samples] if samples.ndim == 3 else list(np.moveaxis(samples, -1, 0))

    def _smaller(self, part: Samples) -> bytes:
        part = np.ascontiguousarray(part)
        try:
            coded = self.encode_part(part)
        except (RuntimeError, ValueError):
            return part.tobytes()
        return bytes(coded) if len(coded) < part.nbytes else part.tobytes()


@dataclass(frozen=True)
class Mapped:
    """Samples as the uint8 or uint16 that image codecs take: sample = value + `offset`, in the arithmetic of `dtype`."""

    samples: Samples
    offset: Any
    dtype: np.dtype[Any]

    def original(self, samples: Samples) -> Samples:
        """The samples in their own dtype; inverse of `to_unsigned`."""
        restored: Samples = samples.astype(self.dtype) + self.offset
        return restored


def to_unsigned(samples: Samples) -> Mapped | None:
    """`samples` as uint8 or uint16, their minimum subtracted where they are signed or wider.

    None where they are no integers or their range needs more than 16 bits.
    """
    if not np.issubdtype(samples.dtype, np.integer):
        return None
    low = samples.dtype.type(0) if samples.dtype in (np.uint8, np.uint16) else samples.min()
    if int(samples.max()) - int(low) > 65535:
        return None
    # The difference of signed samples may wrap round; as an unsigned number of the same width it is right again.
    return Mapped((samples - low).astype(np.uint8 if samples.dtype.itemsize == 1 else np.uint16), low, samples.dtype)


def byte_codecs() -> list[ByteCodec]:
    """gzip -9 and zstd -19."""
    import zstandard

    compressor, decompressor = zstandard.ZstdCompressor(level=19), zstandard.ZstdDecompressor()
    return [
        ByteCodec("gzip -9", lambda data: gzip.compress(data, 9, mtime=0), gzip.decompress),
        ByteCodec("zstd -19", compressor.compress, decompressor.decompress),
    ]


JPEG_XL = "JPEG XL e7"
TOMOZ = "tomoz"


def voxel_codecs(threads: int = 1) -> list[VoxelCodec]:
    """PNG, JPEG-LS, JPEG 2000, HTJ2K, JPEG XL (efforts 7 and 9) and pcodec, all lossless, and tomoz where it is installed.

    No codec is told how many bits are in use, as JPEG-LS and HTJ2K cannot be through imagecodecs. With more threads image
    codecs code several slices at a time; pcodec, which codes a volume as one array, has no use for them.
    """
    import imagecodecs as ic

    return [
        VoxelCodec("PNG", lambda image: ic.png_encode(image, level=9), ic.png_decode, threads=threads),
        VoxelCodec("JPEG-LS", ic.jpegls_encode, ic.jpegls_decode, threads=threads),
        VoxelCodec(
            "JPEG 2000",
            lambda image: ic.jpeg2k_encode(image, reversible=True, codecformat="j2k", numthreads=1),
            ic.jpeg2k_decode,
            threads=threads,
        ),
        VoxelCodec("HTJ2K", lambda image: ic.htj2k_encode(image, reversible=True), ic.htj2k_decode, threads=threads),
        *(_jpeg_xl(effort, threads) for effort in (7, 9)),
        _pcodec(),
        *_tomoz(threads),
    ]


def _jpeg_xl(effort: int, threads: int) -> VoxelCodec:
    import imagecodecs as ic

    return VoxelCodec(
        f"JPEG XL e{effort}",
        lambda image: ic.jpegxl_encode(image, lossless=True, effort=effort, numthreads=1),
        lambda data: ic.jpegxl_decode(data, numthreads=1),
        threads=threads,
    )


def _pcodec() -> VoxelCodec:
    from pcodec import ChunkConfig, standalone

    config = ChunkConfig(enable_8_bit=True)
    return VoxelCodec(
        "pcodec",
        lambda volume: standalone.simple_compress(volume.reshape(-1), config),
        standalone.simple_decompress,
        whole_volumes=True,
    )


def _tomoz(threads: int) -> list[VoxelCodec]:
    try:
        import tomoz
    except ImportError:
        return []

    def encode(volume: Samples) -> bytes:
        return bytes(tomoz.encode(volume, threads=threads))

    def decode(data: bytes) -> Samples:
        samples: Samples = tomoz.decode(data, threads=threads)
        return samples

    return [VoxelCodec(TOMOZ, encode, decode, whole_volumes=True)]
