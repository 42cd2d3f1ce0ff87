"""The skeleton of all files of an archive, as bytes for its SKEL section.

Before zstd: u32 length of the structure, the structure (canonical CBOR), then all literals one after another. Literals
over 64 KiB (files kept whole, embedded documents) are no part of it: they become chunks of their own, so that damage to
one does not reach the others.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from medzip.container import cbor
from medzip.errors import ArchiveDamagedError
from medzip.volume import FileSkeleton, Literal, Segment, Skeleton, Voxels

LARGEST_LITERAL = 1 << 16
LARGEST_SKELETON = 1 << 31
LEVEL = 19


def pack(skeleton: Skeleton) -> tuple[bytes, list[bytes]]:
    """The payload of SKEL, and the blobs to be stored as chunks, in the order of their numbers."""
    import zstandard

    literals: list[bytes] = []
    blobs: list[bytes] = []
    structure = [[file.name, [_pack_segment(segment, literals, blobs) for segment in file.segments]] for file in skeleton.files]
    encoded = cbor.encode(structure)
    data = struct.pack("<I", len(encoded)) + encoded + b"".join(literals)
    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, enable_ldm=True, source_size=len(data))
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data), blobs


def _pack_segment(segment: Segment, literals: list[bytes], blobs: list[bytes]) -> Any:
    """A literal is its length, a blob [its number], voxels [volume, first, count, dtype, planar]."""
    if isinstance(segment, Voxels):
        return [segment.volume, segment.first, segment.count, segment.dtype, segment.planar]
    if len(segment.data) > LARGEST_LITERAL:
        blobs.append(segment.data)
        return [len(blobs) - 1]
    literals.append(segment.data)
    return len(segment.data)


def unpack(payload: bytes, blobs: Sequence[bytes | None], name: str, memory_limit: int) -> Skeleton:
    """The skeleton back; `blobs` as decoded, None for one that is lost (its file is left out).

    Raises ArchiveDamagedError where the payload is not what `pack` writes; `name` is the archive's.
    """
    data = _decompress(payload, name, memory_limit)
    length = struct.unpack_from("<I", data)[0] if len(data) >= 4 else len(data)
    if 4 + length > len(data):
        raise _damaged(name)
    structure = cbor.decode(data[4 : 4 + length], f"{name}: SKEL", memory_limit)
    position, files = 4 + length, []
    try:
        for file_name, entries in structure:
            segments: list[Segment] = []
            whole = True
            for entry in entries:
                if isinstance(entry, int):
                    if not 0 <= entry <= len(data) - position:
                        raise _damaged(name)
                    segments.append(Literal(data[position : position + entry]))
                    position += entry
                elif len(entry) == 1:
                    blob = blobs[entry[0]]
                    whole = whole and blob is not None
                    segments.append(Literal(blob or b""))
                else:
                    segments.append(_voxels(entry, name))
            if whole:
                files.append(FileSkeleton(str(file_name), tuple(segments)))
    except (TypeError, ValueError, IndexError) as error:
        raise _damaged(name) from error
    return Skeleton(tuple(files))


def _voxels(entry: Any, name: str) -> Voxels:
    volume, first, count, dtype, planar = entry
    if not all(isinstance(n, int) and n >= 0 for n in (volume, first, count)) or not isinstance(planar, bool):
        raise _damaged(name)
    return Voxels(volume, first, count, str(dtype), planar)


def _decompress(payload: bytes, name: str, memory_limit: int) -> bytes:
    import zstandard

    try:
        size = zstandard.get_frame_parameters(payload).content_size
        if size > min(LARGEST_SKELETON, memory_limit):
            raise ArchiveDamagedError(
                f"{name}: SKEL: expected at most {memory_limit} bytes, found {size}; raise the memory limit"
            )
        return zstandard.ZstdDecompressor().decompress(payload, max_output_size=size)
    except zstandard.ZstdError as error:
        raise _damaged(name) from error


def _damaged(name: str) -> ArchiveDamagedError:
    return ArchiveDamagedError(f"{name}: expected a skeleton in SKEL, found something else; restore the archive from a copy")
