"""Archives: what is written comes back, at once or never, and every damage is noticed."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip.container import cbor, sections
from medzip.container.reader import ArchiveReader
from medzip.container.sections import CRC, MAGIC, TAIL_SIZE, Section, Tail
from medzip.container.storage import AtomicFile
from medzip.container.writer import ArchiveWriter
from medzip.errors import (
    ArchiveDamagedError,
    StorageError,
    UnsupportedArchiveError,
    UsageError,
)

Content = tuple[dict[str, Any], list[dict[str, Any]], bytes, list[bytes], list[tuple[dict[str, Any], bytes]]]

EXAMPLE: Content = (
    {"preset": "none"},
    [{"name": "a", "size": 9}],
    b"skeleton",
    [b"base"],
    [({"volume": 0, "first": 32 * i, "count": 32, "base": 0}, bytes([i]) * 9) for i in range(2)],
)

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5)
maps = st.dictionaries(st.text(max_size=5).filter("format".__ne__), st.lists(scalars, max_size=3) | scalars, max_size=3)
natural = st.integers(0, 2**40)
chunk_headers = st.builds(
    lambda other, volume, first, count: {**other, "volume": volume, "first": first, "count": count},
    maps,
    natural,
    natural,
    natural,
)
contents = st.tuples(
    maps,
    st.lists(maps, max_size=3),
    st.binary(max_size=3000),
    st.lists(st.binary(max_size=40), max_size=2),
    st.lists(st.tuples(chunk_headers, st.binary(max_size=40)), max_size=3),
)


def write(writer: ArchiveWriter, content: Content) -> None:
    head, files, skeleton, bases, chunks = content
    writer.head(head)
    writer.files(files)
    writer.skeleton(skeleton)
    assert [writer.base(payload) for payload in bases] == list(range(len(bases)))
    for header, payload in chunks:
        writer.chunk(header, payload)
    writer.finish()


def archive_of(content: Content, folder: Path) -> bytes:
    path = folder / "a.mdz"
    with ArchiveWriter(path, overwrite=True) as writer:
        write(writer, content)
        writer.publish()
    return path.read_bytes()


def content_of(reader: ArchiveReader) -> Content:
    head = {key: value for key, value in reader.head.items() if key != "format"}
    chunks = [(entry.header, reader.chunk_payload(i)) for i, entry in enumerate(reader.chunks)]
    return head, reader.files, reader.skeleton, [reader.base_payload(ordinal) for ordinal in reader.bases], chunks


def read(data: bytes, memory_limit: int = 1 << 24) -> tuple[Content, list[str]]:
    with ArchiveReader(io.BytesIO(data), memory_limit=memory_limit) as reader:
        content = content_of(reader)
        reader.check()
        return content, reader.repaired


def damaged(data: bytes, section: Section, at: int = 0) -> bytes:
    """`data` with one byte of the section's payload changed."""
    changed = bytearray(data)
    changed[section.payload + at] ^= 0x40
    return bytes(changed)


def assemble(pieces: list[tuple[str, bytes, int]]) -> bytes:
    """An archive of any (type, payload, flags), with right CRCs, INDX and PARI."""
    data, entries = bytearray(MAGIC), []
    front = 0
    for kind, payload, flags in pieces:
        entries.append([kind, len(data), len(payload)] + ([0, 0, 1] if kind == "CHNK" else []))
        data += section_bytes(kind, payload, flags)
        front = len(data) if kind in sections.FRONT else front
    index = section_bytes("INDX", cbor.encode({"sections": entries}), 1)
    pari = sections.parity_section(bytes(data[:front]) + index, front)
    tail = Tail(len(data), len(data) + len(index), len(data) + len(index) + len(pari) + TAIL_SIZE)
    return bytes(data) + index + pari + sections.pack_tail(tail)


def section_bytes(kind: str, payload: bytes, flags: int) -> bytes:
    head = kind.encode() + flags.to_bytes(4, "little") + len(payload).to_bytes(8, "little")
    return head + CRC.pack(sections.crc32c(head)) + payload + CRC.pack(sections.crc32c(payload))


HEAD = cbor.encode({"format": [1, 0]})
PLAIN = [("HEAD", HEAD, 1), ("FILE", cbor.encode([]), 1), ("SKEL", b"", 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archives")


@pytest.fixture(scope="module")
def example(folder: Path) -> bytes:
    return archive_of(EXAMPLE, folder)


class TestRoundTrip:
    @settings(deadline=None, max_examples=30)
    @given(content=contents)
    def test_everything_written_is_read(self, folder: Path, content: Content) -> None:
        data = archive_of(content, folder)
        assert read(data) == (content, [])
        assert archive_of(content, folder) == data

    def test_reads_touch_only_what_they_name(self, example: bytes) -> None:
        with ArchiveReader(io.BytesIO(example)) as reader:
            first, second = reader.chunks
        with ArchiveReader(io.BytesIO(damaged(example, second.section))) as reader:
            assert [(c.volume, c.first, c.count) for c in reader.chunks] == [(0, 0, 32), (0, 32, 32)]
            assert reader.chunks[0].header == first.header
            assert reader.chunk_payload(0) == bytes(9)
            with pytest.raises(ArchiveDamagedError):
                reader.chunk_payload(1)

    def test_overhead_of_a_tiny_archive_is_a_few_hundred_bytes(self, folder: Path) -> None:
        chunk = {"volume": 0, "first": 0, "count": 1}
        data = archive_of(({}, [], b"", [], [(chunk, b"")]), folder)
        assert len(data) - len(HEAD) - len(cbor.encode([])) - len(cbor.encode(chunk)) < 430

    def test_calls_in_another_order_are_refused(self, tmp_path: Path) -> None:
        with ArchiveWriter(tmp_path / "a.mdz") as writer:
            for call in (lambda: writer.files([]), lambda: writer.chunk({}, b""), writer.finish):
                with pytest.raises(ValueError, match="the order is"):
                    call()
            writer.head({})
            with pytest.raises(ValueError, match="the order is"):
                writer.head({})


class TestForeignArchives:
    def test_a_newer_major_version_is_named(self) -> None:
        for version in ([2, 0], [0, 9]):
            head = cbor.encode({"format": version})
            with pytest.raises(
                UnsupportedArchiveError, match=re.escape(f"1.0 or another minor version of it, found {version[0]}.")
            ):
                read(assemble([("HEAD", head, 1), *PLAIN[1:]]))

    def test_a_newer_minor_version_is_read(self) -> None:
        assert read(assemble([("HEAD", cbor.encode({"format": [1, 7]}), 1), *PLAIN[1:]]))[1] == []

    def test_unknown_sections_are_skipped_unless_critical(self) -> None:
        assert read(assemble([*PLAIN, ("NEWS", b"!", 0)]))[1] == []
        with pytest.raises(UnsupportedArchiveError, match="NEWS"):
            read(assemble([*PLAIN, ("NEWS", b"!", 1)]))

    def test_reserved_flags_must_be_zero(self) -> None:
        with pytest.raises(UnsupportedArchiveError, match="reserved flags"):
            read(assemble([*PLAIN, ("NEWS", b"!", 2)]))

    @pytest.mark.parametrize("kind", ["HEAD", "FILE", "SKEL", "PARI", "INDX", "TAIL"])
    def test_sections_that_stand_once_are_refused_twice(self, kind: str) -> None:
        with pytest.raises(ArchiveDamagedError, match="a second one"):
            read(assemble([*PLAIN, (kind, HEAD, 1)]))

    @pytest.mark.parametrize(
        "bomb",
        [
            b"\x81" * 100_000 + b"\0",
            b"\x9b" + b"\xff" * 8,
            b"\x5b\0\0\0\xff\xff\xff\xff\xff",
            b"\x9f\xff",
            b"\xd8\x23\x61a",
            b"\xc2\x41\x01",
            b"\xa2\x61a\x01\x61a\x02",
            b"\xa1\x01\x02",
            b"\x80\x80",
            b"",
            b"\x61\xff",
            b"\xa0",
        ],
    )
    def test_tables_that_are_no_plain_cbor_list_are_refused(self, bomb: bytes) -> None:
        with pytest.raises(ArchiveDamagedError, match="FILE"):
            read(assemble([PLAIN[0], ("FILE", bomb, 1), PLAIN[2]]))

    def test_nothing_beyond_the_memory_limit_is_read(self, folder: Path) -> None:
        data = archive_of(({}, [], b"", [], [({"volume": 0, "first": 0, "count": 1}, bytes(100_000))]), folder)
        with (
            ArchiveReader(io.BytesIO(data), memory_limit=50_000) as reader,
            pytest.raises(UnsupportedArchiveError, match="memory limit"),
        ):
            reader.chunk_payload(0)
        with pytest.raises(UnsupportedArchiveError, match="memory limit"):
            read(assemble([PLAIN[0], ("FILE", cbor.encode([{}] * 1000), 1), PLAIN[2]]), 100_000)


class TestPublishing:
    def test_an_existing_file_is_kept_by_default(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mdz"
        path.write_bytes(b"old")
        with pytest.raises(UsageError, match="found one"):
            ArchiveWriter(path)
        with ArchiveWriter(path, overwrite=True) as writer:
            write(writer, EXAMPLE)
            assert path.read_bytes() == b"old"
            writer.publish()
        assert read(path.read_bytes())[0] == EXAMPLE

    @pytest.mark.parametrize("links", [True, False])
    def test_a_file_that_appears_meanwhile_is_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
        if not links:
            monkeypatch.setattr(Path, "hardlink_to", no_hard_links)
        path = tmp_path / "a.mdz"
        with ArchiveWriter(path) as writer:
            write(writer, EXAMPLE)
            path.write_bytes(b"new")
            with pytest.raises(UsageError, match="found one"):
                writer.publish()
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.mdz": b"new"}

    @pytest.mark.parametrize("links", [True, False])
    def test_an_archive_stands_alone_in_its_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
        if not links:
            monkeypatch.setattr(Path, "hardlink_to", no_hard_links)
        with ArchiveWriter(tmp_path / "a.mdz") as writer:
            write(writer, EXAMPLE)
            with ArchiveReader(writer.temporary) as reader:
                assert content_of(reader) == EXAMPLE
            writer.publish()
        assert [p.name for p in tmp_path.iterdir()] == ["a.mdz"]

    def test_leaving_without_publishing_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), ArchiveWriter(tmp_path / "a.mdz") as writer:
            write(writer, EXAMPLE)
            raise KeyboardInterrupt
        assert not list(tmp_path.iterdir())

    def test_a_full_disk_is_named_and_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="no space left"), ArchiveWriter(tmp_path / "a.mdz") as writer:
            write(writer, EXAMPLE)
        assert not list(tmp_path.iterdir())

    def test_a_file_too_large_for_the_system_leaves_nothing(self, tmp_path: Path) -> None:
        resource = pytest.importorskip("resource", reason="needs RLIMIT_FSIZE")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        try:
            with pytest.raises(StorageError, match="while writing"), ArchiveWriter(tmp_path / "a.mdz") as writer:
                write(writer, ({}, [], b"", [], [({}, bytes(100_000))]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not list(tmp_path.iterdir())

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
    @pytest.mark.parametrize("step", ["writer.chunk({}, bytes(99999))", "writer.finish()"])
    def test_a_killed_process_leaves_nothing_under_the_name(self, tmp_path: Path, step: str) -> None:
        script = textwrap.dedent(f"""
            import os, signal, sys
            from pathlib import Path
            from medzip.container.writer import ArchiveWriter
            with ArchiveWriter(Path(sys.argv[1])) as writer:
                writer.head({{}}), writer.files([]), writer.skeleton(b"")
                {step}
                os.kill(os.getpid(), signal.SIGKILL)
        """)
        root = str(Path(__file__).resolve().parents[1])
        killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.mdz")], cwd=root, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert [p.suffix for p in tmp_path.iterdir()] == [".tmp"]

    def test_missing_folders_and_files_are_storage_errors(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="temporary file"), AtomicFile(tmp_path / "no" / "a.mdz"):
            pass
        with pytest.raises(StorageError, match="opening"):
            ArchiveReader(tmp_path / "no.mdz")


def no_hard_links(_self: Path, _target: Path) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_temporary_file_that_was_swept_away_reserves_no_name(tmp_path: Path) -> None:
    path = tmp_path / "archive.mdz"
    with AtomicFile(path) as file:
        file.write(b"all of it")
        file.seal()
        file.temporary.unlink()
        with pytest.raises(StorageError):
            file.publish()
    assert not path.exists()
