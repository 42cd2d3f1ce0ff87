"""Brings back what is intact in an archive whose index cannot be trusted or whose chunks are damaged."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator

from medzip.container.reader import ArchiveReader, ChunkEntry
from medzip.container.sections import BODY, END, FRONT, HEADER_SIZE, MAGIC, ORDINAL, Section
from medzip.errors import ArchiveDamagedError, TruncatedArchiveError, UnsupportedArchiveError

_BLOCK = 1 << 20
_ANY_TYPE = re.compile("|".join((*FRONT, *BODY, *END)).encode())


class SalvageReader(ArchiveReader):
    """An ArchiveReader that lists in `lost` what it cannot read, where ArchiveReader raises."""

    def _load(self) -> None:
        try:
            super()._load()
        except UnsupportedArchiveError:
            raise
        except ArchiveDamagedError:
            self._forget()
            self._load_by_scanning()
        self._drop_damaged()

    def _forget(self) -> None:
        self.head, self.files = {}, []
        self.sections, self.chunks, self.bases = [], [], {}

    def _load_by_scanning(self) -> None:
        """HEAD must be there; of the rest, what has good headers."""
        for section in self._scan():
            self.sections.append(section)
            if section.type == "BASE":
                self._add_base(section)
            elif section.type == "CHNK":
                self._add_chunk(section)
            elif section.type not in (*FRONT, *END):
                self._refuse_critical(section)
        self._load_head(self._find("HEAD"))
        self._keep("FILE", lambda: self._load_files(self._find("FILE")))

    def _scan(self) -> Iterator[Section]:
        """Sections from the start on; behind a damaged header it searches the next good one.

        A type of the front met a second time, or behind a chunk, belongs to an archive that lies inside a chunk whose own
        header is damaged: nothing from there on can be told apart, and the scan ends.
        """
        offset, behind, seen = len(MAGIC), False, set[str]()
        while offset < self._file.size:
            section = self._next_section(offset)
            if section is None or section.offset > offset:
                self.lost.append(f"bytes {offset} to {(section.offset if section else self._file.size) - 1}")
            if section is None:
                break
            if section.type in END:
                return
            if section.type in FRONT and (behind or section.type in seen):
                self.lost.append(f"bytes {section.offset} to {self._file.size - 1}")
                return
            seen.add(section.type)
            behind = behind or section.type in BODY
            yield section
            offset = section.end
        self.lost.append(f"everything from byte {self._file.size} on")

    def _next_section(self, offset: int) -> Section | None:
        """The section at `offset`, or the first behind it of a known type; None where the file ends before the section does."""
        for candidate in self._candidates(offset):
            try:
                return self._file.section_at(candidate)
            except UnsupportedArchiveError:
                raise
            except TruncatedArchiveError:
                return None
            except ArchiveDamagedError:
                continue
        return None

    def _candidates(self, offset: int) -> Iterator[int]:
        yield offset
        overlap = HEADER_SIZE - 1
        for start in range(offset + 1, self._file.size, _BLOCK):
            data = self._file.read(start, min(_BLOCK + overlap, self._file.size - start), "archive")
            for match in _ANY_TYPE.finditer(data):
                if match.start() < _BLOCK:
                    yield start + match.start()

    def _add_base(self, section: Section) -> None:
        if section.length >= ORDINAL.size:
            (ordinal,) = ORDINAL.unpack(self._file.read(section.payload, ORDINAL.size, "BASE"))
            self.bases[ordinal] = section

    def _add_chunk(self, section: Section) -> None:
        def add() -> None:
            self.chunks.append(self._chunk_entry(section, *self._slice_range(self._chunk_header(section))))

        self._keep(f"chunk at byte {section.offset}", add)

    def _drop_damaged(self) -> None:
        """Keeps chunks and bases only where their CRCs are good, and tells whether SKEL is."""
        self.chunks = [chunk for chunk in self.chunks if self._keep(str(chunk), functools.partial(self._check_chunk, chunk))]
        self.bases = {
            ordinal: section
            for ordinal, section in self.bases.items()
            if self._keep(f"base layer {ordinal}", functools.partial(self._file.check, section))
        }
        self._keep("SKEL", lambda: self.skeleton)

    def _check_chunk(self, chunk: ChunkEntry) -> None:
        self._file.check(chunk.section)
        _ = chunk.header

    def _keep(self, name: str, read: Callable[[], object]) -> bool:
        """False, and `name` is lost, where `read` finds damage."""
        try:
            read()
        except UnsupportedArchiveError:
            raise
        except ArchiveDamagedError:
            self.lost.append(name)
            return False
        return True
