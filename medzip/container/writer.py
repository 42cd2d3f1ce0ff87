"""Writes an archive: sections in their order, then index, parity and tail; complete under its name, or not there."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medzip.container import cbor, file_table, sections
from medzip.container.checksum import crc32c
from medzip.container.sections import CRC, FRONT, HEADER_LENGTH, MAGIC, ORDINAL, Section, Tail
from medzip.container.storage import AtomicFile


class ArchiveWriter:
    """Writes one archive; a context manager.

    Call `head`, `files`, `skeleton`, then `base` and `chunk` in any order, then `finish` (the archive is now complete in
    `temporary`, for a verifier to read), then `publish`. Leaving the context without `publish` removes everything.

    The bytes depend on what is passed and on nothing else. Raises UsageError where `path` exists and `overwrite` is
    False, StorageError where the system fails, ValueError where the calls come in another order.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self._file = AtomicFile(path, overwrite=overwrite)
        self.temporary = self._file.temporary
        self._entries: list[list[Any]] = []
        self._front = MAGIC
        self._offset = 0
        self._bases = 0

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.__exit__(kind, error, traceback)

    def head(self, head: dict[str, Any]) -> None:
        """What the archive is: text keys, CBOR values. The key `format` (major, minor) is added here."""
        if "format" in head:
            raise ValueError("the container writes the key 'format' itself")
        self._front_section("HEAD", cbor.encode({"format": [sections.FORMAT_MAJOR, sections.FORMAT_MINOR], **head}))

    def files(self, files: list[dict[str, Any]]) -> None:
        """The file table, one map for each source file."""
        self._front_section("FILE", file_table.encode(files))

    def skeleton(self, payload: bytes) -> None:
        """Every byte of the source files that is no voxel, as the caller coded it."""
        self._front_section("SKEL", payload)

    def base(self, payload: bytes) -> int:
        """Writes a base layer; returns its ordinal (0, 1, ...), by which chunk headers refer to it."""
        ordinal = self._bases
        self._bases += 1
        self._body_section("BASE", None, ORDINAL.pack(ordinal), payload)
        return ordinal

    def chunk(self, header: dict[str, Any], payload: bytes) -> None:
        """Writes a chunk. `volume`, `first` and `count` of `header` go to the index too, all three or none of them."""
        encoded = cbor.encode(header)
        start = HEADER_LENGTH.pack(len(encoded)) + encoded
        self._body_section("CHNK", header, start, CRC.pack(crc32c(start)), payload)

    def finish(self) -> None:
        """Writes index, parity and tail, and brings everything to the device."""
        self._require(len(self._entries) >= len(FRONT), "finish")
        index_offset, body = self._offset, {"sections": self._entries}
        index = b"".join(sections.frame("INDX", cbor.encode(body)))
        parity = sections.parity_section(self._front + index, len(self._front))
        parity_offset = index_offset + len(index)
        tail = Tail(index_offset, parity_offset, parity_offset + len(parity) + sections.TAIL_SIZE)
        self._file.write(index + parity + sections.pack_tail(tail))
        self._file.seal()

    def publish(self) -> None:
        """Gives the finished archive its name; a file that appeared there meanwhile is kept unless overwriting is allowed."""
        self._file.publish()

    def _front_section(self, kind: str, payload: bytes) -> None:
        self._require(len(self._entries) == FRONT.index(kind), kind)
        if not self._entries:
            self._write(MAGIC)
        self._entries.append(sections.index_entry(Section(kind, self._offset, len(payload))))
        pieces = sections.frame(kind, payload)
        self._front += b"".join(pieces)
        self._write(*pieces)

    def _body_section(self, kind: str, header: dict[str, Any] | None, *parts: bytes) -> None:
        self._require(len(self._entries) >= len(FRONT), kind)
        section = Section(kind, self._offset, sum(map(len, parts)))
        self._entries.append(sections.index_entry(section, header))
        self._write(*sections.frame(kind, *parts))

    def _write(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._file.write(piece)
            self._offset += len(piece)

    @staticmethod
    def _require(condition: bool, what: str) -> None:
        if not condition:
            raise ValueError(
                f"{what}: the order is head, files, skeleton, then bases and chunks, then finish; each of the first once"
            )
