"""`medzip ledger merge`: what the shards of an array job archived becomes one store, as if one run had made it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from medzip.archiving import audit, records, sums, toolkit
from medzip.archiving.jobs import sha256_of
from medzip.archiving.ledger import Ledger, Row
from medzip.archiving.names import stem_of
from medzip.archiving.store import Store, write_file
from medzip.container.storage import AtomicFile, storage_error, sync_folder
from medzip.errors import MedzipError, UsageError, VerificationError

CARRIED = (
    "name, kind, key, study, part, state, attempts, preset, original_bytes, archive_bytes, sha256, weights, discovered, encoded,"
    " verified, committed, removed, proved, damage"
)
BLOCK = 1 << 22


@dataclass
class Merged:
    """`archives` came, `there` were here already, `failed` could not come, `unfinished` are not committed in their shard."""

    archives: int = 0
    there: int = 0
    failed: int = 0
    unfinished: int = 0


def merge(store: Store, shards: list[Store], complain: Callable[[str, MedzipError], None]) -> Merged:
    """Takes over all committed archives of the shards, which stay as they are: by hard links, else copied and read back; at a
    URL they lie already. What was forgotten here does not come back. The same call again takes what came since. Raises
    UsageError where a shard has another key or URL."""
    merged = Merged()
    for shard in shards:
        if shard.root.resolve() == store.root.resolve():
            raise UsageError(f"{shard.root}: expected a shard, found the store that all are merged into")
        if (shard.private / "key-id").read_bytes() != (store.private / "key-id").read_bytes() or shard.url != store.url:
            raise UsageError(f"{shard.root}: expected the site key and the URL of {store.root}, found others")
    with store.exclusively():
        if not store.ledger.exists():
            Ledger.create(store.ledger)
        with Ledger(store.ledger) as ledger:
            records.tell_all(store, ledger, after_others=True)
            toolkit.provide(store)
            for shard in shards:
                with shard.exclusively(), Ledger(shard.ledger) as other:
                    _take(store, ledger, shard, other, merged, complain)
            sums.rewrite(store, ledger)
        store.mirror(store.sums, *toolkit.files(store), store.private / "key-id", store.audit)
    return merged


def _take(
    store: Store, ledger: Ledger, shard: Store, other: Ledger, merged: Merged, complain: Callable[[str, MedzipError], None]
) -> None:
    records.tell_all(shard, other, after_others=True)
    before = merged.archives
    for row in other.rows("1 ORDER BY id"):
        if row.state not in ("committed", "removed"):
            merged.unfinished += 1
            continue
        try:
            merged.archives += _taken(store, ledger, shard, other, row)
        except MedzipError as error:
            merged.failed += 1
            complain(row.name, error)
        else:
            merged.there += ledger.number("SELECT 1 FROM archives WHERE name = ?", row.name)
    merged.there -= merged.archives - before
    trail = shard.audit.read_bytes()
    head = audit.verify(shard.audit).head
    write_file(store.private / f"audit-{head[:16]}.jsonl", trail)
    facts = {"archives": merged.archives - before, "head": head, "trail": hashlib.sha256(trail).hexdigest()}
    records.tell(store, ledger, audit.event("shard merged", **facts))


def _taken(store: Store, ledger: Ledger, shard: Store, other: Ledger, row: Row) -> bool:
    """Whether an archive came; False for one that is here. Raises VerificationError for another one of its name."""
    known = ledger.rows("name = ?", row.name)
    if known and known[0].sha256 != row.sha256:
        raise VerificationError(f"{row.name}: expected the archive that is here already, found another in {shard.root}")
    if known or stem_of(row.name) in store.tombstones():
        return False
    toolkit.require(store, row.weights)
    if store.remote is None:
        _bring(store, shard, row)
    with ledger.transaction():
        values = tuple(other.execute(f"SELECT {CARRIED} FROM archives WHERE id = ?", row.id).fetchone())
        marks = ", ".join("?" * len(values))
        number = ledger.execute(f"INSERT INTO archives ({CARRIED}) VALUES ({marks})", *values).lastrowid
        for line in other.execute("SELECT * FROM files WHERE archive = ?", row.id):
            ledger.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", line["path"], number, *tuple(line)[2:])
        for line in other.execute("SELECT path, target FROM entries WHERE archive = ?", row.id):
            ledger.execute("INSERT INTO entries VALUES (?, ?, ?)", *line, number)
    return True


def _bring(store: Store, shard: Store, row: Row) -> None:
    source, target = shard.archive(row.name), store.archive(row.name)
    try:
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            with contextlib.suppress(OSError):  # of another file system
                target.hardlink_to(source)
        if not target.exists():
            with source.open("rb") as file, AtomicFile(target) as copy:
                while block := file.read(BLOCK):
                    copy.write(block)
                copy.seal()
                copy.publish()
        sync_folder(target.parent)
        sync_folder(store.root)
    except OSError as error:
        raise storage_error(target, "taking over an archive", error) from error
    if sha256_of(target) != row.sha256:
        if target.samefile(source):
            target.unlink()
        raise VerificationError(f"{target}: expected the SHA-256 of the shard's ledger, found another")
