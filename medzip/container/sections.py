"""The layout of an archive: magic, sections, index, parity, tail. FORMAT.md is the same in words.

    magic | HEAD | FILE | SKEL | BASE and CHNK in any number and order | INDX | PARI | TAIL

PARI lies behind INDX because it protects it; both are found through TAIL alone, whatever of them is damaged.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from medzip.container import parity
from medzip.container.checksum import crc32c
from medzip.errors import ArchiveDamagedError, UnsupportedArchiveError

MAGIC = b"\x89MDZ\r\n\x1a\n"
FORMAT_MAJOR, FORMAT_MINOR = 1, 0

FRONT = ("HEAD", "FILE", "SKEL")
BODY = ("BASE", "CHNK")
END = ("INDX", "PARI", "TAIL")

CRITICAL = 1  # flag bit 0: who does not know this type must not read on

CRC = struct.Struct("<I")
ORDINAL = struct.Struct("<I")
HEADER_LENGTH = struct.Struct("<I")
_HEADER = struct.Struct("<4sIQI")
_TAIL = struct.Struct("<4sQQQI")
_PARITY_END = struct.Struct("<QI")
HEADER_SIZE, TAIL_SIZE, PARITY_END_SIZE = _HEADER.size, _TAIL.size, _PARITY_END.size
OVERHEAD = HEADER_SIZE + CRC.size
_TYPE = re.compile(rb"[A-Z0-9]{4}")


@dataclass(frozen=True)
class Section:
    """Where a section lies: `offset` of its header, `length` of its payload, both in bytes."""

    type: str
    offset: int
    length: int
    critical: bool = True

    @property
    def payload(self) -> int:
        """Offset of the payload."""
        return self.offset + HEADER_SIZE

    @property
    def end(self) -> int:
        """Offset of what follows."""
        return self.offset + OVERHEAD + self.length


@dataclass(frozen=True)
class Tail:
    """The last 32 bytes: offsets of INDX and PARI, length of the archive."""

    index: int
    parity: int
    length: int


def frame(kind: str, *parts: bytes) -> list[bytes]:
    """A section as the pieces to write: header, payload in `parts`, CRC-32C."""
    head = _HEADER.pack(kind.encode("ascii"), 0 if kind == "PARI" else CRITICAL, sum(map(len, parts)), 0)[: -CRC.size]
    value = 0
    for part in parts:
        value = crc32c(part, value)
    return [head + CRC.pack(crc32c(head)), *parts, CRC.pack(value)]


def parse_header(data: bytes, offset: int, name: str) -> Section:
    """The section whose header is `data` (20 bytes), found at `offset` of the archive `name`.

    Raises ArchiveDamagedError where the CRC or the type is wrong, UnsupportedArchiveError where a reserved flag is set.
    The length is as it was written; whether the file is that long is for the caller to check.
    """
    kind, flags, length, crc = _HEADER.unpack(data)
    if crc32c(data[: -CRC.size]) != crc or not _TYPE.fullmatch(kind):
        raise ArchiveDamagedError(
            f"{name}: expected a section at byte {offset}, found a damaged header; restore the archive from a copy or salvage it"
        )
    if flags & ~CRITICAL:
        raise UnsupportedArchiveError(
            f"{name}: expected no reserved flags in section {kind.decode()}, found {flags:#x}; install a newer medzip"
        )
    return Section(kind.decode("ascii"), offset, length, bool(flags & CRITICAL))


def pack_tail(tail: Tail) -> bytes:
    """The 32 bytes of TAIL."""
    body = _TAIL.pack(b"TAIL", tail.index, tail.parity, tail.length, 0)[: -CRC.size]
    return body + CRC.pack(crc32c(body))


def parse_tail(data: bytes) -> Tail | None:
    """The tail in `data` (32 bytes), None where they are no intact tail."""
    mark, index, parity_offset, length, crc = _TAIL.unpack(data)
    if mark != b"TAIL" or crc32c(data[: -CRC.size]) != crc:
        return None
    return Tail(index, parity_offset, length)


def parity_section(protected: bytes, front: int) -> bytes:
    """PARI for `protected`: the archive's first `front` bytes (magic, HEAD, FILE, SKEL) and behind them the whole of INDX.

    What a reader needs to use it stands at its end, with a CRC of its own, so that damage that runs from INDX into PARI
    is repaired too.
    """
    length = struct.pack("<Q", front)
    return b"".join(frame("PARI", parity.encode(protected), length, CRC.pack(crc32c(length))))


def parse_parity_end(data: bytes) -> int | None:
    """How many bytes from the archive's start are protected, from the last 12 bytes of PARI's payload; None if damaged."""
    front, crc = _PARITY_END.unpack(data)
    return int(front) if crc32c(data[: -CRC.size]) == crc else None


def index_entry(section: Section, header: dict[str, Any] | None = None) -> list[Any]:
    """What INDX says of a section; of a chunk also which slices of which volume it holds."""
    entry: list[Any] = [section.type, section.offset, section.length]
    return entry if header is None else entry + list(slice_range(header))


def slice_range(header: dict[str, Any]) -> tuple[int | None, int | None, int | None]:
    """(volume, first, count) of a chunk header: integers from 0, or None all three for a chunk of no volume.

    Raises ValueError where they are something else.
    """
    values = header.get("volume"), header.get("first"), header.get("count")
    if not (all(map(is_natural, values)) or values == (None, None, None)):
        raise ValueError("volume, first and count of a chunk header must be integers from 0, or all three missing")
    return values


def is_natural(value: object) -> bool:
    """True for an integer (no bool) that fits a length or an offset."""
    return type(value) is int and 0 <= value < 1 << 63
