"""The file table as the payload of FILE: a list of records, or their values in columns (FORMAT.md, 4.2 and 20)."""

from __future__ import annotations

from typing import Any

from medzip.container import cbor, columns, packed
from medzip.container.column_recipes import ColumnWriter
from medzip.container.columns import ROW_BYTES, Column
from medzip.errors import ArchiveDamagedError, MedzipError, UnsupportedArchiveError

DIGEST = "sha256"
DIGEST_BYTES = 32
KINDS = ("text", "numbers", "items")


def encode(records: list[dict[str, Any]]) -> bytes:
    """The smaller form; columns only where they give the records back."""
    plain = cbor.encode(records)
    if len(records) < 2 or not all(_has_digest(record) for record in records):
        return plain
    shorter = cbor.encode(_in_columns(records))
    try:
        proved = decode(cbor.decode(shorter, "", packed.LARGEST), "", packed.LARGEST) == records
    except MedzipError:
        proved = False
    return shorter if proved and len(shorter) < len(plain) else plain


def decode(value: Any, name: str, memory_limit: int) -> list[dict[str, Any]]:
    """The records that the CBOR of FILE stands for; `name` is the archive's.

    Raises ArchiveDamagedError where it is of neither form, UnsupportedArchiveError where it needs more than `memory_limit` bytes.
    """
    match value:
        case list() if all(isinstance(record, dict) for record in value):
            return value
        case {"sha256": bytes(digests), "table": bytes(payload)}:
            return _from_columns(digests, payload, f"{name}: FILE", memory_limit)
    raise _damaged(f"{name}: FILE")


def _has_digest(record: dict[str, Any]) -> bool:
    digest = record.get(DIGEST)
    return isinstance(digest, bytes) and len(digest) == DIGEST_BYTES


def _in_columns(records: list[dict[str, Any]]) -> dict[str, Any]:
    writer = ColumnWriter()
    structure: dict[str, Any] = {"text": {}, "numbers": {}, "items": {}}
    for key in dict.fromkeys(key for record in records for key in record if key != DIGEST):
        values = [record.get(key) for record in records]
        if all(isinstance(value, str) for value in values):
            structure["text"][key] = writer.add([str(value).encode() for value in values])
        elif all(type(value) is int for value in values):
            structure["numbers"][key] = writer.add([str(value).encode() for value in values])
        else:
            rows = [cbor.encode(record[key]) if key in record else b"" for record in records]
            structure["items"][key] = writer.add(rows)
    table = packed.pack({**structure, "columns": writer.descriptions}, bytes(writer.data))
    return {DIGEST: b"".join(record[DIGEST] for record in records), "table": table}


def _from_columns(digests: bytes, payload: bytes, where: str, memory_limit: int) -> list[dict[str, Any]]:
    structure, data = packed.unpack(payload, where, memory_limit)
    count, left = divmod(len(digests), DIGEST_BYTES)
    if left or not isinstance(structure, dict):
        raise _damaged(where)
    table = columns.read(structure.get("columns"), data, where, memory_limit)
    records: list[dict[str, Any]] = [{DIGEST: digests[i : i + DIGEST_BYTES]} for i in range(0, len(digests), DIGEST_BYTES)]
    try:
        if sum(len(structure[kind]) for kind in KINDS) * count * ROW_BYTES > memory_limit:
            raise UnsupportedArchiveError(f"{where}: expected at most {memory_limit} bytes, found more; raise the memory limit")
        for kind in KINDS:
            for key, number in structure[kind].items():
                if not isinstance(key, str) or key == DIGEST:
                    raise _damaged(where)
                rows = _column(table, number, count, where)
                for record, row in zip(records, rows, strict=True):
                    if kind != "items" or row:
                        record[key] = _value(kind, row, where, memory_limit)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise _damaged(where) from error
    return records


def _value(kind: str, row: bytes, where: str, memory_limit: int) -> Any:
    if kind == "items":
        return cbor.decode(row, where, memory_limit)
    if kind == "text":
        return row.decode()
    if not (row.isdigit() and len(row) < 20):
        raise ValueError("no number")
    return int(row)


def _column(table: list[Column], number: Any, rows: int, where: str) -> Column:
    if type(number) is int and 0 <= number < len(table) and len(table[number]) == rows:
        return table[number]
    raise _damaged(where)


def _damaged(where: str) -> ArchiveDamagedError:
    return ArchiveDamagedError(f"{where}: expected a file table, found something else; restore the archive from a copy")
