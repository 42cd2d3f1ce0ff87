"""Frames of encapsulated pixel data to voxels with a recipe, and back; a frame that does not come back bit for bit is kept."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medzip.errors import ArchiveDamagedError
from medzip.sources.encapsulated.contract import FrameCodec, Layout, NotReproducibleError, Samples, damaged
from medzip.sources.encapsulated.items import Item, frames, item_header
from medzip.sources.encapsulated.jpeg_lossless import JpegLossless
from medzip.sources.encapsulated.jpeg_ls import JpegLs
from medzip.sources.encapsulated.jpeg_markers import SOF3, SOF55, first_frame_marker
from medzip.sources.encapsulated.jpeg_xl import JpegXl
from medzip.sources.encapsulated.rle import Rle
from medzip.volume import EncodedFrame, Literal, Segment, Voxels

RLE = "1.2.840.10008.1.2.5"
CODECS: dict[str, FrameCodec] = {codec.name: codec for codec in (Rle(), JpegLossless(), JpegLs(), JpegXl())}
BY_FRAME_MARKER = {0xC0: "jpeg_xl", 0xC1: "jpeg_xl", 0xC2: "jpeg_xl", SOF3: "jpeg_lossless", SOF55: "jpeg_ls"}
LARGEST_RECIPE = 1 << 26
SMALL_RECIPE = 1 << 10


@dataclass(frozen=True)
class _Coded:
    """A frame that its codec makes again from `samples` and `recipe`."""

    fragments: list[Item]
    codec: str
    samples: Samples | None
    recipe: bytes

    def segment(self, volume: int, index: int) -> EncodedFrame:
        voxels = None if self.samples is None else Voxels(volume, index, 1, self.samples.dtype.newbyteorder("<").str)
        return EncodedFrame(self.codec, self.recipe, tuple(item.length for item in self.fragments[:-1]), voxels)


@dataclass(frozen=True)
class EncodedFrames:
    """Encapsulated pixel data at `offset` of a file: its frames that are coded, all of one shape (rows, columns[, 3]) and dtype.

    The others stay literal.
    """

    offset: int
    coded: tuple[_Coded, ...]

    @property
    def _samples(self) -> list[Samples]:
        return [frame.samples for frame in self.coded if frame.samples is not None]

    @property
    def count(self) -> int:
        """How many frames have voxels: all that are coded, or none."""
        return len(self._samples)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._samples[0].shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self._samples[0].dtype

    def samples(self, data: bytes) -> NDArray[np.generic]:  # noqa: ARG002  (native frames are views of the file)
        """The frames (count, rows, columns[, 3])."""
        return np.stack(self._samples)

    def segments(self, data: bytes, volume: int, first: int) -> tuple[Segment, ...]:
        """The whole file as literals around its frames, which are the slices from `first` on of volume number `volume`."""
        begins = [*(frame.fragments[0].begin for frame in self.coded), len(data)]
        ends = [self.offset, *(frame.fragments[-1].end for frame in self.coded)]
        found: list[Segment] = [Literal(data[: self.offset])]
        for index, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            if end < begin:
                found.append(Literal(data[end:begin], opaque=True))
            if index < len(self.coded):
                found.append(self.coded[index].segment(volume, first + index))
        return tuple(found)


def encoded_frames(data: bytes, offset: int, count: int, layout: Layout, transfer_syntax: str) -> EncodedFrames:
    """The pixel data of a file whose items begin at `offset`.

    `count` frames of `layout` are what the header tells: it decides nothing but how RLE and signs are to be understood.
    """
    coded = [_coded(data, fragments, layout, transfer_syntax) for fragments in frames(data, offset, count)]
    found = [frame for frame in coded if frame is not None]
    if _alike(data[offset:], found):
        found = []
    return EncodedFrames(offset, tuple(frame for frame in found if _kind(frame) == _kind(found[0])))


def _alike(data: bytes, coded: Sequence[_Coded]) -> bool:
    """Whether frames without voxels resemble each other so much that zstd makes less of all than their recipes take."""
    if len(coded) < 2 or coded[0].samples is not None:
        return False
    import zstandard

    return len(zstandard.compress(data)) < sum(len(frame.recipe) for frame in coded)


def encode(frame: EncodedFrame, samples: Samples | None, name: str) -> bytes:
    """The items of a frame, the bytes that it has in its file, from `samples` (rows, columns[, 3]); `name` is the file's.

    Raises ArchiveDamagedError where the recipe does not fit them.
    """
    codec = CODECS.get(frame.codec)
    try:
        if codec is None:
            raise damaged(f"a codec of {', '.join(CODECS)}")
        stream = codec.encode(samples, frame.recipe)
        if sum(frame.lengths) > len(stream):
            raise damaged("fragments no longer than their frame")
    except ArchiveDamagedError as error:
        raise ArchiveDamagedError(f"{name}: {error}") from error
    ends = [0, *np.cumsum(frame.lengths).tolist(), len(stream)]
    return b"".join(item_header(end - begin) + stream[begin:end] for begin, end in pairwise(ends))


def _coded(data: bytes, fragments: Sequence[Item], layout: Layout, transfer_syntax: str) -> _Coded | None:
    stream = b"".join(data[item.offset : item.end] for item in fragments)
    codec = _codec(stream, transfer_syntax)
    if codec is None:
        return None
    try:
        samples, recipe = codec.decode(stream, layout)
        frame = _Coded(list(fragments), codec.name, samples, recipe)
        # What is kept meets zstd, which finds something in tables and small images.
        worth = len(recipe) < len(zlib.compress(stream)) if samples is None else 2 * len(recipe) < len(stream) + SMALL_RECIPE
        again = encode(frame.segment(0, 0), samples, "") if worth and len(recipe) <= LARGEST_RECIPE else b""
    except (NotReproducibleError, ArchiveDamagedError):
        return None
    return frame if again == data[fragments[0].begin : fragments[-1].end] else None


def _codec(stream: bytes, transfer_syntax: str) -> FrameCodec | None:
    """The codec that reads a stream; None for one that nothing here makes again."""
    if transfer_syntax == RLE:
        return CODECS["rle"]
    marker = first_frame_marker(stream) if stream.startswith(b"\xff\xd8") else None
    return CODECS.get(BY_FRAME_MARKER.get(marker or 0, ""))


def _kind(frame: _Coded) -> object:
    return frame.samples is None or (frame.samples.shape, frame.samples.dtype)
