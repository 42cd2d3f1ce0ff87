"""Target `container`: archives whose checksums are good, with fields, structures and payloads that are not."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import cbor2
import numpy as np

from benchmarks.fuzz.contract import BrokenPromiseError
from benchmarks.fuzz.mutations import changed_value, mutated
from benchmarks.fuzz.scans import ROOT, made_up, memory_folder
from medzip import pipeline
from medzip.archive import Archive
from medzip.container import cbor, packed, sections
from medzip.container.checksum import crc32c
from medzip.container.reader import ArchiveReader
from medzip.container.sections import CRC, HEADER_LENGTH, MAGIC, ORDINAL, Tail
from medzip.errors import MedzipError, VerificationError
from medzip.scan import Scan
from medzip.volume import join

MEMORY_LIMIT = 1 << 28
MOST_BYTES = 1 << 26
"""What a file table may promise in all: beyond that an archive is not decoded, as a careful user would not."""


@dataclass(frozen=True)
class Parts:
    """What an archive is made of, before checksums, index and parity."""

    head: Any
    files: Any
    skeleton: bytes
    bases: list[bytes]
    chunks: list[tuple[Any, bytes]]

    @classmethod
    def of(cls, archive: Path) -> Parts:
        with ArchiveReader(archive) as reader:
            files = next(section for section in reader.sections if section.type == "FILE")
            table = cbor.decode(archive.read_bytes()[files.payload : files.end - CRC.size], "", MEMORY_LIMIT)
            bases = [reader.base_payload(number) for number in reader.bases]
            chunks = [(chunk.header, reader.chunk_payload(number)) for number, chunk in enumerate(reader.chunks)]
            return cls(reader.head, table, reader.skeleton, bases, chunks)

    def written(self, random: Random | None = None) -> bytes:
        """The archive; with `random`, its index lies."""
        entries: list[list[Any]] = []
        out = bytearray(MAGIC)

        def section(kind: str, *parts: bytes, place: tuple[Any, ...] = ()) -> None:
            entries.append([kind, len(out), sum(map(len, parts)), *place])
            out.extend(b"".join(sections.frame(kind, *parts)))

        section("HEAD", cbor2.dumps(self.head))
        section("FILE", cbor2.dumps(self.files))
        section("SKEL", self.skeleton)
        front = bytes(out)
        for number, base in enumerate(self.bases):
            section("BASE", ORDINAL.pack(number), base)
        for header, payload in self.chunks:
            encoded = cbor2.dumps(header)
            start = HEADER_LENGTH.pack(len(encoded)) + encoded
            place = tuple(header.get(key) for key in ("volume", "first", "count")) if isinstance(header, dict) else (0, 0, 0)
            section("CHNK", start, CRC.pack(crc32c(start)), payload, place=place)
        told: Any = {"sections": entries}
        index = b"".join(sections.frame("INDX", cbor2.dumps(changed_value(told, random) if random else told)))
        parity = sections.parity_section(front + index, len(front))
        at = len(out)
        tail = Tail(at, at + len(index), at + len(index) + len(parity) + sections.TAIL_SIZE)
        return bytes(out) + index + parity + sections.pack_tail(tail)


def changed_packed(payload: bytes, random: Random) -> bytes:
    """A packed structure (FORMAT.md, 4.3) with its structure or its data changed."""
    import zstandard

    structure, data = packed.unpack(payload, "", MEMORY_LIMIT)
    for _ in range(random.choice((1, 1, 2, 4))):
        if random.random() < 0.7:
            structure = changed_value(structure, random)
        else:
            data = mutated(data, random, [])
    encoded = cbor2.dumps(structure)
    return zstandard.compress(struct.pack("<I", len(encoded)) + encoded + data, 1)


class Container:
    """Inputs are archives."""

    def __init__(self, seeds: Path | None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="medzip-fuzz-", dir=memory_folder()))
        self._path = self._folder / "a.mdz"
        golden = sorted((ROOT / "tests" / "golden").glob("*.mdz")) + (sorted(seeds.rglob("*.mdz")) if seeds else [])
        self.seeds = [path.read_bytes() for path in [*golden, *self._fresh()]]
        self._parts = [Parts.of(self._laid(seed)) for seed in self.seeds]

    def _fresh(self) -> list[Path]:
        """Archives of what no golden one holds: gzip, JPEG-LS, pairs, several volumes, blobs."""
        out = []
        for number, files in enumerate(made_up()):
            source = self._folder / f"{number}"
            source.mkdir()
            for name, data in files.items():
                (source / name).write_bytes(data)
            made = pipeline.compress(source, self._folder / f"{number}.out", preset="parametric", verify=False)
            out += [Path(one.archive) for one in made]
        return out

    def _laid(self, data: bytes) -> Path:
        self._path.write_bytes(data)
        return self._path

    def mutated(self, random: Random) -> bytes:
        number = random.randrange(len(self.seeds))
        if random.random() < 0.05:
            return mutated(self.seeds[number], random, self.seeds)
        parts = self._changed(self._parts[number], random)
        return parts.written(random if random.random() < 0.1 else None)

    def _changed(self, parts: Parts, random: Random) -> Parts:
        kind = random.random()
        if kind < 0.1:
            return dataclasses.replace(parts, head=changed_value(parts.head, random))
        if kind < 0.2:
            if isinstance(parts.files, dict) and random.random() < 0.7:
                return dataclasses.replace(parts, files={**parts.files, "table": changed_packed(parts.files["table"], random)})
            return dataclasses.replace(parts, files=changed_value(parts.files, random))
        if kind < 0.45 or not parts.chunks:
            skeleton = changed_packed(parts.skeleton, random) if random.random() < 0.95 else mutated(parts.skeleton, random, [])
            return dataclasses.replace(parts, skeleton=skeleton)
        if kind < 0.5 and parts.bases:
            return dataclasses.replace(parts, bases=[mutated(base, random, []) for base in parts.bases])
        return dataclasses.replace(parts, chunks=self._changed_chunks(parts.chunks, random))

    def _changed_chunks(self, chunks: list[tuple[Any, bytes]], random: Random) -> list[tuple[Any, bytes]]:
        place = random.randrange(len(chunks))
        header, payload = chunks[place]
        kind = random.random()
        if kind < 0.5:
            changed = (changed_value(header, random), payload)
        elif kind < 0.9:
            changed = (header, mutated(payload, random, [payload]))
        elif kind < 0.95:
            other = random.choice(random.choice([parts.chunks for parts in self._parts if parts.chunks]))
            changed = ({**other[0], **{key: header[key] for key in ("volume", "first", "count") if key in header}}, other[1])
        else:
            return random.sample(chunks, random.randint(0, len(chunks)))
        return [*chunks[:place], changed, *chunks[place + 1 :]]

    def run(self, data: bytes) -> bool:
        path = self._laid(data)
        self._look(path)
        with Archive(path, memory_limit=MEMORY_LIMIT) as archive:
            self._check_size(archive)
            volumes, skeleton = archive.decode(), archive.skeleton()
            for file in skeleton.files:
                found = hashlib.sha256()
                for piece in archive.bounded(file.name, join(file, volumes)):
                    found.update(piece)
                if archive.digests.get(file.name) != found.digest():
                    raise VerificationError("another SHA-256")
            for lazy, volume in zip(archive.volumes, volumes, strict=True):
                part = slice(len(lazy) // 3, None, 2)
                if not np.array_equal(lazy[part], volume.samples[part], equal_nan=volume.samples.dtype.kind == "f"):
                    raise BrokenPromiseError("slices differ from those of the whole volume")
        return True

    def _look(self, path: Path) -> None:
        """All that looks at an archive without needing it whole."""
        for look in (pipeline.info, self._salvage, self._read):
            try:
                look(path)
            except MedzipError:
                continue

    def _salvage(self, path: Path) -> None:
        with Archive(path, memory_limit=MEMORY_LIMIT, salvage=True) as archive:
            self._check_size(archive)
            for number in range(len(archive.volumes)):
                archive.intact_slices(number)
            archive.skeleton()

    def _read(self, path: Path) -> None:
        with Scan(path, memory_limit=MEMORY_LIMIT) as scan:
            for volume in scan.volumes:
                _ = volume[:0]
            self._check_size(scan)
            for volume in scan.volumes:
                _ = volume.chunks, volume[-1]

    @staticmethod
    def _check_size(archive: Archive) -> None:
        claimed = [volume.planes * volume.plane_bytes for volume in archive.volumes]
        if sum(claimed) + sum(record["bytes"] for record in archive.files) > MOST_BYTES:
            raise MedzipError("more than a careful user would unpack")
