"""The loop of lossless JPEG: one function for both directions, so that they cannot differ (T.81 annexes F.1.2, F.2.2 and H)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medzip.sources.encapsulated.compiled import COMPILED, as_array, compiled, loop_input, loop_output

if TYPE_CHECKING:
    from medzip.sources.encapsulated.jpeg_lossless import ScanPlan

NO_PAD = 2
SAMPLE_BYTES = 11
"""At most: code and bits, four bytes that may all need a zero behind them, and a restart marker with its padding."""


def decode_scan(stream: bytes, position: int, decoded: NDArray[np.int32], plan: ScanPlan) -> tuple[int, int]:
    """Fills `decoded` (rows, columns, channels) from the coded data at `position`.

    Gives where the first byte lies that is not coded data alone (-1 where they are damaged), and the bits that fill the bytes
    before restarts: 0, 1, or NO_PAD where there are none.
    """
    samples = decoded.reshape(-1) if COMPILED else decoded.reshape(-1).tolist()
    result = loop_output(1, "i8")
    end = _code(False, loop_input(stream, "u1"), position, samples, NO_PAD, result, *_arguments(plan))
    if not COMPILED:
        decoded[:] = np.array(samples, np.int32).reshape(decoded.shape)
    return int(end), int(result[0])


def encode_scan(samples: NDArray[np.int32], plan: ScanPlan, pad: int) -> bytes | None:
    """The coded data of a scan without its last byte where that is not full; None where a category has no code."""
    out = loop_output(SAMPLE_BYTES * plan.shape[0] * plan.shape[1] * len(plan.order), "u1")
    end = _code(True, out, 0, loop_input(samples, "i4"), pad, loop_output(1, "i8"), *_arguments(plan))
    return as_array(out[:end], "u1").tobytes() if end >= 0 else None


def _arguments(plan: ScanPlan) -> Any:
    tables = (loop_input(plan.lookups, "i4"), loop_input(plan.codes, "i8"), loop_input(plan.sizes, "i8"))
    numbers = (plan.predictor, plan.start, plan.shift, plan.rows_between)
    return (*plan.shape, loop_input(plan.order, "i8"), *numbers, *tables)


@compiled
def _predicted(predictor: Any, left: Any, above: Any, corner: Any) -> Any:
    """T.81 table H.1."""
    if predictor == 1:
        return left
    if predictor == 2:
        return above
    if predictor == 3:
        return corner
    if predictor == 4:
        return left + above - corner
    if predictor == 5:
        return left + ((above - corner) >> 1)
    if predictor == 6:
        return above + ((left - corner) >> 1)
    return (left + above) >> 1


@compiled
def _filled(data: Any, position: Any, bits: Any, count: Any, missing: Any) -> Any:
    """More than 40 bits ahead; behind the last byte before a marker zeros, whose bytes `missing` counts."""
    while count <= 40:
        byte = 0
        if position >= len(data) or (data[position] == 255 and (position + 1 >= len(data) or data[position + 1] != 0)):
            missing += 1
        else:
            byte = int(data[position])
            position += 2 if byte == 255 else 1
        bits = bits << 8 | byte
        count += 8
    return position, bits, count, missing


@compiled
def _given_back(data: Any, position: Any, size: Any) -> Any:
    """The position `size` bytes of coded data before."""
    for _ in range(size):
        position -= 2 if data[position - 1] == 0 and data[position - 2] == 255 else 1
    return position


@compiled
def _written(data: Any, position: Any, bits: Any, count: Any) -> Any:
    """All whole bytes of `bits`, each 0xFF with a zero behind it."""
    while count >= 8:
        count -= 8
        data[position] = bits >> count
        position += 1
        if bits >> count == 255:
            data[position] = 0
            position += 1
        bits &= (1 << count) - 1
    return position, bits, count


@compiled
def _code(
    writing: Any, data: Any, position: Any, samples: Any, pad: Any, result: Any, rows: Any, columns: Any, channels: Any,
    order: Any, predictor: Any, start: Any, shift: Any, rows_between: Any, lookups: Any, codes: Any, sizes: Any,
) -> Any:  # fmt: skip
    bits, count, missing, found_pad = 0, 0, 0, 2
    line = columns * channels
    for row in range(rows):
        first = row % rows_between == 0
        if missing > 8:
            return -1
        if first and row:
            fill = count % 8 if not writing else (8 - count) % 8
            mark = 208 + (row // rows_between - 1) % 8
            if writing:
                padding = ((1 << fill) - 1) * pad
                position, bits, count = _written(data, position, bits << fill | padding, count + fill)
                data[position], data[position + 1] = 255, mark
            else:
                if count // 8 < missing:
                    return -1
                padding = bits >> (count - fill)
                if fill:
                    one = padding & 1
                    if padding != ((1 << fill) - 1) * one or (found_pad != 2 and found_pad != one):
                        return -1
                    found_pad = one
                position = _given_back(data, position, count // 8 - missing)
                if position + 1 >= len(data) or data[position] != 255 or data[position + 1] != mark:
                    return -1
            position, bits, count, missing = position + 2, 0, 0, 0
        for column in range(columns):
            for part in range(len(order)):
                place = row * line + column * channels + order[part]
                if first:
                    expected = int(samples[place - channels]) >> shift if column else start
                elif column == 0:
                    expected = int(samples[place - line]) >> shift
                else:
                    left, above = int(samples[place - channels]) >> shift, int(samples[place - line]) >> shift
                    expected = _predicted(predictor, left, above, int(samples[place - line - channels]) >> shift)
                if writing:
                    difference = ((int(samples[place]) >> shift) - expected) & 65535
                    if difference > 32768:
                        difference -= 65536
                    size, category = abs(difference), 0
                    while size >> category:
                        category += 1
                    length = sizes[part * 17 + category]
                    if length == 0:
                        return -1
                    bits, count = bits << length | codes[part * 17 + category], count + length
                    if category < 16:
                        extra = difference if difference >= 0 else difference + (1 << category) - 1
                        bits, count = bits << category | extra, count + category
                    position, bits, count = _written(data, position, bits, count)
                else:
                    position, bits, count, missing = _filled(data, position, bits, count, missing)
                    entry = lookups[part * 65536 + (bits >> (count - 16))]
                    category, length = entry >> 8, entry & 255
                    if length == 0:
                        return -1
                    count -= length
                    difference = 32768
                    if category < 16:
                        count -= category
                        difference = (bits >> count) & ((1 << category) - 1)
                        if difference << 1 < 1 << category:
                            difference -= (1 << category) - 1
                    bits &= (1 << count) - 1
                    samples[place] = ((expected + difference) & 65535) << shift & 65535
    if not writing:
        if count // 8 < missing:
            return -1
        result[0] = found_pad
        position = _given_back(data, position, count // 8 - missing + (1 if count % 8 else 0))
    return position
