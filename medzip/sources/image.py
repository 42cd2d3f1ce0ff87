"""What formats share whose files hold images at places that a header tells: MetaImage, NRRD, NIfTI and their like."""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from medzip.sources.contract import HEAD_BYTES, broken, literals, native, volume_shape, whole
from medzip.sources.wrappers.streams import Opened, opened
from medzip.volume import FileSkeleton, Interleaved, Segment, Skeleton, Volume, Voxels

MAX_COMPONENTS = 1024
"""A pixel of more components than this is a row of samples, not a pixel."""
LARGEST_PLANE = (1 << 29) // 3
"""Bytes of a slice of one component, at most: three of them are what a decoder can be asked to hold at once."""
MAX_VOLUMES = 4096
"""A file of more volumes is kept whole: each has its own chunks and its own record."""

Dtype = np.dtype[np.generic]


@dataclass(frozen=True)
class Image:
    """An image in a file: from each of `offsets` on lie `frames` frames of (rows, columns) pixels.

    `words` are the dtypes of a pixel's components in the order of the file. With `planar` each frame is (3, rows, columns).
    """

    offsets: tuple[int, ...]
    frames: int
    rows: int
    columns: int
    words: tuple[Dtype, ...]
    planar: bool = False
    affine: NDArray[np.float64] | None = None

    @property
    def run_bytes(self) -> int:
        """The length of what lies at each offset."""
        return self.frames * self.rows * self.columns * sum(word.itemsize for word in self.words)

    @property
    def end(self) -> int:
        return max(self.offsets) + self.run_bytes

    @property
    def parts(self) -> list[slice]:
        """Which components become a volume together: three of one type as colours, each other one alone."""
        if len(self.words) == 3 and len(set(self.words)) == 1:
            return [slice(0, 3)]
        if self.words == (np.dtype("u1"),) * 4:
            return [slice(0, 3), slice(3, 4)]
        return [slice(i, i + 1) for i in range(len(self.words))]


def image(
    offset: int,
    axes: Sequence[int],
    words: Sequence[Dtype],
    affine: NDArray[np.float64] | None = None,
) -> Image:
    """One array at `offset` whose axes are given from the slowest to the fastest; see `volume_shape`."""
    slices, rows, columns = volume_shape(axes)
    return Image((offset,), slices, rows, columns, tuple(words), affine=affine)


def take_apart(name: str, data: bytes, images: Sequence[Image]) -> tuple[FileSkeleton, list[Volume]]:
    """A file as literals around its images, and their volumes; whole where images overlap, are too many or too large."""
    runs = sorted((offset, offset + one.run_bytes) for one in images for offset in one.offsets)
    ends = [0, *(end for _, end in runs)]
    starts = [*(start for start, _ in runs), len(data)]
    apart = all(start >= end for start, end in zip(starts, ends, strict=True))
    largest = max((one.rows * one.columns * word.itemsize for one in images for word in one.words), default=0)
    if not apart or largest > LARGEST_PLANE or sum(len(one.parts) for one in images) > MAX_VOLUMES:
        return whole(name, data), []
    volumes: list[Volume] = []
    placed: list[tuple[int, int, Segment]] = []
    for one in images:
        placed += _segments(one, len(volumes))
        volumes += [Volume(_samples(data, one, part), one.affine) for part in one.parts]
    segments: list[Segment] = []
    position = 0
    for start, end, segment in sorted(placed, key=lambda entry: entry[0]):
        segments += [*literals(data[position:start]), segment]
        position = end
    return FileSkeleton(name, (*segments, *literals(data[position:]))), volumes


def take_apart_opened(name: str, data: bytes, inside: Opened, images: Sequence[Image]) -> tuple[FileSkeleton, list[Volume]]:
    """`take_apart` of a file whose streams were opened, the places of images being those in the opened file."""
    runs = [(offset, offset + one.run_bytes) for one in images for offset in one.offsets]
    if all(start >= 0 and end <= len(inside.data) and inside.apart(start, end) for start, end in runs):
        taken, volumes = take_apart(name, inside.data, images)
        if volumes:
            return inside.closed(taken, volumes), volumes
    return whole(name, data), []


def _segments(one: Image, volume: int) -> list[tuple[int, int, Segment]]:
    """(start, end, segment) of every run of an image whose first volume is number `volume`."""
    placed: list[tuple[int, int, Segment]] = []
    for number, offset in enumerate(one.offsets):
        runs = tuple(
            Voxels(volume + index, number * one.frames, one.frames, one.words[part.start].str, one.planar)
            for index, part in enumerate(one.parts)
        )
        segment = runs[0] if len(runs) == 1 else Interleaved(runs, (1,) * len(runs))
        placed.append((offset, offset + one.run_bytes, segment))
    return placed


def _samples(data: bytes, one: Image, part: slice) -> NDArray[np.generic]:
    """The samples of a part of all pixels, (slices, rows, columns[, 3]); a view of the file's bytes where that can be."""
    word, count = one.words[part.start], part.stop - part.start
    shape = (one.frames, one.rows, one.columns, *((3,) if count == 3 else ()))
    if one.planar:
        shape = (one.frames, 3, one.rows, one.columns)
    if len(one.parts) == 1:
        runs = [np.frombuffer(data, word, prod(shape), offset).reshape(shape) for offset in one.offsets]
    else:
        sizes = [word.itemsize for word in one.words]
        first, last = sum(sizes[: part.start]), sum(sizes[: part.stop])
        pixels = (np.frombuffer(data, np.uint8, one.run_bytes, offset).reshape(-1, sum(sizes)) for offset in one.offsets)
        runs = [np.ascontiguousarray(run[:, first:last]).view(word).reshape(shape) for run in pixels]
    samples = runs[0] if len(runs) == 1 else np.concatenate(runs)
    return native(np.ascontiguousarray(np.moveaxis(samples, 1, -1)) if one.planar else samples)


def components(axes: Sequence[int], count: int, word: Dtype) -> tuple[list[int], tuple[Dtype, ...]]:
    """Axes (from the slowest on) and components of an array whose pixels are `count` words each."""
    if count > MAX_COMPONENTS:
        return [*axes, count], (word,)
    return list(axes), (word,) * count


def without_gz(name: str) -> str:
    """The name that a file has outside gzip."""
    return name[:-3] if name.lower().endswith(".gz") else name


def plain_name(text: str, name: str) -> str:
    """The name of a file in the header's own folder; raises UnsupportedInputError where a header names one elsewhere."""
    plain = text.removeprefix("./")
    if not plain or plain in (".", "..") or re.search(r"[/\\:\0]", plain):
        raise broken(name, "the name of a file in its own folder", "another place; names that lead elsewhere are not followed")
    return plain


def numbers(text: str, count: int) -> NDArray[np.float64] | None:
    """Finite numbers parted by blanks, commas or brackets, None unless there are `count` of them."""
    try:
        found = np.array([float(word) for word in re.split(r"[\s,()]+", text) if word])
    except ValueError:
        return None
    return found if len(found) == count and np.isfinite(found).all() else None


class ImageSource(ABC):
    """A format with one header a file; `images` is all that a new one has to tell, `partners` where samples lie apart, and
    `stream` where they are compressed.

    A pair is named after its header. Headers of pairs are known by the endings `header_suffixes` (lower case).
    """

    name: str
    header_suffixes: tuple[str, ...] = ()

    @abstractmethod
    def detect(self, head: bytes) -> bool: ...

    @abstractmethod
    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:
        """What the file's header says; none where samples are of a kind that no volume holds.

        `size` is the length of the file that the samples lie in: `file` itself, or its partner. Where they are in a stream, size
        and offsets are those of a file with the content in its place. Raises UnsupportedInputError where the header breaks the
        rules of its format.
        """

    def stream(self, file: BinaryIO, name: str) -> int | None:  # noqa: ARG002, every format is called with all of these
        """Where the gzip or zlib stream begins that fills the file with the samples up to its end; None where there is none.

        Raises UnsupportedInputError as `images` does.
        """
        return None

    def partners(self, file: BinaryIO, name: str) -> tuple[str, ...]:  # noqa: ARG002, every format is called with all of these
        """The names that the file with the samples may have, in the folder of its header; none where they lie in `file`.

        Raises UnsupportedInputError where the header names a file elsewhere.
        """
        return ()

    def checked(self, file: BinaryIO, size: int, name: str) -> list[Image]:
        """`images`, after all were found to lie inside the file with the samples; none where they are in a stream."""
        inside = self.stream(file, name) is not None
        file.seek(0)
        images = self.images(file, size, name)
        if inside:
            return []
        for one in images:
            if min(one.offsets) < 0 or one.end > size:
                raise broken(name, f"{one.end} bytes of samples, as its header says", f"{size}")
        return images

    def archive_name(self, file: BinaryIO, size: int, name: str) -> str:
        if partners := self.partners(file, PurePosixPath(name).name):
            raise broken(name, f"the file with its samples, {partners[0]}, beside it", "no such file")
        file.seek(0)
        self.checked(file, size, name)
        return f"{name}.mdz"

    def split(self, files: Iterable[tuple[str, bytes]]) -> tuple[Skeleton, list[Volume]]:
        given = dict(files)
        header = next(name for name in given if len(given) == 1 or self._is_header(given, name))
        data = next((name for name in given if name != header), header)
        taken, volumes = self.taken(header, given[header], data, given[data])
        skeletons = {name: whole(name, content) for name, content in given.items()} | {data: taken}
        return Skeleton(tuple(skeletons.values())), volumes

    def taken(self, header_name: str, header: bytes, name: str, data: bytes) -> tuple[FileSkeleton, list[Volume]]:
        """The file with the samples as segments, and its volumes; whole where they are in a stream that cannot be made again, or
        that holds too little."""
        start = self.stream(io.BytesIO(header), header_name)
        if start is None:
            return take_apart(name, data, self.checked(io.BytesIO(header), len(data), header_name))
        inside = opened(data, name, start)
        if inside is None:
            return whole(name, data), []
        return take_apart_opened(name, data, inside, self.images(io.BytesIO(header), len(inside.data), header_name))

    def _is_header(self, given: dict[str, bytes], name: str) -> bool:
        path = PurePosixPath(without_gz(name))
        if path.suffix.lower() not in self.header_suffixes or not self.detect(given[name][:HEAD_BYTES]):
            return False
        others = {PurePosixPath(written).name for other in given if other != name for written in (other, without_gz(other))}
        return bool(others & set(self.partners(io.BytesIO(given[name]), path.name)))
