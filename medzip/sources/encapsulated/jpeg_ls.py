"""JPEG-LS (ITU-T T.87), lossless and near-lossless, in all interleave modes, with any preset parameters.

Everything that an encoder chooses stands in the marker segments, which are the recipe. A near-lossless encoder also looks at
samples that its decoder never sees: where that ended a run that the decoded samples would go on with, the recipe says so.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medzip.sources.encapsulated.contract import (
    Layout,
    NotReproducibleError,
    RecipeReader,
    RecipeWriter,
    Samples,
    damaged,
)
from medzip.sources.encapsulated.jpeg_markers import APP8, MAX_SAMPLES, Frame, Headers, Scan, values, words

PRESETS = struct.Struct(">5H")
RESET, DEFAULT_RESET = 5, 64


@dataclass(frozen=True)
class ScanPlan:
    """What the loop needs to know of a scan: `order` are the channels, coded sample by sample or line by line; `parameters` as
    the loop numbers them."""

    shape: tuple[int, int, int]
    order: NDArray[np.int64]
    by_sample: bool
    parameters: tuple[int, ...]

    @property
    def near(self) -> int:
        """How far a decoded sample may lie from what the encoder saw."""
        return self.parameters[1]


class JpegLs:
    """Streams with the frame header SOF55, one or three components of one size, and no restart intervals.

    Not among them are a MAXVAL that is not that of all bits, and a RESET other than 64 where samples are interleaved: other
    decoders disagree about these, so nothing would show that the voxels are right.
    """

    name = "jpeg_ls"

    def decode(self, stream: bytes, layout: Layout) -> tuple[Samples, bytes]:
        from medzip.sources.encapsulated import jpeg_ls_loops

        headers, position = Headers(), 0
        decoded: NDArray[np.int32] = np.zeros(0, np.int32)
        parts = list[tuple[bytes, list[int]]]()
        while (found := headers.next_scan(stream, position)) is not None:
            frame = headers.one_size(MAX_SAMPLES)
            plan = _plan(headers, frame, found[0])
            if frame.rows > 8 * len(stream):  # a line takes a bit at least
                raise NotReproducibleError
            if not decoded.size:
                decoded = np.zeros(plan.shape, np.int32)
            head = stream[position : found[1]]
            position, exceptions = jpeg_ls_loops.decode_scan(stream, found[1], decoded, plan)
            if position < 0 or decoded.shape != plan.shape:
                raise NotReproducibleError
            if np.any(np.diff(exceptions) < 0):  # lines of several components: their pixels go back
                raise NotReproducibleError
            parts.append((head, exceptions))
        if not parts or len(headers.coded) != decoded.shape[2]:
            raise NotReproducibleError
        recipe = RecipeWriter()
        recipe.number(len(parts))
        for head, exceptions in parts:
            recipe.block(head)
            recipe.number(len(exceptions))
            for distance in np.diff(exceptions, prepend=0).tolist():
                recipe.number(distance)
        recipe.block(stream[position:])
        return words(decoded.reshape(frame.shape), frame.precision, layout), recipe.finish()

    def encode(self, samples: Samples | None, recipe: bytes) -> bytes:
        from medzip.sources.encapsulated import jpeg_ls_loops

        if samples is None:
            raise damaged("voxels of a JPEG-LS frame")
        reader, headers, parts = RecipeReader(recipe), Headers(), list[bytes]()
        for _ in range(reader.number()):
            head = reader.block()
            exceptions = np.cumsum([reader.number() for _ in range(reader.number())]).tolist()
            try:
                found = headers.next_scan(head, 0)
                frame = headers.one_size(MAX_SAMPLES)
                if found is None or found[1] != len(head) or frame.shape != samples.shape:
                    raise NotReproducibleError
                plan = _plan(headers, frame, found[0])
            except NotReproducibleError as error:
                raise damaged("marker segments of JPEG-LS for samples of this size") from error
            coded = jpeg_ls_loops.encode_scan(values(samples, frame.precision), plan, exceptions)
            parts += [head, coded]
        parts.append(reader.block())
        reader.end()
        return b"".join(parts)


def _plan(headers: Headers, frame: Frame, scan: Scan) -> ScanPlan:
    names = [name for name, _ in scan.components]
    near, interleave, *transform = scan.parameters
    known = list(frame.components)
    colours = headers.segments.get(APP8, b"")[:4] == b"mrfx" and headers.segments[APP8][4:5] != b"\0"
    together = len(names) == 1 or interleave in (1, 2)
    if any(transform) or colours or headers.restart_interval or not together or interleave > 2 or not set(names) <= set(known):
        raise NotReproducibleError
    order = np.array([known.index(name) for name in names], np.int64)
    parameters = _parameters(headers.presets.get(1, b""), frame.precision, near)
    if interleave == 2 and parameters[RESET] != DEFAULT_RESET:
        raise NotReproducibleError
    return ScanPlan((frame.rows, frame.columns, len(known)), order, interleave == 2, parameters)


def _parameters(presets: bytes, precision: int, near: int) -> tuple[int, ...]:
    """MAXVAL, NEAR, T1, T2, T3, RESET, RANGE, qbpp and LIMIT (T.87 A.2.1 and C.2.4.1.1, where 0 stands for the default)."""
    given = PRESETS.unpack_from(presets) if len(presets) >= PRESETS.size else (0,) * 5
    most = (1 << precision) - 1

    def bounded(value: int, least: int) -> int:
        return least if value > most or value < least else value

    if most >= 128:
        factor = (min(most, 4095) + 128) >> 8
        first = bounded(factor + 2 + 3 * near, near + 1)
        second = bounded(4 * factor + 3 + 5 * near, first)
        third = bounded(17 * factor + 4 + 7 * near, second)
    else:
        factor = 256 // (most + 1)
        first = bounded(max(2, 3 // factor + 3 * near), near + 1)
        second = bounded(max(3, 7 // factor + 5 * near), first)
        third = bounded(max(4, 21 // factor + 7 * near), second)
    thresholds = tuple(asked or default for asked, default in zip(given[1:4], (first, second, third), strict=True))
    span = (most + 2 * near) // (2 * near + 1) + 1
    bits = max(2, most.bit_length())
    sane = given[0] in (0, most) and near <= min(255, most // 2) and near < thresholds[0] <= thresholds[1] <= thresholds[2]
    reset = given[4] or DEFAULT_RESET
    if not sane or not 3 <= reset <= max(255, most) or thresholds[2] > most + near + 1:
        raise NotReproducibleError
    return (most, near, *thresholds, reset, span, (span - 1).bit_length(), 2 * (bits + max(8, bits)))
