"""An archive as sections of bytes: finds the tail, checks headers and CRCs, and repairs what parity covers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from medzip.container import parity, sections
from medzip.container.checksum import crc32c
from medzip.container.sections import CRC, HEADER_SIZE, MAGIC, OVERHEAD, PARITY_END_SIZE, TAIL_SIZE, Section, Tail
from medzip.container.storage import RandomAccessFile
from medzip.errors import ArchiveDamagedError, TruncatedArchiveError, UnsupportedArchiveError


class SectionFile:
    """The bytes of an archive, none of them given out before its CRC was found good.

    `repaired` names the sections that were damaged and brought back; reads see them repaired.
    """

    def __init__(self, source: Path | str | BinaryIO, memory_limit: int) -> None:
        self._file = RandomAccessFile(source)
        self.name = self._file.name
        self.size = self._file.size
        self.memory_limit = memory_limit
        self.repaired: list[str] = []
        self.tail: Tail | None = None

    def close(self) -> None:
        """Closes the file where it was opened here."""
        self._file.close()

    def damaged(self, where: str, expected: str, found: str) -> ArchiveDamagedError:
        """The error for all that is wrong with what was written."""
        return ArchiveDamagedError(
            f"{self.name}: {where}: expected {expected}, found {found}; restore the archive from a copy or salvage it"
        )

    def allow(self, length: int, what: str) -> None:
        """Raises UnsupportedArchiveError where `length` bytes are more than the memory limit."""
        if length > self.memory_limit:
            raise UnsupportedArchiveError(
                f"{self.name}: {what}: expected at most {self.memory_limit} bytes, found {length}; raise the memory limit"
            )

    # Sections

    def read(self, offset: int, length: int, what: str) -> bytes:
        """Bytes that no CRC was compared with yet, within the memory limit."""
        self.allow(length, what)
        return self._file.read(offset, length)

    def section_at(self, offset: int) -> Section:
        """The section whose header is at `offset`; it ends within the file."""
        section = sections.parse_header(self._file.read(offset, HEADER_SIZE), offset, self.name)
        if section.end > self.size:
            raise TruncatedArchiveError(
                f"{self.name}: expected more than {section.end} bytes, found {self.size}; "
                "restore the archive from a copy or salvage it"
            )
        return section

    def check_header(self, section: Section) -> Section:
        """The header that stands in the file; its type and length must be those of `section`."""
        found = self.section_at(section.offset)
        if (found.type, found.length) != (section.type, section.length):
            raise self.damaged(
                f"byte {section.offset}", f"{section.length} bytes of {section.type}", f"{found.length} of {found.type}"
            )
        return found

    def check(self, section: Section) -> None:
        """Header and CRC of a section, reading in blocks."""
        self.check_header(section)
        self._compare(section, self._file.crc(section.payload, section.length))

    def payload(self, section: Section, skip: int = 0) -> bytes:
        """The payload without its first `skip` bytes; the CRC is over all of it."""
        self.check_header(section)
        crc = self._file.crc(section.payload, skip)
        data = self.read(section.payload + skip, section.length - skip, section.type)
        self._compare(section, crc32c(data, crc))
        return data

    def _compare(self, section: Section, crc: int) -> None:
        if self._file.read(section.end - CRC.size, CRC.size) != CRC.pack(crc):
            raise self.damaged(f"{section.type} at byte {section.offset}", "a matching CRC-32C", "another")

    # Where index and parity are

    def locate(self) -> Tail:
        """Finds and remembers the tail; where it is damaged but nothing else is in the way, it follows from the rest."""
        if self.size < len(MAGIC) + TAIL_SIZE:
            if MAGIC.startswith(self._file.read(0, min(self.size, len(MAGIC)))):
                raise self._truncated()
            raise self._not_ours()
        tail = sections.parse_tail(self._file.read(self.size - TAIL_SIZE, TAIL_SIZE))
        magic = self._file.read(0, len(MAGIC)) == MAGIC
        if tail is None:
            if not magic:
                raise self._not_ours()
            tail = self._tail_from_sections()
        if not (
            len(MAGIC) <= tail.index <= tail.parity - OVERHEAD
            and tail.parity <= self.size - TAIL_SIZE - OVERHEAD - PARITY_END_SIZE
            and tail.length == self.size
        ):
            raise self.damaged("TAIL", f"an archive of {tail.length} bytes", f"{self.size}")
        self.tail = tail
        if not magic:
            self.repair()
        return tail

    def walk(self) -> Iterator[Section]:
        """The sections from the start on, by their own headers, up to the first that is damaged or incomplete."""
        offset = len(MAGIC)
        while offset + OVERHEAD <= self.size:
            try:
                section = self.section_at(offset)
            except ArchiveDamagedError:
                return
            yield section
            offset = section.end

    def _tail_from_sections(self) -> Tail:
        """TAIL where only its own bytes are wrong; tells what else is, a missing end above all."""
        before, last = Section("", 0, 0), Section("", 0, 0)
        for section in self.walk():
            before, last = last, section
        offset = last.end if last.type else len(MAGIC)
        rest = self.size - offset
        complete = (before.type, last.type) == ("INDX", "PARI")
        if rest < (TAIL_SIZE if complete else HEADER_SIZE):
            raise self._truncated()
        if not complete:
            last = self.section_at(offset)  # says what stopped the walk
            raise self.damaged(f"byte {offset}", "INDX, PARI and TAIL", f"{last.type} and the end")
        if rest > TAIL_SIZE:
            raise self.damaged("end of archive", f"TAIL at byte {offset} and nothing more", f"{rest} bytes")
        self.repaired.append("TAIL")
        return Tail(before.offset, last.offset, self.size)

    def _truncated(self) -> TruncatedArchiveError:
        return TruncatedArchiveError(
            f"{self.name}: expected an archive with its tail, found its first {self.size} bytes; "
            "restore the archive from a copy or salvage it"
        )

    def _not_ours(self) -> ArchiveDamagedError:
        return ArchiveDamagedError(f"{self.name}: expected a medzip archive, found another kind of file; check the name")

    # What parity covers

    def covered_section(self, offset: int) -> Section:
        """The section at `offset`, its header repaired if need be."""
        try:
            return self.section_at(offset)
        except UnsupportedArchiveError:
            raise
        except ArchiveDamagedError:
            self.repair()
            return self.section_at(offset)

    def covered_payload(self, section: Section) -> bytes:
        """The payload of HEAD, FILE, SKEL or INDX, repaired if need be."""
        try:
            return self.payload(section)
        except UnsupportedArchiveError:
            raise
        except ArchiveDamagedError:
            self.repair()
            return self.payload(section)

    def repair(self) -> None:
        """Repairs everything up to the end of SKEL, and INDX; names in `repaired` what was wrong.

        Raises ArchiveDamagedError where parity cannot bring it all back.
        """
        tail, front = self.tail, self._front_length()
        if tail is None or front is None:
            raise self.damaged("archive", "HEAD, FILE, SKEL and INDX, or PARI to repair them", "damage in both")
        before = self._protected(tail, front)
        rows = self._file.read(tail.parity + HEADER_SIZE, parity.parity_length(len(before)))
        try:
            after = parity.repair(before, rows)
        except ArchiveDamagedError as error:
            raise ArchiveDamagedError(f"{self.name}: {error}") from error
        if not after.startswith(MAGIC):
            raise self._not_ours()
        self._file.patch(0, after[:front])
        self._file.patch(tail.index, after[front:])
        try:
            names = ["magic"] if before[: len(MAGIC)] != MAGIC else []
            names += self._changed(len(MAGIC), before[len(MAGIC) : front]) + self._changed(tail.index, before[front:])
        except ArchiveDamagedError:
            self._file.remove_patches()
            raise
        self.repaired += names

    def _changed(self, offset: int, before: bytes) -> list[str]:
        """Types of the repaired sections from `offset` on that were other bytes before.

        All CRCs must be good, for a codeword damaged beyond repair may seem repaired.
        """
        names = []
        end, position = offset + len(before), offset
        while position < end:
            section = self.section_at(position)
            if section.end > end:
                raise self.damaged(f"byte {position}", f"a section that ends before byte {end}", "a longer one")
            self.check(section)
            if self._file.read(position, section.end - position) != before[position - offset : section.end - offset]:
                names.append(section.type)
            position = section.end
        return names

    def _front_length(self) -> int | None:
        """How many bytes from the start PARI protects, where it is intact enough to say so."""
        if self.tail is None:
            return None
        index, start, end = self.tail.index, self.tail.parity, self.tail.length - TAIL_SIZE
        front = sections.parse_parity_end(self._file.read(end - CRC.size - PARITY_END_SIZE, PARITY_END_SIZE))
        if front is None or not len(MAGIC) <= front <= index:
            return None
        length = parity.parity_length(front + start - index) + PARITY_END_SIZE
        return front if start + OVERHEAD + length == end else None

    def _protected(self, tail: Tail, front: int) -> bytes:
        self.allow(front + tail.parity - tail.index, "HEAD, FILE, SKEL and INDX")
        return self._file.read(0, front) + self._file.read(tail.index, tail.parity - tail.index)

    def check_parity(self, front: int) -> None:
        """PARI follows from what it protects, here the first `front` bytes and INDX; where it differs, it is damaged."""
        if self.tail is None:
            return
        expected = sections.parity_section(self._protected(self.tail, front), front)
        length = self.tail.length - TAIL_SIZE - self.tail.parity
        if length != len(expected):
            raise self.damaged("PARI", f"{len(expected)} bytes", f"{length}")
        if self._file.read(self.tail.parity, length) != expected:
            self.repaired.append("PARI")
