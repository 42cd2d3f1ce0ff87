"""RLE lossless (PS3.5 annex G): each byte of the words is a segment of its own, run by run as PackBits.

The standard leaves open where an encoder ends a run. A recipe names the encoder's habits, and the runs that differ from them.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np

from medzip.sources.encapsulated.contract import Layout, NotReproducibleError, RecipeReader, RecipeWriter, Samples, damaged

HEADER = struct.Struct("<16I")
HABITS = [(start, stop, rows) for rows in (True, False) for start in (2, 3) for stop in (3, 2)]
"""Equal bytes that start a replicate run, equal bytes that end a literal run, and whether runs end with their row."""


LARGEST_GAIN = 64  # two bytes stand for at most 128
FEW = 128
"""Where no more than one run of so many differs from an encoder's habits, no others are tried."""


class Rle:
    """Frames of the transfer syntax 1.2.840.10008.1.2.5."""

    name = "rle"

    def decode(self, stream: bytes, layout: Layout) -> tuple[Samples, bytes]:
        from medzip.sources.encapsulated import rle_loops

        segments = _segments(stream, layout.channels * layout.dtype.itemsize)
        size = layout.rows * layout.columns
        if not 0 < size <= min(map(len, segments)) * LARGEST_GAIN:
            raise NotReproducibleError
        decoded = [rle_loops.unpacked(segment, size) for segment in segments]
        if any(planes is None for planes in decoded):
            raise NotReproducibleError
        planes, controls, ends = zip(*decoded, strict=True)
        recipe = RecipeWriter()
        pairs = list(zip(planes, controls, strict=True))
        habit, differences = 0, list[list[int]]()
        for number in range(len(HABITS)):
            tried = [rle_loops.differences(*pair, _habit(number, layout.columns)) for pair in pairs]
            if not differences or sum(map(len, tried)) < sum(map(len, differences)):
                habit, differences = number, tried
            if sum(map(len, differences)) * FEW < sum(map(len, controls)):
                break
        lengths = [len(segment) for segment in segments]
        recipe.number(habit)
        recipe.block(b"" if stream.startswith(_header(lengths)) else stream[: HEADER.size])
        recipe.number(len(segments))
        for segment, end, found in zip(segments, ends, differences, strict=True):
            recipe.block(segment[end:])
            recipe.number(len(found) // 2)
            for number in found:
                recipe.number(number)
        words = np.stack(planes).reshape(layout.channels, layout.dtype.itemsize, layout.rows, layout.columns)
        samples = np.ascontiguousarray(words.transpose(2, 3, 0, 1)).view(layout.dtype.newbyteorder(">"))
        return samples.reshape(layout.shape).astype(layout.dtype), recipe.finish()

    def encode(self, samples: Samples | None, recipe: bytes) -> bytes:
        from medzip.sources.encapsulated import rle_loops

        if samples is None:
            raise damaged("voxels of an RLE frame")
        reader = RecipeReader(recipe)
        habit, header = reader.number(), reader.block()
        rows, columns = samples.shape[:2]
        words = np.ascontiguousarray(samples, samples.dtype.newbyteorder(">")).view(np.uint8)
        planes = words.reshape(rows * columns, -1).T
        if habit >= len(HABITS) or reader.number() != len(planes) or len(planes) > 15 or len(header) not in (0, HEADER.size):
            raise damaged("an RLE segment for each byte of a sample")
        segments = []
        for plane in planes:
            end = reader.block()
            differences = [reader.number() for _ in range(2 * reader.number())]
            packed = rle_loops.packed(plane.tobytes(), differences, _habit(habit, columns))
            if packed is None:
                raise damaged("runs of equal bytes")
            segments.append(packed + end)
        reader.end()
        return (header or _header([len(segment) for segment in segments])) + b"".join(segments)


def _habit(number: int, columns: int) -> tuple[int, int, int]:
    start, stop, rows = HABITS[number]
    return start, stop, columns if rows else 1 << 62


def _header(lengths: list[int]) -> bytes:
    """The header of segments that follow each other."""
    offsets = [HEADER.size + sum(lengths[:number]) for number in range(len(lengths))]
    return HEADER.pack(len(lengths), *offsets, *[0] * (15 - len(lengths)))


def _segments(stream: bytes, expected: int) -> list[bytes]:
    """The segments of a frame, which are to follow its header in their order, without gaps."""
    if len(stream) < HEADER.size or expected > 15:
        raise NotReproducibleError
    count, *offsets = HEADER.unpack_from(stream)
    limits = [*offsets[:expected], len(stream)]
    if count != expected or limits[0] != HEADER.size or any(begin > end for begin, end in pairwise(limits)):
        raise NotReproducibleError
    return [stream[begin:end] for begin, end in pairwise(limits)]
