"""One array as bytes that say all about themselves, for stores that keep chunks of arrays (Zarr).

The samples are coded as the chunks of an archive are; FORMAT.md, "Arrays outside archives", says how the bytes lie.
"""

from __future__ import annotations

import functools
import io
import struct
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip import stacks
from medzip.chunks import BYTE_KINDS, LARGEST_STACK, ChunkCoder, checked_header, decode_chunk
from medzip.container import cbor
from medzip.container.checksum import crc32c
from medzip.container.reader import MEMORY_LIMIT
from medzip.container.sections import is_natural
from medzip.errors import (
    ArchiveDamagedError,
    UnsupportedArchiveError,
    UnsupportedInputError,
    UsageError,
    VerificationError,
)
from medzip.presets import PRESETS
from medzip.sources.contract import volume_shape

MAGIC = b"\x89MDZA\r\n\x01"
U32 = struct.Struct("<I")
WHERE = "array of medzip"
PORTABLE = ("pixel", "parametric")
LARGEST_ARRAY = MEMORY_LIMIT - (1 << 16)
CODED = {"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"}


def encode(array: NDArray[Any], preset: str = "default") -> bytes:
    """The array as bytes: dtype, shape, memory order and every bit of the values, proved by decoding them.

    Booleans, integers and floats of up to 64 bits are coded as samples, the last two axes being rows and columns, a last one of
    three colours; everything else as the .npy file it would be.
    Raises UsageError for a preset whose archives do not decode everywhere, UnsupportedInputError for more than 2 GiB, ValueError
    for objects, ModelMissingError, VerificationError.
    """
    if array.nbytes > LARGEST_ARRAY:
        raise UnsupportedInputError(f"{WHERE}: expected at most {LARGEST_ARRAY} bytes, found {array.nbytes}; use smaller chunks")
    data = _encoded(array, preset)
    found = decode(data)
    if (found.dtype, found.shape) != (array.dtype, array.shape) or found.tobytes() != array.tobytes():
        raise VerificationError(f"{WHERE}: what was just coded does not decode; keep the original and report this")
    return data


def _encoded(array: NDArray[Any], preset: str) -> bytes:
    coder = _coder(preset)
    if array.dtype.str[1:] in CODED and array.size:
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        laid_out = array.T if fortran else array
        header = {"dtype": array.dtype.str, "shape": list(laid_out.shape)} | ({"fortran": True} if fortran else {})
        planes = _planes(_native(np.ascontiguousarray(laid_out)).reshape(laid_out.shape))
        if stacks.PLANES_PER_STACK * planes[:1].nbytes <= LARGEST_STACK:
            return _sealed(header, coder, [planes[first : first + count] for first, count in coder.runs(planes, WHERE)])
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return _sealed({}, coder, [np.frombuffer(file.getvalue(), np.uint8).reshape(1, 1, -1)])


def decode(data: bytes) -> NDArray[Any]:
    """The array that `encode` got, in the same memory order; nothing of more than 2 GiB is decoded.

    Raises ArchiveDamagedError, UnsupportedArchiveError, ModelMissingError.
    """
    header, chunks = _opened(data)
    if "dtype" not in header:
        if len(chunks) != 1 or chunks[0][0]["kind"] not in BYTE_KINDS:
            raise _damaged(f"one chunk of kind {' or '.join(BYTE_KINDS)}")
        [planes] = _decoded(chunks, (1, None), np.dtype(np.uint8))
        try:
            array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(planes.tobytes()), allow_pickle=False)
        except (ValueError, MemoryError, TypeError, SyntaxError) as error:
            raise _damaged("a .npy file") from error
        return array
    dtype, shape = _description(header)
    slices, rows, columns, colours = _layout(shape)
    stored = np.dtype(dtype.str.replace("b", "u")).newbyteorder("=")
    planes = np.concatenate(list(_decoded(chunks, (rows, columns), stored)))
    if len(planes) != slices * (stacks.PLANES_PER_STACK if colours else 1):
        raise _damaged("as many planes as the shape has")
    samples = np.ascontiguousarray(stacks.samples(planes, colours)).reshape(shape)
    array = (samples if dtype.isnative else samples.byteswap()).view(dtype)
    return array.T if header.get("fortran") else array


@functools.cache
def _coder(preset: str) -> ChunkCoder:
    if preset not in PRESETS or PRESETS[preset].model not in PORTABLE:
        raise UsageError(f"expected a preset whose archives decode on every machine, found {preset!r}; use 'default' or 'fast'")
    return ChunkCoder(PRESETS[preset], "open")


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """The same bits in this machine's byte order, booleans as bytes."""
    native = array if array.dtype.isnative else array.byteswap().view(array.dtype.newbyteorder("="))
    return native.view(np.uint8) if native.dtype == np.bool_ else native


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int, bool]:
    """Slices, rows and columns of an array, and whether its last axis is colours."""
    colours = len(shape) > 2 and shape[-1] == stacks.PLANES_PER_STACK
    return *volume_shape(shape[:-1] if colours else shape), colours


def _planes(array: NDArray[Any]) -> NDArray[Any]:
    """The array as (planes, rows, columns)."""
    *lengths, colours = _layout(array.shape)
    return np.ascontiguousarray(stacks.planes(array.reshape(*lengths, *((stacks.PLANES_PER_STACK,) if colours else ()))))


def _sealed(header: dict[str, Any], coder: ChunkCoder, parts: list[NDArray[Any]]) -> bytes:
    """Magic, header, payloads and CRC."""
    coded = [coder.encode(part) if "dtype" in header else coder.encode_bytes(part) for part in parts]
    chunks = [
        {**one.header, "count": len(part) if "dtype" in header else part.size, "bytes": len(one.payload)}
        for one, part in zip(coded, parts, strict=True)
    ]
    encoded = cbor.encode({**header, "chunks": chunks})
    data = b"".join([MAGIC, U32.pack(len(encoded)), encoded, *(one.payload for one in coded)])
    return data + U32.pack(crc32c(data))


def _opened(data: bytes) -> tuple[dict[str, Any], list[tuple[dict[str, Any], bytes]]]:
    """The header, and each chunk's with its payload, after the CRC was found good."""
    start = len(MAGIC) + U32.size
    if len(data) < start + U32.size or not data.startswith(MAGIC[:-1]):
        raise _damaged("its first bytes")
    if data[: len(MAGIC)] != MAGIC:
        raise UnsupportedArchiveError(f"{WHERE}: expected version {MAGIC[-1]}, found {data[len(MAGIC) - 1]}; use a newer medzip")
    if U32.pack(crc32c(data[: -U32.size])) != data[-U32.size :]:
        raise _damaged("a matching CRC-32C")
    end = start + U32.unpack_from(data, len(MAGIC))[0]
    header = cbor.decode(data[start:end], WHERE, MEMORY_LIMIT)
    entries = header.get("chunks") if isinstance(header, dict) else None
    if not isinstance(entries, list) or not entries:
        raise _damaged("a list of chunks")
    chunks = []
    for entry in entries:
        if not (isinstance(entry, dict) and is_natural(entry.get("count")) and entry["count"] and is_natural(entry.get("bytes"))):
            raise _damaged("count and length of each chunk")
        chunks.append((checked_header(entry, WHERE), data[end : end + entry["bytes"]]))
        end += entry["bytes"]
    if end != len(data) - U32.size:
        raise _damaged("payloads up to its end")
    return header, chunks


def _description(header: dict[str, Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """dtype, and shape as the samples are laid out."""
    name, shape = header.get("dtype"), header.get("shape")
    if not (isinstance(name, str) and name[:1] in tuple("<>|") and name[1:] in CODED):
        raise _damaged("a dtype of samples")
    if not (isinstance(shape, list) and len(shape) <= 64 and all(is_natural(length) and length for length in shape)):
        raise _damaged("a shape")
    return np.dtype(name), tuple(shape)


def _decoded(
    chunks: list[tuple[dict[str, Any], bytes]], plane: tuple[int, int | None], dtype: np.dtype[Any]
) -> list[NDArray[Any]]:
    """The samples of all chunks, (planes, rows, columns); without columns, `count` is theirs and there is one plane."""
    rows, columns = plane
    shapes = [(header["count"], rows, columns) if columns else (1, rows, header["count"]) for header, _ in chunks]
    size = sum(map(prod, shapes)) * dtype.itemsize
    if size > MEMORY_LIMIT:
        raise UnsupportedArchiveError(f"{WHERE}: expected at most {MEMORY_LIMIT} bytes, found {size}")
    parts = zip(chunks, shapes, strict=True)
    return [decode_chunk(header, payload, None, shape, dtype, WHERE) for (header, payload), shape in parts]


def _damaged(expected: str) -> ArchiveDamagedError:
    return ArchiveDamagedError(f"{WHERE}: expected {expected}, found something else; restore it from a copy")
