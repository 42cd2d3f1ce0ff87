"""Targets `deflate` (streams, and what they are made of again) and `columns` (joint headers and file tables)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from random import Random
from typing import Any

import cbor2

from benchmarks.fuzz.archives import MEMORY_LIMIT, changed_packed
from benchmarks.fuzz.contract import BrokenPromiseError
from benchmarks.fuzz.mutations import mutated
from medzip import skeleton
from medzip.container import file_table
from medzip.sources import SOURCES
from medzip.sources.wrappers import deflate
from medzip.volume import Skeleton
from tools import make_golden


class DeflateStreams:
    """Inputs are [stream, raw] to take apart, or [content, side information] to make a stream of."""

    def __init__(self, _seeds: Path | None) -> None:
        body = make_golden.body(6, 20, 24).astype("<i2").tobytes()
        contents = [body, b"abcab" * 500, bytes(3000), make_golden.noise((1, 1, 3000), 256).astype("u1").tobytes(), b""]
        self._streams: list[tuple[bytes, bool]] = []
        for content in contents:
            self._streams.append((gzip.compress(content) + gzip.compress(content[:100], 1), False))
            for level, strategy in ((0, 0), (1, 0), (6, 0), (9, 0), (6, 2), (6, 4)):
                for bits in (31, 15, -15):
                    self._streams.append((_stream(content, level, bits, strategy), bits < 0))
        apart = [(stream, deflate.taken_apart(stream, raw=raw)) for stream, raw in self._streams]
        self._sides = [found for _, found in apart if found is not None]
        self.seeds = [cbor2.dumps([stream, raw]) for stream, raw in self._streams] + [cbor2.dumps(list(p)) for p in self._sides]

    def mutated(self, random: Random) -> bytes:
        if random.random() < 0.5:
            stream, raw = random.choice(self._streams)
            return cbor2.dumps([mutated(stream, random, [s for s, _ in self._streams]), raw])
        content, side = random.choice(self._sides)
        if random.random() < 0.2:
            content = mutated(content, random, [])
        return cbor2.dumps([content, mutated(side, random, [s for _, s in self._sides])])

    def run(self, data: bytes) -> bool:
        first, second = cbor2.loads(data)
        if isinstance(second, bytes):
            deflate.rebuilt(first, second)
            return True
        apart = deflate.taken_apart(first, raw=second)
        if apart is not None and deflate.rebuilt(*apart) != first:
            raise BrokenPromiseError("a stream did not come back")
        return True


def _stream(content: bytes, level: int, bits: int, strategy: int) -> bytes:
    made = zlib.compressobj(level, zlib.DEFLATED, bits, 8, strategy)
    half = len(content) // 2
    return made.compress(content[:half]) + made.flush(zlib.Z_SYNC_FLUSH) + made.compress(content[half:]) + made.flush()


class Columns:
    """Inputs are [payload of SKEL, its blobs] or [a file table]."""

    def __init__(self, _seeds: Path | None) -> None:
        ct = make_golden.body(24, 6, 8)
        sizes = (1, 2, 5, 24)
        series = [[(f"{z:02}.dcm", make_golden.native(ct[z], 24 - z)) for z in range(size)] for size in sizes]
        series.append([(f"{z:02}.dcm", make_golden.run_length(ct[z], z)) for z in range(7)])
        self._skeletons: list[tuple[bytes, list[bytes]]] = []
        self._tables: list[dict[str, Any]] = []
        for files in series:
            found, _ = SOURCES["dicom"].split(files)
            self._skeletons.append(skeleton.pack(Skeleton(found.files)))
            records = [{"name": name, "bytes": len(data), "sha256": bytes(32), "mode": 420} for name, data in files]
            if isinstance(table := cbor2.loads(file_table.encode(records)), dict):
                self._tables.append(table)
        self.seeds = [cbor2.dumps([payload, blobs]) for payload, blobs in self._skeletons]
        self.seeds += [cbor2.dumps([table]) for table in self._tables]

    def mutated(self, random: Random) -> bytes:
        if random.random() < 0.15:
            table = random.choice(self._tables)
            return cbor2.dumps([{**table, "table": changed_packed(table["table"], random)}])
        payload, blobs = random.choice(self._skeletons)
        return cbor2.dumps([changed_packed(payload, random), blobs])

    def run(self, data: bytes) -> bool:
        match cbor2.loads(data):
            case [payload, blobs]:
                skeleton.unpack(payload, dict(enumerate(blobs)), "fuzz", MEMORY_LIMIT)
            case [table]:
                file_table.decode(table, "fuzz", MEMORY_LIMIT)
        return True
