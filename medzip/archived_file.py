"""A source file of an archive as a stream: read where one likes, decoding only the chunks that are touched."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from medzip.sources.wrappers.deflate import MOST_CONTENT_BYTES
from medzip.volume import PACKED, Deflated, FileSkeleton, Literal, Segment, Volume, Voxels, join

if TYPE_CHECKING:
    from medzip.archive import Archive

BUFFER = 1 << 16
GZIP = ".gz"


def opened(archive: Archive, file: FileSkeleton) -> BinaryIO:
    """What the segments of a file stand for, as a seekable binary file to read from; `archive` has to stay open.

    Reading raises what decoding raises. Of a file whose samples are encoded or take turns, all is decoded at once. Raises
    ArchiveDamagedError where the segments stand for more bytes than the file table says and a deflate stream can hold.
    """
    return io.BufferedReader(_ArchivedFile(archive, file), BUFFER)


def unwrapped(file: FileSkeleton) -> FileSkeleton:
    """The file that lies in a gzip file, with its name, where that was taken apart; else the file itself."""
    match file.segments:
        case (Deflated(segments),):
            name = file.name[: -len(GZIP)] if file.name.lower().endswith(GZIP) else file.name
            return FileSkeleton(f"{name[:-4]}.mgh" if name.lower().endswith(".mgz") else name, segments)
    return file


class _ArchivedFile(io.RawIOBase):
    """`_ends` are where the segments end in the file."""

    def __init__(self, archive: Archive, file: FileSkeleton) -> None:
        self.name = file.name
        self._file = file
        self._volumes = [Volume(cast(Any, volume)) for volume in archive.volumes]
        self._position = 0
        most = max(archive.sizes.get(file.name, 0), MOST_CONTENT_BYTES)  # what was in gzip has another name there, or none
        if not all(map(_is_plain, file.segments)):
            pieces = io.BytesIO()
            for piece in join(file, self._volumes):
                if pieces.tell() + len(piece) > most:
                    raise archive.damaged("files as long as the file table says")
                pieces.write(piece)
            self._file = replace(file, segments=(Literal(pieces.getvalue()),))
        self._ends = list(accumulate(self._length(segment) for segment in self._file.segments))
        if self._ends and self._ends[-1] > most:
            raise archive.damaged("files as long as the file table says")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = self._ends[-1] if self._ends else 0
        self._position = max({os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence] + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer up to the end of a segment at most."""
        number = bisect_right(self._ends, self._position)
        if number == len(self._ends) or not len(buffer):
            return 0
        segment, end = self._file.segments[number], self._ends[number]
        begin = self._position - (end - self._length(segment))
        length = min(len(buffer), end - self._position)
        buffer[:length] = self._bytes(segment, begin, begin + length)
        self._position += length
        return length

    def _bytes(self, segment: Segment, begin: int, end: int) -> bytes:
        """Bytes `begin` to `end` of a segment."""
        if isinstance(segment, Literal):
            return segment.data[begin:end]
        run = cast(Voxels, segment)
        size = self._length(replace(run, count=1))
        first, last = begin // size, -(-end // size)
        part = replace(run, first=run.first + first, count=last - first)
        data = b"".join(join(replace(self._file, segments=(part,)), self._volumes))
        return data[begin - first * size : end - first * size]

    def _length(self, segment: Segment) -> int:
        if isinstance(segment, Literal):
            return len(segment.data)
        run = cast(Voxels, segment)
        return run.count * prod(self._volumes[run.volume].samples.shape[1:]) * np.dtype(run.dtype).itemsize


def _is_plain(segment: Segment) -> bool:
    """Whether any part of a segment can be had without the rest of it."""
    return isinstance(segment, Literal) or (isinstance(segment, Voxels) and segment.dtype not in PACKED)
