"""What flows through medzip: volumes of stored integers, and the files they came from with every other byte.

A file is a sequence of segments: literal bytes, runs of slices of a volume, frames that a codec makes again, and deflate
streams of such segments. That is all `join` needs to give the same bytes back, whatever the format, so a new format is one
`split` and nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

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


BITS = "bits"
"""Samples of 0 and 1, eight in a byte, the first in its lowest bit; all slices of a run one after another, then zero bits."""
SWAPPED = "swapped"
"""Bytes, the two of each pair swapped; all slices of a run one after another, then a zero if there is an odd number of bytes."""
PACKED = (BITS, SWAPPED)


@dataclass(frozen=True)
class Literal:
    """Bytes of a file that are no voxels; `opaque` ones are compressed already, so that they gain nothing beside others."""

    data: bytes
    opaque: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Voxels:
    """A run of slices of a volume, as they lie in a file.

    `dtype` is the numpy dtype string of the file (for example '<u2' or '>i2'); `planar` tells that the file holds each
    RGB frame as (3, rows, columns). Two dtypes are none of numpy's, and for volumes of bytes: BITS and SWAPPED.
    """

    volume: int
    first: int
    count: int
    dtype: str
    planar: bool = False


@dataclass(frozen=True)
class Interleaved:
    """Runs of as many slices of several volumes, or of several places in one, whose pixels take turns in the file.

    Of each slice come `turns[0]` pixels of the first run, `turns[1]` of the second and so on, and again, until all are there.
    """

    runs: tuple[Voxels, ...]
    turns: tuple[int, ...]


@dataclass(frozen=True)
class EncodedFrame:
    """A frame of encapsulated pixel data (PS3.5 annex A.4): the items whose fragments together are what a codec encodes.

    `codec` is a name of medzip.sources.encapsulated.frames.CODECS, `recipe` all that it needs beside `voxels`: one slice, or None
    where the recipe says everything. `lengths` are the bytes of all fragments but the last, which holds what is left.
    """

    codec: str
    recipe: bytes
    lengths: tuple[int, ...] = ()
    voxels: Voxels | None = None


@dataclass(frozen=True)
class Deflated:
    """Deflate streams and what lies between them: what they hold, as segments, and how they are rebuilt from that.

    `side` is what medzip.sources.wrappers.deflate.rebuilt needs beside the bytes of `segments`.
    """

    segments: tuple[Segment, ...]
    side: bytes


Segment = Literal | Voxels | Interleaved | EncodedFrame | Deflated


def _runs(segment: Segment) -> tuple[Voxels, ...]:
    """The slices that a segment takes."""
    match segment:
        case Voxels():
            return (segment,)
        case Interleaved(runs):
            return runs
        case EncodedFrame(voxels=Voxels() as voxels):
            return (voxels,)
        case Deflated(segments):
            return tuple(run for inner in segments for run in _runs(inner))
    return ()


@dataclass(frozen=True)
class FileSkeleton:
    """One source file: its name relative to what the user named (POSIX separators) and its segments in order."""

    name: str
    segments: tuple[Segment, ...]

    @property
    def voxels(self) -> list[Voxels]:
        """All slices that the file takes, as they lie in it, taking turns or encoded."""
        return [run for segment in self.segments for run in _runs(segment)]


@dataclass(frozen=True)
class Skeleton:
    """All source files of one archive."""

    files: tuple[FileSkeleton, ...] = field(default=())


def join(file: FileSkeleton, volumes: Sequence[Volume]) -> Iterator[bytes]:
    """The bytes that the segments of a source file stand for, in pieces: the exact inverse of every source's `split`.

    Raises ArchiveDamagedError where a segment names slices that its volume does not have, pixels do not take turns, or a recipe
    does not fit its slice, or side information its stream.
    """
    for segment in file.segments:
        match segment:
            case Deflated(segments, side):
                from medzip.sources.wrappers import deflate  # as with `encode` below

                content = io.BytesIO()  # grows in place, where joining pieces would hold everything twice
                for piece in join(FileSkeleton(file.name, segments), volumes):
                    if content.tell() + len(piece) > deflate.MOST_CONTENT_BYTES:
                        raise ArchiveDamagedError(
                            f"{file.name}: expected a deflate stream that could be made, found a longer one"
                        )
                    content.write(piece)
                yield deflate.rebuilt(content.getvalue(), side, file.name)
            case Literal(data):
                yield data
            case Voxels():
                yield from _as_stored(segment, _frames(file, segment, volumes))
            case Interleaved():
                yield from _interleaved(file, segment, volumes)
            case EncodedFrame(voxels=voxels):
                from medzip.sources.encapsulated.frames import encode  # two ways lead from here into a room, both heavy

                yield encode(segment, None if voxels is None else _frames(file, voxels, volumes)[0], file.name)


def _frames(file: FileSkeleton, voxels: Voxels, volumes: Sequence[Volume]) -> NDArray[np.generic]:
    """The slices that a segment names, (slices, rows, columns[, 3])."""
    if voxels.volume >= len(volumes):
        raise ArchiveDamagedError(f"{file.name}: expected volume {voxels.volume}, found {len(volumes)}; restore it from a copy")
    samples, end = volumes[voxels.volume].samples, voxels.first + voxels.count
    if end > len(samples):
        raise ArchiveDamagedError(f"{file.name}: expected {end} slices, found {len(samples)}; restore it from a copy")
    return samples[voxels.first : end]


def _as_stored(voxels: Voxels, frames: NDArray[np.generic]) -> Iterator[bytes]:
    """The bytes that a file holds for slices, in pieces."""
    if voxels.dtype == BITS:
        yield np.packbits(frames.astype(np.uint8), axis=None, bitorder="little").tobytes()
    elif voxels.dtype == SWAPPED:
        data = frames.tobytes()
        yield np.frombuffer(data + bytes(len(data) % 2), ">u2").astype("<u2").tobytes()
    else:
        for frame in frames:
            yield _frame(voxels, frame).tobytes()


def _frame(voxels: Voxels, frame: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.ascontiguousarray(np.moveaxis(frame, -1, 0) if voxels.planar else frame, dtype=np.dtype(voxels.dtype))


def _interleaved(file: FileSkeleton, segment: Interleaved, volumes: Sequence[Volume]) -> Iterator[bytes]:
    runs = [_frames(file, run, volumes) for run in segment.runs]
    (count, left), *others = {divmod(prod(run.shape[1:3]), turn or 1) for run, turn in zip(runs, segment.turns, strict=True)}
    plain = 0 not in segment.turns and not any(run.planar or run.dtype in PACKED for run in segment.runs)
    if not plain or others or left or len(set(map(len, runs))) != 1:
        raise ArchiveDamagedError(f"{file.name}: expected pixels that take turns, found some left over; restore it from a copy")
    for frames in zip(*runs, strict=True):
        stored = (_frame(run, frame) for run, frame in zip(segment.runs, frames, strict=True))
        parts = [frame.reshape(-1).view(np.uint8).reshape(count, -1) for frame in stored]
        yield np.concatenate(parts, axis=1).tobytes()
