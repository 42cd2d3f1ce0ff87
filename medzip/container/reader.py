"""Reads an archive: believes nothing before its CRC, and repairs what parity covers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from medzip.container import cbor, file_table, sections
from medzip.container.checksum import crc32c
from medzip.container.section_file import SectionFile
from medzip.container.sections import BODY, CRC, END, FRONT, HEADER_LENGTH, MAGIC, ORDINAL, OVERHEAD, Section
from medzip.errors import UnsupportedArchiveError

MEMORY_LIMIT = 1 << 31  # bytes


@dataclass(frozen=True)
class ChunkEntry:
    """A chunk: slices `first` to `first + count - 1` of `volume` (all three None for a chunk of no volume)."""

    volume: int | None
    first: int | None
    count: int | None
    section: Section
    _read_header: Callable[[], dict[str, Any]] = field(repr=False, compare=False)

    @property
    def header(self) -> dict[str, Any]:
        """The chunk header; read and checked each time, without the payload."""
        return self._read_header()

    def __str__(self) -> str:
        if self.volume is None or self.first is None or self.count is None:
            return f"chunk at byte {self.section.offset}"
        return f"volume {self.volume}, slices {self.first} to {self.first + self.count - 1}"


class ArchiveReader:
    """Reads one archive; a context manager. Safe to use from several threads.

    head: what the archive is; `format` is [major, minor].
    files: the file table.
    chunks: in the order of the file. bases: sections of the base layers by ordinal.
    sections: all but PARI, INDX last.
    repaired: what was damaged and brought back, by parity or (PARI, TAIL) from the rest of the archive.
    lost: what `salvage` could not bring back; empty otherwise.

    `source` is a path, a URL for fsspec, or a seekable binary file. Nothing that needs more than `memory_limit` bytes is read or
    decoded. The constructor and every method raise TruncatedArchiveError, UnsupportedArchiveError (a newer format, or beyond the
    limit), ArchiveDamagedError for all else that is wrong, StorageError where the system fails.
    """

    def __init__(self, source: Path | str | BinaryIO, *, memory_limit: int = MEMORY_LIMIT) -> None:
        self.head: dict[str, Any] = {}
        self.files: list[dict[str, Any]] = []
        self.sections: list[Section] = []
        self.chunks: list[ChunkEntry] = []
        self.bases: dict[int, Section] = {}
        self.lost: list[str] = []
        self._file = SectionFile(source, memory_limit)
        self.name = self._file.name
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file where it was opened here."""
        self._file.close()

    @classmethod
    def salvage(cls, source: Path | str | BinaryIO, *, memory_limit: int = MEMORY_LIMIT) -> ArchiveReader:
        """A reader of what is intact in a damaged or truncated archive; `lost` says what is not.

        Needs neither TAIL nor INDX. All chunks and bases of the result have good CRCs. FILE and SKEL may be in `lost`;
        then `files` is empty and `skeleton` raises ArchiveDamagedError. Without HEAD it raises ArchiveDamagedError.
        """
        from medzip.container.salvage import SalvageReader

        return SalvageReader(source, memory_limit=memory_limit)

    @property
    def repaired(self) -> list[str]:
        """Sections that were damaged and are whole again."""
        return self._file.repaired

    @functools.cached_property
    def skeleton(self) -> bytes:
        """Payload of SKEL, read at first use."""
        return self._file.covered_payload(self._find("SKEL"))

    def chunk_payload(self, i: int) -> bytes:
        """Payload of `chunks[i]` behind its header, after its CRC was found good."""
        section = self.chunks[i].section
        return self._file.payload(section, len(self._encoded_header(section)) + HEADER_LENGTH.size + CRC.size)

    def base_payload(self, ordinal: int) -> bytes:
        """Bytes of the base layer that chunk headers call `ordinal`, after its CRC was found good."""
        if ordinal not in self.bases:
            raise self._file.damaged(f"base layer {ordinal}", "its section", "none")
        self._check_ordinal(ordinal)
        return self._file.payload(self.bases[ordinal], ORDINAL.size)

    def check(self) -> None:
        """Structure and every CRC; chunks and bases are read in blocks, and nothing is decoded.

        Raises ArchiveDamagedError where a base or a chunk is damaged, or more than parity can repair; what it can is
        brought back and named in `repaired`.
        """
        for section in self.sections:
            if section.type in (*FRONT, *END):
                self._file.covered_payload(section)
            else:
                self._file.check(section)
        for ordinal in self.bases:
            self._check_ordinal(ordinal)
        for chunk in self.chunks:
            _ = chunk.header
        self._file.check_parity(self._find("SKEL").end)

    def _load(self) -> None:
        tail = self._file.locate()
        self._load_head(self._file.covered_section(len(MAGIC)))
        index = Section("INDX", tail.index, tail.parity - tail.index - OVERHEAD)
        self._load_index(self._covered_cbor(index, dict).get("sections"), index)
        self._load_files(self._find("FILE"))

    def _load_head(self, section: Section) -> None:
        """Comes first: a newer format may have changed everything but magic, section headers, HEAD and TAIL."""
        if section.type != "HEAD":
            raise self._file.damaged("first section", "HEAD", section.type)
        head = self._covered_cbor(section, dict)
        version = head.get("format")
        if not (isinstance(version, list) and len(version) == 2 and all(map(sections.is_natural, version))):
            raise self._file.damaged("HEAD", "a format version", "none")
        if version[0] != sections.FORMAT_MAJOR:
            raise UnsupportedArchiveError(
                f"{self.name}: expected format {sections.FORMAT_MAJOR}.{sections.FORMAT_MINOR} or another minor version of it, "
                f"found {version[0]}.{version[1]}; install a medzip that reads it"
            )
        self.head = head

    def _load_files(self, section: Section) -> None:
        self.files = file_table.decode(self._covered_cbor(section, object), self.name, self._file.memory_limit)

    def _load_index(self, entries: Any, index: Section) -> None:
        """Every section must begin where the one before ends, from the magic to INDX."""
        end = len(MAGIC)
        for position, entry in enumerate(entries if isinstance(entries, list) else ()):
            section = self._indexed_section(position, entry)
            if section.offset != end or section.end > index.offset:
                raise self._file.damaged("INDX", f"a section from byte {end} to {index.offset} or before", "another place")
            end = section.end
            self.sections.append(section)
            if section.type == "BASE":
                self.bases[len(self.bases)] = section
            elif section.type == "CHNK":
                self.chunks.append(self._chunk_entry(section, *entry[3:]))
        if end != index.offset or len(self.sections) < len(FRONT):
            raise self._file.damaged("INDX", f"all sections up to byte {index.offset}", f"some up to byte {end}")
        self.sections.append(index)

    def _indexed_section(self, position: int, entry: Any) -> Section:
        if not isinstance(entry, list) or len(entry) not in (3, 6):
            raise self._file.damaged("INDX", "lists of 3 or 6 for sections", "something else")
        kind, offset, length = entry[:3]
        if not (isinstance(kind, str) and sections.is_natural(offset) and sections.is_natural(length)):
            raise self._file.damaged("INDX", "type, offset and length of a section", "something else")
        if (kind == "CHNK") != (len(entry) == 6):
            raise self._file.damaged("INDX", "a slice range for chunks alone", "something else")
        if position < len(FRONT) and kind != FRONT[position]:
            raise self._file.damaged("INDX", f"{FRONT[position]} as section {position}", "another type")
        if position >= len(FRONT) and kind in (*FRONT, *END):
            raise self._file.damaged("INDX", f"a single section {kind}", "a second one")
        section = Section(kind, offset, length)
        if kind not in (*FRONT, *BODY):
            self._refuse_critical(section)
        return section

    def _refuse_critical(self, section: Section) -> None:
        if self._file.check_header(section).critical:
            raise UnsupportedArchiveError(
                f"{self.name}: expected sections of format {sections.FORMAT_MAJOR}.{sections.FORMAT_MINOR}, found "
                f"{section.type}, without which the archive cannot be read; install a newer medzip"
            )

    def _chunk_entry(self, section: Section, volume: Any, first: Any, count: Any) -> ChunkEntry:
        def read_header() -> dict[str, Any]:
            header = self._chunk_header(section)
            if self._slice_range(header) != (volume, first, count):
                raise self._file.damaged(f"chunk at byte {section.offset}", "the slices that INDX names", "others")
            return header

        self._slice_range({"volume": volume, "first": first, "count": count})
        return ChunkEntry(volume, first, count, section, read_header)

    def _chunk_header(self, section: Section) -> dict[str, Any]:
        header: dict[str, Any] = self._decoded(self._encoded_header(section), f"chunk at byte {section.offset}", dict)
        return header

    def _encoded_header(self, section: Section) -> bytes:
        """CBOR of a chunk header, after its own CRC was found good."""
        where = f"chunk at byte {section.offset}"
        self._file.check_header(section)
        room = section.length - HEADER_LENGTH.size - CRC.size
        if room < 0:
            raise self._file.damaged(where, "a chunk header", "too few bytes")
        prefix = self._file.read(section.payload, HEADER_LENGTH.size, where)
        (length,) = HEADER_LENGTH.unpack(prefix)
        if length > room:
            raise self._file.damaged(where, f"a header of at most {room} bytes", f"one of {length}")
        encoded = self._file.read(section.payload + len(prefix), length + CRC.size, where)
        encoded, crc = encoded[:length], encoded[length:]
        if crc != CRC.pack(crc32c(prefix + encoded)):
            raise self._file.damaged(where, "a matching CRC-32C of its header", "another")
        return encoded

    def _check_ordinal(self, ordinal: int) -> None:
        section = self.bases[ordinal]
        if section.length < ORDINAL.size or self._file.read(section.payload, ORDINAL.size, "BASE") != ORDINAL.pack(ordinal):
            raise self._file.damaged(f"BASE at byte {section.offset}", f"base layer {ordinal}", "another")

    def _slice_range(self, header: dict[str, Any]) -> tuple[int | None, int | None, int | None]:
        try:
            return sections.slice_range(header)
        except ValueError as error:
            raise self._file.damaged("a chunk", "a range of slices", "something else") from error

    def _find(self, kind: str) -> Section:
        for section in self.sections:
            if section.type == kind:
                return section
        raise self._file.damaged("archive", f"section {kind}", "none")

    def _covered_cbor(self, section: Section, kind: type[Any]) -> Any:
        return self._decoded(self._file.covered_payload(section), section.type, kind)

    def _decoded(self, data: bytes, where: str, kind: type[Any]) -> Any:
        value = cbor.decode(data, f"{self.name}: {where}", self._file.memory_limit)
        if not isinstance(value, kind):
            raise self._file.damaged(where, f"a CBOR {kind.__name__}", "something else")
        return value
