"""FORMAT.md and the writer agree on every byte of the example."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medzip.container.writer import ArchiveWriter
from medzip.exact import tables

FORMAT = Path(__file__).resolve().parents[1] / "medzip" / "container" / "FORMAT.md"


def example(folder: Path) -> bytes:
    path = folder / "example.mdz"
    with ArchiveWriter(path) as writer:
        writer.head({})
        writer.files([{"name": "a", "size": 9}])
        writer.skeleton(b"skeleton")
        writer.base(b"base")
        writer.chunk({"volume": 0, "first": 0, "count": 3}, b"samples")
        writer.finish()
        writer.publish()
    return path.read_bytes()


def hex_dump(data: bytes) -> str:
    lines = []
    for offset in range(0, len(data), 16):
        row = data[offset : offset + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{offset:04x}  {row.hex(' '):47}  {text}")
    return "\n".join(lines) + "\n"


def test_the_hex_dump_is_what_the_writer_writes(tmp_path: Path) -> None:
    dump = FORMAT.read_text(encoding="utf-8").partition("An example\n")[2].split("```\n")[1]
    assert dump == hex_dump(example(tmp_path))


def test_the_tables_named_are_those_shipped() -> None:
    shipped = Path(tables.__file__).parent / "tables.bin"
    assert hashlib.sha256(shipped.read_bytes()).hexdigest() in FORMAT.read_text(encoding="utf-8")
