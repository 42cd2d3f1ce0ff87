"""Deflate streams come back byte for byte from their content and side information, or are not taken apart at all."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip import skeleton
from medzip.errors import ArchiveDamagedError
from medzip.sources.wrappers import deflate
from medzip.sources.wrappers.deflate import kernels, matches, writers
from medzip.sources.wrappers.deflate.blocks import STATIC, Block, Writer
from medzip.volume import Deflated, FileSkeleton, Literal, Skeleton, Voxels

WRITERS = {"zlib": 0, "zlib, memLevel 9": 9, "cloudflare": 18, "zlib-ng": 27, "libdeflate": 36, "miniz": 45}


@cache
def scan(size: int = 120_000) -> bytes:
    """A made-up scan: smooth 16-bit samples with noise in a background of zeros."""
    rng = np.random.default_rng(7)
    rows = np.add.accumulate(rng.normal(0, 3, (size // 256 + 1, 128)), axis=1) + 200
    rows[:, :30] = 0
    return rows.astype("<i2").tobytes()[:size]


def both_ways(data: bytes, share: float = 0.03, raw: bool = False) -> bytes:
    """The content of `data`, of which the side information is at most a share."""
    apart = deflate.taken_apart(data, raw=raw)
    assert apart is not None
    content, side = apart
    assert deflate.rebuilt(content, side) == data
    assert len(side) <= share * len(data) + 100
    return content


def zlib_stream(content: bytes, level: int = 6, bits: int = 31, memory: int = 8, strategy: int = 0, flush: int = 0) -> bytes:
    """A stream of zlib; with `flush`, its input is flushed in that way every 20,000 bytes."""
    made = zlib.compressobj(level, zlib.DEFLATED, bits, memory, strategy)
    pieces = range(0, len(content), 20_000) if flush else ()
    parts = [made.compress(content[start : start + 20_000]) + made.flush(flush) for start in pieces]
    return b"".join(parts) + (b"" if flush else made.compress(content)) + made.flush()


@pytest.mark.parametrize("level", range(10))
def test_side_information_of_zlib_is_next_to_nothing(level: int) -> None:
    assert both_ways(zlib_stream(scan(), level), share=0.001) == scan()


@pytest.mark.parametrize(
    "settings", [(6, 31, 9), (1, 31, 1), (9, 31, 8, 1), (6, 31, 8, 2), (6, 31, 8, 3), (6, 31, 8, 4), (6, 25, 8)]
)
def test_other_settings_of_zlib_come_back(settings: tuple[int, ...]) -> None:
    both_ways(zlib_stream(scan(), *settings), share=0.2)


@pytest.mark.parametrize("flush", [zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_BLOCK])
@pytest.mark.parametrize("level", [1, 6])
def test_flushed_streams_come_back(flush: int, level: int) -> None:
    both_ways(zlib_stream(scan(), level, flush=flush), share=0.1)


@pytest.mark.parametrize("data", [b"", b"a", b"abc", bytes(70_000), bytes(range(256)) * 300])
def test_contents_at_the_edges_come_back_or_are_too_small_to_gain(data: bytes) -> None:
    for bits in (31, 15, -15):
        stream = zlib_stream(data, 6, bits)
        apart = deflate.taken_apart(stream, raw=bits < 0)
        assert len(stream) < 1000 if apart is None else deflate.rebuilt(*apart) == stream


def test_zlib_and_bare_deflate_streams_come_back() -> None:
    assert both_ways(zlib_stream(scan(), bits=15)) == both_ways(zlib_stream(scan(), bits=-15), raw=True) == scan()


def test_header_fields_members_and_trailing_bytes_are_kept() -> None:
    header = struct.pack("<3sBIBB", b"\x1f\x8b\x08", 2 | 4 | 8 | 16, 1, 2, 3) + b"\x04\x00abcd" + b"name\0" + b"comment\0" + b"hc"
    member = header + zlib_stream(scan(), 9, -15) + struct.pack("<II", zlib.crc32(scan()), len(scan()))
    data = member + gzip.compress(b"", mtime=0) + gzip.compress(scan(), 9) + b"\0" * 50 + b"trailing"
    assert both_ways(data) == scan() * 2


@pytest.mark.parametrize("change", ["cut", "checksum", "size", "header", "bits"])
def test_damaged_streams_are_not_taken_apart(change: str) -> None:
    good = bytearray(zlib_stream(scan()))
    if change == "cut":
        del good[-9:]
    else:
        good[{"checksum": -8, "size": -1, "header": 3, "bits": len(good) // 2}[change]] ^= 0xE0
    assert deflate.taken_apart(bytes(good)) is None


def test_a_bomb_is_refused_before_it_is_in_memory() -> None:
    assert deflate.taken_apart(gzip.compress(bytes(1 << 24)), most=1 << 20) is None


def test_a_stream_that_no_writer_predicts_is_proved_or_refused() -> None:
    rng = random.Random(1)
    content = bytes(rng.choices(b"ab", k=6000))
    tokens, position = kernels.integers(6000, 0, np.int32), 0
    block, writer = Block(STATIC, 1), Writer(1 << 20)
    while position < len(content):
        places = [
            start
            for start in range(max(0, position - 400), position)
            if content[start : start + 5] == content[position : position + 5]
        ]
        if places and position + 5 <= len(content) and rng.random() < 0.7:
            tokens[block.count] = 5 << 16 | position - rng.choice(places)
            position += 4
        position, block.count = position + 1, block.count + 1
    writer.block(block, kernels.octets(content), 0, tokens)
    data = writer.finish(0)
    assert zlib.decompress(data, -15) == content
    apart = deflate.taken_apart(data, raw=True)
    assert apart is None or deflate.rebuilt(*apart) == data


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", b"\x78\x9c"]), st.booleans())
@settings(max_examples=80, deadline=None)
def test_arbitrary_bytes_are_refused_or_come_back(data: bytes, start: bytes, raw: bool) -> None:
    apart = deflate.taken_apart(start + data, raw=raw)
    assert apart is None or deflate.rebuilt(*apart) == start + data


@given(st.integers(0, 9), st.data())
@settings(max_examples=25, deadline=None)
def test_side_information_that_was_changed_never_crashes(level: int, data: st.DataObject) -> None:
    content = scan(3000)
    apart = deflate.taken_apart(zlib_stream(content, level))
    assert apart is not None
    side = bytearray(apart[1])
    for _ in range(data.draw(st.integers(1, 4))):
        side[data.draw(st.integers(0, len(side) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ArchiveDamagedError):
        deflate.rebuilt(content[: data.draw(st.integers(0, len(content)))], bytes(side))


def test_bytes_behind_the_content_are_never_looked_at() -> None:
    """Compiled loops would read them, and what they hold would decide how a stream is rebuilt."""
    content = kernels.octets(b"a" * 100)[:10]
    assert [matches.common(content, first, 2, 8) for first in (0, 2, 5, 8, 9)] == [8, 8, 5, 2, 1]


@pytest.mark.parametrize("change", range(len(writers.MOST)))
def test_parameters_of_no_writer_are_refused(change: int) -> None:
    for limits, step in ((writers.MOST, 1), (writers.LEAST, -1)):
        parameters = list(writers.CANDIDATES[5])
        parameters[change] = limits[change] + step
        with pytest.raises(ValueError, match="writer"):
            writers.checked(tuple(parameters))


def test_all_writers_are_within_the_limits() -> None:
    assert all(writers.checked(parameters) == parameters for parameters in writers.CANDIDATES)
    assert len(set(writers.CANDIDATES)) == len(writers.CANDIDATES)


KEPT = """
1f8b080000000000000385944b0a03211005afe201b2d0f693919c66181208846431f7877c0779634996360f0aab9faeb7eb7276de3d2e6e76eb32df0f6e
6d237ffa9d421ff88cc216b03e90de23db02b10f544124401461e43e3109a3f40113c6111859181324a240ea28d16481ce1d268050134c00a3936240e9ce
5800a9553120352906aceaee0368f54a21ad4a01ad49280656f52e462d2d82b191d58601abba19a3a666c580d5efba1a87b46ad36c58d70602b1a61c10ab
af26525d555b04b35530f1ff074075550a88f54a21af4a01addae708567777a1b616c58cacbe304f514a38d953050000
"""
KEPT_SIDE = "2602ea010f01000f030810202008fafd0180200000000000010a1f8b0800000000000003d30a000003ce821e2568"


def test_side_information_that_was_once_written_still_rebuilds() -> None:
    content = b"".join(b"slice %d of a scan, slice %d of %d; " % (i, i * i % 17, i % 3) for i in range(40))
    assert deflate.rebuilt(content, bytes.fromhex(KEPT_SIDE)) == bytes.fromhex(KEPT)


PLAIN = """
import sys, zlib
from medzip.sources.wrappers import deflate
from medzip.sources.wrappers.deflate import kernels
assert isinstance(kernels.integers(1), list)
data = bytes.fromhex(sys.stdin.read())
content, side = deflate.taken_apart(data)
assert deflate.rebuilt(content, side) == data
print(side.hex())
"""


def test_plain_python_gives_the_same_bytes() -> None:
    data = zlib_stream(scan(1500))
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    made = subprocess.run(
        [sys.executable, "-c", PLAIN], input=data.hex(), capture_output=True, text=True, env=environment, check=True
    )
    apart = deflate.taken_apart(data)
    assert apart is not None and made.stdout.strip() == apart[1].hex()


def test_side_information_is_part_of_the_skeleton() -> None:
    inner = Deflated((Literal(b"x"), Deflated((Literal(bytes(100_000)),), b"inner"), Voxels(0, 1, 2, "<u2")), b"side")
    first = FileSkeleton("a.gz", (Literal(b"abc"), inner, Literal(b"e")))
    files = Skeleton((first, FileSkeleton("b", (Literal(b"d"),)), FileSkeleton("c", ())))
    payload, blobs = skeleton.pack(files)
    assert skeleton.unpack(payload, dict(enumerate(blobs)), "a.mdz", 1 << 20) == files
    assert skeleton.unpack(payload, {}, "a.mdz", 1 << 20) == replace(files, files=files.files[1:])
    assert files.files[0].voxels == [Voxels(0, 1, 2, "<u2")]
