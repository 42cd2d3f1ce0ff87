#!/usr/bin/env python3
"""unmdz: gives back the files in medzip archives. The second decoder, written from medzip/container/FORMAT.md alone.

    python tools/unmdz.py scan.nii.mdz [-o FOLDER]        # or a folder of archives with its medzip-tree.json

It needs Python 3.11 and numpy, the file `tables.bin` (11.1), the weights files that archives name (14.5), the command `zstd`
(Debian package zstd) and, where an archive uses JPEG XL, `djxl` (package libjxl-tools). It shares no code with medzip, reads best
beside FORMAT.md, whose sections the docstrings name, and is slow: some thousand voxels a second.

Out of its scope: chunks of float models (15), which it refuses with a message, parity and salvage (8, 10: it refuses what is
damaged). Chunks of kind `numeric` (6.2) need the Python package pcodec.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

REPOSITORY = Path(__file__).resolve().parents[1]
TABLES = REPOSITORY / "medzip" / "exact" / "tables.bin"
WEIGHTS = REPOSITORY / "medzip" / "weights"
PACKAGES = {"zstd": "zstd", "djxl": "libjxl-tools"}


class RefusedError(Exception):
    """An archive is not restored (0.2); `code` is the exit code."""

    code = 3


class TruncatedError(RefusedError):
    """The bytes end too early."""


class DamagedError(RefusedError):
    """Something is not as FORMAT.md says."""


class UnsupportedError(RefusedError):
    """Intact as far as one sees, but of a kind that this decoder does not know."""

    code = 2


class MissingError(RefusedError):
    """Weights or a command are missing."""

    code = 5


# ---- 2 Conventions ----


def crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [n >> 1 ^ (0x82F63B78 if n & 1 else 0) for n in table]
    return table


CRC_TABLE = crc_table()


def crc32c(data: bytes) -> int:
    """2.2"""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[crc & 255 ^ byte] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


class Cursor:
    """Takes bytes from the front of `data`; what ends too early is damage."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = data, name, 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise DamagedError(f"{self.name} ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def integer(self, size: int, order: Any = "little") -> int:
        return int.from_bytes(self.take(size), order)

    def number(self) -> int:
        """LEB128 (18)."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.integer(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise DamagedError(f"{self.name}: a number of more than 63 bits")

    def block(self) -> bytes:
        """A number n and n bytes (18)."""
        return self.take(self.number())

    def end(self) -> None:
        if self.at != len(self.data):
            raise DamagedError(f"{self.name} is followed by other bytes")


def cbor(data: bytes, name: str) -> Any:
    """The item that `data` is (2.3)."""
    cursor = Cursor(data, name)
    item = cbor_item(cursor, 0)
    cursor.end()
    return item


def cbor_item(cursor: Cursor, depth: int) -> Any:
    first = cursor.integer(1)
    major, short = first >> 5, first & 31
    if major == 6 or short > 27 or (depth == 16 and major in (4, 5)):
        raise DamagedError(f"{cursor.name}: CBOR nested too deep, a tag or an indefinite length")
    if major == 7:
        if short in (20, 21, 22):
            return {20: False, 21: True, 22: None}[short]
        if short not in (25, 26, 27):
            raise DamagedError(f"{cursor.name}: CBOR of a kind that archives do not have")
        return struct.unpack({25: ">e", 26: ">f", 27: ">d"}[short], cursor.take(1 << short - 24))[0]
    n = short if short < 24 else cursor.integer(1 << short - 24, "big")
    if major < 2:
        return n if major == 0 else -1 - n
    if major == 2:
        return cursor.take(n)
    if major == 3:
        return cursor.take(n).decode()
    if major == 4:
        return [cbor_item(cursor, depth + 1) for _ in range(n)]
    items: dict[str, Any] = {}
    for _ in range(n):
        key = cbor_item(cursor, depth + 1)
        if not isinstance(key, str) or key in items:
            raise DamagedError(f"{cursor.name}: a key that is no text, or repeated")
        items[key] = cbor_item(cursor, depth + 1)
    return items


def whole(item: Any, low: int, high: int, what: str) -> int:
    """`item`, if it is an integer of low..high."""
    if not isinstance(item, int) or isinstance(item, bool) or not low <= item <= high:
        raise DamagedError(f"{what} is not an integer of {low} to {high}")
    return item


# ---- 1, 3 to 10 Container ----


@dataclasses.dataclass(frozen=True)
class Section:
    kind: str
    offset: int
    payload: bytes


@dataclasses.dataclass(frozen=True)
class Volume:
    """An entry of `volumes` (4.1)."""

    slices: int
    rows: int
    columns: int
    colours: int
    dtype: np.dtype[Any]


@dataclasses.dataclass(frozen=True)
class Chunk:
    header: dict[str, Any]
    data: bytes


@dataclasses.dataclass(frozen=True)
class Archive:
    head: dict[str, Any]
    volumes: list[Volume]
    files: list[dict[str, Any]]
    skeleton: bytes
    chunks: list[Chunk]


MAGIC = bytes.fromhex("894D445A0D0A1A0A")
DTYPES = ("|u1", "<u2", "<u4", "<u8", "|i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8")


def tail_of(data: bytes) -> tuple[int, int, int] | None:
    """Offsets of INDX and PARI and the length in TAIL (9); None where it is not intact."""
    mark, index, parity, length, crc = struct.unpack("<4sQQQI", data[-32:].rjust(32, b"\0"))
    return (index, parity, length) if mark == b"TAIL" and crc == crc32c(data[-32:-4]) else None


def sections_of(data: bytes) -> Iterator[Section]:
    """All sections up to PARI, their CRCs good (3.2); PARI itself, which is not used here, with whatever it holds (8)."""
    at, kind = len(MAGIC), ""
    while kind != "PARI":
        header = data[at : at + 20]
        if len(header) < 20:
            raise TruncatedError("the archive ends where a section should begin")
        name, flags, length, crc = struct.unpack("<4sIQI", header)
        if crc32c(header[:16]) != crc or not re.fullmatch(rb"[A-Z0-9]{4}", name):
            raise DamagedError(f"the header of the section at byte {at} is damaged")
        kind = name.decode()
        if length > len(data) - at - 24:
            raise TruncatedError(f"section {kind} at byte {at} goes beyond the end of the archive")
        if flags > 1 or (flags == 1 and kind not in ("HEAD", "FILE", "SKEL", "BASE", "CHNK", "INDX", "PARI")):
            raise UnsupportedError(f"section {kind} at byte {at} is not known to this decoder, and needed")
        payload, end = data[at + 20 : at + 20 + length], at + 24 + length
        if kind != "PARI" and crc32c(payload) != struct.unpack("<I", data[end - 4 : end])[0]:
            raise DamagedError(f"section {kind} at byte {at} is damaged")
        yield Section(kind, at, payload)
        at = end


def read_archive(data: bytes) -> Archive:
    """Sections, in order, without gaps, and as INDX and TAIL have them (1, 7, 9, 10)."""
    tail = tail_of(data)
    if data[:8] != MAGIC:
        raise DamagedError("the magic is damaged") if tail else UnsupportedError("no medzip archive")
    if tail and tail[2] != len(data):
        raise DamagedError(f"the archive says that it has {tail[2]} bytes, but has {len(data)}")
    sections: list[Section] = []
    head: dict[str, Any] = {}
    for section in sections_of(data):
        if not sections:
            if section.kind != "HEAD":
                raise DamagedError("HEAD is not the first section")
            head = cbor(section.payload, "HEAD")
            if head["format"][0] != 1:
                raise UnsupportedError(f"format {head['format']}: this decoder knows 1.0")
        sections.append(section)
    kinds = [section.kind for section in sections]
    if (
        kinds[:3] != ["HEAD", "FILE", "SKEL"]
        or kinds[-2:] != ["INDX", "PARI"]
        or any(kinds.count(kind) > 1 for kind in ("HEAD", "FILE", "SKEL", "INDX", "PARI"))
    ):
        raise DamagedError("sections are missing, repeated or out of order")
    end = sections[-1].offset + 24 + len(sections[-1].payload)
    if end != len(data) - 32:
        raise TruncatedError("TAIL is missing") if end > len(data) - 32 else DamagedError("there are bytes between PARI and TAIL")
    if tail and tail[:2] != (sections[-2].offset, sections[-1].offset):
        raise DamagedError("TAIL points elsewhere")
    chunks = []
    for section, entry in zip(sections[:-2], cbor(sections[-2].payload, "INDX")["sections"], strict=True):
        place = [section.kind, section.offset, len(section.payload)]
        if section.kind == "CHNK":
            chunks.append(read_chunk(section.payload))
            place += [chunks[-1].header.get(key) for key in ("volume", "first", "count")]
        if entry[: len(place)] != place:
            raise DamagedError("INDX says other things than the sections")
    volumes = [read_volume(entry) for entry in head.get("volumes", [])]
    return Archive(head, volumes, read_files(sections[1].payload), sections[2].payload, chunks)


def read_volume(entry: dict[str, Any]) -> Volume:
    shape = [whole(n, 1, 2**63 - 1, "an extent of a volume") for n in entry["shape"]]
    if len(shape) not in (3, 4) or shape[3:] not in ([], [3]) or entry["dtype"] not in DTYPES:
        raise DamagedError("a volume with a shape or dtype that cannot be")
    return Volume(shape[0], shape[1], shape[2], 3 if shape[3:] else 1, np.dtype(entry["dtype"]))


def read_chunk(payload: bytes) -> Chunk:
    """6"""
    cursor = Cursor(payload, "a chunk's header")
    length = cursor.integer(4)
    header = cbor(cursor.take(length), "a chunk's header")
    if cursor.integer(4) != crc32c(payload[: 4 + length]):
        raise DamagedError("a chunk's header is damaged")
    return Chunk(header, payload[8 + length :])


# ---- Other people's codecs ----


def command(arguments: str, data: bytes, source: str) -> list[bytes]:
    """Content of the files that a command makes of the file `source` with `data`, by the numbers in their names."""
    name = arguments.split()[0]
    if shutil.which(name) is None:
        raise MissingError(f"the command {name} is missing; on Debian: apt-get install {PACKAGES[name]}")
    with tempfile.TemporaryDirectory(prefix="unmdz") as folder:
        Path(folder, source).write_bytes(data)
        run = subprocess.run(arguments.split(), cwd=folder, capture_output=True, check=False)
        made = [path for path in Path(folder).iterdir() if path.name != source]
        if run.returncode or not made:
            raise DamagedError(f"{name} refuses the data: {run.stderr.decode(errors='replace').strip()[-200:]}")
        made.sort(key=lambda path: int("0" + "".join(re.findall("[0-9]", path.name))))
        return [path.read_bytes() for path in made]


def zstd(data: bytes, length: int | None = None) -> bytes:
    """Content of a Zstandard frame, of `length` bytes if that is known."""
    [content] = command("zstd -d -q --long=27 in.zst -o out", data, "in.zst")
    if length not in (None, len(content)):
        raise DamagedError(f"{len(content)} bytes in a Zstandard frame, expected {length}")
    return content


def jpeg_xl(data: bytes, planes: int, rows: int, columns: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Samples of kind `jpeg_xl` (6.2), by way of one PGM file a frame."""
    frames = command("djxl in.jxl out.pgm", data, "in.jxl")
    top = 256**dtype.itemsize - 1
    header = b"P5\n%d %d\n%d\n" % (columns, rows, top)
    size = rows * columns * dtype.itemsize
    if len(frames) != planes or any(not frame.startswith(header) or len(frame) != len(header) + size for frame in frames):
        raise DamagedError("JPEG XL frames of another number, size or depth")
    samples = np.frombuffer(b"".join(frame[-size:] for frame in frames), f">u{dtype.itemsize}")
    if dtype.kind == "i":
        samples = samples ^ (top + 1 >> 1)
    return samples.astype(f"<u{dtype.itemsize}").view(dtype).reshape(planes, rows, columns)


def numeric(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Samples of kind `numeric` (6.2)."""
    try:
        from pcodec import standalone
    except ImportError:
        raise MissingError("a chunk of kind numeric needs the Python package pcodec: pip install pcodec") from None
    samples = standalone.simple_decompress(data)
    if samples is None or samples.dtype != dtype:
        raise DamagedError("a chunk of kind numeric holds numbers of another type")
    return np.asarray(samples).reshape(shape)


# ---- 11 Symbols, 12 Range coder ----


class Tables:
    """The tables of 11.1."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MissingError(f"{path} is missing: name the file tables.bin of medzip with --tables")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != "c17db2c86e2a558da9a25ef917b26e1ce7f4bfdb46e8d12d32e869c1944196f6":
            raise MissingError(f"{path} is not the file tables.bin that FORMAT.md means")
        entries = np.frombuffer(data, "<i4").astype(np.int64)
        # The last twice: beyond the table the CDF is flat.
        self.gaussian, self.logistic = np.append(entries[:4097], entries[4096]), np.append(entries[4097:8194], entries[8193])
        self.octave, self.inverse_octave = entries[8194:8210], entries[8210:8226]

    def scale(self, code: Integers) -> Integers:
        """s of 11.2, in units of 2^-12 of a value."""
        return (self.octave[code % 16] << (code >> 4)) >> 7

    def half_cdf(self, z: Integers, gaussian: bool) -> Integers:
        """H of 11.1."""
        table, b = (self.gaussian, 13) if gaussian else (self.logistic, 15)
        i, r = np.minimum(z >> b, 4096), z & ((1 << b) - 1)
        here, after = table[i], table[np.minimum(i + 1, 4096)]
        result: Integers = here + ((r * (after - here)) >> b)
        return result


def log2_up(n: Integers) -> Integers:
    """The smallest integers r >= 0 with 2^r >= n."""
    return np.frexp(np.maximum(n - 1, 0).astype(np.float64))[1].astype(np.int64)


class RangeDecoder:
    """12"""

    def __init__(self, data: bytes) -> None:
        if not data or len(data) % 4:
            raise DamagedError("the data of a chunk are no words of 32 bits")
        self.words = np.frombuffer(data, "<u4").tolist()
        self.at, self.lower, self.range = 2, 0, 2**64 - 1
        self.point = self.words[0] << 32 | (self.words[1] if len(self.words) > 1 else 0)

    def symbol(self, cumulative: list[int]) -> int:
        """The next symbol, by F(0) to F(16)."""
        scale = self.range >> 24
        quantile = (self.point - self.lower) % 2**64 // scale
        if quantile >= 2**24:
            raise DamagedError("the data of a chunk select no symbol")
        symbol = bisect_right(cumulative, quantile) - 1
        self.lower = (self.lower + scale * cumulative[symbol]) % 2**64
        self.range = scale * (cumulative[symbol + 1] - cumulative[symbol])
        if self.range < 2**32:
            word = self.words[self.at] if self.at < len(self.words) else 0
            self.lower, self.range, self.point, self.at = (
                self.lower << 32 & 2**64 - 1,
                self.range << 32,
                (self.point << 32 & 2**64 - 1) | word,
                self.at + 1,
            )
        return symbol


@dataclasses.dataclass(frozen=True)
class Mixtures:
    """Weights, means and scale codes (11.1) of n mixtures of K logistics, or Gaussians: (n, K) each."""

    weight: Integers
    mean: Integers
    code: Integers
    gaussian: bool = False

    def of(self, which: Integers) -> Mixtures:
        return Mixtures(self.weight[which], self.mean[which], self.code[which], self.gaussian)


class SymbolDecoder:
    """Samples of low..high from symbols (11.2), those of one step at a time."""

    def __init__(self, data: bytes, low: int, high: int, tables: Tables) -> None:
        self.coder, self.low, self.high, self.tables = RangeDecoder(data), low, high, tables

    def cumulative(self, bounds: Integers, mixtures: Mixtures) -> list[list[int]]:
        """F of 12 from the PMFs of 11.3, for boundaries E (n, 17)."""
        ends = np.where(bounds == self.low, -(2**33), np.where(bounds == self.high + 1, 2**33, bounds))
        distance = ((ends << 12) - 2**11)[:, :, None] - mixtures.mean[:, None, :]
        code = mixtures.code[:, None, :]
        z = (np.abs(distance) * self.tables.inverse_octave[code % 16]) >> ((code >> 4) + 1)
        c = (mixtures.weight[:, None, :] * np.sign(distance) * self.tables.half_cdf(z, mixtures.gaussian)).sum(axis=2)
        mass = np.diff(c, axis=1)
        small = mass.sum(axis=1) < mixtures.weight.sum(axis=1) << 14
        mass[small] = np.diff(bounds[small], axis=1) > 0
        f = 1 + mass * (2**16 - 16) // mass.sum(axis=1, keepdims=True)
        f[np.arange(len(f)), f.argmax(axis=1)] += 2**16 - f.sum(axis=1)
        before = np.cumsum(f, axis=1) - f
        cumulative = ((before * (2**24 - 16)) >> 16) + np.arange(16)
        return [[*row, 2**24] for row in cumulative.tolist()]

    def narrow(self, bounds: Integers, mixtures: Mixtures) -> tuple[Integers, Integers, Integers]:
        """One symbol each: symbols, starts and ends of the intervals that they select."""
        symbols = np.array([self.coder.symbol(row) for row in self.cumulative(bounds, mixtures)], np.int64)
        rows = np.arange(len(bounds))
        start, end = bounds[rows, symbols], bounds[rows, symbols + 1]
        if (start >= end).any():
            raise DamagedError("the data of a chunk select an empty interval")
        return symbols, start, end

    def step(self, mixtures: Mixtures) -> Integers:
        """The samples (n) of a step, in its order."""
        low, high, i = self.low, self.high, np.arange(17)
        w, m = mixtures.weight, mixtures.mean
        total = w.sum(axis=1)
        centre = np.clip(((w * m).sum(axis=1) // total + 2**11) >> 12, low, high)
        reach = np.minimum(self.tables.scale(mixtures.code) + np.abs(m - (centre << 12)[:, None]), 2**46)
        reach = np.minimum((((w * reach).sum(axis=1) // total) * (6 if mixtures.gaussian else 7)) >> 13, high - low + 1)
        q = log2_up((reach + 6) // 7)
        bounds = np.clip(centre[:, None] + ((i - 8) << q[:, None]), low, high + 1)
        bounds[:, 0], bounds[:, 16] = low, high + 1
        first, start, end = self.narrow(bounds, mixtures)
        tail = np.flatnonzero(((first == 0) | (first == 15)) & (end - start > 1))
        while len(tail):
            a, b, unit = start[tail, None], end[tail, None], 1 << q[tail, None]
            lower = np.where(i == 0, a, np.maximum(a, b - ((1 << (16 - i)) - 1) * unit))
            upper = np.where(i == 16, b, np.minimum(b, a + ((1 << i) - 1) * unit))
            symbols, start[tail], end[tail] = self.narrow(np.where(first[tail, None] == 0, lower, upper), mixtures.of(tail))
            tail = tail[(symbols == first[tail]) & (end[tail] - start[tail] > 1)]
            q[tail] = np.minimum(q[tail] + 15, 33)
        while len(wide := np.flatnonzero(end - start > 1)):
            a, b = start[wide, None], end[wide, None]
            r = log2_up((b - a + 15) // 16)
            _, start[wide], end[wide] = self.narrow(np.minimum(a + (i << r), b), mixtures.of(wide))
        return start


def steps(shape: tuple[int, int, int], per_row: int, planes: Integers) -> Iterator[tuple[Integers, Integers, Integers]]:
    """z, y and x of the samples of each step, in order; plane z begins with step planes[z], row y per_row y later (13, 14)."""
    z, y = (n.ravel() for n in np.mgrid[: shape[0], : shape[1]])
    begins = planes[z] + per_row * y
    order = np.lexsort((z, begins))
    z, y, begins = z[order], y[order], begins[order]
    for step in range(int(begins[-1]) + shape[2]):
        now = slice(*np.searchsorted(begins, (step - shape[2], step), side="right"))
        if now.start < now.stop:
            yield z[now], y[now], step - begins[now]


def side_range(side: dict[str, Any], dtype: np.dtype[Any]) -> tuple[int, int]:
    """`low` and `high` (13, 14)."""
    if dtype.kind not in "iu" or dtype.itemsize > 4:
        raise DamagedError(f"a chunk of kind model with samples of {dtype}")
    limits = np.iinfo(dtype)
    low = whole(side["low"], int(limits.min), int(limits.max), "low")
    return low, whole(side["high"], low, int(limits.max), "high")


# ---- 13 Parametric model ----

# fmt: off
PARAMETRIC = np.array((
    (0, 0, -1), (0, -1, 0), (0, -1, 1), (0, -1, -1), (0, 0, -2), (0, -2, 0), (0, -1, 2), (0, -1, -2), (0, -2, -1), (0, -2, 1),
    (0, -1, -3), (0, 0, -3), (0, -2, 2), (0, -2, -2), (0, -3, 0), (-1, 0, 0), (-1, 0, 1), (-1, 0, -1), (-1, 1, 0), (-1, -1, 0),
    (-1, 1, 1), (-1, 1, -1), (-1, -1, 1), (-1, -1, -1),
))
# fmt: on


class Contexts:
    """Sums and counts of contexts (13)."""

    def __init__(self, sums: Integers, count: int) -> None:
        self.sums, self.counts = sums, np.full_like(sums, count)

    def learn(self, contexts: Integers, amounts: Integers) -> None:
        np.add.at(self.sums, contexts, amounts)
        np.add.at(self.counts, contexts, 1)
        r = np.maximum(log2_up(self.counts[contexts]) - 10, 0)
        _, one_each = np.unique(contexts, return_index=True)
        contexts, r = contexts[one_each], r[one_each]
        self.sums[contexts] >>= r
        self.counts[contexts] >>= r


def parametric_places(z: Integers, y: Integers, x: Integers, shape: tuple[int, int, int]) -> tuple[Integers, NDArray[np.bool_]]:
    """Places of V for the 24 neighbours of each sample in the flat chunk, -1 for a zero, and whether they lie inside."""
    _, rows, columns = shape
    q, r, c = (place[:, None] + PARAMETRIC[:, axis] for axis, place in enumerate((z, y, x)))
    inside = (q >= 0) & (r >= 0) & (r < rows) & (c >= 0) & (c < columns)
    own_row = (y == 0)[:, None] & (q == z[:, None])
    ahead = np.where(own_row, np.where(x[:, None] == 0, 0, np.minimum(c, x[:, None])), np.minimum(c, columns))
    row, column = np.select(
        [r < 0, c < 0, r == rows, c >= columns],
        [np.stack([0 * r, ahead - 1]), np.stack([r - 1, 0 * c]), np.stack([r - 1, c]), np.stack([r, 0 * c + columns - 1])],
        np.stack([r, c]),
    )
    zero = (q < 0) | ((r < 0) & ((c <= 0) | (ahead == 0))) | ((c < 0) & (r == 0)) | ((r == rows) & (c >= columns))
    return np.where(zero, -1, (q * rows + row) * columns + column), inside


def parametric(
    header: dict[str, Any], data: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any], tables: Tables
) -> Integers:
    """Samples of a chunk of model `parametric`."""
    side = header["side"]
    low, high = side_range(side, dtype)
    taps = np.zeros((2, 24), np.int64)
    if side["taps"]:
        taps[0, :15], taps[1] = (
            [whole(tap, -4096, 4096, "a tap") for tap in row] if len(row) == length else []
            for row, length in zip(side["taps"], (15, 24), strict=True)
        )
    top, size = high - low, int(np.prod(shape))
    values, errors = np.zeros(size + 1, np.int64), np.zeros(size + 1, np.int64)  # the last one, place -1, stays 0
    if top == 0:
        return values[:-1].reshape(shape) + low
    levels = np.array([round(2 ** (j / 2)) for j in (0, *range(2, 76))])
    scales = tables.scale(np.arange(640))
    spreads = Contexts(np.repeat(4 * np.append(0, levels) // 18, 76), 4)
    biases = Contexts(np.zeros(64 * 76, np.int64), 0)
    decoder = SymbolDecoder(data, 0, top, tables)
    for z, y, x in steps(shape, 3, 5 * np.arange(shape[0])):
        places, inside = parametric_places(z, y, x, shape)
        n, e = values[places], np.where(inside, errors[places], 0)
        base = 3 * (n[:, 0] + n[:, 1]) + n[:, 2] + n[:, 3]
        raw = (base << 9) + (((8 * n - base[:, None]) * taps[np.minimum(z, 1)]).sum(axis=1) >> 1)
        near = e[:, :6] @ np.array((3, 3, 2, 2, 1, 1))
        activity = near + np.where(z == 0, near >> 1, e[:, 15:20] @ np.array((2, 1, 1, 1, 1)))
        spread = np.abs(n[:, (0, 1, 1, 0, 1)] - n[:, (3, 3, 2, 4, 5)]).sum(axis=1)
        a = np.searchsorted(levels, activity, side="right")
        pattern = ((n[:, :6] << 12) > raw[:, None]) @ (1 << np.arange(6))
        of_spread, of_bias = 76 * a + np.searchsorted(levels, spread, side="right"), 76 * pattern + a
        mean = np.clip(raw + biases.sums[of_bias] // (biases.counts[of_bias] + 16), 0, top << 12)
        code = np.searchsorted(scales, (spreads.sums[of_spread] << 8) // spreads.counts[of_spread])
        codes = np.clip(code[:, None] + (-11, 7), 0, 639)
        v = decoder.step(Mixtures(np.full_like(codes, 1) * (29, 3), np.repeat(mean[:, None], 2, axis=1), codes))
        here = (z * shape[1] + y) * shape[2] + x
        values[here], errors[here] = v, np.minimum(np.abs((v << 12) - mean) >> 8, 2**30)
        spreads.learn(of_spread, errors[here])
        biases.learn(of_bias, (v << 12) - raw)
    return values[:-1].reshape(shape) + low


# ---- 14 Pixel model ----


def box(plane: int, rows: range, columns: range) -> list[tuple[int, int, int]]:
    return [(plane, row, column) for row in rows for column in columns]


NEIGHBOURS = np.array(
    [(0, 0, -1 - i) for i in range(5)]
    + box(0, range(-1, 0), range(-4, 4))
    + box(0, range(-2, -1), range(-4, 4))
    + box(0, range(-3, -2), range(-3, 3))
    + box(0, range(-4, -3), range(-2, 3))
    + box(-1, range(-2, 3), range(-2, 3))
    + box(-2, range(-1, 2), range(-1, 2))
)
# fmt: off
ERRORS = np.array((
    (0, 0, -1), (0, -1, 0), (0, -1, -1), (0, -1, 1), (0, 0, -2), (0, -2, 0), (0, -1, 2),
    (-1, 0, 0), (-1, 0, 1), (-1, 1, 0), (-1, 0, -1), (-1, -1, 0),
))
# fmt: on
TEN = (0, 1, 7, 8, 9, 10, 11, 16, 17, 18)
REGRESSORS = (0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 15, 16, 17, 18, 19, 23, 24, 25, 39, 43, 44, 45, 49)
Layer = tuple[Integers, Integers, Integers]  # W, B and t


class Network:
    """14.4. Layers of integers, multiplied in binary64: every partial sum is below 2^30 (14.5), so nothing is ever rounded."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers
        self.transposed = [weight.T.astype(np.float64) for weight, _, _ in layers]

    def outputs(self, features: Integers) -> tuple[Integers, Integers]:
        """Sums S of layer `out` (n, 3 K), and its shifts."""
        a = features
        for number, (weight, bias, shift) in enumerate(self.layers[:-1]):
            s = (a.astype(np.float64) @ self.transposed[number]).astype(np.int64) + bias
            given = (np.maximum(s, s >> 4) + ((1 << shift) >> 1)) >> shift
            a = np.clip(given + a if number and weight.shape[0] == weight.shape[1] else given, -127, 127)
        sums = np.hstack([a, features]).astype(np.float64) @ self.transposed[-1]
        return sums.astype(np.int64) + self.layers[-1][1], self.layers[-1][2]


def sums_fit(layers: list[Layer]) -> bool:
    """The last check of 14.5."""
    return all(int((128 * np.abs(weight).sum(axis=1) + np.abs(bias)).max()) < 2**30 for weight, bias, _ in layers)


def read_tensors(folder: Path, digest: bytes) -> tuple[Path, dict[str, Integers]]:
    """The weights file with this SHA-256, and its tensors (14.5)."""
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        if hashlib.sha256(data).digest() == digest:
            break
    else:
        raise MissingError(f"no weights with SHA-256 {digest.hex()} in {folder}: name the folder that has them with --weights")
    length = int.from_bytes(data[:8], "little")
    tensors: dict[str, Integers] = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            numbers = np.frombuffer(data[8 + length + begin : 8 + length + end], {"I8": "<i1", "I32": "<i4"}[entry["dtype"]])
            tensors[name] = numbers.reshape(entry["shape"]).astype(np.int64)
    return path, tensors


def read_weights(folder: Path, digest: bytes) -> list[Layer]:
    """Layers of the pixel network in the weights file with this SHA-256 (14.5)."""
    path, tensors = read_tensors(folder, digest)
    hidden = sum(name.startswith("hidden.") and name.endswith(".weight") for name in tensors)
    layers: list[Layer] = []
    width = 96
    for name in [*(f"hidden.{i}" for i in range(hidden)), "out"]:
        weight, bias, shift = (tensors[f"{name}.{part}"] for part in ("weight", "bias", "shift"))
        outputs, least, inputs = (
            (len(weight) % 3 or not 3 <= len(weight) <= 24, 4, width + 96) if name == "out" else (len(weight) % 16, 0, width)
        )
        if outputs or weight.shape[1] != inputs or not len(weight) == len(bias) == len(shift):
            raise MissingError(f"{path}: layers that do not fit each other")
        if np.abs(weight).max() > 127 or shift.min() < least or shift.max() > 30:
            raise MissingError(f"{path}: weights or shifts that are too large")
        layers.append((weight, bias, shift))
        width = len(weight)
    if not sums_fit(layers):
        raise MissingError(f"{path}: sums beyond 32 bits")
    return layers


class AdapterBits:
    """Lists of numbers in Rice codes (14.6)."""

    def __init__(self, data: bytes) -> None:
        self.bits, self.at = "".join(f"{byte:08b}" for byte in data), 0

    def fixed(self, count: int) -> int:
        if self.at + count > len(self.bits):
            raise DamagedError("an adapter ends too early")
        self.at += count
        return int(self.bits[self.at - count : self.at] or "0", 2)

    def numbers(self, rows: int, columns: int) -> Integers:
        """(rows, columns)"""
        result = []
        k = self.fixed(3) if rows * columns else 0
        for _ in range(rows * columns):
            ones = 0
            while self.fixed(1):
                ones += 1
            u = (ones << k) + self.fixed(k)
            result.append(-(u + 1 >> 1) if u % 2 else u >> 1)
        if any(abs(q) > 127 for q in result):
            raise DamagedError("an adapter with numbers that are too large")
        return np.array(result, np.int64).reshape(rows, columns)


def adapted(layers: list[Layer], adapter: bytes) -> list[Layer]:
    """14.6"""
    if not 2 <= len(adapter) <= 65536 or adapter[0] > 8:
        raise DamagedError("an adapter of a length or rank that cannot be")
    rank, bits = adapter[0], AdapterBits(adapter[1:])
    changed: list[Layer] = []
    for weight, bias, shift in layers:
        outputs, inputs = weight.shape
        b, u, v = bits.numbers(outputs, 1)[:, 0], bits.numbers(outputs, rank), bits.numbers(rank, inputs)
        dither = (np.arange(weight.size).reshape(weight.shape) * 2654435761 % 2**32) >> 29
        changed.append((np.clip(weight + ((dither + u @ v) >> 3), -127, 127), bias + ((b << shift) >> 2), shift))
    if len(bits.bits) - bits.at > 7 or "1" in bits.bits[bits.at :]:
        raise DamagedError("an adapter is followed by other bits")
    if not sums_fit(changed):
        raise DamagedError("an adapter makes sums beyond 32 bits")
    return changed


class Codes:
    """Scale codes and what is measured in them (14.2, 14.3)."""

    def __init__(self, tables: Tables) -> None:
        self.octave, self.inverse = tables.octave, tables.inverse_octave

    def g(self, n: Integers) -> Integers:
        o = np.frexp(n.astype(np.float64))[1].astype(np.int64) - 1
        return 16 * o - 1 + np.searchsorted(self.octave, ((n << 8) >> o) << 7, side="right")

    def u(self, d: Integers, c: Integers) -> Integers:
        o = c >> 4
        f = np.maximum(o - 8, 0)
        q, reach = 11 + o - f, 1 << (o + 4)
        scaled: Integers = ((np.clip(d, -reach, reach) >> f) * self.inverse[c % 16] + (1 << (q - 1))) >> q
        return np.clip(scaled, -127, 127)

    def v(self, d: Integers, c: Integers) -> Integers:
        o = c >> 4
        reach = 1 << (o + 4)
        scaled: Integers = ((np.clip(d, -reach, reach) >> (o - 10)) * self.inverse[c % 16] + 2**14) >> 15
        return np.clip(scaled, -1023, 1023)


def solve(sums: Integers) -> Integers:
    """Taps t (n, 23) from the sums D (n, 24, 24), of which the upper triangle is read; each operation in this order (14.2)."""
    pivots = np.arange(23)
    sums[:, pivots, pivots] += ((sums[:, pivots, pivots].sum(axis=1) >> 15) + 64)[:, None]
    d = sums.astype(np.float64)
    inverse = np.empty((len(d), 23))
    with np.errstate(all="ignore"):
        for k in range(23):
            large = d[:, k, k] > 64
            inverse[:, k] = np.where(large, 1 / np.where(large, d[:, k, k], 1), 1 / 64)
            factor = d[:, k, k + 1 : 23] * inverse[:, k, None]
            d[:, k + 1 : 23, k + 1 :] -= factor[:, :, None] * d[:, k, None, k + 1 :]
        for k in reversed(range(23)):
            d[:, k, 23] *= inverse[:, k]
            d[:, :k, 23] -= d[:, :k, k] * d[:, k, 23, None]
        t = 4096 * d[:, :23, 23]
        t = np.where(t >= -32768, np.minimum(t, 32768), -32768)
        return np.floor(t + 32768.5).astype(np.int64) - 32768


class Equations:
    """Sums C of the segments, and the taps that follow from them (14.2)."""

    ROWS = 8  # kept of each plane: a segment needs rows y - 1 and y - 2, and y + 3 of the plane before, which is 5 rows ahead

    def __init__(self, planes: int, rows: int, columns: int) -> None:
        self.last_row, self.group = rows - 1, max(4, 2048 // columns)
        self.sums = np.zeros(
            (planes + 1, self.ROWS, (columns + 7) // 8 + 2, 24, 24), np.int64
        )  # margins: what does not exist is 0
        self.taps = np.zeros((planes, rows, 23), np.int64)

    def at(self, z: Integers, y: Integers, s: Integers) -> tuple[Integers, Integers, Integers]:
        return z + 1, y % self.ROWS, s + 1

    def begin(self, z: Integers, y: Integers, s: Integers) -> None:
        """Segments s of rows y of planes z begin; rows above the first are rows of the ring that nothing was written to yet."""
        above, below = self.sums[self.at(z, y - 1, s)], np.minimum(y + 3, self.last_row)
        d = 2 * self.sums[self.at(z, y, s - 1)] + 2 * above + self.sums[self.at(z, y - 2, s + 1)]
        for column, factor in ((s - 1, 1), (s, 2), (s + 1, 1)):
            d += np.where(z % self.group > 0, factor, 0)[:, None, None] * self.sums[self.at(z - 1, below, column)]
        self.sums[self.at(z, y, s)] = above - (above >> 3)
        self.taps[z, y] = solve(d)

    def add(self, z: Integers, y: Integers, s: Integers, q: Integers) -> None:
        """The equations q (n, 24) of samples, each of another segment."""
        self.sums[self.at(z, y, s)] += q[:, :, None] * q[:, None, :]


def pixel_places(q: Integers, r: Integers, c: Integers, rows: int, columns: int) -> Integers:
    """Places of V(q, r, c) in the flat chunk, -1 for a zero (14.1)."""
    row = np.select([r < 0, c < 0], [0 * r, np.minimum(r, rows) - 1], np.minimum(r, rows - 1))
    column = np.select([r < 0, c < 0], [c - 4, 0 * c], np.minimum(c, columns - 1))
    zero = (q < 0) | ((r < 0) & (c < 4)) | ((r >= 0) & (c < 0) & (r == 0))
    return np.where(zero, -1, (q * rows + row) * columns + column)


class PixelDecoder:
    """A chunk of model `pixel`. Names are those of section 14."""

    def __init__(self, shape: tuple[int, int, int], top: int, taps: Integers, network: Network, tables: Tables) -> None:
        self.shape, self.p_top, self.taps, self.network, self.tables = shape, 16 * top, taps, network, tables
        self.codes, self.equations = Codes(tables), Equations(*shape)
        size = int(np.prod(shape)) + 1  # the last one, place -1, stays 0
        self.positions, self.errors, self.fitted_errors = (np.zeros(size, np.int64) for _ in range(3))

    def neighbours(self, offsets: Integers, z: Integers, y: Integers, x: Integers) -> Integers:
        """Places (n, offsets)."""
        plane = np.where(z[:, None] == 1, np.maximum(offsets[:, 0], -1), offsets[:, 0])
        return pixel_places(z[:, None] + plane, y[:, None] + offsets[:, 1], x[:, None] + offsets[:, 2], *self.shape[1:])

    def decode(self, data: bytes) -> Integers:
        """Positions of all samples."""
        decoder = SymbolDecoder(data, 0, self.p_top // 16, self.tables)
        z, group = np.arange(self.shape[0]), self.equations.group
        planes = z // group * max(8 * self.shape[1], 40 * group) + 40 * (z % group)
        for z, y, x in steps(self.shape, 8, planes):
            if x[0] % 8 == 0:  # then it is so for all samples of the step
                self.equations.begin(z, y, x // 8)
            n = self.positions[self.neighbours(NEIGHBOURS, z, y, x)]
            left = (3 * (n[:, 0] + n[:, 9]) + n[:, 8] + n[:, 10] + 4) >> 3
            n[z == 0, 32:] = left[z == 0, None]
            relative = n - left[:, None]
            fitted = np.clip(left + ((2**9 + (relative * self.taps[np.minimum(z, 1)]).sum(axis=1)) >> 10), 0, self.p_top)
            q = relative[:, REGRESSORS]
            a = np.clip(left + ((2**11 + (q * self.equations.taps[z, y]).sum(axis=1)) >> 12), 0, self.p_top)
            features, s = self.features(z, n, left, fitted, a, self.neighbours(ERRORS, z, y, x))
            p = 16 * decoder.step(self.mixtures(features, s, a))
            here = (z * self.shape[1] + y) * self.shape[2] + x
            self.positions[here], self.errors[here], self.fitted_errors[here] = p, p - a, p - fitted
            c = self.codes.g(1024 + np.abs(relative[:, TEN]).sum(axis=1))
            self.equations.add(z, y, x // 8, self.codes.v(np.column_stack([q, p - left]), c[:, None]))
        return self.positions[:-1]

    def features(
        self, z: Integers, n: Integers, left: Integers, fitted: Integers, a: Integers, errors: Integers
    ) -> tuple[Integers, Integers]:
        """The 96 features, and scale codes s (14.3)."""
        g, u = self.codes.g, self.codes.u
        e, e_fitted = self.errors[errors], self.fitted_errors[errors[:, :7]]
        e[z == 0, 7:] = 0
        first = z == 0
        shares = np.array((3, 3, 2, 2, 1, 1, 1))
        h, h_fitted = np.abs(e[:, :7]) @ shares, np.abs(e_fitted) @ shares
        b = np.abs(e[:, 7:]) @ np.array((3, 1, 1, 1, 1))
        big = g(80 + h + np.where(first, h >> 1, b))
        s = big - 69
        t = g(80 + np.abs(n[:, TEN] - a[:, None]).sum(axis=1))
        around = u(n - a[:, None], (t - 53)[:, None])
        around[first, 32:] = 0
        p_top = np.full_like(a, self.p_top)
        columns = [
            around,
            u(e, s[:, None]),
            u(e_fitted[:, :4], s[:, None]),
            u(np.stack([fitted - a, left - a], axis=1), s[:, None]),
            t + 16 - big,
            g(80 + 5 * np.abs(e[:, :4]).sum(axis=1)) - big,
            g(80 + h_fitted + (h_fitted >> 1)) - big,
            np.where(first, 0, g(80 + 3 * b) - big),
            (s >> 1) - 80,
            u(a, s),
            u(p_top - a, s),
            ((a * ((254 << 32) // self.p_top)) >> 32) - 127,
            (g(p_top + 1) >> 1) - 80,
            np.where(first, 0, 64),
            np.where(z < 2, 0, 64),
            12 * (n[:, TEN] == n[:, :1]).sum(axis=1) - 60,
        ]
        return np.clip(np.column_stack(columns), -127, 127), s

    def mixtures(self, features: Integers, s: Integers, a: Integers) -> Mixtures:
        """14.4"""
        sums, shift = self.network.outputs(features)
        count = len(shift) // 3
        shift = shift - np.repeat((0, 4, 0), count)
        logit, mean, octave = np.split((sums + ((1 << shift) >> 1)) >> shift, 3, axis=1)
        r = (count - 1).bit_length()
        d = logit.max(axis=1, keepdims=True) - logit
        weight = np.where(d < 224, self.tables.inverse_octave[d % 16] >> np.minimum((d >> 4) + r, 63), 0)
        sigma = self.tables.scale(np.clip(s, 0, 639))[:, None]
        m = np.clip((a << 8)[:, None] + ((np.clip(mean, -8192, 8192) * sigma) >> 8), -(2**45), 2**45)
        return Mixtures(weight, m, np.clip(s[:, None] + octave, 0, 639))


def pixel(
    header: dict[str, Any], data: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any], tables: Tables, weights: Path
) -> Integers:
    """Samples of a chunk of model `pixel` (14)."""
    side = header["side"]
    low, high = side_range(side, dtype)
    if not 0 <= len(side["taps"]) <= 2:
        raise DamagedError("taps of more than two kinds")
    taps = np.zeros((2, 66), np.int64)
    for row, length, given in zip((0, 1), (32, 66), reversed(side["taps"]), strict=False):
        if len(given) != length:
            raise DamagedError("another number of taps")
        taps[row, :length] = [whole(tap, -8192, 8192, "a tap") for tap in given]
    layers = read_weights(weights, header["weights"])
    if "adapter" in side:
        layers = adapted(layers, side["adapter"])
    if low == high:
        return np.full(shape, low, np.int64)
    decoder = PixelDecoder(shape, high - low, taps, Network(layers), tables)
    return decoder.decode(data).reshape(shape) // 16 + low


# ---- 26 Exact language model ----

# fmt: off
VOXELS = np.array((
    *((0, 0, -x) for x in range(1, 6)), *((0, -y, x) for y in (1, 2) for x in range(-4, 4)), *((0, -3, x) for x in range(-3, 3)),
    *((0, -4, x) for x in range(-2, 3)), *((-1, y, x) for y in range(-2, 3) for x in range(-2, 3)),
    *((-2, y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)),
))
NEAREST = [VOXELS.tolist().index([0, y, x]) for y, x in (
    (0, -1), (-1, 0), (-1, 1), (-1, -1), (0, -2), (-2, 0), (-1, 2), (-1, -2), (-2, -1), (-2, 1),
)]
# fmt: on


def rounded(a: Integers, n: Any) -> Integers:
    result: Integers = (a + ((np.int64(1) << n) >> 1)) >> n
    return result


def limited(a: Integers) -> Integers:
    return np.clip(a, -(2**24) + 1, 2**24 - 1)


def in_bytes(x: Integers) -> tuple[Integers, Integers]:
    """Rows as bytes, and their exponents (26.3)."""
    m, e = np.abs(x).max(axis=-1), np.zeros(x.shape[:-1], np.int64)
    while (rounded(m, e) > 127).any():
        e += rounded(m, e) > 127
    return rounded(x, e[..., None]), e


def norm(a: Integers) -> Integers:
    """R of 26.3 for rows of bytes."""
    squares = (a * a).sum(axis=1).tolist()
    return np.array([min(math.isqrt((a.shape[1] << 40) // q), 2**20) if q else 0 for q in squares], np.int64)


class Patches:
    """Which voxels of a group of stacks are due at each step (26.1)."""

    def __init__(self, depths: list[int], rows: int, columns: int, side: int) -> None:
        down, across = -(-rows // side), -(-columns // side)
        if down * across * len(depths) > 2**18:
            raise DamagedError("more patches than an encoder writes")
        self.side, patches = side, []
        for stack, depth in enumerate(depths):
            length, free_from = depth * side**2, list[int]()
            begins = sorted((c * side + r * (side**2 + 2 * side), r, c) for r in range(down) for c in range(across))
            for begin, r, c in begins:
                slot = next((i for i, free in enumerate(free_from) if free <= begin), len(free_from))
                free_from[slot : slot + 1] = [begin + length]
                patches.append((stack, slot, begin, length, r * side, c * side))
        self.stack, self.slot, self.begin, self.length, self.row, self.column = np.array(sorted(patches), np.int64).T
        self.steps = int((self.begin + self.length).max())

    def due(self, step: int) -> tuple[Integers, Integers]:
        """Numbers of patches, and the places of their voxels that are due."""
        now = np.flatnonzero((self.begin <= step) & (step < self.begin + self.length))
        return now, step - self.begin[now]


class Transformer:
    """26.2 to 26.6, for patches of a group; keys and values of each patch are kept by its number."""

    def __init__(self, tensors: dict[str, Integers], patches: int, tables: Tables) -> None:
        self.t, self.tables = tensors, tables
        self.side, self.width = tensors["row"].shape
        self.size = 2 * len(tensors["rotor"])
        self.heads = len(tensors["layers.0.qkv.weight"]) // self.size - 2
        self.layers = sum(name.endswith(".qkv.weight") for name in tensors)
        angles = [np.array([[2**30, 0]] * (self.size // 2), np.int64)]
        c, s = tensors["rotor"].T
        for _ in range(3 * self.side**2 - 1):
            x, y = angles[-1].T
            angles.append(np.clip(rounded(np.stack([x * c - y * s, x * s + y * c], axis=1), 30), -(2**30), 2**30))
        self.angles = rounded(np.array(angles), 16)
        self.sigmoid = (tables.logistic[:4097] + 2**27) >> 13
        self.keys, self.values = np.zeros((2, self.layers, patches, 3 * self.side**2, self.size), np.int64)

    def products(self, name: str, a: Integers) -> Integers:
        """S(j) M(j) of a linear layer."""
        result: Integers = (a @ self.t[f"{name}.weight"].T) * self.t[f"{name}.multiplier"]
        return result

    def features(self, x: Integers, z: Integers, top: int) -> tuple[Integers, Integers, Integers]:
        """A, s and F of 26.2 for X (n, 66)."""
        west, north, east, other = x[:, NEAREST[:4]].T
        a = (3 * west + 3 * north + east + other + 4) >> 3
        t = np.abs(x[:, NEAREST] - a[:, None]).sum(axis=1)
        s = np.minimum((t[:, None] + 5 > 10 << np.arange(31)).sum(axis=1), 31)
        f = rounded((x - a[:, None]) * 16, s[:, None])
        f[:, 32:57] *= z[:, None] > 0
        f[:, 57:] *= z[:, None] > 1
        level = ((a * ((254 << 32) // max(top, 1))) >> 32) - 127
        more = [(12 * t) >> s, 4 * s, (16 * a) >> s, (16 * (top - a)) >> s, level, 64 * (z > 0), 64 * (z > 1)]
        return a, s, np.clip(np.concatenate([f, np.stack(more, axis=1)], axis=1), -127, 127)

    def turned(self, a: Integers, place: Integers) -> Integers:
        """26.5, for vectors (n, any, size)."""
        c, y = np.moveaxis(self.angles[place], 2, 0)[:, :, None]
        first, second = a[..., : self.size // 2], a[..., self.size // 2 :]
        return limited(rounded(np.concatenate([first * c - second * y, second * c + first * y], axis=2), 14))

    def attention(self, layer: int, made: Integers, r: Integers, patch: Integers, place: Integers) -> Integers:
        made = made.reshape(len(made), -1, self.size)
        turned, u = self.turned(made[:, :-1], place), self.t[f"layers.{layer}.shifts"]
        self.keys[layer, patch, place] = np.clip(rounded(turned[:, -1] * r[:, None], 20), -127, 127)
        self.values[layer, patch, place] = np.clip(rounded(made[:, -1] * r[:, None], 20), -127, 127)
        q, e = in_bytes(turned[:, :-1])
        p = max((127 * 127 * self.size).bit_length() - 19, 0)
        means = np.zeros_like(q)
        for i, (number, last) in enumerate(zip(patch, place, strict=True)):
            factor = int(r[i] * u[6])
            b = max(factor.bit_length() - 12, 0)
            g = np.clip(u[7] - b - e[i], 2, 31)[:, None]
            o = (((q[i] @ self.keys[layer, number, : last + 1].T) >> p) * (factor >> b)) >> g
            d = o.max(axis=1, keepdims=True) - o
            c = d % 2**10
            power = (2**15 - ((c * (22006 - ((5622 * c) >> 10))) >> 10)) >> np.minimum(d >> 10, 31)
            weight = rounded(255 * power, 15)
            sums = weight @ self.values[layer, number, : last + 1]
            means[i] = rounded(sums * (2**32 // weight.sum(axis=1, keepdims=True)), 25)
        return means.reshape(len(means), -1)

    def layer(self, number: int, h: Integers, patch: Integers, place: Integers) -> Integers:
        name, u = f"layers.{number}", self.t[f"layers.{number}.shifts"]
        a, _ = in_bytes(h)
        made = limited(rounded(self.products(f"{name}.qkv", a), u[0]))
        x, e = in_bytes(self.attention(number, made, norm(a), patch, place))
        h = limited(h + rounded(self.products(f"{name}.out", x), np.maximum(u[1] - e, 0)[:, None]))
        a, _ = in_bytes(h)
        r = norm(a)[:, None]
        gates, up = np.split(a @ self.t[f"{name}.gate_up.weight"].T, 2, axis=1)
        by_gate, by_up = np.split(self.t[f"{name}.gate_up.multiplier"], 2)
        gate = limited(rounded(rounded(gates * r, 10) * by_gate, u[2]))
        sigmoid = self.sigmoid[np.minimum((np.abs(gate) + 16) >> 5, 4096)]
        silu = rounded(gate * np.where(gate < 0, 2**15 - sigmoid, sigmoid), 15)
        x, e = in_bytes(limited(rounded(silu * limited(rounded(up * by_up, u[3])), u[4])))
        return limited(h + rounded(rounded(self.products(f"{name}.down", x), 12) * r, np.maximum(u[5] - e, 0)[:, None]))

    def mixtures(self, x: Integers, top: int, patch: Integers, place: Integers) -> Mixtures:
        """For voxels of these patches and places, whose neighbours are X."""
        t, z, within = self.t, place // self.side**2, place % self.side**2
        a, s, f = self.features(x, z, top)
        made = rounded(self.products("embed", f), t["shifts"][0])
        h = limited(made[:, :-1] + t["row"][within // self.side] + t["column"][within % self.side] + t["channel"][z])
        for number in range(self.layers):
            h = self.layer(number, h, patch, place)
        rows, _ = in_bytes(h)
        sums = rounded((rows @ t["head.weight"].T) * norm(rows)[:, None], 10) * t["head.multiplier"]
        logit, mean, octave = np.split(rounded(sums, t["shifts"][1]) + t["head.bias"], 3, axis=1)
        d = logit.max(axis=1, keepdims=True) - logit
        weight = self.tables.inverse_octave[d % 16] >> np.minimum((d >> 4) + (logit.shape[1] - 1).bit_length(), 63)
        offset = np.clip(mean + made[:, -1:], -(2**18), 2**18) << s[:, None]
        code = np.clip(16 * (s[:, None] + 4) + np.clip(octave, -128, 96), 0, 639)
        return Mixtures(np.where(d < 224, weight, 0), np.clip((a[:, None] << 12) + offset, -(2**45), 2**45), code, True)


def exact_language_model(
    header: dict[str, Any], data: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any], tables: Tables, weights: Path
) -> Integers:
    """Samples of a chunk of model `llm_exact` (26)."""
    low, high = side_range(header["side"], dtype)
    together = whole(header["side"]["together"], 1, 64, "together")
    _, tensors = read_tensors(weights, header["weights"])
    samples = np.full(shape, low, np.int64)
    if low == high:
        return samples
    coder, side, (planes, rows, columns) = SymbolDecoder(data, 0, high - low, tables), len(tensors["row"]), shape
    for first in range(0, planes, 3 * together):
        depths = [min(3, planes - begin) for begin in range(first, min(first + 3 * together, planes), 3)]
        patches = Patches(depths, rows, columns, side)
        network = Transformer(tensors, len(patches.begin), tables)
        known = np.zeros((len(depths), 5, rows + side + 10, columns + side + 10), np.int64)
        for step in range(patches.steps):
            patch, place = patches.due(step)
            if not len(patch):
                continue
            stack, z = patches.stack[patch], place // side**2
            y, x = patches.row[patch] + place % side**2 // side, patches.column[patch] + place % side
            at = tuple(n[:, None] + d for n, d in zip((z + 2, y + 5, x + 5), VOXELS.T, strict=True))
            mixtures = network.mixtures(known[stack[:, None], *at], high - low, patch, place)
            inside = np.flatnonzero((y < rows) & (x < columns))
            if not len(inside):
                continue
            values = coder.step(mixtures.of(inside))
            stack, z, y, x = stack[inside], z[inside], y[inside], x[inside]
            known[stack, z + 2, y + 5, x + 5] = values
            samples[first + 3 * stack + z, y, x] = values + low
    return samples


# ---- 6 Chunks ----


def samples_of(chunk: Chunk, volume: Volume, tables: Tables, weights: Path) -> NDArray[Any]:
    """Samples (planes, rows, columns) of a chunk of a volume, proved by its CRC (6.1)."""
    header = chunk.header
    shape = (header["count"], volume.rows, volume.columns)
    if int(np.prod(shape, dtype=object)) * volume.dtype.itemsize > 2**29:
        raise DamagedError("a chunk of more than 2^29 bytes")
    floats, levels = header.get("floats"), header.get("levels")
    if floats and (volume.dtype.kind != "f" or floats["dtype"] not in ("|u1", "|i1", "<u2", "<i2", "<i4")):
        raise DamagedError("integers in place of floats, of a type that they cannot have")
    dtype = np.dtype(floats["dtype"]) if floats else volume.dtype
    if levels and (dtype.kind == "f" or levels["dtype"] not in ("|u1", "<u2")):
        raise DamagedError("ranks in place of integers, of a type that they cannot have")
    coded = np.dtype(levels["dtype"]) if levels else dtype
    samples = coded_samples(header, chunk.data, shape, coded, tables, weights)
    if levels:
        samples = integers_of(samples, levels, dtype)
    if floats:
        samples = floats_of(samples.astype(np.int64), floats, volume.dtype)
    if crc32c(samples.tobytes()) != header["crc"]:
        raise DamagedError("the samples of a chunk have another CRC than the archive says")
    return samples


def coded_samples(
    header: dict[str, Any], data: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any], tables: Tables, weights: Path
) -> NDArray[Any]:
    """6.2"""
    size, kind, model = int(np.prod(shape)), header["kind"], header.get("model")
    if kind == "model" and model == "parametric":
        return parametric(header, data, shape, dtype, tables).astype(dtype)
    if kind == "model" and model == "pixel":
        return pixel(header, data, shape, dtype, tables, weights).astype(dtype)
    if kind == "model" and model == "llm_exact":
        return exact_language_model(header, data, shape, dtype, tables, weights).astype(dtype)
    if kind == "model" and model in ("llm", "paper"):
        raise UnsupportedError(f"a chunk of the float model {model}: only the medzip that wrote the archive decodes it (15)")
    if kind == "jpeg_xl" and dtype.kind in "iu" and dtype.itemsize <= 2:
        return jpeg_xl(data, *shape, dtype)
    if kind == "numeric" and (dtype.kind == "f" or dtype.itemsize >= 4):
        return numeric(data, shape, dtype)
    if kind == "zstd":
        planes = np.frombuffer(zstd(data, size * dtype.itemsize), np.uint8).reshape(dtype.itemsize, size)
        return np.ascontiguousarray(planes.T).view(dtype).reshape(shape)
    if kind == "stored":
        return np.frombuffer(data, dtype).reshape(shape)
    if kind in ("jpeg_xl", "numeric"):
        raise DamagedError(f"a chunk of kind {kind} with samples of {dtype}")
    raise UnsupportedError(f"a chunk of kind {kind}, model {model}: this decoder does not know it")


def bytewise(data: bytes, dtype: str) -> NDArray[Any]:
    """Numbers of 32 bits of which first all lowest bytes are stored, then all next ones, and so on (6.3, 6.4)."""
    numbers: NDArray[Any] = np.ascontiguousarray(np.frombuffer(zstd(data), np.uint8).reshape(4, -1).T).view(dtype)
    return numbers.ravel()


def integers_of(ranks: NDArray[Any], levels: dict[str, Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """6.4"""
    limits = np.iinfo(dtype)
    numbers = list(accumulate(bytewise(levels["steps"], "<u4").tolist(), initial=levels["first"]))
    if int(ranks.max()) >= len(numbers) or numbers[0] < limits.min or numbers[-1] > limits.max:
        raise DamagedError("ranks that stand for no integers")
    integers: NDArray[Any] = np.array(numbers, dtype)[ranks]
    return integers


def floats_of(integers: Integers, floats: dict[str, Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """6.3"""
    bits = f"<u{dtype.itemsize}"
    with np.errstate(all="ignore"):
        result = (integers * np.float64(floats["slope"]) + np.float64(floats["offset"])).astype(dtype).view(bits)
    if floats.get("corrections"):
        corrections = bytewise(floats["corrections"], "<i4")
        number = integers - floats.get("first", 0)
        has = (number >= 0) & (number < len(corrections))
        result[has] += corrections[number[has]].astype(bits)
    for n, pattern in floats.get("others", []):
        result[integers == n] = pattern
    return result.view(dtype)


def decode_volumes(archive: Archive, tables: Tables, weights: Path) -> list[NDArray[Any]]:
    """Samples of every volume, (slices, colours, rows, columns), from chunks that cover each plane once (6)."""
    result = []
    for number, volume in enumerate(archive.volumes):
        chunks = [chunk for chunk in archive.chunks if chunk.header.get("volume") == number]
        chunks.sort(key=lambda chunk: int(chunk.header["first"]))
        plane = 0
        for chunk in chunks:
            if whole(chunk.header["first"], 0, 2**63 - 1, "first") != plane:
                raise DamagedError(f"the chunks of volume {number} do not cover each plane once")
            plane += whole(chunk.header["count"], 1, 2**63 - 1, "count")
        if plane != volume.slices * volume.colours:
            raise DamagedError(f"the chunks of volume {number} do not cover its planes")
        planes = np.concatenate([samples_of(chunk, volume, tables, weights) for chunk in chunks])
        result.append(planes.reshape(volume.slices, volume.colours, volume.rows, volume.columns))
    return result


def decode_blobs(archive: Archive) -> dict[int, bytes]:
    """Bytes by number of blob (6.1)."""
    result: dict[int, bytes] = {}
    for chunk in archive.chunks:
        header = chunk.header
        if header.get("volume") is None and "blob" in header:
            if header["kind"] not in ("zstd", "stored") or header["blob"] in result:
                raise DamagedError("a blob of another kind, or two with the same number")
            blob = zstd(chunk.data, header["bytes"]) if header["kind"] == "zstd" else chunk.data
            if len(blob) != header["bytes"] or crc32c(blob) != header["crc"]:
                raise DamagedError(f"blob {header['blob']} is not what the archive says")
            result[header["blob"]] = blob
    return result


# ---- 20 Columns ----


COLUMNS_MAX = 2**31
"""Bytes that this decoder makes of columns at most."""


def read_columns(descriptions: list[list[Any]], data: Cursor) -> list[list[bytes]]:
    """Rows of each column (20.1)."""
    columns: list[list[bytes]] = []
    room = COLUMNS_MAX
    for description in descriptions:
        if (size := column_size(description, columns, data)) > room:
            raise UnsupportedError("columns of more bytes than this decoder makes of them")
        room -= size
        columns.append(read_column(description, columns, data))
    data.end()
    return columns


def column_size(description: list[Any], columns: list[list[bytes]], data: Cursor) -> int:
    """What a column takes at most, about, and not less than its rows."""
    kind, first, *rest = description
    if kind == "padded":
        return sum(len(row) + 16 for row in columns[place(first, columns)])
    if kind == "joined":
        rows = len(columns[place(first[0], columns)])
        return sum(len(row) for c in first for row in columns[place(c, columns)]) + rows * (16 + sum(map(len, rest[0])))
    n = whole(first, 0, COLUMNS_MAX, "rows")
    if kind == "same":
        return 16 * n + whole(rest[0], 0, COLUMNS_MAX, "bytes of a row")
    if kind == "pick":
        return n * (16 + max(map(len, columns[place(rest[0], columns)]), default=0))
    if kind == "numbers":
        return n * (256 + 20 * len(rest[3]) + sum(whole(size, 0, 64, "digits") for size in (rest[0], rest[1], rest[4])))
    return 16 * n + len(data.data) - data.at


def place(c: Any, columns: list[list[bytes]]) -> int:
    return whole(c, 0, len(columns) - 1, "a column")


def read_column(description: list[Any], columns: list[list[bytes]], data: Cursor) -> list[bytes]:
    kind, n, *rest = description
    if kind == "same":
        return [data.take(rest[0])] * n
    if kind == "bytes":
        lengths = [data.number() if rest[0] is None else rest[0] for _ in range(n)]
        return [data.take(length) for length in lengths]
    if kind == "planes":
        octets = data.take(n * rest[0])
        return [octets[row::n] for row in range(n)]
    if kind == "pick":
        rows = columns[place(rest[0], columns)]
        return [rows[data.number()] for _ in range(n)]
    if kind == "padded":
        return [row + bytes([rest[0]]) * (len(row) % 2) for row in columns[place(n, columns)]]
    if kind == "joined":
        texts = rest[0]
        if len(texts) != len(n) + 1:
            raise DamagedError("texts and columns that do not fit")
        together = zip(*(columns[place(c, columns)] for c in n), strict=True)
        return [texts[0] + b"".join(part + text for part, text in zip(row, texts[1:], strict=True)) for row in together]
    if kind == "numbers":
        return [decimal(x, *rest[:3]) for x in integers_in(n, rest[3], rest[4], data)]
    raise DamagedError("a column of a kind that there is not")


def integers_in(n: int, starts: list[bytes], width: int, data: Cursor) -> list[int]:
    """x of 20.1."""
    if len(starts) > min(2, n) or any(not re.fullmatch(rb"-?[0-9]{1,200}", start) for start in starts):
        raise DamagedError("numbers with starts that cannot be")
    count = n - len(starts)
    octets = data.take(width * count)
    numbers = []
    for i in range(count):
        e = int.from_bytes(octets[i::count], "little")
        numbers.append(-(e + 1 >> 1) if e % 2 else e >> 1)
    for start in reversed(starts):
        numbers = list(accumulate(numbers, initial=int(start)))
    return numbers


def decimal(x: int, digits: int, decimals: int, trimmed: bool) -> bytes:
    """20.1"""
    figures = str(abs(x)).zfill(digits + decimals)
    before, after = figures[: len(figures) - decimals], figures[len(figures) - decimals :]
    if trimmed:
        after = after.rstrip("0")
    point = "." if after or (decimals and not trimmed) else ""
    return ("-" * (x < 0) + before + point + after).encode()


def framed(data: bytes, name: str) -> tuple[Any, Cursor]:
    """Structure and what follows it (4.3)."""
    content = Cursor(zstd(data), name)
    structure = cbor(content.take(content.integer(4)), name)
    return structure, Cursor(content.take(len(content.data) - content.at), f"what follows the structure of {name}")


def read_files(payload: bytes) -> list[dict[str, Any]]:
    """Maps of the files (4.2, 20.3)."""
    files = cbor(payload, "FILE")
    if isinstance(files, list):
        return files
    digests, (table, data) = files["sha256"], framed(files["table"], "FILE")
    columns = read_columns(table["columns"], data)
    records: list[dict[str, Any]] = [{"sha256": digests[at : at + 32]} for at in range(0, len(digests), 32)]
    readers: dict[str, Callable[[bytes], Any]] = {"text": bytes.decode, "numbers": int, "items": lambda row: cbor(row, "FILE")}
    for part, read in readers.items():
        for key, c in table[part].items():
            for record, row in zip(records, columns[place(c, columns)], strict=True):
                if row or part != "items":
                    record[key] = read(row)
    return records


class Fields:
    """What stands in place of literals where SKEL is in columns (20.2)."""

    def __init__(self, structure: dict[str, Any], data: Cursor) -> None:
        columns = read_columns(structure["columns"], data)
        self.fields = [(head, size, iter(columns[place(c, columns)])) for head, size, c in structure["fields"]]
        self.last = -1
        names = iter(columns[place(structure["names"], columns)])
        templates = structure["templates"]
        of_files = [templates[whole(t, 0, len(templates) - 1, "a template")] for t, n in structure["files"] for _ in range(n)]
        self.structure = [(name.decode(), template) for name, template in zip(names, of_files, strict=True)]

    def take(self, distance: int) -> bytes:
        """The next of the field that is so far behind the last one."""
        self.last = whole(self.last + 1 + distance, 0, len(self.fields) - 1, "a field")
        head, size, rows = self.fields[self.last]
        row = next(rows, None)
        if row is None or size not in (0, 2, 4, -2, -4):
            raise DamagedError("a field without a row, or with a size that cannot be")
        length = len(row).to_bytes(abs(size), "little" if size > 0 else "big") if size else b""
        return bytes(head + length + row)

    def end(self) -> None:
        if any(next(rows, None) is not None for _, _, rows in self.fields):
            raise DamagedError("a field has rows that no file takes")


# ---- 4.3 Skeleton, 18 Encapsulated frames ----


class Skeleton:
    """Makes files of literals, blobs and slices of volumes."""

    def __init__(self, skeleton: bytes, volumes: list[NDArray[Any]], blobs: dict[int, bytes]) -> None:
        structure, data = framed(skeleton, "SKEL")
        self.literals: Cursor | Fields = data
        if isinstance(structure, dict):
            self.literals = Fields(structure, data)
            structure = self.literals.structure
        self.structure = structure
        self.volumes, self.blobs = volumes, blobs
        self.next_blob, self.next_slice = 0, [0] * len(volumes)

    def files(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Name and pieces of each file, which MUST be taken in this order, to the end."""
        for name, segments in self.structure:
            if isinstance(self.literals, Fields):
                self.literals.last = -1
            yield name, map(self.segment, segments)
        self.literals.end()

    def segment(self, entry: Any) -> bytes:
        if isinstance(entry, int) or len(entry) == 1:
            return self.plain(entry)
        if len(entry) == 5:
            return self.run(*entry)
        if len(entry) == 2 and isinstance(entry[0], int):
            side = self.plain(entry[0])
            return deflated(b"".join(map(self.segment, entry[1])), side)
        if len(entry) == 2:
            return self.turns(*entry)
        if len(entry) == 4:
            return self.items(*entry)
        raise DamagedError("SKEL has a segment of a kind that there is not")

    def plain(self, entry: Any) -> bytes:
        """Literals or a blob."""
        if isinstance(entry, int):
            return self.literals.take(entry)
        number = self.next_blob if entry[0] is None else entry[0]
        if number not in self.blobs:
            raise DamagedError(f"blob {number} is missing")
        self.next_blob = number + 1
        return self.blobs[number]

    def slices(self, volume: int, first: int | None, count: int) -> NDArray[Any]:
        """(slices, colours, rows, columns), behind those that were named last where `first` is None"""
        whole(volume, 0, len(self.volumes) - 1, "the volume of a segment")
        first = whole(self.next_slice[volume] if first is None else first, 0, len(self.volumes[volume]), "the first slice")
        self.next_slice[volume] = first + whole(count, 0, len(self.volumes[volume]) - first, "the slices of a segment")
        return self.volumes[volume][first : first + count]

    def pixels(self, volume: int, first: int | None, count: int, dtype: str, planar: bool) -> NDArray[Any]:
        """Slices in the byte order and order of colours that the file has."""
        slices = self.slices(volume, first, count)
        if dtype not in (slices.dtype.str, slices.dtype.newbyteorder(">").str):
            raise DamagedError(f"a segment of {dtype} of a volume of {slices.dtype}")
        return (slices if planar else slices.transpose(0, 2, 3, 1)).astype(dtype)

    def run(self, volume: int, first: int | None, count: int, dtype: str, planar: bool) -> bytes:
        if dtype not in ("bits", "swapped"):
            return self.pixels(volume, first, count, dtype, planar).tobytes()
        samples = self.pixels(volume, first, count, "|u1", planar).ravel()
        if dtype == "bits":
            return np.packbits(samples, bitorder="little").tobytes()
        return np.append(samples, np.zeros(len(samples) % 2, np.uint8)).view("<u2").byteswap().tobytes()

    def turns(self, runs: list[Any], turns: list[int]) -> bytes:
        """4.3.1"""
        parts = []
        for run, turn in zip(runs, turns, strict=True):
            pixels = self.pixels(*run)
            whole(turn, 1, 2**63 - 1, "a turn")
            raw = np.frombuffer(pixels.tobytes(), np.uint8)
            parts.append(raw.reshape(len(pixels), pixels.shape[1] * pixels.shape[2] // turn, -1))
        return np.concatenate(parts, axis=2).tobytes()

    def items(self, codec: str, recipe: Any, lengths: list[int], source: list[Any] | None) -> bytes:
        """18"""
        recipe = Cursor(self.plain(recipe), "a recipe")
        if codec in CODECS and source:
            stream = CODECS[codec](recipe, self.pixels(source[0], source[1], 1, source[2], True)[0])
        elif codec == "jpeg_xl" and source is None:
            length = recipe.number()
            [stream] = command("djxl in.jxl out.jpg", recipe.block(), "in.jxl")
            if len(stream) != length:
                raise DamagedError("a JPEG file of another length than its recipe says")
        else:
            raise DamagedError("frames of a codec that there is not")
        recipe.end()
        rest = len(stream) - sum(whole(length, 0, 2**32 - 1, "the length of a fragment") for length in lengths)
        fragments = Cursor(stream, "the stream of a frame")
        return b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", n) + fragments.take(n) for n in (*lengths, rest))


def rle(recipe: Cursor, samples: NDArray[Any]) -> bytes:
    """RLE lossless (18.1) of samples (colours, rows, columns)."""
    habits, header, count = recipe.number(), recipe.block(), recipe.number()
    size = samples.dtype.itemsize
    if habits > 7 or len(header) not in (0, 64) or count != len(samples) * size or count > 15:
        raise DamagedError("an RLE recipe that does not fit its slice")
    segments = []
    for number in range(count):
        behind = recipe.block()
        differences = [(recipe.number(), recipe.number()) for _ in range(recipe.number())]
        channel = samples[number // size].astype(samples.dtype.newbyteorder(">"))
        octets = channel.view(np.uint8).reshape(-1, size)[:, number % size].tobytes()
        segments.append(rle_segment(octets, samples.shape[2], habits, differences) + behind)
    if not header:
        begins = [64 + sum(map(len, segments[:number])) for number in range(count)]
        header = struct.pack(f"<{1 + count}I", count, *begins).ljust(64, b"\0")
    return header + b"".join(segments)


def rle_segment(octets: bytes, row: int, habits: int, differences: list[tuple[int, int]]) -> bytes:
    """Runs of 18.1."""
    n, p, usual = len(octets), 0, 0
    long_rows, shortest, enough = bool(habits & 4), 2 + (habits >> 1 & 1), 2 if habits & 1 else 3
    left = differences[::-1]
    runs = bytearray()

    def equal(at: int, most: int) -> int:
        count = 1
        while count < most and octets[at + count] == octets[at]:
            count += 1
        return count

    while p < n:
        line = n if long_rows else (p // row + 1) * row
        end = min(line, p + 128)
        if left and left[-1][0] == usual:
            control, usual = left.pop()[1], 0
        else:
            usual += 1
            same = equal(p, end - p)
            e = p + 1
            while e < end and (e + enough > line or equal(e, enough) < enough):
                e += 1
            control = 257 - same if same >= shortest else e - p - 1
        length = control + 1 if control < 128 else 257 - control if control > 128 else 0
        if control > 255 or p + length > n or (control > 128 and equal(p, length) < length):
            raise DamagedError("an RLE recipe with a run that does not fit")
        runs += bytes([control]) + (octets[p : p + length] if control < 128 else octets[p : p + 1] * (control > 128))
        p += length
    if left:
        raise DamagedError("an RLE recipe with a difference that is not used")
    return bytes(runs)


class Segments:
    """Marker segments of a JPEG or JPEG-LS stream, read up to each scan (18.2)."""

    def __init__(self) -> None:
        self.frame: tuple[int, int, int, list[int]] | None = None
        self.huffman: dict[int, list[tuple[int, int]]] = {}
        self.preset: tuple[int, ...] = ()
        self.restart = 0

    def scan(self, block: bytes) -> tuple[list[int], list[int], tuple[int, int, int]]:
        """Components of the scan at the end of a block (channels of the slice), their tables, and its three parameters."""
        at = 0
        while found := re.search(rb"\xff([\xc0-\xfe])", block[at:], re.DOTALL):
            at, marker = at + found.end(), found[1][0]
            if marker == 0xD8 or 0xD0 <= marker <= 0xD7:
                continue
            segment = Cursor(block[at + 2 : at + int.from_bytes(block[at : at + 2], "big")], "a marker segment")
            at += 2 + len(segment.data)
            if marker in (0xC3, 0xF7):
                precision, rows, columns = segment.integer(1), segment.integer(2, "big"), segment.integer(2, "big")
                self.frame = precision, rows, columns, [segment.take(3)[0] for _ in range(segment.integer(1))]
            elif marker == 0xC4:
                self.tables(segment)
            elif marker == 0xDD:
                self.restart = segment.integer(2, "big")
            elif marker == 0xF8 and segment.integer(1) == 1:
                self.preset = struct.unpack(">5H", segment.take(10))
            elif marker == 0xDA and self.frame and at == len(block):
                named = [segment.take(2) for _ in range(segment.integer(1))]
                first, second, third = segment.take(3)
                return (
                    [self.frame[3].index(name) for name, _ in named],
                    [table >> 4 for _, table in named],
                    (first, second, third),
                )
        raise DamagedError("a recipe without the header of a scan")

    def tables(self, segment: Cursor) -> None:
        """(code, size) of each category (T.81 annex C)."""
        while segment.at < len(segment.data):
            number, counts, code = segment.integer(1), segment.take(16), 0
            codes = [(0, 0)] * 17
            for size, count in enumerate(counts, 1):
                for category in segment.take(count):
                    codes[whole(category, 0, 16, "a category")] = code, size
                    code += 1
                code <<= 1
            self.huffman[number] = codes

    def samples(self, samples: NDArray[Any]) -> tuple[list[list[list[int]]], int]:
        """The channels of a slice as rows of sample values, and their precision."""
        if self.frame is None or samples.shape != (len(self.frame[3]), *self.frame[1:3]) or not 2 <= self.frame[0] <= 16:
            raise DamagedError("a recipe of a frame that is not of the size of its slice")
        return (samples.astype(np.int64) & (1 << self.frame[0]) - 1).tolist(), self.frame[0]


class CodedData:
    """Bits, highest first, up to the last byte that they fill; behind FF come bytes of 7 bits or (8) a byte of zeros."""

    def __init__(self, stuffing: int) -> None:
        self.out, self.stuffing = bytearray(), stuffing
        self.bits = self.count = 0

    def put(self, value: int, count: int) -> None:
        self.bits, self.count = self.bits << count | value, self.count + count
        while self.count >= (size := self.stuffing if self.out[-1:] == b"\xff" else 8):
            self.count -= size
            self.out.append(self.bits >> self.count)
            self.bits &= (1 << self.count) - 1
            if self.stuffing == 8 and self.out[-1] == 0xFF:
                self.out.append(0)


def jpeg_lossless(recipe: Cursor, samples: NDArray[Any]) -> bytes:
    """Lossless JPEG (18.2) of samples (colours, rows, columns)."""
    fill, segments, out = whole(recipe.number(), 0, 1, "the filling bit"), Segments(), bytearray()
    for _ in range(recipe.number()):
        block = recipe.block()
        parts, tables, (predictor, _, approximation) = segments.scan(block)
        channels, precision = segments.samples(samples)
        shift, columns = approximation & 15, samples.shape[2]
        between = (segments.restart or samples[0].size) / columns
        if not 1 <= predictor <= 7 or shift >= precision or between % 1:
            raise DamagedError("lossless JPEG with parameters that cannot be")
        coder = CodedData(8)
        planes = [[[value >> shift for value in row] for row in channels[part]] for part in parts]
        codes = [segments.huffman[table] for table in tables]
        for row in range(samples.shape[1]):
            first = row % between == 0
            if first and row:
                coder.put(((1 << -coder.count % 8) - 1) * fill, -coder.count % 8)
                coder.out += bytes([0xFF, 0xD0 + int(row // between - 1) % 8])
            for column in range(columns):
                for plane, code in zip(planes, codes, strict=True):
                    expected = jpeg_expected(plane, row, column, 1 << precision - shift - 1, first, predictor)
                    jpeg_difference(coder, plane[row][column] - expected, code)
        out += block + coder.out
    return bytes(out + recipe.block())


def jpeg_expected(plane: list[list[int]], row: int, column: int, start: int, first: bool, predictor: int) -> int:
    """T.81 H.1.2.1"""
    if first:
        return plane[row][column - 1] if column else start
    if not column:
        return plane[row - 1][0]
    a, b, c = plane[row][column - 1], plane[row - 1][column], plane[row - 1][column - 1]
    return (a, b, c, a + b - c, a + (b - c >> 1), b + (a - c >> 1), a + b >> 1)[predictor - 1]


def jpeg_difference(coder: CodedData, difference: int, codes: list[tuple[int, int]]) -> None:
    difference = (difference + 32767) % 65536 - 32767
    category = abs(difference).bit_length()
    code, size = codes[category]
    if not size:
        raise DamagedError("a difference without a Huffman code")
    coder.put(code, size)
    if category < 16:
        coder.put(difference if difference >= 0 else difference + (1 << category) - 1, category)


RUN_ORDERS = (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15)


class JpegLsScan:
    """A scan of JPEG-LS (18.3; names and steps as in T.87 annex A)."""

    def __init__(self, planes: list[list[list[int]]], precision: int, near: int, preset: tuple[int, ...]) -> None:
        self.planes, self.near, self.most = planes, near, (1 << precision) - 1
        given = preset or (0, 0, 0, 0, 0)
        if given[0] not in (0, self.most):
            raise DamagedError("JPEG-LS with a MAXVAL that cannot be")
        usual = self.thresholds()
        self.t1, self.t2, self.t3 = (one or other for one, other in zip(given[1:4], usual, strict=True))
        self.reset = given[4] or 64
        self.step = 2 * near + 1
        self.range = (self.most + 2 * near) // self.step + 1
        self.bits = (self.range - 1).bit_length()
        size = max(2, precision)
        self.limit = 2 * (size + max(8, size))
        start = max(2, self.range + 32 >> 6)
        self.contexts = {index: [start, 0, 0, 1] for index in range(-364, 367)}  # A, B, C, N; of runs Nn takes the place of B
        self.orders = [0] * len(planes)
        self.coder = CodedData(7)

    def thresholds(self) -> tuple[int, int, int]:
        """C.2.4.1.1"""
        near, t = self.near, (3, 7, 21)
        if self.most >= 128:
            factor = (min(self.most, 4095) + 128) // 256
            basic = [factor * (t[i] - (2, 3, 4)[i]) + (2, 3, 4)[i] + (3, 5, 7)[i] * near for i in range(3)]
        else:
            factor = 256 // (self.most + 1)
            basic = [max((2, 3, 4)[i], t[i] // factor + (3, 5, 7)[i] * near) for i in range(3)]
        found, least = list[int](), near + 1
        for threshold in basic:
            least = threshold if least <= threshold <= self.most else least
            found.append(least)
        return found[0], found[1], found[2]

    def coded(self, exceptions: Iterator[int], by_sample: bool) -> bytes:
        """All rows: of one component after the other, or of all at once."""
        self.exceptions, self.next = exceptions, next(exceptions, -1)
        groups = [list(range(len(self.planes)))] if by_sample else [[part] for part in range(len(self.planes))]
        for row in range(len(self.planes[0])):
            for parts in groups:
                column = 0
                while column < len(self.planes[0][0]):
                    around = [self.around(part, row, column) for part in parts]
                    regions = [self.regions(*four) for four in around]
                    if not any(map(any, regions)):
                        column = self.run(parts, row, column)
                        continue
                    for part, four, three in zip(parts, around, regions, strict=True):
                        self.regular(self.planes[part][row][column], four, three)
                    column += 1
        if self.next >= 0:
            raise DamagedError("a JPEG-LS recipe with an exception that is not used")
        return bytes(self.coder.out)

    def around(self, part: int, row: int, column: int) -> tuple[int, int, int, int]:
        """Ra, Rb, Rc, Rd (A.2.1)"""
        plane = self.planes[part]
        above = plane[row - 1] if row else [0] * len(plane[0])
        b, d = above[column], above[min(column + 1, len(above) - 1)]
        if column:
            return plane[row][column - 1], b, above[column - 1], d
        return b, b, plane[row - 2][0] if row > 1 else 0, d

    def regions(self, a: int, b: int, c: int, d: int) -> tuple[int, int, int]:
        return self.region(d - b), self.region(b - c), self.region(c - a)

    def region(self, difference: int) -> int:
        size = abs(difference)
        found = (size > self.near) + (size >= self.t1) + (size >= self.t2) + (size >= self.t3) if size > self.near else 0
        return found if difference > 0 else -found

    def quantized(self, error: int) -> int:
        """A.4.4, A.4.5"""
        error = (abs(error) + self.near) // self.step * (1 if error > 0 else -1)
        error += self.range if error < 0 else 0
        return error - self.range if error >= (self.range + 1) // 2 else error

    def golomb(self, value: int, k: int, limit: int) -> None:
        """A.5.3"""
        if value >> k < limit - self.bits - 1:
            self.coder.put(1, (value >> k) + 1)
            self.coder.put(value & (1 << k) - 1, k)
        else:
            self.coder.put(1, limit - self.bits)
            self.coder.put(value - 1, self.bits)

    def regular(self, sample: int, around: tuple[int, int, int, int], regions: tuple[int, int, int]) -> None:
        a, b, c, _ = around
        index = 81 * regions[0] + 9 * regions[1] + regions[2]
        sign = -1 if index < 0 else 1
        context = self.contexts[abs(index)]
        expected = min(a, b) if c >= max(a, b) else max(a, b) if c <= min(a, b) else a + b - c
        expected = min(max(expected + sign * context[2], 0), self.most)
        error = self.quantized(sign * (sample - expected))
        total, bias, _, count = context
        k = 0
        while count << k < total:
            k += 1
        if not self.near and not k and 2 * bias <= -count:
            mapped = 2 * error + 1 if error >= 0 else -2 * (error + 1)
        else:
            mapped = 2 * error if error >= 0 else -2 * error - 1
        self.golomb(mapped, k, self.limit)
        self.update(context, error)

    def update(self, context: list[int], error: int) -> None:
        """A.6"""
        context[0] += abs(error)
        context[1] += error * self.step
        if context[3] == self.reset:
            context[0], context[1], context[3] = context[0] >> 1, context[1] >> 1, context[3] >> 1
        context[3] += 1
        if context[1] <= -context[3]:
            context[1] = max(context[1] + context[3], 1 - context[3])
            context[2] = max(context[2] - 1, -128)
        elif context[1] > 0:
            context[1] = min(context[1] - context[3], 0)
            context[2] = min(context[2] + 1, 127)

    def run(self, parts: list[int], row: int, column: int) -> int:
        """A.7"""
        lines, columns = [self.planes[part][row] for part in parts], len(self.planes[0][0])
        values, end = [self.around(part, row, column)[0] for part in parts], column
        while end < columns and self.next != row * columns + end:
            if any(abs(line[end] - value) > self.near for line, value in zip(lines, values, strict=True)):
                break
            end += 1
        if end < columns and self.next == row * columns + end:
            self.next = next(self.exceptions, -1)
        length, order = end - column, self.orders[parts[0]]
        while length >= 1 << RUN_ORDERS[order]:
            self.coder.put(1, 1)
            length -= 1 << RUN_ORDERS[order]
            order = min(order + 1, 31)
        if end == columns:
            if length:
                self.coder.put(1, 1)
            self.orders[parts[0]] = order
            return end
        self.coder.put(length, 1 + RUN_ORDERS[order])
        for part, value in zip(parts, values, strict=True):
            self.ending(self.planes[part][row][end], self.around(part, row, end), value, len(parts) == 1, RUN_ORDERS[order])
        self.orders[parts[0]] = max(order - 1, 0)
        return end + 1

    def ending(self, sample: int, around: tuple[int, int, int, int], a: int, alone: bool, order: int) -> None:
        """A.7.2; of several components, the type is 0."""
        b = around[1]
        kind = int(alone and abs(a - b) <= self.near)
        sign = -1 if not kind and a > b else 1
        error = self.quantized(sign * (sample - (a if kind else b)))
        context = self.contexts[365 + kind]
        total, negative, _, count = context
        k = 0
        while count << k < total + (count >> 1 if kind else 0):
            k += 1
        more = (error > 0 and not k and 2 * negative < count) or (error < 0 and (2 * negative >= count or k > 0))
        mapped = 2 * abs(error) - kind - more
        self.golomb(mapped, k, self.limit - order - 1)
        context[1] += error < 0
        context[0] += mapped + 1 - kind >> 1
        if context[3] == self.reset:
            context[0], context[1], context[3] = context[0] >> 1, context[1] >> 1, context[3] >> 1
        context[3] += 1


def jpeg_ls(recipe: Cursor, samples: NDArray[Any]) -> bytes:
    """JPEG-LS (18.3) of samples (colours, rows, columns)."""
    segments, out = Segments(), bytearray()
    for _ in range(recipe.number()):
        block = recipe.block()
        exceptions = accumulate([recipe.number() for _ in range(recipe.number())])
        parts, _, (near, interleave, _) = segments.scan(block)
        channels, precision = segments.samples(samples)
        scan = JpegLsScan([channels[part] for part in parts], precision, near, segments.preset)
        out += block + scan.coded(iter(exceptions), interleave == 2)
    return bytes(out + recipe.block())


CODECS = {"rle": rle, "jpeg_lossless": jpeg_lossless, "jpeg_ls": jpeg_ls}


# ---- 19 Deflate streams ----

Match = tuple[int, int]
"""Length and distance."""
STORED, STATIC, DYNAMIC = range(3)
ZLIB, GZIP = 1, 2
LONGEST, WINDOW = 258, 1 << 15
LITERALS, DISTANCES, CODE_LENGTHS = 286, 30, 19
ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
EXTRA_LENGTH = [0] * 8 + [bits for bits in range(1, 6) for _ in range(4)] + [0]
EXTRA_DISTANCE = [0, 0] + [bits for bits in range(14) for _ in range(2)]
FIRST_LENGTH = [*accumulate((1 << bits for bits in EXTRA_LENGTH[:-2]), initial=3), 258]
FIRST_DISTANCE = [*accumulate((1 << bits for bits in EXTRA_DISTANCE[:-1]), initial=1)]
REPEATS = {16: (2, 3), 17: (3, 3), 18: (7, 11)}
LEAST = ((6, 9), (8, 8), (10, 7), (16, 6), (45, 5), (80, 4), (256, 3))
PARAMETERS = {
    "family": (0, 3),
    "hash": (0, (1 << 32) - 1),
    "bits": (8, 16),
    "shortest": (3, 258),
    "good": (0, 258),
    "lazy": (0, 258),
    "nice": (0, 258),
    "depth": (0, 4096),
    "good_depth": (0, 4096),
    "farthest": (0, 32768),
    "too_far": (0, 32768),
    "probing": (0, 1),
    "threes": (0, 1),
    "ahead": (0, 2),
    "adapted": (0, 1),
}


class Bits:
    """The range coder of side information (19.2); contexts are named by what they are for."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 4
        self.range, self.code = (1 << 32) - 1, int.from_bytes(data[:4].ljust(4, b"\0"), "big")
        self.contexts: dict[Any, list[int]] = {}

    def below(self, bound: int) -> bool:
        hit = self.code < bound
        if not hit:
            self.code -= bound
        self.range = bound if hit else self.range - bound
        while self.range < 1 << 24:
            self.range <<= 8
            self.code = (self.code << 8 | (self.data[self.at] if self.at < len(self.data) else 0)) & 0xFFFFFFFF
            self.at += 1
        return hit

    def bit(self, *context: Any) -> int:
        pair = self.contexts.setdefault(context, [2048, 2048])
        if self.below((self.range >> 16) * ((pair[0] + pair[1]) >> 1)):
            pair[:] = pair[0] + ((65536 - pair[0]) >> 4), pair[1] + ((65536 - pair[1]) >> 7)
            return 1
        pair[:] = pair[0] - (pair[0] >> 4), pair[1] - (pair[1] >> 7)
        return 0

    def plain(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = value << 1 | self.below(self.range >> 1)
        return value

    def symbol(self, bits: int, *context: Any) -> int:
        m = 1
        for _ in range(bits):
            m = m << 1 | self.bit(*context, m)
        return m - (1 << bits)

    def elastic(self, *context: Any) -> int:
        i = 0
        while i < 32 and self.bit(*context, i):
            i += 1
        return (1 << i) + self.plain(i) - 1


class Writer:
    """What writers of deflate streams choose (19.4): a match, or None for a literal."""

    def __init__(self, values: list[int], content: bytes) -> None:
        parameters = {name: whole(n, *PARAMETERS[name], name) for name, n in zip(PARAMETERS, values, strict=True)}
        self.family, self.hash, self.hash_bits = parameters["family"], parameters["hash"], parameters["bits"]
        self.shortest, self.good, self.lazy, self.nice = (parameters[name] for name in ("shortest", "good", "lazy", "nice"))
        self.depth, self.good_depth = parameters["depth"], parameters["good_depth"]
        self.farthest, self.too_far = parameters["farthest"], parameters["too_far"]
        self.probing, self.threes = parameters["probing"], parameters["threes"]
        self.ahead, self.adapted = parameters["ahead"], parameters["adapted"]
        self.content, self.needs = content, 3 if self.hash in (0, 2) else 4
        self.begin(0)

    def begin(self, first: int) -> None:
        self.first = self.inserted = first
        self.head: dict[int, int] = {}
        self.three: dict[int, int] = {}
        self.link: dict[int, int] = {}
        self.held: dict[int, Match | None] = {}

    def begin_block(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.literals: dict[int, int] = {}
        left = len(self.content) - start
        self.again = start + min(left, 10_000)
        self.least = self.shortest
        if self.adapted and left >= 512:
            self.adapt(len(set(self.content[start : start + 4096])))

    def adapt(self, different: int) -> None:
        least = next(least for below, least in LEAST if different < below or below == 256)
        most = next((most for depth, most in ((5, 4), (10, 5), (16, 7)) if self.depth < depth), least)
        self.least = min(least, most)

    def hash_of(self, p: int) -> int:
        a, b, c = self.content[p : p + 3]
        n = a | b << 8 | c << 16
        mask = (1 << self.hash_bits) - 1
        if self.hash == 0:
            shift = (self.hash_bits + 2) // 3
            return ((a << 2 * shift) ^ (b << shift) ^ c) & mask
        if self.hash == 1:
            register = 0
            for byte in self.content[p : p + 4]:
                register = CRC_TABLE[(register ^ byte) & 255] ^ register >> 8
            return register & mask
        if self.hash == 2:
            return (n ^ n >> 17) & mask
        return ((n | self.content[p + 3] << 24) * self.hash & 0xFFFFFFFF) >> (32 - self.hash_bits)

    def hash_of_three(self, p: int) -> int:
        return int.from_bytes(self.content[p : p + 3], "little") * self.hash % (1 << 32) >> 17

    def insert_before(self, p: int) -> None:
        """All positions before p that are not yet in the chains."""
        for q in range(self.inserted, min(p, len(self.content) - self.needs + 1)):
            key = self.hash_of(q)
            self.link[q % WINDOW] = self.head.get(key, -1)
            self.head[key] = q
            if self.threes:
                self.three[self.hash_of_three(q)] = q
        self.inserted = max(self.inserted, min(p, len(self.content) - self.needs + 1))

    def same(self, c: int, p: int, most: int) -> int:
        """How many bytes are the same at c and p, which comes first where others were looked ahead at."""
        count, most = 0, min(most, len(self.content) - c)
        while count < most and self.content[c + count] == self.content[p + count]:
            count += 1
        return count

    def longer(self, p: int, beaten: int, depth: int) -> Match | None:
        """L of 19.4"""
        most = min(LONGEST, self.end - p)
        if most < self.needs or beaten >= most:
            return None
        self.insert_before(p)
        oldest, c = max(p - self.farthest, self.first), self.head.get(self.hash_of(p), -1)
        if self.probing:
            return self.probed(p, beaten, depth, c, most)
        found = None
        if self.threes and beaten < 4:
            t = self.three.get(self.hash_of_three(p), -1)
            if t <= oldest:
                return None
            if beaten < 3:
                found = (3, p - t) if self.same(t, p, 3) == 3 else None
                beaten = 3
        if c <= self.first or c < oldest:
            return found
        while depth > 0 and beaten < most:
            length = self.same(c, p, most)
            if length > beaten:
                found, beaten = (length, p - c), length
                if length >= min(self.nice, most):
                    break
            c = self.link[c % WINDOW]
            depth -= 1
            if c <= oldest:
                break
        return found

    def probed(self, p: int, beaten: int, depth: int, c: int, most: int) -> Match | None:
        found, k, content = None, 0, self.content
        while c > self.first and c % 65536 and p - c <= self.farthest:
            if k % 3 == 0:
                depth -= 1
                if depth <= 0:
                    break
            k += 1
            if content[c + beaten - 1 : c + beaten + 1] == content[p + beaten - 1 : p + beaten + 1]:
                k = 0
                length = self.same(c, p, most)
                if length > beaten:
                    found, beaten = (length, p - c), length
                    if length == most:
                        break
            c = self.link[c % WINDOW]
        return None if found and p % WINDOW == found[1] else found

    def at(self, p: int) -> Match | None:
        """N of 19.4"""
        if p in self.held:
            return self.held[p]
        if self.adapted and self.family == 2 and p >= self.again:
            often = sum(self.literals.values()) >> 10
            self.adapt(sum(count > often for count in self.literals.values()))
            self.again += min(len(self.content) - self.again, p - self.start)
        return self.nearest(p)

    def nearest(self, p: int) -> Match | None:
        match = self.longer(p, self.least - 1, self.depth)
        return None if match and match[0] == 3 and match[1] > self.too_far else match

    def predicted(self, p: int) -> tuple[Match | None, int]:
        """What is predicted at p, and its kind (19.5)."""
        later = False
        match: Match | None = None
        if self.family == 2 and any(q > p for q in self.held):
            later = True
        else:
            match = self.at(p)
            if match and self.family == 1 and match[0] < self.lazy:
                later = self.hold(p + 1, self.longer(p + 1, match[0], self.good_depth if match[0] >= self.good else self.depth))
            elif match and self.family == 2 and match[0] < min(self.nice, self.end - p):
                later = self.weigh(p, match)
            elif self.family == 3:
                match, later = self.slide(p, match)
        if later or match is None:
            return None, int(later)
        return match, 2 + sum(match[0] > most for most in (3, 4, 8, 32, 257))

    def hold(self, p: int, match: Match | None) -> bool:
        if match:
            self.held = {p: match}
        return match is not None

    def weigh(self, p: int, match: Match) -> bool:
        length, distance = match
        for i in range(1, self.ahead + 1):
            f = self.longer(p + i, length - 1, self.depth >> i)
            if f and f[0] >= length and 4 * (f[0] - length) + log2(distance) - log2(f[1]) > 4 * i - 2:
                return self.hold(p + i, f)
        return False

    def slide(self, p: int, match: Match | None) -> tuple[Match | None, bool]:
        while match and self.ahead and self.end - p > 262:
            length, q = match[0], p + match[0]
            self.skip(p, length)
            f, b = self.nearest(q), 0
            if f:
                longest = min(length, 256 - f[0], q - f[1] - self.first - 1)
                while b < longest and self.content[q - b - 1] == self.content[q - f[1] - b - 1]:
                    b += 1
            if f is None or b < length - 1:
                self.held = {q: f}
                break
            if b == length - 1:
                self.held = {p + 1: (f[0] + b, f[1])}
                return None, True
            match = f[0] + b, f[1]
        return match, False

    def skip(self, p: int, length: int) -> None:
        """Most positions of long matches are not inserted (19.4)."""
        if length > self.lazy and self.family in (0, 3):
            self.insert_before(p + 1)
            self.inserted = p + length if self.family == 0 else max(self.inserted, p + length - 1)

    def follow(self, p: int, match: Match | None) -> int:
        """The position behind a token."""
        if match is None:
            self.literals[self.content[p]] = self.literals.get(self.content[p], 0) + 1
            return p + 1
        self.skip(p, match[0])
        return p + match[0]

    def along_links(self, p: int, length: int, k: int) -> int:
        """Distance of the k-th position in the chain of p whose bytes are those at p (19.5)."""
        self.insert_before(p)
        c = self.head.get(self.hash_of(p), -1) if p + self.needs <= len(self.content) else -1
        for _ in range(WINDOW):
            if c < 0 or p - c > WINDOW:
                break
            k -= self.same(c, p, length) == length
            if k == 0:
                return p - c
            c, before = self.link[c % WINDOW], c
            if c >= before:
                break
        raise DamagedError("side information of a deflate stream that names no match")


def log2(distance: int) -> int:
    """Rounded down, -1 for a distance that cannot be."""
    return max(distance, 0).bit_length() - 1


class Deflater:
    """Blocks of deflate streams from content and side information (19.3, 19.5, 19.6)."""

    def __init__(self, side: Bits, parameters: list[int], most: int) -> None:
        self.side, self.parameters, self.most = side, parameters, most
        self.kind, self.size, self.count, self.history = DYNAMIC, 0, 0, 0

    def stream(self, content: bytes, flushes: list[int], mode: int) -> bytes:
        """19.3"""
        self.writer, self.content = Writer(self.parameters, content), content
        self.bits = self.used = 0
        self.out = bytearray()
        position = passed = 0
        empty, final = 4096 + len(content) // 256, False
        while not final:
            behind = bisect_right(flushes, position)
            if behind > passed and mode:
                self.writer.begin(position if mode == 2 else max(position - WINDOW, 0))
            passed = behind
            final = bool(self.side.bit("final", position < len(content)))
            end = flushes[behind] if behind < len(flushes) else len(content)
            before, position = position, self.block(final, position, end)
            empty -= position == before
            if empty < 0 or len(self.out) > self.most:
                raise DamagedError("a deflate stream of endless blocks")
        padding = self.side.plain(7) if self.side.bit("padding") else 0
        self.put(padding & ((1 << -self.used % 8) - 1), -self.used % 8)
        if position != len(content):
            raise DamagedError("a deflate stream that ends before its content")
        return bytes(self.out)

    def put(self, value: int, count: int) -> None:
        """Bits, lowest first."""
        self.bits |= value << self.used % 8
        self.used += count
        full = self.used // 8 - len(self.out)
        self.out += (self.bits & (1 << 8 * full) - 1).to_bytes(full, "little")
        self.bits >>= 8 * full

    def block(self, final: bool, position: int, end: int) -> int:
        """One block; gives the position behind it."""
        kind = self.kind = self.side.symbol(2, "type", self.kind)
        self.put(final | kind << 1, 3)
        if kind == STORED:
            return self.stored(position)
        if kind > DYNAMIC:
            raise DamagedError("a deflate block of a kind that there is not")
        tokens, behind = self.tokens(position, end)
        if kind == STATIC:
            lengths, distances = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8, [5] * 30
        else:
            lengths, distances = self.code_lengths(position, tokens)
        codes, distance_codes = codes_of(lengths), codes_of(distances)
        for match in tokens:
            if match is None:
                self.put(*codes[self.content[position]])
                position += 1
                continue
            length = bisect_right(FIRST_LENGTH, match[0]) - 1
            self.put(*codes[257 + length])
            self.put(match[0] - FIRST_LENGTH[length], EXTRA_LENGTH[length])
            distance = bisect_right(FIRST_DISTANCE, match[1]) - 1
            self.put(*distance_codes[distance])
            self.put(match[1] - FIRST_DISTANCE[distance], EXTRA_DISTANCE[distance])
            position += match[0]
        self.put(*codes[256])
        return behind

    def stored(self, position: int) -> int:
        if not self.side.bit("same size"):
            self.size = self.side.plain(16)
        padding = self.side.plain(7) if self.side.bit("padded") else 0
        self.put(padding & ((1 << -self.used % 8) - 1), -self.used % 8)
        data = self.content[position : position + self.size]
        if len(data) < self.size:
            raise DamagedError("a stored block beyond the content")
        self.out += struct.pack("<HH", self.size, self.size ^ 0xFFFF) + data
        self.used = 8 * len(self.out)
        return position + self.size

    def tokens(self, position: int, end: int) -> tuple[list[Match | None], int]:
        """19.5"""
        if self.side.bit("to the end"):
            count, stop = end - position, end
        else:
            count, stop = self.count, len(self.content)
            if not self.side.bit("same count"):
                count = self.side.elastic("count")
                self.count = count or self.count
        self.writer.begin_block(position, end)
        tokens: list[Match | None] = []
        while len(tokens) < count and position < stop:
            guess, kind = self.writer.predicted(position)
            wrong = self.side.bit("wrong", kind, self.history & 7)
            self.history = self.history << 1 & 7 | wrong
            match = self.corrected(position, end, guess, kind) if wrong else guess
            tokens.append(match)
            position = self.writer.follow(position, match)
        return tokens, position

    def corrected(self, p: int, end: int, guess: Match | None, kind: int) -> Match | None:
        side = self.side
        if guess and not side.bit("match", kind):
            return None
        same = False
        if guess and side.bit("same length", kind):
            length = guess[0]
        else:
            length = 3 + side.symbol(8, "length", kind)
            same = bool(guess and side.bit("same distance", kind))
        if guess and same:
            distance = guess[1]
        else:
            k = side.elastic("distance", guess is not None)
            distance = self.writer.along_links(p, length, k) if k else 1 + side.plain(15)
        if p + length > end or not 0 < distance <= WINDOW:
            raise DamagedError("a match of a deflate stream that leads out of the content")
        return length, distance

    def code_lengths(self, position: int, tokens: list[Match | None]) -> tuple[list[int], list[int]]:
        """Writes the header of a dynamic block, and gives its code lengths (19.6)."""
        often, often_far = [0] * LITERALS, [0] * DISTANCES
        for match in tokens:
            if match is None:
                often[self.content[position]] += 1
            else:
                often[257 + bisect_right(FIRST_LENGTH, match[0]) - 1] += 1
                often_far[bisect_right(FIRST_DISTANCE, match[1]) - 1] += 1
            position += match[0] if match else 1
        often[256] += 1
        literals = self.row("literals", lengths_of(often, 15), 257)
        distances = self.row("distances", lengths_of(often_far, 15), 1)
        way = self.side.symbol(2, "runs")
        if way == 0:
            operations = packed_lengths(literals) + packed_lengths(distances)
        elif way == 1:
            operations = packed_lengths(literals + distances)
        else:
            operations = self.operations(len(literals) + len(distances))
        counts = [0] * CODE_LENGTHS
        for symbol, _ in operations:
            counts[symbol] += 1
        lengths = lengths_of(counts, 7)
        if not self.side.bit("code lengths"):
            lengths = [self.side.symbol(3, "code length", length) for length in lengths]
        written = max(4, *(place + 1 for place, symbol in enumerate(ORDER) if lengths[symbol]))
        if not self.side.bit("written"):
            written = 4 + self.side.symbol(4, "how many written")
        self.put(len(literals) - 257 | (len(distances) - 1) << 5 | (written - 4) << 10, 14)
        for symbol in ORDER[:written]:
            self.put(lengths[symbol], 3)
        codes = codes_of(lengths)
        for symbol, extra in operations:
            self.put(*codes[symbol])
            self.put(extra, REPEATS.get(symbol, (0, 0))[0])
        return literals, distances

    def row(self, name: str, guess: list[int], least: int) -> list[int]:
        used = max((n + 1 for n, length in enumerate(guess) if length), default=0)
        guess = guess[: max(used, least)]
        if self.side.bit("row", name):
            return guess
        count = least + self.side.symbol(5, "row length", name)
        return [self.side.symbol(4, "row", length) for length in (guess + [0] * count)[:count]]

    def operations(self, count: int) -> list[tuple[int, int]]:
        operations: list[tuple[int, int]] = []
        while count > 0:
            symbol = self.side.symbol(5, "operation")
            if symbol >= CODE_LENGTHS:
                raise DamagedError("a deflate header with a symbol that there is not")
            bits, least = REPEATS.get(symbol, (0, 1))
            operations.append((symbol, self.side.plain(bits)))
            count -= least + operations[-1][1]
        return operations


def codes_of(lengths: list[int]) -> list[tuple[int, int]]:
    """(bits as they are written, how many) for each symbol (RFC 1951, 3.2.2)."""
    code, codes = 0, [(0, 0)] * len(lengths)
    for size in range(1, 16):
        for symbol, length in enumerate(lengths):
            if length == size:
                codes[symbol] = int(f"{code:0{size}b}"[::-1], 2), size
                code += 1
        code <<= 1
    return codes


def lengths_of(often: list[int], most: int) -> list[int]:
    """Code lengths as zlib makes them (19.6)."""
    count = len(often)
    frequency, depth, parent = often + [0] * (count + 2), [0] * (2 * count + 2), [0] * (2 * count + 2)
    heap = [0, *(n for n in range(count) if often[n])]
    last = heap[-1] if len(heap) > 1 else -1
    while len(heap) < 3:
        last = new = last + 1 if last < 2 else 0
        heap.append(new)
        frequency[new] = 1

    def sift(k: int) -> None:
        moved = heap[k]
        while 2 * k < len(heap):
            j = 2 * k
            j += j + 1 < len(heap) and smaller(heap[j + 1], heap[j])
            if smaller(moved, heap[j]):
                break
            heap[k], k = heap[j], j
        heap[k] = moved

    def smaller(n: int, m: int) -> bool:
        return (
            (frequency[n], depth[n]) <= (frequency[m], depth[m]) if frequency[n] == frequency[m] else frequency[n] < frequency[m]
        )

    for k in range((len(heap) - 1) // 2, 0, -1):
        sift(k)
    node, taken = count, list[int]()
    while len(heap) > 2:
        one = heap[1]
        heap[1] = heap[-1]
        heap.pop()
        sift(1)
        other = heap[1]
        taken += [one, other]
        frequency[node], depth[node] = frequency[one] + frequency[other], max(depth[one], depth[other]) + 1
        parent[one] = parent[other] = node
        heap[1], node = node, node + 1
        sift(1)
    return shortened(taken[::-1], parent, count, most)


def shortened(nodes: list[int], parent: list[int], count: int, most: int) -> list[int]:
    """Depths of the leaves, none above `most`; `nodes` come from the root's children on."""
    lengths, of_length, overflow = [0] * len(parent), [0] * (most + 2), 0
    for node in nodes:
        lengths[node] = lengths[parent[node]] + 1
        if lengths[node] > most:
            lengths[node] = most
            overflow += 1
        if node < count:
            of_length[lengths[node]] += 1
    if overflow:
        while overflow > 0:
            bits = next(bits for bits in range(most - 1, 0, -1) if of_length[bits])
            of_length[bits] -= 1
            of_length[bits + 1] += 2
            of_length[most] -= 1
            overflow -= 2
        leaves = (node for node in reversed(nodes) if node < count)
        for bits in range(most, 0, -1):
            for _ in range(of_length[bits]):
                lengths[next(leaves)] = bits
    return lengths[:count]


def packed_lengths(row: list[int]) -> list[tuple[int, int]]:
    """Code lengths with repeats, as zlib's send_tree has them: (symbol, extra bits)."""
    operations: list[tuple[int, int]] = []
    before, count = -1, 0
    most, least = (138, 3) if row[0] == 0 else (7, 4)
    for n, length in enumerate(row):
        count += 1
        following = row[n + 1] if n + 1 < len(row) else -1
        if count < most and length == following:
            continue
        if count < least:
            operations += [(length, 0)] * count
        elif length:
            if length != before:
                operations.append((length, 0))
                count -= 1
            operations.append((16, count - 3))
        else:
            operations.append((17, count - 3) if count <= 10 else (18, count - 11))
        before, count = length, 0
        most, least = (138, 3) if following == 0 else (6, 3) if length == following else (7, 4)
    return operations


def deflated(content: bytes, side: bytes) -> bytes:
    """The file that holds `content` in deflate streams (19.1)."""
    reader = Cursor(side, "side information")
    head = Cursor(reader.block(), "the head of side information")
    kind, size = whole(head.number(), 0, GZIP, "the kind of a stream"), head.number()
    whole(size, 0, 2 * len(content) + 256 * (len(side) + 256), "the size of a file of deflate streams")
    parameters = [head.number() for _ in range(whole(head.number(), 15, 15, "the number of parameters"))]
    tail, count, position, out = head.block(), head.number(), 0, bytearray()
    deflater = Deflater(Bits(side[reader.at :]), parameters, size)
    for _ in range(count):
        prefix, length = head.block(), head.number()
        part = content[position : position + length]
        if len(part) < length:
            raise DamagedError("deflate streams of more content than there is")
        position += length
        runs, flushes = head.number(), [0]
        mode = whole(head.number(), 0, 2, "the mode of flushes") if runs else 0
        for _ in range(runs):
            step, n = whole(head.number(), 1, length, "a step"), whole(head.number(), 0, 1 << 20, "the flushes of a run")
            whole(flushes[-1] + step * n, 0, length, "a flush")
            flushes += range(flushes[-1] + step, flushes[-1] + step * n + 1, step)
        out += prefix + deflater.stream(part, flushes[1:], mode)
        if kind == GZIP:
            out += struct.pack("<II", zlib.crc32(part), length & 0xFFFFFFFF)
        if kind == ZLIB:
            out += struct.pack(">I", zlib.adler32(part))
    out += tail
    if len(out) != size or position != len(content):
        raise DamagedError("side information of another file of deflate streams")
    return bytes(out)


# ---- 4.2 Files, 16 Folders ----


def place_of(name: str, folder: Path) -> Path:
    """Where a file goes, if its name leads nowhere else (4.2)."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or re.search(r"[\\:\0]", part) for part in parts):
        raise DamagedError("a file with a name that leads out of the folder")
    place = folder.joinpath(*parts)
    if not place.parent.resolve().is_relative_to(folder.resolve()):
        raise DamagedError("a file with a name that leads through a link out of the folder")
    return place


def restore(path: Path, folder: Path, tables: Path, weights: Path) -> list[Path]:
    """Restores the files in an archive below `folder`; no file has its name before all have the SHA-256 that they should have."""
    archive = read_archive(path.read_bytes())
    expected = {record["name"]: record for record in archive.files}
    places = {name: place_of(name, folder) for name in expected}
    if len(expected) != len(archive.files):
        raise DamagedError("two files with the same name")
    for place in places.values():
        if place.exists() or place.is_symlink():
            raise RefusedError(f"{place} exists: choose another folder")
    volumes = decode_volumes(archive, Tables(tables), weights)
    skeleton = Skeleton(archive.skeleton, volumes, decode_blobs(archive))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unmdz", dir=folder) as unproved:
        made: dict[str, Path] = {}
        for number, (name, pieces) in enumerate(skeleton.files()):
            made[name] = Path(unproved, str(number))
            digest, size = hashlib.sha256(), 0
            with made[name].open("wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    size += file.write(piece)
            if name not in expected or (digest.digest(), size) != (expected[name]["sha256"], expected[name]["bytes"]):
                raise DamagedError("a restored file is not the one that the archive was made of: its SHA-256 differs")
        if len(made) != len(expected) or len(made) != len(skeleton.structure):
            raise DamagedError("SKEL and FILE name different files")
        for name, place in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            made[name].rename(place)
    return list(places.values())


def restore_folder(manifest: Path, folder: Path, decode: Callable[[Path], list[Path]]) -> None:
    """A folder of archives (16)."""
    tree = json.loads(manifest.read_text(encoding="utf-8"))
    if tree["medzip_tree"] != 1:
        raise UnsupportedError("a manifest of a version that this decoder does not know")
    files = {PurePosixPath(record["path"]): record for record in tree["files"]}
    restored = [
        place
        for name in dict.fromkeys(record["archive"] for record in tree["files"])
        for place in decode(place_of(name, manifest.parent))
    ]
    if {PurePosixPath(place.relative_to(folder).as_posix()) for place in restored} != set(files):
        raise DamagedError("the archives hold other files than the manifest says")
    for place in restored:
        if hashlib.sha256(place.read_bytes()).hexdigest() != files[PurePosixPath(place.relative_to(folder).as_posix())]["sha256"]:
            raise DamagedError("an archive holds a file that is not the one of the manifest")
    for name in tree.get("folders", []):
        place_of(name, folder).mkdir(parents=True, exist_ok=True)
    for name, target in tree.get("links", {}).items():
        place_of(name, folder).symlink_to(target)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="unmdz", description="Gives back the files in a medzip archive; slow, for when medzip is gone."
    )
    parser.add_argument("archive", type=Path, help="an archive (.mdz), or a folder of archives with its medzip-tree.json")
    parser.add_argument("-o", "--output", type=Path, default=Path(), metavar="FOLDER", help="where the files go (default: here)")
    parser.add_argument("--tables", type=Path, default=TABLES, metavar="FILE", help="tables.bin of medzip")
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, metavar="FOLDER", help="where weights files (.safetensors) are looked for"
    )
    given = parser.parse_args(arguments)
    path = given.archive

    def decode(archive: Path) -> list[Path]:
        nonlocal path
        path = archive
        places = restore(archive, given.output, given.tables, given.weights)
        for place in places:
            print(place)
        return places

    try:
        if (path / "medzip-tree.json").is_file():
            restore_folder(path / "medzip-tree.json", given.output, decode)
        else:
            decode(path)
    except RefusedError as refused:
        print(f"unmdz: {path}: {refused}", file=sys.stderr)
        return refused.code
    except OSError as error:
        print(f"unmdz: {path}: {error}", file=sys.stderr)
        return 6
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        MemoryError,
        RecursionError,
        struct.error,
    ) as error:
        # What FORMAT.md does not define is damage (0.2): a table that is not as it says fails where it is used.
        print(f"unmdz: {path}: damaged: a table that is not as FORMAT.md says ({type(error).__name__}: {error})", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
