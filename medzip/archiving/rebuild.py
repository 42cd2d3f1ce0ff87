"""`medzip index rebuild`: the ledger again, from the archives alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medzip.archive import Archive
from medzip.archiving import audit, jobs, names, records, sums, toolkit
from medzip.archiving.audit import now
from medzip.archiving.ledger import Ledger, event_id
from medzip.archiving.store import Store
from medzip.errors import ArchiveDamagedError, MedzipError
from medzip.outputs import SUFFIX

Progress = Callable[[str, int, int], None]


@dataclass
class Rebuilt:
    """`damaged` are in the ledger and known to be damaged, `unreadable` are not in it, `lost` stand in SHA256SUMS alone;
    `foreign` were not written by `medzip archive`, `forgotten` should not be here any more."""

    archives: int = 0
    files: int = 0
    damaged: int = 0
    unreadable: int = 0
    lost: int = 0
    foreign: int = 0
    forgotten: int = 0
    seconds: float = 0.0


def rebuild(store: Store, progress: Progress, complain: Callable[[str, str], None]) -> Rebuilt:
    """Replaces the ledger by what the archives say; `complain` hears names of archives and what is wrong with them.

    What is not in archives is lost: which sources were removed, how often something failed, when an archive was last proved.
    Raises StorageError.
    """
    began, rebuilt = time.monotonic(), Rebuilt()
    with store.exclusively():
        temporary = Ledger.temporary(store.ledger)
        Ledger.create_at(temporary)
        expected, forgotten, here = sums.read(store), store.tombstones(), list(store.archives())
        with Ledger(temporary) as ledger:
            for number, name in enumerate(here, 1):
                if names.stem_of(name) in forgotten:
                    rebuilt.forgotten += 1
                    complain(name, "belongs to a series that was forgotten; run `medzip forget` again")
                else:
                    _add(ledger, store, name, expected.get(name), rebuilt, complain)
                progress("rebuild", number, len(here))
            for name in sorted(set(expected) - set(here)):
                if name.endswith(SUFFIX) and names.stem_of(name) not in forgotten:
                    rebuilt.lost += 1
                    complain(name, "stands in SHA256SUMS, found no such archive; restore it from a copy")
            with ledger.transaction():
                ledger.tell({"id": event_id(), **audit.event("ledger rebuilt", archives=rebuilt.archives, lost=rebuilt.lost)})
        Ledger.publish(temporary, store.ledger)
        with Ledger(store.ledger) as ledger:
            toolkit.provide(store)
            if not (rebuilt.lost or rebuilt.unreadable):  # else the sums still tell of what is gone
                sums.rewrite(store, ledger)
            records.tell_all(store, ledger)
    rebuilt.seconds = time.monotonic() - began
    return rebuilt


def _add(
    ledger: Ledger, store: Store, name: str, expected: str | None, rebuilt: Rebuilt, complain: Callable[[str, str], None]
) -> None:
    try:
        with store.fetched(name) as path:
            if _is_foreign(path):
                rebuilt.foreign += 1
                complain(name, "was not written by `medzip archive`; it is left alone")
                return
            result = jobs.read_archive(path)
            damage = _damage(path, result.sha256, expected)
        if damage is None:
            toolkit.require(store, result.weights)
    except MedzipError as error:
        rebuilt.unreadable += 1
        complain(name, f"{type(error).__name__}; restore it from a copy")
        return
    about = result.about
    with ledger.transaction():
        made = ledger.execute(
            "INSERT INTO archives (name, kind, key, study, part, state, original_bytes, archive_bytes, sha256, weights, preset,"
            " committed, damage) VALUES (?, ?, ?, ?, ?, 'committed', ?, ?, ?, ?, ?, ?, ?)",
            *(name, about["kind"], about["key"], about["study"], about["part"], result.original_bytes, result.archive_bytes),
            *(expected or result.sha256, json.dumps(result.weights), result.preset, now(), damage),
        )
        records.add_contents(ledger, int(made.lastrowid or 0), result)
    rebuilt.archives += 1
    rebuilt.files += len(result.files)
    if damage:
        rebuilt.damaged += 1
        complain(name, f"{damage}; restore it from a copy")


def _is_foreign(path: Path) -> bool:
    with Archive(path) as archive:
        return "archived" not in archive.head


def _damage(path: Path, found: str, expected: str | None) -> str | None:
    """What is wrong with an archive whose tables could be read; beside its SHA-256 from SHA256SUMS, or by its own checksums."""
    if expected is not None:
        return None if found == expected else "SHA-256 differs"
    try:
        with Archive(path) as archive:
            archive.reader.check()
    except ArchiveDamagedError as error:
        return type(error).__name__
    return None
