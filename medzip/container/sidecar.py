"""Parity beside an archive, x.mdz.par: lost sectors, flipped bits and a cut end are computed again (FORMAT.md, 25).

The archive is read as rows of sectors of 4 KiB; a codeword takes one byte of each row, so that a sector that is lost costs
each of its codewords one symbol, and neighbouring sectors belong to different codewords. CRCs tell which sectors are damaged:
with that known, as many of a group as it has parity sectors come back. What comes back is compared with the archive's SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from medzip.container.checksum import crc32c
from medzip.container.parity import Encoder, fill
from medzip.container.storage import AtomicFile, storage_error
from medzip.errors import ArchiveDamagedError

SUFFIX = ".par"
SECTOR = 4096
MAGIC = b"\x89MDZP\r\n\x1a"
VERSION = 1
_HEADER = struct.Struct("<8sHHIIQ32s")
_CRC = struct.Struct("<I")
HEADER_SIZE = _HEADER.size + _CRC.size
MOST_ROWS = 239
MOST_PARITY = 16
ROWS_PER_PARITY = 15

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """`length` of the archive in bytes, its SHA-256, `groups` of interleaved codewords, and `parity` sectors of each."""

    length: int
    sha256: bytes
    groups: int
    parity: int

    @classmethod
    def of(cls, length: int, sha256: bytes) -> Layout:
        """A parity sector for each 15 of the archive: 6.7 %, at least two."""
        sectors = max(1, -(-length // SECTOR))
        groups = -(-sectors // MOST_ROWS)
        rows = -(-sectors // groups)
        return cls(length, sha256, groups, max(2, min(MOST_PARITY, -(-rows // ROWS_PER_PARITY))))

    @property
    def sectors(self) -> int:
        """Sectors of the archive."""
        return max(1, -(-self.length // SECTOR))

    @property
    def rows(self) -> int:
        return -(-self.sectors // self.groups)

    @property
    def table_bytes(self) -> int:
        return _CRC.size * (self.sectors + self.parity * self.groups)

    @property
    def size(self) -> int:
        """Of the sidecar in bytes."""
        return 2 * (HEADER_SIZE + self.table_bytes) + SECTOR * self.parity * self.groups

    def header(self) -> bytes:
        packed = _HEADER.pack(MAGIC, VERSION, self.parity, self.groups, SECTOR, self.length, self.sha256)
        return packed + _CRC.pack(crc32c(packed))

    @classmethod
    def read(cls, header: bytes) -> Layout | None:
        """None for what is no header, is damaged, or makes no sense."""
        if len(header) != HEADER_SIZE or crc32c(header[: _HEADER.size]) != _CRC.unpack_from(header, _HEADER.size)[0]:
            return None
        magic, version, parity, groups, sector, length, digest = _HEADER.unpack_from(header)
        if (magic, version, sector) != (MAGIC, VERSION, SECTOR) or not groups or not 1 <= parity < 255:
            return None
        layout = cls(length, digest, groups, parity)
        return layout if layout.rows + parity <= 255 else None


@dataclass(frozen=True)
class Damage:
    """How many sectors of an archive and of its sidecar are damaged, and whether all can be computed again."""

    archive: int
    sidecar: int
    repairable: bool


def beside(archive: Path) -> Path:
    """The sidecar of an archive."""
    return archive.with_name(archive.name + SUFFIX)


def make(archive: Path, expected: str | None = None) -> Layout:
    """Writes the sidecar of an archive, in place of one that is there.

    Raises StorageError, and ArchiveDamagedError where the archive has another SHA-256 (in hex) than expected.
    """
    digest = hashlib.sha256()
    with _opened(archive) as file:
        layout = Layout.of(file.seek(0, os.SEEK_END), b"")
        encoder = Encoder(layout.parity, layout.groups * SECTOR)
        crcs: list[int] = []
        file.seek(0)
        for _ in range(layout.rows):
            try:
                data = file.read(layout.groups * SECTOR)
            except OSError as error:
                raise storage_error(archive, "reading", error) from error
            digest.update(data)
            row = np.zeros(layout.groups * SECTOR, np.uint8)
            row[: len(data)] = np.frombuffer(data, np.uint8)
            encoder.add(row)
            crcs += _crcs(row)
    layout = replace(layout, sha256=digest.digest())
    if expected not in (None, layout.sha256.hex()):
        raise ArchiveDamagedError(f"{archive}: expected SHA-256 {expected}, found another; restore it from a copy")
    table = np.array([*crcs[: layout.sectors], *_crcs(encoder.parity)], "<u4").tobytes()
    with AtomicFile(beside(archive), overwrite=True) as written:
        for part in (layout.header(), table, encoder.parity.tobytes(), table, layout.header()):
            written.write(part)
        written.seal()
        written.publish()
    return layout


class Sidecar:
    """An open sidecar and its archive; a context manager. Raises StorageError, and ArchiveDamagedError where both copies of
    its header are damaged, or more than half of it is missing."""

    def __init__(self, archive: Path) -> None:
        self.archive, self.path = archive, beside(archive)
        with ExitStack() as files:
            self._parity, self._archive = files.enter_context(_opened(self.path)), files.enter_context(_opened(archive))
            size = self._parity.seek(0, os.SEEK_END)
            layouts = (Layout.read(_read(self._parity, place, HEADER_SIZE)) for place in (0, max(size - HEADER_SIZE, 0)))
            layout = next((found for found in layouts if found and found.size <= 2 * size), None)
            if layout is None:
                raise ArchiveDamagedError(f"{self.path}: expected parity of medzip, found none that is whole; make it again")
            self.layout: Layout = layout
            places = HEADER_SIZE, layout.size - HEADER_SIZE - layout.table_bytes
            self._tables = [_read(self._parity, place, layout.table_bytes) for place in places]
            ends = [_read(self._parity, place, HEADER_SIZE) for place in (0, layout.size - HEADER_SIZE)]
            whole = size == layout.size and self._tables[0] == self._tables[1]
            self._own = not (whole and ends == [layout.header()] * 2)
            self._files = files.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def is_whole(self) -> bool:
        """Whether nothing of the sidecar itself is damaged; the archive is not read."""
        behind = range(self.layout.sectors, self.layout.sectors + self.layout.parity * self.layout.groups)
        return not self._own and not self._bad(behind)

    def damage(self) -> Damage:
        """Reads all of both, and tries whether it could be repaired."""
        bad = self._bad(self._all)
        archive = sum(index < self.layout.sectors for index in bad)
        longer = self._archive.seek(0, os.SEEK_END) > self.layout.length
        try:
            self._solved(bad)
        except ArchiveDamagedError:
            return Damage(archive + longer, len(bad) - archive + self._own, False)
        return Damage(archive + longer, len(bad) - archive + self._own, True)

    def repair(self) -> int:
        """Writes the archive anew, compares its SHA-256, and puts it in the place of the damaged one; how many sectors of it
        were damaged. Raises ArchiveDamagedError where too much is damaged, StorageError."""
        bad = self._bad(self._all)
        solved, digest = self._solved(bad), hashlib.sha256()
        with AtomicFile(self.archive, overwrite=True) as written:
            for index in range(self.layout.sectors if self.layout.length else 0):
                sector = solved[index] if index in solved else self._sector(index).tobytes()
                sector = sector[: self.layout.length - index * SECTOR]
                digest.update(sector)
                written.write(sector)
            if digest.digest() != self.layout.sha256:
                raise self._beyond("the SHA-256 of what it was made of, found another")
            written.seal()
            written.publish()
        return sum(index < self.layout.sectors for index in bad)

    @property
    def _all(self) -> range:
        return range(self.layout.sectors + self.layout.parity * self.layout.groups)

    def _bad(self, looked_at: range) -> set[int]:
        """Sectors, those of parity behind those of the archive, that have neither of the CRCs that the tables tell."""
        first, last = (np.frombuffer(table.ljust(self.layout.table_bytes, b"\0"), "<u4") for table in self._tables)
        return {index for index in looked_at if crc32c(self._sector(index).tobytes()) not in (first[index], last[index])}

    def _sector(self, index: int) -> Bytes:
        """A sector with zeros behind its end; what cannot be read is zeros."""
        beyond = index - self.layout.sectors
        if beyond < 0:
            data = _read(self._archive, index * SECTOR, min(SECTOR, self.layout.length - index * SECTOR))
        else:
            data = _read(self._parity, HEADER_SIZE + self.layout.table_bytes + beyond * SECTOR, SECTOR)
        return np.frombuffer(data.ljust(SECTOR, b"\0"), np.uint8)

    def _solved(self, bad: set[int]) -> dict[int, bytes]:
        """The damaged sectors of the archive as they were. Raises ArchiveDamagedError."""
        layout, solved = self.layout, dict[int, bytes]()
        for group in sorted({self._group(index) for index in bad if index < layout.sectors}):
            places = [row * layout.groups + group for row in range(layout.rows)]
            places += [layout.sectors + row * layout.groups + group for row in range(layout.parity)]
            # Behind its last sector the archive has zeros up to whole rows.
            there = [index < layout.sectors or number >= layout.rows for number, index in enumerate(places)]
            rows = np.stack(
                [self._sector(index) if known else np.zeros(SECTOR, np.uint8) for index, known in zip(places, there, strict=True)]
            )
            erased = [number for number, index in enumerate(places) if there[number] and index in bad]
            if len(erased) > layout.parity:
                raise self._beyond(f"at most {layout.parity} damaged sectors of a group, found {len(erased)}")
            if not fill(rows, layout.parity, erased):
                raise self._beyond("sectors that agree with their parity, found others")
            solved |= {places[number]: rows[number].tobytes() for number in erased if number < layout.rows}
        return solved

    def _group(self, index: int) -> int:
        return (index if index < self.layout.sectors else index - self.layout.sectors) % self.layout.groups

    def _beyond(self, what: str) -> ArchiveDamagedError:
        return ArchiveDamagedError(f"{self.archive}: expected {what}: parity cannot repair it; restore it from a copy")


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise storage_error(path, "opening", error) from error


def _read(file: BinaryIO, place: int, length: int) -> bytes:
    """Nothing where the disk cannot read it."""
    try:
        file.seek(place)
        return file.read(length)
    except OSError:
        return b""


def _crcs(rows: Bytes) -> list[int]:
    return [crc32c(sector.tobytes()) for sector in rows.reshape(-1, SECTOR)]
