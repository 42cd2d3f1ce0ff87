"""What several commands write: committed archives into the ledger, events into the audit trail, errors without names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medzip.archiving import audit
from medzip.archiving.audit import now
from medzip.archiving.jobs import Result
from medzip.archiving.ledger import Ledger, event_id
from medzip.archiving.pool import Failure
from medzip.archiving.store import Store
from medzip.archiving.walk import Walked

MEANINGS = {
    "StorageError": "a file could not be read or written",
    "StorageFullError": "no space is left",
    "VerificationError": "a file changed while it was archived, or the archive did not give it back",
    "UnsupportedInputError": "a file or its name is of a kind that no archive holds",
    "ModelMissingError": "the model's weights or library are missing",
    "ArchiveDamagedError": "an archive is damaged",
    "TruncatedArchiveError": "an archive is cut",
    "WorkerDied": "the worker process died, again and again: out of memory, killed, or crashed",
}


def nameless(failure: Failure) -> str:
    """What ledgers and logs say of an error: its type and what that means, never its text, which may name a file."""
    return f"{failure.type}: {MEANINGS.get(failure.type, 'unexpected, a bug in medzip')}"


def commit(ledger: Ledger, archive: int, result: Result, record: dict[str, Any]) -> None:
    """The row becomes committed, its files are kept, and the event is told; all of it or nothing.

    Found files that the archive does not hold as they are now wait for another one.
    """
    columns = "original_bytes = ?, archive_bytes = ?, sha256 = ?, weights = ?, preset = ?, committed = ?, proved = ?"
    values = (result.original_bytes, result.archive_bytes, result.sha256, json.dumps(result.weights), result.preset, now(), now())
    with ledger.transaction():
        add_contents(ledger, archive, result)
        ledger.execute(f"UPDATE archives SET state = 'committed', error = NULL, {columns} WHERE id = ?", *values, archive)
        ledger.execute("UPDATE found SET archive = NULL WHERE archive = ?", archive)
        ledger.tell({"id": event_id(), **record})


def add_contents(ledger: Ledger, archive: int, result: Result) -> None:
    """Files, empty folders and links of an archive; found files that it holds are found no longer."""
    generation = result.about["generation"]
    for file in result.files:
        found = None
        if file.path in result.unchanged:
            found = ledger.execute("SELECT mtime_ns, inode, ctime_ns FROM found WHERE path = ?", file.path).fetchone()
            ledger.execute("DELETE FROM found WHERE path = ?", file.path)
        identity = tuple(found) if found else (None, None, None)
        ledger.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(file.path, archive, generation, file.bytes, file.sha256, *identity),
        )
    links: Mapping[str, str] = result.about.get("links", {})
    for path, target in (*((path, None) for path in result.about.get("folders", [])), *links.items()):
        ledger.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", path, target, archive)


def weights_in(column: str | None) -> tuple[str, ...]:
    """SHA-256 of the weights that a row names."""
    return tuple(json.loads(column or "[]"))


def new_entries(ledger: Ledger, walked: Walked, limit: int) -> list[tuple[str, str | None]]:
    """Empty folders (None) and links (their targets) that no archive tells of; a folder that files were archived from is no
    empty one: --rm emptied it."""
    found: list[tuple[str, str | None]] = []
    for path in walked.folders:
        known = "SELECT 1 FROM entries WHERE path = ? AND target IS NULL UNION SELECT 1 FROM files WHERE path > ? AND path < ?"
        if len(found) < limit and not ledger.number(known, path, path + "/", path + "0"):
            found.append((path, None))
    for path, target in walked.links.items():
        if len(found) < limit and not ledger.number("SELECT 1 FROM entries WHERE path = ? AND target = ?", path, target):
            found.append((path, target))
    return found


def tell(store: Store, ledger: Ledger, record: dict[str, Any]) -> str:
    """Writes an event into the audit trail and returns the trail's head."""
    with ledger.transaction():
        ledger.tell({"id": event_id(), **record})
    return tell_all(store, ledger)


def tell_all(store: Store, ledger: Ledger, *, after_others: bool = False) -> str:
    """Moves what waits in the ledger to the audit trail, and returns its head, where anything waited.

    `after_others`: a process before may have been killed after it had moved an event; that one is not told twice.
    """
    head = ""
    for record in ledger.untold():
        if not (after_others and audit.holds(store.audit, record["id"])):
            head = audit.append(store.audit, record)
        ledger.told(record)
    return head
