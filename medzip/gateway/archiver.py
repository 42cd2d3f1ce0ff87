"""From the spool into the store: closed series are archived by `medzip.archiving`, and leave the spool when that is proved."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from medzip.archive import Archive
from medzip.archived_file import opened
from medzip.archiving import audit, jobs, records, run, store
from medzip.archiving.ledger import KeptFile, Ledger, Row
from medzip.archiving.pool import Failure, Limits, Pool, Progressed
from medzip.archiving.store import Store
from medzip.errors import MedzipError, StorageError, UnsupportedInputError, UsageError
from medzip.gateway import config, headers
from medzip.gateway.headers import Header
from medzip.gateway.index import KEPT, Index
from medzip.gateway.metrics import Metrics
from medzip.gateway.spool import Spool

LOG = logging.getLogger("medzip.gateway")
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BEFORE_RETRY = 600.0


class _EndingError(Exception):
    """The gateway ends: what is going on is given up, as after a crash, and taken up at the next start."""


class Archiver:
    """A thread that archives; the only one that writes the store.

    After a failure (a poisoned series, a full disk, another medzip at work in the store) the rest is archived all the same, and
    what failed stays in the spool and is tried again with the next series, or after SECONDS_BEFORE_RETRY.
    """

    def __init__(self, options: config.Archive, kept: Store, spool: Spool, index: Index, metrics: Metrics) -> None:
        self.options, self.store, self.spool, self.index, self.metrics = options, kept, spool, index, metrics
        self.limits = Limits(options.worker_memory_bytes, options.worker_silent_seconds)
        self.passes = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="archiver", daemon=True)
        self._retry = 0.0

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        """Gives up the pass that is going on; what it leaves is taken up at the next start."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def take_up(self) -> None:
        """Brings the index to what spool and archives hold, whatever was killed when."""
        with Ledger(self.store.ledger) as ledger:
            for name in sorted(self.spool.names(), key=self._age):  # of an instance that came twice, the last version stays
                if not self.index.has(name) and not ledger.kept(name):
                    self._take_up(name)
            self.index.sync(ledger, self._headers)
        self._drop_lost()

    def _age(self, name: str) -> float:
        path = self.spool.find(name)
        return path.stat().st_mtime if path else 0.0

    def _take_up(self, name: str) -> None:
        path = self.spool.find(name)
        if path is None:
            return
        try:
            header = headers.read(path)
        except UnsupportedInputError:  # nothing that was acknowledged: it is archived all the same
            return
        where = "study = ? AND series = ? AND uid = ? AND archive IS NULL"
        others = self.index.instances(where, (header.study, header.series, header.instance))
        if all(self._age(other.path) <= self._age(name) for other in others):
            self.index.add(header, name)

    def run_once(self) -> None:
        """One pass: closes, archives, proves and removes. Raises MedzipError."""
        closed = self.spool.close(self.options.quiet_seconds)
        self.spool.remove_empty_folders()
        waiting = self.spool.closed_names()
        if waiting and (closed or time.monotonic() >= self._retry):
            self._drop_forgotten(waiting)
            own = self.options
            options = run.Options(own.jobs, own.preset, key_file=own.key_file, limits=self.limits)
            self._retry = time.monotonic() + SECONDS_BEFORE_RETRY
            run.archive(self.spool.closed, self.store.root, options, _Told(self))
            with Ledger(self.store.ledger) as ledger:
                self.index.sync(ledger, self._headers)
            self._remove_proven()
            self.spool.remove_empty_folders()
            self._drop_lost()
        self.passes += 1

    def sync_index(self) -> None:
        """What `medzip forget` or another `medzip archive` changed meanwhile."""
        with Ledger(self.store.ledger) as ledger:
            self.index.sync(ledger, self._headers)

    def check(self) -> None:
        """Raises _EndingError when the gateway ends."""
        if self._ending.is_set():
            raise _EndingError

    def _work(self) -> None:
        while not self._ending.wait(SECONDS_BETWEEN_LOOKS):
            try:
                self.run_once()
            except _EndingError:
                return
            except MedzipError as error:
                told = records.nameless(Failure(type(error).__name__, error.exit_code, ""))
                LOG.error("archiving: %s%s", told, f" ({error})" if self.options.show_names else "")
            except Exception as error:  # the thread must not end: what is spooled waits for it
                LOG.error("archiving: unexpected %s", type(error).__name__)

    def _headers(self, name: str, paths: list[str]) -> Iterator[tuple[str, Header]]:
        """Headers of files of an archive; files that are no DICOM are left out."""
        wanted = set(paths)
        try:
            with Archive(self.store.archive(name)) as archive:
                for file in archive.skeleton().files:
                    if file.name in wanted:
                        with suppress(UnsupportedInputError), opened(archive, file) as stream:
                            yield file.name, headers.read(stream)
        except MedzipError as error:  # a damaged archive: scrub tells; what it holds cannot be found
            LOG.error("indexing %s: %s", name, type(error).__name__)

    def _drop_forgotten(self, waiting: list[str]) -> None:
        """Removes what was received of a series before it was forgotten: nothing of it may be archived."""
        forgotten = self.store.tombstones()
        gone = [name for name in waiting if forgotten and self.store.digest("series", name.split("/")[1]) in forgotten]
        for name in gone:
            self.spool.closed.joinpath(*name.split("/")).unlink()
        if gone:
            self.index.forget(gone)
            audit.append(self.store.audit, audit.event("forgotten in the spool", files=len(gone)))
            self.spool.remove_empty_folders()

    def _remove_proven(self) -> None:
        """Removes spooled files that committed archives hold, by a process that never encoded anything."""
        with self.store.exclusively(), Ledger(self.store.ledger) as ledger:
            held: dict[int, set[str]] = {}
            for name in self.spool.closed_names():
                if kept := ledger.kept(name):
                    held.setdefault(kept[0], set()).add(name)
            with Pool(1, self.limits) as pool:
                for number, names in held.items():
                    for row in ledger.rows(f"id = ? AND {KEPT}", number):
                        self._remove(pool, ledger, row, tuple(file for file in ledger.files(number) if file.path in names))

    def _remove(self, pool: Pool, ledger: Ledger, row: Row, files: tuple[KeptFile, ...]) -> None:
        removal = jobs.Removal(self.spool.closed, self.store, row.name, row.sha256, files)
        pool.submit(row.id, jobs.remove_sources, removal)
        heard: list[object] = []
        while pool.busy:
            self.check()
            heard += [message for _, message in pool.wait(1.0) if not isinstance(message, Progressed)]
        [ended] = heard
        if not isinstance(ended, jobs.Removed):
            LOG.error("proving %s: %s; its spooled files stay", row.name, getattr(ended, "type", "the worker died"))
            self.metrics.add("archives_failed_total")
            return
        self.metrics.add("originals_removed_total", ended.removed)
        if ended.removed:
            record = audit.event("sources removed", archive=row.name, sha256=row.sha256, removed=ended.removed, kept=ended.kept)
            records.tell(self.store, ledger, record)
        if not ended.kept and row.state == "committed":
            ledger.set_state(row.id, "removed")

    def _drop_lost(self) -> None:
        """Instances that neither the spool nor an archive holds: of series that were forgotten."""
        lost = [one.path for one in self.index.instances("archive IS NULL", ()) if self.spool.find(one.path) is None]
        if lost:
            self.index.forget(lost)


class _Told:
    """What happens while archiving, for logs and metrics."""

    def __init__(self, archiver: Archiver) -> None:
        self._archiver, self._metrics = archiver, archiver.metrics

    def progress(self, _phase: str, _done: int, _total: int) -> None:
        self._archiver.check()

    def committed(self, row: Row, result: jobs.Result) -> None:
        self._metrics.add("archives_committed_total")
        LOG.info(
            "archived %s: %d files, %d -> %d bytes", row.name, len(result.files), result.original_bytes, result.archive_bytes
        )

    def failed(self, name: str, failure: Failure, attempts: int) -> None:
        self._metrics.add("archives_failed_total")
        LOG.error(
            "%s, attempt %d: %s%s",
            name,
            attempts,
            records.nameless(failure),
            f" ({failure.text})" if self._archiver.options.show_names else "",
        )


def opened_store(options: config.Archive) -> Store:
    """The store, made if need be, with a ledger. Raises UsageError where it is a shard, or archives lie elsewhere, StorageError
    where they lie there and the ledger does not."""
    kept = store.create(options.store, options.key_file)
    if kept.url is not None:
        raise UsageError(
            f"{options.store}: expected a store whose archives lie in its folder, found one that sends them to a URL"
        )
    kept.keep_shard(1, 1)
    if not kept.ledger.exists():
        if next(kept.archives(), None):
            raise StorageError(f"{kept.ledger}: expected the ledger, found none; run `medzip index rebuild` first")
        Ledger.create(kept.ledger)
    return kept
