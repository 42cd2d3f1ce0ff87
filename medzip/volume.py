"""What flows through medzip: volumes of stored integers, and the files they came from with every other byte.

A file is a sequence of segments: literal bytes, and runs of slices of a volume. That is all `join` needs to give the same
bytes back, whatever the format, so a new format is one `split` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medzip.errors import ArchiveDamagedError


@dataclass(frozen=True)
class Volume:
    """A scan's samples as the file stores them, never masked or rescaled.

    `samples` is (slices, rows, columns) or (slices, rows, columns, 3), native byte order, any numeric dtype.
    `affine` is 4x4, from (column, row, slice, 1) to millimetres in the patient's or scanner's space, where the source
    knows one; it describes, it never takes part in coding.
    """

    samples: NDArray[np.generic]
    affine: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.samples.ndim not in (3, 4) or (self.samples.ndim == 4 and self.samples.shape[3] != 3):
            raise ValueError(f"samples must be (slices, rows, columns[, 3]), found {self.samples.shape}")


@dataclass(frozen=True)
class Literal:
    """Bytes of a file that are no voxels."""

    data: bytes


@dataclass(frozen=True)
class Voxels:
    """A run of slices of a volume, as they lie in a file.

    `dtype` is the numpy dtype string of the file (for example '<u2' or '>i2'); `planar` tells that the file holds each
    RGB frame as (3, rows, columns).
    """

    volume: int
    first: int
    count: int
    dtype: str
    planar: bool = False


Segment = Literal | Voxels


@dataclass(frozen=True)
class FileSkeleton:
    """One source file: its name relative to what the user named (POSIX separators) and its segments in order."""

    name: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Skeleton:
    """All source files of one archive."""

    files: tuple[FileSkeleton, ...] = field(default=())


def join(file: FileSkeleton, volumes: Sequence[Volume]) -> Iterator[bytes]:
    """The bytes of a source file, in pieces: the exact inverse of every source's `split`.

    Raises ArchiveDamagedError where a segment names slices that its volume does not have.
    """
    for segment in file.segments:
        if isinstance(segment, Literal):
            yield segment.data
            continue
        if segment.volume >= len(volumes):
            raise ArchiveDamagedError(
                f"{file.name}: expected volume {segment.volume}, found {len(volumes)}; restore it from a copy"
            )
        samples = volumes[segment.volume].samples
        if segment.first + segment.count > len(samples):
            raise ArchiveDamagedError(
                f"{file.name}: expected {segment.first + segment.count} slices, found {len(samples)}; restore it from a copy"
            )
        for index in range(segment.first, segment.first + segment.count):
            frame = samples[index]
            if segment.planar:
                frame = np.moveaxis(frame, -1, 0)
            yield np.ascontiguousarray(frame, dtype=np.dtype(segment.dtype)).tobytes()
