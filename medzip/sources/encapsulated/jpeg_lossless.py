"""Lossless JPEG, process 14 (ITU-T T.81 annex H): predictors 1 to 7, Huffman codes, restart intervals, point transform.

Everything that an encoder chooses stands in the marker segments, which are the recipe.
"""

from __future__ import annotations

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
from medzip.sources.encapsulated.jpeg_markers import Frame, Headers, Scan, values, words

CATEGORIES = 17


@dataclass(frozen=True)
class ScanPlan:
    """What the loop needs to know of a scan. `order` are the channels, `lookups` (components, 65536) the category and code
    length 256 category + length for the next 16 bits, 0 for none; `codes` and `sizes` (components, 17) the codes of the
    categories; `rows_between` restarts."""

    shape: tuple[int, int, int]
    order: NDArray[np.int64]
    predictor: int
    start: int
    shift: int
    rows_between: int
    lookups: NDArray[np.int32]
    codes: NDArray[np.int64]
    sizes: NDArray[np.int64]


class JpegLossless:
    """Streams with the frame header SOF3 and one or three components of one size."""

    name = "jpeg_lossless"

    def decode(self, stream: bytes, layout: Layout) -> tuple[Samples, bytes]:
        from medzip.sources.encapsulated import jpeg_lossless_loops

        headers, position, heads = Headers(), 0, list[bytes]()
        pads = set[int]()
        decoded: NDArray[np.int32] = np.zeros(0, np.int32)
        while (found := headers.next_scan(stream, position)) is not None:
            frame = headers.one_size(8 * len(stream))  # a sample takes a bit at least
            plan = _plan(headers, frame, found[0])
            if not decoded.size:
                decoded = np.zeros(plan.shape, np.int32)
            heads.append(stream[position : found[1]])
            position, pad = jpeg_lossless_loops.decode_scan(stream, found[1], decoded, plan)
            if position < 0 or decoded.shape != plan.shape:
                raise NotReproducibleError
            pads |= {pad} - {jpeg_lossless_loops.NO_PAD}
        if not heads or len(pads) > 1 or len(headers.coded) != decoded.shape[2]:
            raise NotReproducibleError
        recipe = RecipeWriter()
        recipe.number(max(pads, default=1))
        recipe.number(len(heads))
        for part in (*heads, stream[position:]):
            recipe.block(part)
        return words(decoded.reshape(frame.shape), frame.precision, layout), recipe.finish()

    def encode(self, samples: Samples | None, recipe: bytes) -> bytes:
        from medzip.sources.encapsulated import jpeg_lossless_loops

        if samples is None:
            raise damaged("voxels of a JPEG frame")
        reader, headers, parts = RecipeReader(recipe), Headers(), list[bytes]()
        pad = reader.number()
        for _ in range(reader.number()):
            head = reader.block()
            try:
                found = headers.next_scan(head, 0)
                frame = headers.one_size(samples.size)
                if found is None or found[1] != len(head) or pad > 1 or frame.shape != samples.shape:
                    raise NotReproducibleError
                plan = _plan(headers, frame, found[0])
            except NotReproducibleError as error:
                raise damaged("marker segments of lossless JPEG for samples of this size") from error
            coded = jpeg_lossless_loops.encode_scan(values(samples, frame.precision), plan, pad)
            if coded is None:
                raise damaged("Huffman codes for all samples")
            parts += [head, coded]
        parts.append(reader.block())
        reader.end()
        return b"".join(parts)


def _plan(headers: Headers, frame: Frame, scan: Scan) -> ScanPlan:
    predictor, _, _, shift = scan.parameters
    names = list(frame.components)
    interval = headers.restart_interval or frame.rows * frame.columns
    known = all(name in names for name, _ in scan.components)
    if interval % frame.columns or not known or not 1 <= predictor <= 7 or shift >= frame.precision:
        raise NotReproducibleError
    tables = [_table(headers.tables.get(table >> 4, b"")) for _, table in scan.components]
    return ScanPlan(
        (frame.rows, frame.columns, len(names)),
        np.array([names.index(name) for name, _ in scan.components], np.int64),
        predictor,
        1 << (frame.precision - shift - 1),
        shift,
        interval // frame.columns,
        *(np.stack(part) for part in zip(*tables, strict=True)),
    )


def _table(table: bytes) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Lookup, codes and sizes of a Huffman table as DHT holds it (T.81 annexes C and F.2.2.3)."""
    lookup = np.zeros(1 << 16, np.int32)
    codes, sizes = np.zeros((2, CATEGORIES), np.int64)
    code, place = 0, 16
    for size in range(1, 17) if len(table) > 16 else ():
        for category in table[place : place + table[size - 1]]:
            begin = code << (16 - size)
            if category >= CATEGORIES or begin >> 16:
                raise NotReproducibleError
            lookup[begin : begin + (1 << (16 - size))] = 256 * category + size
            codes[category], sizes[category] = code, size
            code += 1
        place += table[size - 1]
        code *= 2
    return lookup, codes, sizes
