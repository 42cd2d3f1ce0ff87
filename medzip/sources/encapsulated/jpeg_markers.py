"""The marker segments that JPEG (ITU-T T.81 annex B) and JPEG-LS (T.87 annex C) share, and the words that samples become."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.sources.encapsulated.contract import Layout, NotReproducibleError, Samples

SOF0, SOF3, DHT, SOF15, SOI, EOI, SOS, DRI, SOF55, LSE, APP8 = 0xC0, 0xC3, 0xC4, 0xCF, 0xD8, 0xD9, 0xDA, 0xDD, 0xF7, 0xF8, 0xE8
MAX_SAMPLES = 1 << 27
MARKER = re.compile(rb"\xff+([\xc0-\xfe])")
"""A marker; in coded data no 0xFF is followed by a byte so high."""


@dataclass(frozen=True)
class Frame:
    """A frame header: bits of a sample, size, and how many samples wide and high a component is beside the others."""

    precision: int
    rows: int
    columns: int
    components: dict[int, tuple[int, int]]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the samples: (rows, columns[, channels])."""
        channels = len(self.components)
        return (self.rows, self.columns, *((channels,) if channels > 1 else ()))


@dataclass(frozen=True)
class Scan:
    """A scan header: components in their order, each with its table, and Ss, Se, Ah and Al as they are."""

    components: tuple[tuple[int, int], ...]
    parameters: tuple[int, int, int, int]


@dataclass
class Headers:
    """What the marker segments read so far say: the last one of each marker, Huffman tables by class and id, presets by type,
    and the components that have had their scan."""

    frame: Frame | None = None
    tables: dict[int, bytes] = field(default_factory=dict)
    segments: dict[int, bytes] = field(default_factory=dict)
    presets: dict[int, bytes] = field(default_factory=dict)
    coded: set[int] = field(default_factory=set)

    def one_size(self, bits: int) -> Frame:
        """The frame header, if it is of one or three components of one size, of 2 to 16 bits, and no larger than `bits` coded
        bits can be. Raises NotReproducibleError for any other.
        """
        frame = self.frame
        if frame is None or not 2 <= frame.precision <= 16 or len(frame.components) not in (1, 3):
            raise NotReproducibleError
        if len(set(frame.components.values())) != 1 or not 0 < frame.rows * frame.columns <= min(bits, MAX_SAMPLES):
            raise NotReproducibleError
        return frame

    @property
    def restart_interval(self) -> int:
        """In MCUs, 0 for none."""
        return int.from_bytes(self.segments.get(DRI, b""), "big")

    def next_scan(self, data: bytes, position: int) -> tuple[Scan, int] | None:
        """Reads marker segments up to a scan: its header, and where its coded data begin; None at the end of the image.

        Raises NotReproducibleError where the data end before, a segment is cut short, or a component comes again.
        """
        while (match := MARKER.search(data, position)) is not None:
            marker, position = match[1][0], match.end()
            if marker == EOI:
                return None
            if marker == SOI or 0xD0 <= marker <= 0xD7:
                continue
            length = int.from_bytes(data[position : position + 2], "big")
            payload = data[position + 2 : position + length]
            if length < 2 or len(payload) != length - 2:
                raise NotReproducibleError
            position += length
            try:
                if marker == SOS:
                    scan = _scan(payload)
                    names = {name for name, _ in scan.components}
                    if len(names) != len(scan.components) or names & self.coded or not names:
                        raise NotReproducibleError
                    self.coded |= names
                    return scan, position
                self._read(marker, payload)
            except (IndexError, struct.error) as error:
                raise NotReproducibleError from error
        raise NotReproducibleError

    def _read(self, marker: int, payload: bytes) -> None:
        if marker == DHT:
            while payload:
                size = 17 + sum(payload[1:17])
                self.tables[payload[0]] = payload[1:size]
                payload = payload[size:]
        elif marker == LSE:
            self.presets[payload[0]] = payload[1:]
        elif marker == SOF55 or SOF0 <= marker <= SOF15:
            self.frame = _frame(payload)
        self.segments[marker] = payload


def _frame(payload: bytes) -> Frame:
    precision, rows, columns, count = struct.unpack_from(">BHHB", payload)
    parts = [payload[6 + 3 * number : 9 + 3 * number] for number in range(count)]
    return Frame(precision, rows, columns, {part[0]: (part[1] >> 4, part[1] & 15) for part in parts})


def _scan(payload: bytes) -> Scan:
    count = payload[0]
    components = tuple((payload[1 + 2 * number], payload[2 + 2 * number]) for number in range(count))
    start, end, approximation = payload[1 + 2 * count : 4 + 2 * count]
    return Scan(components, (start, end, approximation >> 4, approximation & 15))


def first_frame_marker(stream: bytes) -> int | None:
    """The marker of the first frame header, which tells the process; None where there is none."""
    marker, _ = _first_frame(stream)
    return marker


def frame_size(stream: bytes) -> int:
    """Rows times columns of the first frame header; 0 where there is none."""
    _, position = _first_frame(stream)
    rows, columns = (int.from_bytes(stream[at : at + 2], "big") for at in (position + 3, position + 5))
    return rows * columns


def _first_frame(stream: bytes) -> tuple[int | None, int]:
    """Marker and offset of the first frame header; None and the end where there is none."""
    position = 0
    while (match := MARKER.search(stream, position)) is not None:
        marker = match[1][0]
        if marker == SOF55 or (SOF0 <= marker <= SOF15 and marker not in (DHT, 0xC8, 0xCC)):
            return marker, match.end()
        if marker in (SOS, EOI):
            break
        position = match.end() + (0 if marker == SOI else int.from_bytes(stream[match.end() : match.end() + 2], "big"))
    return None, len(stream)


def words(values: NDArray[Any], precision: int, layout: Layout) -> Samples:
    """Decoded samples of `precision` bits as the words that a file without compression would hold: signed ones with their sign.

    Raises NotReproducibleError where a value has more bits.
    """
    if int(values.max(initial=0)) >> precision:
        raise NotReproducibleError
    size = min(max(layout.dtype.itemsize, 1 if precision <= 8 else 2), 2)
    if layout.dtype.kind == "i":
        sign = 1 << (precision - 1)
        return ((values.astype(np.int32) ^ sign) - sign).astype(f"i{size}")
    return values.astype(f"u{size}")


def values(samples: Samples, precision: int) -> NDArray[np.int32]:
    """The inverse of `words`."""
    integers: NDArray[Any] = samples
    return integers.astype(np.int32) & ((1 << precision) - 1)
