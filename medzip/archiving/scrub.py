"""`medzip scrub`: rolling proof that the archives are what was committed, those first that were proved longest ago."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from medzip import pipeline
from medzip.archiving import audit, records, sums
from medzip.archiving.audit import now
from medzip.archiving.giving_back import KEPT, use_weights_of
from medzip.archiving.jobs import sha256_of
from medzip.archiving.ledger import Ledger, Row
from medzip.archiving.store import PRIVATE, Store
from medzip.container import sidecar
from medzip.errors import ArchiveDamagedError, MedzipError, StorageError

DUE = f"{KEPT} AND (damage IS NOT NULL OR proved IS NULL OR proved < ? OR proved > ?)"
"""Between both times an archive counts as proved; what was proved in the future was proved under a wrong clock."""
Progress = Callable[[str, int, int], None]
Complain = Callable[[str, MedzipError], None]


@dataclass(frozen=True)
class Limits:
    """Seconds; None is no limit. `duration` ends the scrub after the archive at work, `age` leaves out what was proved since.
    `decode` decodes every archive too, which proves the program and the weights besides the bytes."""

    duration: float | None = None
    age: float | None = None
    decode: bool = False


@dataclass
class Scrubbed:
    """`repaired` were damaged and came back by their parity; of `parity` the parity itself was damaged and was made again.
    `left` were due and are for the next time; `oldest` is when the one was proved that was proved longest ago, None where
    one never was since the ledger was rebuilt."""

    archives: int = 0
    bytes: int = 0
    damaged: int = 0
    repaired: int = 0
    parity: int = 0
    left: int = 0
    oldest: str | None = None
    seconds: float = 0.0


def scrub(store: Store, limits: Limits, progress: Progress, complain: Complain) -> Scrubbed:
    """Compares archives with their SHA-256 and remembers when; what is damaged is told to `complain`, the ledger and the audit
    trail, and is looked at again the next time. Raises StorageError, ArchiveDamagedError (the ledger)."""
    began, scrubbed = time.monotonic(), Scrubbed()
    use_weights_of(store)
    with Ledger(store.ledger) as ledger:
        _check_toolkit(store, ledger, scrubbed, complain)
        due = _due(ledger, limits.age or 0.0)
        scrubbed.left = total = len(due)
        for number in due:
            if not (rows := ledger.rows("id = ?", number)):
                continue  # forgotten meanwhile
            [row] = rows
            _prove(store, ledger, row, limits.decode, scrubbed, complain)
            scrubbed.left = max(scrubbed.left - 1, 0)
            progress("scrub", total - scrubbed.left, total)
            if limits.duration is not None and time.monotonic() - began >= limits.duration:
                break
        oldest = ledger.execute(f"SELECT count(*), count(proved), min(proved) FROM archives WHERE {KEPT}").fetchone()
        scrubbed.oldest = oldest[2] if oldest[0] == oldest[1] else None
        facts = {"archives": scrubbed.archives, "damaged": scrubbed.damaged, "left": scrubbed.left, "decoded": limits.decode}
        records.tell(store, ledger, audit.event("scrubbed", **facts))
    scrubbed.seconds = time.monotonic() - began
    return scrubbed


def _due(ledger: Ledger, age: float) -> array[int]:
    """What is damaged first, then what was never proved or by a clock ahead of today's, then by age. All at once, so that a
    clock that is set meanwhile brings nothing back."""
    began = datetime.now(UTC)
    times = [time.isoformat(timespec="microseconds") for time in (began - timedelta(seconds=age), began)]
    found = ledger.execute(
        f"SELECT id FROM archives WHERE {DUE} ORDER BY damage IS NULL, proved <= ?, proved, name", *times, times[1]
    )
    return array("q", (number for (number,) in found))


def _prove(store: Store, ledger: Ledger, row: Row, decode: bool, scrubbed: Scrubbed, complain: Complain) -> None:
    path = store.archive(row.name)
    try:
        if _digest(store, row.name) != row.sha256:
            _repair(store, ledger, row, scrubbed)
        if decode:
            with store.fetched(row.name) as archive:
                pipeline.verify(archive)
    except MedzipError as error:
        if not ledger.rows("id = ? AND name = ?", row.id, row.name):
            return  # forgotten meanwhile
        if isinstance(error, StorageError) and not store.holds(row.name):
            error = ArchiveDamagedError(f"{path}: expected the archive, found none; restore it from a copy")
        _note(store, ledger, row, error, scrubbed, complain)
        return
    _look_after_parity(store, ledger, row, scrubbed)
    healed = ledger.number("SELECT damage IS NOT NULL FROM archives WHERE id = ?", row.id)
    with ledger.transaction():
        ledger.execute("UPDATE archives SET proved = ?, damage = NULL WHERE id = ?", now(), row.id)
    if healed:
        records.tell(store, ledger, audit.event("good again", archive=row.name, sha256=row.sha256))
    scrubbed.archives += 1
    scrubbed.bytes += row.archive_bytes


def _digest(store: Store, name: str) -> str | None:
    """None for an archive that is there, and that the disk cannot read."""
    if store.remote is not None:
        return store.remote.digest(name)
    try:
        return sha256_of(store.archive(name))
    except StorageError:
        if not store.archive(name).exists():
            raise
        return None


def _repair(store: Store, ledger: Ledger, row: Row, scrubbed: Scrubbed) -> None:
    """By parity. Raises ArchiveDamagedError where there is none, it is another archive's, or too much is damaged."""
    path = store.archive(row.name)
    if not sidecar.beside(path).exists():
        raise ArchiveDamagedError(f"{path}: expected SHA-256 {row.sha256}, found another; restore it from a copy")
    with sidecar.Sidecar(path) as opened:
        if opened.layout.sha256.hex() != row.sha256:
            raise ArchiveDamagedError(f"{path}: expected SHA-256 {row.sha256}, found another, and another's parity")
        sectors = opened.repair()
    scrubbed.repaired += 1
    records.tell(store, ledger, audit.event("repaired", archive=row.name, sha256=row.sha256, sectors=sectors))


def _look_after_parity(store: Store, ledger: Ledger, row: Row, scrubbed: Scrubbed) -> None:
    """Makes damaged parity again, of an archive that was proved just now."""
    path = store.archive(row.name)
    if not sidecar.beside(path).exists():
        return
    with suppress(ArchiveDamagedError), sidecar.Sidecar(path) as opened:
        if opened.layout.sha256.hex() == row.sha256 and opened.is_whole():
            return
    sidecar.make(path, row.sha256)
    scrubbed.parity += 1
    records.tell(store, ledger, audit.event("parity made again", archive=row.name, sha256=row.sha256))


def _note(store: Store, ledger: Ledger, row: Row, error: MedzipError, scrubbed: Scrubbed, complain: Complain) -> None:
    with ledger.transaction():
        ledger.execute("UPDATE archives SET damage = ? WHERE id = ?", type(error).__name__, row.id)
    records.tell(store, ledger, audit.event("damage found", archive=row.name, sha256=row.sha256, error=type(error).__name__))
    scrubbed.damaged += 1
    complain(row.name, error)


def _check_toolkit(store: Store, ledger: Ledger, scrubbed: Scrubbed, complain: Complain) -> None:
    """Format, tables and decoder are as SHA256SUMS says, and every weights file that an archive needs is there."""
    wanted = {name: digest for name, digest in sums.read(store).items() if name.startswith(PRIVATE + "/")}
    for row in ledger.execute(f"SELECT DISTINCT weights FROM archives WHERE {KEPT}").fetchall():
        digests = records.weights_in(row[0])
        wanted |= {f"{PRIVATE}/weights/{digest}.safetensors": digest for digest in digests}
    for name, digest in sorted(wanted.items()):
        path = store.archive(name)
        if not path.is_file() or sha256_of(path) != digest:
            scrubbed.damaged += 1
            records.tell(store, ledger, audit.event("damage found", file=name, sha256=digest))
            complain(
                name, ArchiveDamagedError(f"{path}: expected SHA-256 {digest}, found another or none; restore it from a copy")
            )
