"""DICOM files: which bytes are pixels, which files are a series, and how its slices lie (PS3.3, PS3.5, PS3.10).

The allocated words are coded as they are: bits above BitsStored, overlays in them and padding values are never masked.
Of pixel data in a compressed transfer syntax the frames that `encapsulated` makes again bit for bit are coded. Pixel data of a
length that does not fit the image stays as it is.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from medzip.errors import UnsupportedInputError
from medzip.sources import dicom_packed
from medzip.sources.contract import broken, literals, native, whole
from medzip.sources.dicom_elements import EXPLICIT_LITTLE, PREAMBLE_BYTES, Element, Elements
from medzip.sources.dicom_series import (
    INSTANCE_NUMBER,
    KEYS,
    MAX_NUMBER,
    ORIENTATION,
    PIXEL_SPACING,
    POSITION,
    affine,
    divided,
    image_kind,
    orientation,
)
from medzip.sources.encapsulated.contract import Layout
from medzip.sources.encapsulated.frames import EncodedFrames, encoded_frames
from medzip.sources.wrappers.deflate.framing import framed
from medzip.sources.wrappers.streams import Opened, opened
from medzip.volume import FileSkeleton, Segment, Skeleton, Volume, Voxels

TRANSFER_SYNTAX = 0x00020010
STUDY = 0x0020000D
SERIES = 0x0020000E
SAMPLES_PER_PIXEL = 0x00280002
PHOTOMETRIC = 0x00280004
PLANAR_CONFIGURATION = 0x00280006
NUMBER_OF_FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011
BITS_ALLOCATED = 0x00280100
BITS_STORED = 0x00280101
PIXEL_REPRESENTATION = 0x00280103
FLOAT_PIXELS, DOUBLE_PIXELS, PIXELS = 0x7FE00008, 0x7FE00009, 0x7FE00010
NUMBERS = {SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION, ROWS, COLUMNS, BITS_ALLOCATED, BITS_STORED, PIXEL_REPRESENTATION}
TEXTS = {STUDY, SERIES, INSTANCE_NUMBER, POSITION, ORIENTATION, PHOTOMETRIC, NUMBER_OF_FRAMES, PIXEL_SPACING}
TEXTS |= {tag for tags in KEYS for tag in tags}

BIG_ENDIAN = "1.2.840.10008.1.2.2"
# Byte order of the pixels. The last one is General Electric's: a little endian data set with big endian pixels.
NATIVE = {"": "<", "1.2.840.10008.1.2": "<", "1.2.840.10008.1.2.1": "<", BIG_ENDIAN: ">", "1.2.840.113619.5.2": ">"}
NATIVE["1.2.840.10008.1.2.1.99"] = "<"  # once it is inflated
DEFLATED = "1.2.840.10008.1.2.1.99"
NOT_LOOKED_INTO = {"1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
"""Deflated data sets whose pixels are on a server."""
LARGEST_INFLATED = 1 << 30
MOST_ELEMENTS = 1 << 16
"""Not counting those in sequences. A gigabyte of empty ones would take half an hour."""
SUBSAMPLED = {"YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"}


@dataclass
class Header:
    """What a file says about its pixels; nothing here is needed to restore it. `deflated` is where a data set begins that is
    deflated and was not looked into."""

    transfer_syntax: str = ""
    deflated: int | None = None
    numbers: dict[int, int] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    pixels: Element | None = None

    def floats(self, tag: int, count: int) -> tuple[float, ...] | None:
        """The values of a DS or IS element, None unless there are `count` of them, of a size that a scan can have."""
        try:
            values = tuple(float(text) for text in self.texts.get(tag, "").split("\\"))
        except ValueError:
            return None
        return values if len(values) == count and all(abs(value) < MAX_NUMBER for value in values) else None


@dataclass(frozen=True)
class Frames:
    """Native pixel data: `count` frames of (rows, columns[, 3]) from `offset` on; `planar` as in medzip.volume.Voxels."""

    offset: int
    count: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    planar: bool

    @property
    def bytes_per_frame(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def samples(self, data: bytes) -> NDArray[np.generic]:
        """A view (count, rows, columns[, 3]) of the file's bytes."""
        stored = (3, *self.shape[:2]) if self.planar else self.shape
        frames = np.frombuffer(data, self.dtype, self.count * math.prod(stored), self.offset).reshape(self.count, *stored)
        return np.moveaxis(frames, 1, -1) if self.planar else frames

    def segments(self, data: bytes, volume: int, first: int) -> tuple[Segment, ...]:
        """The file as literals around its frames, which are the slices from `first` on of volume number `volume`."""
        voxels: Segment = Voxels(volume, first, self.count, self.dtype.str, self.planar)
        return (*literals(data[: self.offset]), voxels, *literals(data[self.offset + self.count * self.bytes_per_frame :]))


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")  # keys may be binary numbers


def scan(file: BinaryIO, size: int, name: str, *, inflated: bool = False) -> Header:
    """Reads a file's header up to its pixel data; raises UnsupportedInputError where elements do not fit the file.

    A deflated data set is not looked into, so it has neither numbers nor pixels here, unless `file` has it `inflated`.
    """
    elements, header = Elements(file, size, name), Header()
    offset = PREAMBLE_BYTES if elements.bytes_at(128, 4) == b"DICM" else 0
    while offset < size and elements.bytes_at(offset, 2) == b"\x02\x00":
        element = elements.element_at(offset, EXPLICIT_LITTLE)
        if element.tag == TRANSFER_SYNTAX:
            header.transfer_syntax = _text(elements.value(element))
        offset = elements.end_of(element, EXPLICIT_LITTLE)
    if header.transfer_syntax == DEFLATED and not inflated:
        header.deflated = offset
    if header.deflated is not None or header.transfer_syntax in NOT_LOOKED_INTO:
        return header
    # Files without a transfer syntax tell the byte order by their first group, which is below 256.
    bare_big = not header.transfer_syntax and elements.bytes_at(offset, 1) == b"\0"
    if bare_big:
        header.transfer_syntax = BIG_ENDIAN
    encoding = elements.encoding_at(offset, ">" if header.transfer_syntax == BIG_ENDIAN else "<")
    for number, element in enumerate(elements.following(offset, encoding)):
        if number == MOST_ELEMENTS:
            raise broken(name, f"at most {MOST_ELEMENTS} elements", "more")
        if element.tag == 0:  # zeros that fill a file up
            break
        if element.tag in (FLOAT_PIXELS, DOUBLE_PIXELS, PIXELS):
            header.pixels = element
            break
        if element.tag in NUMBERS and element.length == 2:
            header.numbers[element.tag] = struct.unpack(encoding.order + "H", elements.value(element))[0]
        elif element.tag in TEXTS:
            header.texts[element.tag] = _text(elements.value(element))
    return header


def header_of(file: BinaryIO, size: int, name: str) -> Header:
    """`scan`, with deflated data sets looked into."""
    header = scan(file, size, name)
    return header if header.deflated is None else _scan_inflated(file, header, name)


def _scan_inflated(file: BinaryIO, header: Header, name: str) -> Header:
    """The header of a file whose data set is deflated; without pixels where that is damaged."""
    start = header.deflated or 0
    file.seek(0)
    head, found = file.read(start), framed(file.read(), raw=True, most=LARGEST_INFLATED)
    content = head + found.content if found else b""
    return scan(io.BytesIO(content), len(content), name, inflated=True) if found else header


def _dtype(header: Header, pixels: Element) -> np.dtype[np.generic] | None:
    """The stored word, None where it is none of 8, 16, 32 bits or a float."""
    order = NATIVE.get(header.transfer_syntax)
    bits = header.numbers.get(BITS_ALLOCATED)
    if order is None or (bits == 8 and order == ">" and pixels.vr == b"OW"):  # bytes swapped in pairs (PS3.5 annex A.3)
        return None
    if pixels.tag != PIXELS:
        wanted = 32 if pixels.tag == FLOAT_PIXELS else 64
        return np.dtype(f"{order}f{wanted // 8}") if bits == wanted else None
    sign = {0: "u", 1: "i"}.get(header.numbers.get(PIXEL_REPRESENTATION, 0))
    return np.dtype(f"{order}{sign}{bits // 8}") if sign and bits in (8, 16, 32) else None


def _channels(header: Header) -> int:
    return header.numbers.get(SAMPLES_PER_PIXEL, 1)


def _frame_shape(header: Header) -> tuple[int, ...]:
    """(rows, columns[, 3])"""
    return header.numbers.get(ROWS, 0), header.numbers.get(COLUMNS, 0), *((3,) if _channels(header) == 3 else ())


def _count(header: Header, bytes_per_frame: int) -> int:
    """How many frames there are: 1 where a file does not say, as many as fill the pixel data where what it says is no number."""
    if not header.texts.get(NUMBER_OF_FRAMES):
        return 1
    said = header.floats(NUMBER_OF_FRAMES, 1)
    if said is None and header.pixels and bytes_per_frame:
        return (header.pixels.length or 0) // bytes_per_frame
    return int(said[0]) if said else 0


def packed_pixels(header: Header) -> dicom_packed.Pixels | None:
    """Native pixel data that `frames_of` has no words for, None where a file has none."""
    order, pixels, bits = NATIVE.get(header.transfer_syntax), header.pixels, header.numbers.get(BITS_ALLOCATED, 0)
    planar = header.numbers.get(PLANAR_CONFIGURATION, 0) and _channels(header) == 3
    if order is None or pixels is None or pixels.tag != PIXELS or not pixels.length or _channels(header) not in (1, 3) or planar:
        return None
    shape = (_count(header, 0), *_frame_shape(header))
    swapped = order == ">" and pixels.vr == b"OW"
    return dicom_packed.Pixels(pixels.offset, pixels.length, shape, bits, swapped, header.texts.get(PHOTOMETRIC, ""))


def frames_of(header: Header) -> Frames | None:
    """How a file's pixel data is to be coded, None where it has none or is to stay as it is."""
    pixels = header.pixels
    if pixels is None or not pixels.length:
        return None
    dtype = _dtype(header, pixels)
    channels, shape = _channels(header), _frame_shape(header)
    count = _count(header, math.prod(shape) * dtype.itemsize if dtype else 0)
    subsampled = header.texts.get(PHOTOMETRIC) in SUBSAMPLED
    if dtype is None or count < 1 or channels not in (1, 3) or 0 in shape or subsampled:
        return None
    planar = channels == 3 and header.numbers.get(PLANAR_CONFIGURATION, 0) == 1
    frames = Frames(pixels.offset, count, shape, dtype, planar)
    # Less than a frame too much, or the byte that makes the length even, is padding and stays literal; more says that
    # the header does not describe the data.
    excess = pixels.length - frames.count * frames.bytes_per_frame
    return frames if 0 <= excess < max(frames.bytes_per_frame, 2) else None


def encoded_frames_of(header: Header, data: bytes) -> EncodedFrames | None:
    """The frames of a file with encapsulated pixel data, None where it has none."""
    count = header.floats(NUMBER_OF_FRAMES, 1) or (1.0,)
    sign = "i" if header.numbers.get(PIXEL_REPRESENTATION) == 1 else "u"
    bits, channels = header.numbers.get(BITS_ALLOCATED), header.numbers.get(SAMPLES_PER_PIXEL, 1)
    if header.pixels is None or header.pixels.length is not None:
        return None
    if bits not in (8, 16, 32) or channels not in (1, 3):
        return EncodedFrames(header.pixels.offset, ())
    layout = Layout(header.numbers.get(ROWS, 0), header.numbers.get(COLUMNS, 0), channels, np.dtype(f"{sign}{bits // 8}"))
    return encoded_frames(data, header.pixels.offset, int(count[0]), layout, header.transfer_syntax)


def volume_key(header: Header, frames: Frames | EncodedFrames | None) -> tuple[object, ...]:
    """Equal for the files whose slices belong into one archive."""
    numbers = (ROWS, COLUMNS, SAMPLES_PER_PIXEL, BITS_ALLOCATED, PIXEL_REPRESENTATION)
    kind = frames.dtype.kind if frames else None
    return (orientation(header), kind, *(header.numbers.get(tag) for tag in numbers))


@dataclass(frozen=True)
class _Image:
    """A file whose pixel data is coded, on its way into a volume."""

    name: str
    data: bytes
    header: Header
    frames: Frames | EncodedFrames

    @property
    def stack(self) -> object:
        """Equal for the images whose slices are of one kind, size and orientation."""
        shape = (self.frames.shape, self.frames.dtype.newbyteorder("="), self.header.numbers.get(BITS_STORED))
        return self.name if self.frames.count > 1 else (volume_key(self.header, self.frames), shape, image_kind(self.header))

    def samples(self) -> NDArray[np.generic]:
        return self.frames.samples(self.data)

    def skeleton(self, volume: int, first: int) -> FileSkeleton:
        """The file, its frames being the slices from `first` on of volume number `volume`."""
        return FileSkeleton(self.name, self.frames.segments(self.data, volume, first))


@dataclass(frozen=True)
class _Packed:
    """A file whose samples are no words in a row, with volumes of its own."""

    name: str
    data: bytes
    pixels: dicom_packed.Pixels

    def taken_apart(self, volume: int) -> tuple[FileSkeleton, list[Volume]]:
        """The file and its volumes, numbered from `volume` on."""
        return dicom_packed.taken_apart(self.name, self.data, self.pixels, volume) or (whole(self.name, self.data), [])


def _take_apart(name: str, data: bytes, header: Header) -> _Image | _Packed | FileSkeleton:
    if frames := frames_of(header):
        return _Image(name, data, header, frames)
    if pixels := packed_pixels(header):
        return _Packed(name, data, pixels)
    encoded = encoded_frames_of(header, data)
    if encoded and encoded.count:
        return _Image(name, data, header, encoded)
    return FileSkeleton(name, encoded.segments(data, 0, 0)) if encoded else whole(name, data)


def _different(files: Iterable[tuple[str, bytes]], names: list[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    """The files but for repeated ones; adds to `names` each name and that of the first file with the same bytes."""
    firsts: dict[bytes, str] = {}
    for name, data in files:
        digest = hashlib.sha256(data).digest()
        if digest not in firsts:
            firsts[digest] = name
            yield name, data
        names.append((name, firsts[digest]))


def _stack(images: list[_Image]) -> Volume:
    """The volume of one multi-frame file, or of single-frame files in the order given."""
    matrix = affine([image.header for image in images]) if images[0].frames.count == 1 else None
    parts = [native(image.samples()) for image in images]
    return Volume(np.concatenate(parts) if len(parts) > 1 else np.ascontiguousarray(parts[0]), matrix)


class DicomSource:
    """Files of one or several series: single-frame files are divided into volumes as `medzip.sources.dicom_series` says; each
    multi-frame file is a volume of its own, its frames being the slices in their order."""

    name = "dicom"

    def detect(self, head: bytes) -> bool:
        """With preamble and prefix, or a bare data set that starts in group 0002 or 0008 with two likely elements."""
        if head[128:132] == b"DICM":
            return True
        order = ">" if head[:1] == b"\0" else "<"
        elements = Elements(io.BytesIO(head), 1 << 40, "")
        try:
            encoding = elements.encoding_at(0, order)
            first = elements.element_at(0, encoding)
            second = elements.element_at(elements.end_of(first, encoding), encoding)
        except UnsupportedInputError:
            return False
        return first.tag >> 16 in (2, 8) and first.tag < second.tag < 0x00110000

    def archive_name(self, file: BinaryIO, size: int, name: str) -> str | None:
        """'series-<digest>.mdz', the digest over series (or folder, where a file names no series), orientation and size."""
        header = header_of(file, size, name)
        if header.pixels is None:
            return None
        series = header.texts.get(SERIES) or ("folder", str(PurePosixPath(name).parent))
        key = (series, volume_key(header, frames_of(header)))
        return f"series-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.mdz"

    def split(self, files: Iterable[tuple[str, bytes]]) -> tuple[Skeleton, list[Volume]]:
        """As for all sources; of files with the same bytes, all are made of the slices of the first one."""
        names: list[tuple[str, str]] = []
        skeleton, volumes = self._split(_different(files, names))
        found = {file.name: file for file in skeleton.files}
        return Skeleton(tuple(replace(found[first], name=name) for name, first in names)), volumes

    def _split(self, files: Iterable[tuple[str, bytes]]) -> tuple[Skeleton, list[Volume]]:
        inside: dict[str, Opened] = {}
        parts: list[_Image | _Packed | FileSkeleton] = []
        for name, data in files:
            header = scan(io.BytesIO(data), len(data), name)
            found = None if header.deflated is None else opened(data, name, header.deflated, raw=True)
            if found:
                header = scan(io.BytesIO(found.data), len(found.data), name, inflated=True)
            part = _take_apart(name, found.data if found else data, header)
            if found and isinstance(part, FileSkeleton):
                part = whole(name, data)
            elif found:
                inside[name] = found
            parts.append(part)
        stacks: dict[object, list[_Image]] = {}
        for part in parts:
            if isinstance(part, _Image):
                stacks.setdefault(part.stack, []).append(part)
        skeletons = {part.name: part for part in parts if isinstance(part, FileSkeleton)}
        volumes: list[Volume] = []
        for part in parts:
            if isinstance(part, _Packed):
                skeletons[part.name], own = part.taken_apart(len(volumes))
                volumes += own
        for images in (part for stack in stacks.values() for part in (divided(stack) if len(stack) > 1 else [stack])):
            skeletons |= {image.name: image.skeleton(len(volumes), first) for first, image in enumerate(images)}
            volumes.append(_stack(images))
        skeletons |= {name: found.closed(skeletons[name], volumes) for name, found in inside.items()}
        return Skeleton(tuple(skeletons[part.name] for part in parts)), volumes
