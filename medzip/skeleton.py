"""The skeleton of all files of an archive, as bytes for its SKEL section.

Before zstd: u32 length of the structure, the structure (canonical CBOR), then all literals one after another. Literals
over 64 KiB (files kept whole, embedded documents) are no part of it: they become chunks of their own, of 64 MiB at most, so
that damage to one does not reach the others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from medzip.container import cbor
from medzip.container.sections import is_natural
from medzip.errors import ArchiveDamagedError
from medzip.volume import Deflated, EncodedFrame, FileSkeleton, Interleaved, Literal, Segment, Skeleton, Voxels

LARGEST_LITERAL = 1 << 16
LARGEST_OPAQUE = 1 << 11
"""Of opaque literals and of recipes: longer ones are images, which parity would make longer and zstd no shorter."""
LARGEST_BLOB = 1 << 26
LARGEST_SKELETON = 1 << 31
LEVEL = 19


def pack(skeleton: Skeleton) -> tuple[bytes, list[bytes]]:
    """The payload of SKEL, and the blobs to be stored as chunks, in the order of their numbers."""
    import zstandard

    literals: list[bytes] = []
    blobs: list[bytes] = []
    structure = [[file.name, _pack_segments(file.segments, literals, blobs)] for file in skeleton.files]
    encoded = cbor.encode(structure)
    data = struct.pack("<I", len(encoded)) + encoded + b"".join(literals)
    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, enable_ldm=True, source_size=len(data))
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data), blobs


def _pack_segments(segments: tuple[Segment, ...], literals: list[bytes], blobs: list[bytes]) -> list[Any]:
    return [entry for segment in segments for entry in _pack_segment(segment, literals, blobs)]


def _pack_segment(segment: Segment, literals: list[bytes], blobs: list[bytes]) -> Iterator[Any]:
    """A literal is its length, each blob of a long one [its number], voxels [volume, first, count, dtype, planar], and
    interleaved ones [[voxels, ...], [turn, ...]].

    An encoded frame is [codec, recipe, lengths, voxels], its recipe as literals are, its voxels [volume, first, dtype] or null.
    Deflate streams are [length of the side information, segments]; the side information is a literal of whatever length: where
    a chunk is lost, it is still known how to take the file apart.
    """
    match segment:
        case Voxels():
            yield _pack_run(segment)
        case Interleaved(runs, turns):
            yield [[_pack_run(run) for run in runs], list(turns)]
        case EncodedFrame(codec, recipe, lengths, voxels):
            slices = None if voxels is None else [voxels.volume, voxels.first, voxels.dtype]
            [packed] = _pack_bytes(recipe, LARGEST_OPAQUE, literals, blobs)
            yield [codec, packed, list(lengths), slices]
        case Deflated(segments, side):
            literals.append(side)
            yield [len(side), _pack_segments(segments, literals, blobs)]
        case Literal(data, opaque):
            yield from _pack_bytes(data, LARGEST_OPAQUE if opaque else LARGEST_LITERAL, literals, blobs)


def _pack_bytes(data: bytes, largest: int, literals: list[bytes], blobs: list[bytes]) -> Iterator[Any]:
    if len(data) <= largest:
        literals.append(data)
        yield len(data)
    else:
        for start in range(0, len(data), LARGEST_BLOB):
            blobs.append(data[start : start + LARGEST_BLOB])
            yield [len(blobs) - 1]


def _pack_run(run: Voxels) -> list[Any]:
    return [run.volume, run.first, run.count, run.dtype, run.planar]


def unpack(payload: bytes, blobs: Mapping[int, bytes], name: str, memory_limit: int) -> Skeleton:
    """The skeleton back; `blobs` by their numbers. A file whose blob is not there is left out.

    Raises ArchiveDamagedError where the payload is not what `pack` writes; `name` is the archive's.
    """
    data = _decompress(payload, name, memory_limit)
    length = struct.unpack_from("<I", data)[0] if len(data) >= 4 else len(data)
    if 4 + length > len(data):
        raise _damaged(name)
    structure = cbor.decode(data[4 : 4 + length], f"{name}: SKEL", memory_limit)
    reader, files = _Segments(data, 4 + length, blobs, name), []
    try:
        for file_name, entries in structure:
            segments = reader.segments(entries)
            if segments is not None:
                files.append(FileSkeleton(str(file_name), segments))
    except (TypeError, ValueError) as error:
        raise _damaged(name) from error
    if reader.position != len(data):
        raise _damaged(name)
    return Skeleton(tuple(files))


class _Segments:
    """Makes segments of their entries, which take literals one after another. A segment of a lost blob is None."""

    def __init__(self, data: bytes, position: int, blobs: Mapping[int, bytes], name: str) -> None:
        self._data, self.position, self._blobs, self._name = data, position, blobs, name

    def segments(self, entries: Any) -> tuple[Segment, ...] | None:
        """All segments, None where one of them is lost; either way, their literals are behind."""
        found = [self._segment(entry) for entry in entries]
        known = tuple(segment for segment in found if segment is not None)
        return known if len(known) == len(found) else None

    def _literal(self, length: int) -> bytes:
        self.position += length
        return self._data[self.position - length : self.position]

    def _segment(self, entry: Any) -> Segment | None:
        match entry:
            case int() if is_natural(entry):
                return Literal(self._literal(entry))
            case [int(number)]:
                return Literal(self._blobs[number]) if number in self._blobs else None
            case [int(length), list(entries)] if is_natural(length):
                side = self._literal(length)
                segments = self.segments(entries)
                return None if segments is None else Deflated(segments, side)
            case [[_, *_] as runs, list(turns)] if len(runs) == len(turns) and all(map(is_natural, turns)):
                return Interleaved(tuple(_unpack_run(run, self._name) for run in runs), tuple(turns))
            case [str(codec), packed, list(lengths), None | [_, _, _] as slices] if all(map(is_natural, lengths)):
                recipe = self._segment(packed)
                voxels = None if slices is None else _unpack_run([*slices[:2], 1, *slices[2:], False], self._name)
                if recipe is None:
                    return None
                if isinstance(recipe, Literal):
                    return EncodedFrame(codec, recipe.data, tuple(lengths), voxels)
        return _unpack_run(entry, self._name)


def _unpack_run(entry: Any, name: str) -> Voxels:
    match entry:
        case [volume, first, count, str(dtype), bool(planar)] if all(map(is_natural, (volume, first, count))):
            return Voxels(volume, first, count, dtype, planar)
    raise _damaged(name)


def _decompress(payload: bytes, name: str, memory_limit: int) -> bytes:
    import zstandard

    try:
        size = zstandard.get_frame_parameters(payload).content_size
        if size > min(LARGEST_SKELETON, memory_limit):
            raise ArchiveDamagedError(
                f"{name}: SKEL: expected at most {memory_limit} bytes, found {size}; raise the memory limit"
            )
        return zstandard.ZstdDecompressor().decompress(payload, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _damaged(name) from error


def _damaged(name: str) -> ArchiveDamagedError:
    return ArchiveDamagedError(f"{name}: expected a skeleton in SKEL, found something else; restore the archive from a copy")
