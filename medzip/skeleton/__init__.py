"""The skeleton of all files of an archive, as bytes for its SKEL section (FORMAT.md, 4.3).

There are two forms, of which the smaller one is written: files one after another (`plain`), and elements of all files side by
side (`columns`). Literals over 64 KiB (files kept whole, embedded documents) are no part of either: they become chunks of their
own, of 64 MiB at most, so that damage to one does not reach the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from medzip.container import packed
from medzip.errors import MedzipError
from medzip.skeleton import columns, plain
from medzip.volume import FileSkeleton, Literal, Segment, Skeleton


def ordered(skeleton: Skeleton) -> Skeleton:
    """The same files in the order of the slices that they hold, those without any first: so neighbours are alike."""

    def place(file: FileSkeleton) -> tuple[int, int]:
        return (file.voxels[0].volume, file.voxels[0].first) if file.voxels else (-1, 0)

    return Skeleton(tuple(sorted(skeleton.files, key=place)))


def pack(skeleton: Skeleton) -> tuple[bytes, list[bytes]]:
    """The payload of SKEL, and the blobs to be stored as chunks, in the order of their numbers."""
    structure, literals, blobs = plain.pack(skeleton)
    payload = packed.pack(structure, literals)
    if sum(max(len(file.voxels), 1) for file in skeleton.files) <= 1:
        return payload, blobs
    jointly = columns.pack(skeleton)
    if jointly is None:
        return payload, blobs
    shorter = packed.pack(jointly[0], jointly[1])
    weights = [(sum(map(len, found)), len(packed)) for packed, found in ((shorter, jointly[2]), (payload, blobs))]
    return (shorter, jointly[2]) if weights[0] < weights[1] and _proved(shorter, jointly[2], skeleton) else (payload, blobs)


def unpack(payload: bytes, blobs: Mapping[int, bytes], name: str, memory_limit: int) -> Skeleton:
    """The skeleton back; `blobs` by their numbers. A file whose blob is not there is left out.

    Raises ArchiveDamagedError where the payload is not what `pack` writes; `name` is the archive's.
    """
    structure, data = packed.unpack(payload, f"{name}: SKEL", memory_limit)
    if isinstance(structure, dict):
        return columns.unpack(structure, data, blobs, name, memory_limit)
    return plain.unpack(structure, data, blobs, name)


def _proved(payload: bytes, blobs: list[bytes], skeleton: Skeleton) -> bool:
    """Whether the files come back, but for where one literal ends and the next begins."""
    try:
        found = unpack(payload, dict(enumerate(blobs)), "", packed.LARGEST)
    except MedzipError:
        return False
    return [(file.name, _merged(file)) for file in found.files] == [(file.name, _merged(file)) for file in skeleton.files]


def _merged(file: FileSkeleton) -> list[Segment]:
    segments: list[Segment] = []
    for literal, run in groupby(file.segments, lambda segment: isinstance(segment, Literal)):
        parts = list(run)
        segments += [Literal(b"".join(part.data for part in parts if isinstance(part, Literal)))] if literal else parts
    return segments
