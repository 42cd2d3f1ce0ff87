"""Files one after another, each an array of segments, and all literals behind them (FORMAT.md, 4.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from medzip.container.sections import is_natural
from medzip.errors import ArchiveDamagedError
from medzip.volume import Deflated, EncodedFrame, FileSkeleton, Interleaved, Literal, Segment, Skeleton, Voxels

LARGEST_LITERAL = 1 << 16
LARGEST_OPAQUE = 1 << 11
"""Of opaque literals and of recipes: longer ones are images, which parity would make longer and zstd no shorter."""
LARGEST_BLOB = 1 << 26


class Blobs:
    """Blobs by their numbers; equal ones have one number."""

    def __init__(self) -> None:
        self.all: list[bytes] = []
        self._numbers: dict[bytes, int] = {}

    def add(self, data: bytes) -> int:
        number = self._numbers.setdefault(hashlib.sha256(data).digest(), len(self.all))
        if number == len(self.all):
            self.all.append(data)
        return number


def pack(skeleton: Skeleton) -> tuple[list[Any], bytes, list[bytes]]:
    """The structure, the literals, and the blobs to be stored as chunks, in the order of their numbers."""
    literals: list[bytes] = []
    blobs = Blobs()
    structure = [[file.name, _pack_segments(file.segments, literals, blobs)] for file in skeleton.files]
    return structure, b"".join(literals), blobs.all


def _pack_segments(segments: tuple[Segment, ...], literals: list[bytes], blobs: Blobs) -> list[Any]:
    return [entry for segment in segments for entry in _pack_segment(segment, literals, blobs)]


def _pack_segment(segment: Segment, literals: list[bytes], blobs: Blobs) -> Iterator[Any]:
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


def _pack_bytes(data: bytes, largest: int, literals: list[bytes], blobs: Blobs) -> Iterator[Any]:
    if len(data) <= largest:
        literals.append(data)
        yield len(data)
    else:
        for start in range(0, len(data), LARGEST_BLOB):
            yield [blobs.add(data[start : start + LARGEST_BLOB])]


def _pack_run(run: Voxels) -> list[Any]:
    return [run.volume, run.first, run.count, run.dtype, run.planar]


def unpack(structure: Any, literals: bytes, blobs: Mapping[int, bytes], name: str) -> Skeleton:
    """The skeleton back, as `medzip.skeleton.unpack` gives it; raises what that raises."""
    reader, files = _Segments(literals, blobs, name), []
    try:
        for file_name, entries in structure:
            segments = reader.segments(entries)
            if segments is not None:
                files.append(FileSkeleton(str(file_name), segments))
    except (TypeError, ValueError) as error:
        raise damaged(name) from error
    if reader.position != len(literals):
        raise damaged(name)
    return Skeleton(tuple(files))


class _Segments:
    """Makes segments of their entries, which take literals one after another. A segment of a lost blob is None."""

    def __init__(self, data: bytes, blobs: Mapping[int, bytes], name: str) -> None:
        self._data, self.position, self._blobs, self._name = data, 0, blobs, name

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
                return Interleaved(tuple(unpack_run(run, self._name) for run in runs), tuple(turns))
            case [str(codec), packed, list(lengths), None | [_, _, _] as slices] if all(map(is_natural, lengths)):
                recipe = self._segment(packed)
                voxels = None if slices is None else unpack_run([*slices[:2], 1, *slices[2:], False], self._name)
                if recipe is None:
                    return None
                if isinstance(recipe, Literal):
                    return EncodedFrame(codec, recipe.data, tuple(lengths), voxels)
        return unpack_run(entry, self._name)


def unpack_run(entry: Any, name: str) -> Voxels:
    """The slices that [volume, first, count, dtype, planar] names."""
    match entry:
        case [volume, first, count, str(dtype), bool(planar)] if all(map(is_natural, (volume, first, count))):
            return Voxels(volume, first, count, dtype, planar)
    raise damaged(name)


def damaged(name: str) -> ArchiveDamagedError:
    """The error for a skeleton that no encoder writes."""
    return ArchiveDamagedError(f"{name}: expected a skeleton in SKEL, found something else; restore the archive from a copy")
