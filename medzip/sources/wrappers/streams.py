"""Deflate streams inside files: a file is taken apart as if it held their content, and they are made again around that."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from medzip.sources.wrappers import deflate
from medzip.volume import Deflated, FileSkeleton, Literal, Segment, Volume, join

NEAR = 1 << 10
"""Streams with fewer bytes between them share their side information, and these bytes are a part of it."""


@dataclass(frozen=True)
class Part:
    """Streams near each other: where in the opened file their content lies, how they are made again from it, and where they
    themselves lie."""

    start: int
    end: int
    side: bytes
    first: int
    last: int


@dataclass(frozen=True)
class Opened:
    """A file that holds the content of its streams in their place; `begins` is where that of each stream begins, -1 for one that
    is left as it is."""

    data: bytes
    begins: tuple[int, ...]
    parts: tuple[Part, ...]

    def moved(self, start: int) -> int:
        """Where a byte lies that is in no stream; -1 where it lies between streams of one part, as no byte of its own."""
        for part in reversed(self.parts):
            if start >= part.last:
                return start - part.last + part.end
            if start >= part.first:
                return -1
        return start

    def apart(self, start: int, end: int) -> bool:
        """Whether bytes of the opened file lie in one part, or outside of all."""
        crossed = [part for part in self.parts if start < part.end and part.start < end]
        return all(part.start <= start and end <= part.end for part in crossed)

    def closed(self, file: FileSkeleton, volumes: Sequence[Volume]) -> FileSkeleton:
        """The file itself, where `file` is what a source made of `data`. Raises ValueError where slices cross its bounds."""
        cuts = sorted({bound for part in self.parts for bound in (part.start, part.end)})
        pieces = _cut(file, volumes, cuts)
        segments: list[Segment] = []
        position = number = 0
        for part in (*self.parts, None):
            inside: list[Segment] = []
            while number < len(pieces) and (part is None or position < part.end):
                size, segment = pieces[number]
                (segments if part is None or position < part.start else inside).append(segment)
                position, number = position + size, number + 1
            segments += [Deflated(tuple(inside), part.side)] if part else []
        return FileSkeleton(file.name, tuple(segments))


def _cut(file: FileSkeleton, volumes: Sequence[Volume], cuts: Sequence[int]) -> list[tuple[int, Segment]]:
    """(bytes, segment) of all segments, literals cut at these places."""
    pieces: list[tuple[int, Segment]] = []
    position = 0
    for segment in file.segments:
        size = sum(map(len, join(FileSkeleton(file.name, (segment,)), volumes)))
        inside = [cut - position for cut in cuts if position < cut < position + size]
        if isinstance(segment, Literal):
            bounds = zip([0, *inside], [*inside, size], strict=True)
            pieces += [(end - start, Literal(segment.data[start:end], segment.opaque)) for start, end in bounds]
        elif inside:
            raise ValueError("slices across the bounds of a part")
        else:
            pieces.append((size, segment))
        position += size
    return pieces


def opened(data: bytes, name: str, start: int = 0, *, raw: bool = False) -> Opened | None:
    """A file that is from `start` on a gzip file, a zlib or (`raw`) a deflate stream; None where that cannot be made again."""
    apart = deflate.taken_apart(data[start:], raw=raw, name=name)
    if apart is None:
        return None
    content, side = apart
    whole = data[:start] + content
    return Opened(whole, (start,), (Part(start, len(whole), side, start, len(data)),))


def opened_at(data: bytes, name: str, places: Sequence[tuple[int, int, int]], *, raw: bool) -> Opened:
    """A file with zlib or (`raw`) deflate streams at (start, end, bytes of content), those opened that can be made again."""
    whole, position, parts, begins = io.BytesIO(), 0, list[Part](), dict[tuple[int, int, int], int]()
    for near in _near(places):
        first, last = near[0][0], near[-1][1]
        if first < position:
            continue
        inside = [(start - first, end - first, size) for start, end, size in near]
        apart = deflate.taken_apart(data[first:last], raw=raw, places=inside, name=name)
        if apart is None:
            continue
        content, side = apart
        whole.write(data[position:first])
        ends = accumulate((size for _, _, size in near), initial=whole.tell())
        begins |= dict(zip(near, ends, strict=False))
        parts.append(Part(whole.tell(), whole.tell() + len(content), side, first, last))
        whole.write(content)
        position = last
    whole.write(data[position:])
    return Opened(whole.getvalue(), tuple(begins.get(place, -1) for place in places), tuple(parts))


def _near(places: Sequence[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """The places in order, those together that are near each other."""
    groups: list[list[tuple[int, int, int]]] = []
    for place in sorted(set(places)):
        if groups and place[0] - groups[-1][-1][1] < NEAR:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups
