"""`medzip forget`: a series is erased for legal reasons, and a tombstone keeps it from coming back."""

from __future__ import annotations

import json
from dataclasses import dataclass

import medzip
from medzip.archiving import audit, records, sums
from medzip.archiving.ledger import Ledger, event_id
from medzip.archiving.store import Store, write_file
from medzip.errors import UsageError


@dataclass(frozen=True)
class Forgotten:
    """`tombstone` is the digest that stands for the series; `archives` were removed now."""

    tombstone: str
    archives: int
    files: int


def forget(store: Store, series: str) -> Forgotten:
    """Removes all archives of a series (its SeriesInstanceUID) and what the ledger knows of it; the same call ends what a killed
    one began. The tombstone is written first: from then on nothing archives the series again.

    Raises UsageError where no archive holds it, StorageError.
    """
    with store.exclusively(), Ledger(store.ledger) as ledger:
        records.tell_all(store, ledger, after_others=True)
        digest = store.digest("series", series)
        rows = ledger.rows("kind = 'series' AND key = ?", series)
        tombstone = store.forgotten / f"{digest}.json"
        here = store.archives_of(digest)
        if not (rows or here or tombstone.exists()):
            raise UsageError(f"{store.root}: expected the UID of a series that was archived, found none of that UID; check it")
        known = _known(tombstone.read_bytes()) if tombstone.exists() else {}
        known |= {row.name: row.sha256 for row in rows}
        record = {"archives": known, "time": audit.now(), "medzip": medzip.__version__}
        write_file(tombstone, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
        for name in here:
            store.remove(name)
        files = sum(ledger.number("SELECT count(*) FROM files WHERE archive = ?", row.id) for row in rows)
        with ledger.transaction():
            ledger.execute("DELETE FROM archives WHERE kind = 'series' AND key = ?", series)
            ledger.execute("DELETE FROM found WHERE kind = 'series' AND key = ?", series)
            ledger.tell({"id": event_id(), **audit.event("forgotten", series=digest, archives=sorted(known), files=files)})
        sums.rewrite(store, ledger)
        store.mirror(tombstone, store.sums)
        records.tell_all(store, ledger)
        return Forgotten(digest, len(here), files)


def _known(data: bytes) -> dict[str, str]:
    try:
        return dict(json.loads(data)["archives"])
    except (ValueError, KeyError, TypeError):
        return {}
