"""`medzip archive`: one coordinator, which alone writes the ledger, and worker processes.

Whatever is killed when: an archive is published complete and proved, its row follows, and the same call goes on from there.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from medzip import pipeline, sources
from medzip.archiving import audit, jobs, records, store, sums, toolkit, walk
from medzip.archiving.ledger import OPEN, Identity, Ledger, Row
from medzip.archiving.names import shard_of, stem_of
from medzip.archiving.pool import Died, Failure, Limits, Pool, Progressed, Work
from medzip.container import sidecar
from medzip.errors import MedzipError, StorageFullError, UsageError

ATTEMPTS = 3
"""How often in one run a job is tried whose worker died."""
TREE_ENTRIES = 5000
SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Options:
    """`parity` lays parity beside every archive; `remove` removes sources that a second process has found in their archive;
    `key_file` holds the site key, else DST does; `remote` is the URL where the archives go, and DST keeps the rest. `shard`
    (which, from 1; of how many) leaves other shards' series to them; `limits` are those of worker
    processes."""

    jobs: int = 1
    preset: str = "default"
    parity: bool = False
    remove: bool = False
    key_file: Path | None = None
    remote: str | None = None
    shard: tuple[int, int] = (1, 1)
    limits: Limits | None = None


@dataclass
class Summary:
    """What a run did. `files` were met in the tree; `archives`, `original_bytes` and `archive_bytes` count what was committed
    now, `total_...` all that the store holds. `protected` got parity now. `failed` counts errors by their type; `exit_codes` are
    those of the errors."""

    files: int = 0
    archives: int = 0
    original_bytes: int = 0
    archive_bytes: int = 0
    total_archives: int = 0
    total_original_bytes: int = 0
    total_archive_bytes: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    exit_codes: set[int] = field(default_factory=set)
    workers_died: int = 0
    protected: int = 0
    sources_removed: int = 0
    sources_kept: int = 0
    special: int = 0
    forgotten: int = 0
    elsewhere: int = 0
    audit_head: str = ""
    seconds: float = 0.0


class Listener(Protocol):
    """Who hears what happens."""

    def progress(self, phase: str, done: int, total: int) -> None: ...

    def committed(self, row: Row, result: jobs.Result) -> None: ...

    def failed(self, name: str, failure: Failure, attempts: int) -> None: ...


def archive(source: Path, destination: Path, options: Options, listener: Listener) -> Summary:
    """Archives the tree at `source` in the store at `destination`, made if need be; goes on where a run before ended.

    Errors of single files and series are told to the listener and counted. Raises UsageError, StorageError,
    ModelMissingError, ArchiveDamagedError (the ledger).
    """
    began = time.monotonic()
    _check(source, destination, options)
    kept = store.create(destination, options.key_file, options.remote)
    if kept.url and options.parity:
        raise UsageError("--parity: expected a folder of archives; at a URL, the store there looks after its disks")
    with kept.exclusively():
        kept.keep_shard(*options.shard)
        if not kept.ledger.exists():
            which, count = options.shard
            if any(shard_of(stem_of(name), count) == which for name in kept.archives()):
                raise UsageError(
                    f"{kept.ledger}: expected the ledger, found none; run `medzip index rebuild {destination}` first"
                )
            Ledger.create(kept.ledger)
        with Ledger(kept.ledger) as ledger:
            summary = _Run(source, kept, ledger, options, listener)()
    summary.seconds = time.monotonic() - began
    return summary


def _check(source: Path, destination: Path, options: Options) -> None:
    if not source.is_dir():
        raise UsageError(f"{source}: expected a folder to archive, found none; check the path")
    inside = [source.resolve(), destination.resolve()]
    if inside[0].is_relative_to(inside[1]) or inside[1].is_relative_to(inside[0]):
        raise UsageError(f"{destination}: expected a folder apart from {source}, found one inside the other")
    if not pipeline.is_portable(options.preset):
        raise UsageError(
            f"--preset {options.preset}: expected a preset whose archives every machine decodes, found another; use 'default'"
        )


@dataclass
class _Running:
    """A job at work: the size of its files in bytes, the share of it that is done, and whether it is encoded."""

    row: Row
    bytes: int
    share: float = 0.0
    encoded: bool = False


class _Run:
    def __init__(self, source: Path, kept: store.Store, ledger: Ledger, options: Options, listener: Listener) -> None:
        self.source, self.store, self.ledger, self.options, self.listener = source, kept, ledger, options, listener
        self.summary = Summary()
        self._done, self._total = 0, 0

    def __call__(self) -> Summary:
        records.tell_all(self.store, self.ledger, after_others=True)
        toolkit.provide(self.store)
        sums.rewrite(self.store, self.ledger)
        self._send_private()
        records.tell(self.store, self.ledger, audit.event("run begun", preset=self.options.preset, jobs=self.options.jobs))
        walked = walk.Walk(self.source, self.store, self.ledger, self.options.shard)(
            lambda files: self.listener.progress("looking", files, 0)
        )
        self._note(walked)
        self._make()
        if shard_of(self.store.digest("tree", ""), self.options.shard[1]) == self.options.shard[0]:
            self._keep_tree(walked)
        if self.options.parity:
            self._protect()
        if self.options.remove:
            self._remove()
        sums.rewrite(self.store, self.ledger)
        self._conclude()
        self._send_private()
        return self.summary

    def _send_private(self) -> None:
        """All that is needed to read the archives lies beside them before any is committed; the ledger and the key stay here."""
        kept = self.store
        kept.mirror(*toolkit.files(kept), kept.private / "key-id", *kept.forgotten.glob("*.json"))
        if self.options.shard[1] == 1:  # what shards know is put together by `medzip ledger merge`
            kept.mirror(kept.sums, *([kept.audit] if kept.audit.exists() else []))

    def _note(self, walked: walk.Walked) -> None:
        self.summary.files, self.summary.special, self.summary.forgotten = walked.files, walked.special, walked.forgotten
        self.summary.elsewhere = walked.elsewhere
        for error in walked.failed.values():
            self._failed("a file or folder", Failure(type(error).__name__, error.exit_code, str(error)), 1)

    def _make(self) -> None:
        """All archives that are due; again, while committing them leaves files for a further part."""
        tried: set[int] = set()
        with Pool(self.options.jobs, self.options.limits) as pool:
            while True:
                walk.plan(self.store, self.ledger)
                places = self.ledger.execute(
                    f"SELECT id FROM archives WHERE {OPEN} AND kind <> 'tree' ORDER BY kind, key, study, part"
                )
                due = [number for (number,) in places.fetchall() if number not in tried]
                if not due:
                    return
                tried |= set(due)
                self._total = self._done + self.ledger.number("SELECT sum(bytes) FROM found")
                self._run(pool, deque(due))

    def _run(self, pool: Pool, waiting: deque[int]) -> None:
        deaths, running = Counter[int](), dict[int, _Running]()
        while waiting or pool.busy:
            while waiting and pool.free:
                number = waiting.popleft()
                [row] = self.ledger.rows("id = ?", number)
                running[number] = _Running(row, self.ledger.number("SELECT sum(bytes) FROM found WHERE archive = ?", number))
                self.ledger.begin(number)
                pool.submit(number, jobs.compress_series, self._job(row))
            for number, heard in pool.wait(SECONDS_BETWEEN_LOOKS):
                if isinstance(heard, Died):
                    self.store.discard(running[number].row.name)
                if isinstance(heard, Progressed):
                    self._progressed(running[number], heard)
                elif isinstance(heard, Died) and deaths[number] < ATTEMPTS - 1:
                    deaths[number] += 1
                    self.summary.workers_died += 1
                    waiting.append(number)
                    del running[number]
                else:
                    ended = running.pop(number)
                    self._ended(ended.row, heard)
                    self._done += ended.bytes
                done = self._done + sum(round(one.share * one.bytes) for one in running.values())
                self.listener.progress(self._told(), min(done, self._total), self._total)

    def _progressed(self, job: _Running, heard: Progressed) -> None:
        """Coding and proving are half of a job each; the first word of proving is a step."""
        if heard.phase == "verify" and not job.encoded:
            job.encoded = True
            self.ledger.set_state(job.row.id, "encoded")
        job.share = 0.5 * job.encoded + 0.5 * heard.done / max(heard.total, 1)

    def _job(self, row: Row) -> jobs.Job:
        found = self.ledger.execute(
            "SELECT path, bytes, mtime_ns, inode, ctime_ns, source, wrapped FROM found WHERE archive = ? ORDER BY path", row.id
        )
        lines = found.fetchall()
        read_by, wrapped = {line[5] for line in lines}, any(line[6] for line in lines)
        generation = 1 + self.ledger.number(
            "SELECT max(generation) FROM files WHERE path IN (SELECT path FROM found WHERE archive = ?)", row.id
        )
        about = {"kind": row.kind, "key": row.key, "study": row.study, "part": row.part, "generation": generation}
        source = read_by.pop() if len(read_by) == 1 else sources.STORED
        files = tuple((line[0], Identity(*line[1:5])) for line in lines)
        return jobs.Job(
            self.source, files, self.store.archive(row.name), source, wrapped, self.options.preset, about, self.store.url
        )

    def _ended(self, row: Row, heard: Any) -> None:
        if isinstance(heard, Died):
            self.summary.workers_died += 1
            heard = Failure("WorkerDied", 6, f"the worker process ended with {heard.exit_code}, {ATTEMPTS} times")
        if isinstance(heard, jobs.Result):
            try:
                self._commit(row, heard)
                return
            except MedzipError as error:
                heard = Failure(type(error).__name__, error.exit_code, str(error))
        self.ledger.fail(row.id, records.nameless(heard))
        self._failed(row.name, heard, row.attempts + 1)
        if heard.type == StorageFullError.__name__:  # all others would be coded for nothing
            raise StorageFullError(f"{self.store.root}: no space left; free some and run the same command again")

    def _commit(self, row: Row, result: jobs.Result) -> None:
        self.ledger.set_state(row.id, "verified")
        toolkit.require(self.store, result.weights)
        sums.append(self.store, result.sha256, row.name)
        record = audit.event("committed", verified=True, archive=row.name, **_digests(result))
        records.commit(self.ledger, row.id, result, record)
        records.tell_all(self.store, self.ledger)
        self.summary.archives += 1
        self.summary.original_bytes += result.original_bytes
        self.summary.archive_bytes += result.archive_bytes
        if self.store.remote is not None:
            self.store.archive(row.name).unlink(missing_ok=True)
        self.listener.committed(row, result)

    def _failed(self, name: str, failure: Failure, attempts: int) -> None:
        self.summary.failed[failure.type] += 1
        self.summary.exit_codes.add(failure.exit_code)
        self.listener.failed(name, failure, attempts)

    def _keep_tree(self, walked: walk.Walked) -> None:
        """Empty folders and symbolic links that no archive tells of yet, in archives of their own."""
        while entries := records.new_entries(self.ledger, walked, TREE_ENTRIES):
            with self.ledger.transaction():
                number = walk.open_archive(self.store, self.ledger, "tree", "", "")
            [row] = self.ledger.rows("id = ?", number)
            folders = [path for path, target in entries if target is None]
            links = {path: target for path, target in entries if target is not None}
            result = jobs.write_tree(self.store.archive(row.name), folders, links, row.part)
            if self.store.remote is not None:
                self.store.remote.publish(self.store.archive(row.name), row.name, result.sha256)
            self._commit(row, result)

    def _remove(self) -> None:
        """Sources of all that is committed, by workers that never encoded anything."""
        places = self.ledger.execute(
            "SELECT id FROM archives WHERE state = 'committed' AND kind <> 'tree' ORDER BY id"
        ).fetchall()

        def removal(row: Row) -> jobs.Removal:
            return jobs.Removal(self.source, self.store, row.name, row.sha256, tuple(self.ledger.files(row.id)))

        self._each("removing sources", [number for (number,) in places], jobs.remove_sources, removal, self._removed)

    def _protect(self) -> None:
        """Parity beside all that is committed and has none."""
        committed = self.ledger.execute("SELECT id, name FROM archives WHERE state IN ('committed', 'removed') ORDER BY id")
        bare = [number for number, name in committed if not sidecar.beside(self.store.archive(name)).exists()]

        def protection(row: Row) -> jobs.Protection:
            return jobs.Protection(self.store.archive(row.name), row.sha256)

        self._each("parity", bare, jobs.protect, protection, self._protected)

    def _protected(self, row: Row, heard: None) -> None:  # noqa: ARG002, a job that is done says nothing
        self.summary.protected += 1

    def _each(
        self, phase: str, numbers: list[int], work: Work, job_of: Callable[[Row], object], ended: Callable[[Row, Any], None]
    ) -> None:
        """A job for each of these archives, in worker processes; `ended` gets its result."""
        waiting, running, done = deque(numbers), dict[int, Row](), 0
        with Pool(self.options.jobs, self.options.limits) as pool:
            while waiting or pool.busy:
                while waiting and pool.free:
                    [row] = self.ledger.rows("id = ?", waiting.popleft())
                    running[row.id] = row
                    pool.submit(row.id, work, job_of(row))
                for number, heard in pool.wait(SECONDS_BETWEEN_LOOKS):
                    if isinstance(heard, Progressed):
                        continue
                    done += 1
                    row = running.pop(number)
                    if isinstance(heard, Died | Failure):
                        self._not_done(row, heard)
                    else:
                        ended(row, heard)
                    self.listener.progress(phase, done, len(numbers))

    def _not_done(self, row: Row, heard: Died | Failure) -> None:
        if isinstance(heard, Died):
            self.summary.workers_died += 1
            heard = Failure("WorkerDied", 6, f"the worker process ended with {heard.exit_code}")
        self.ledger.fail(row.id, records.nameless(heard))
        self._failed(row.name, heard, 1)

    def _removed(self, row: Row, heard: jobs.Removed) -> None:
        self.summary.sources_removed += heard.removed
        self.summary.sources_kept += heard.kept
        if heard.removed:
            record = audit.event("sources removed", archive=row.name, sha256=row.sha256, removed=heard.removed, kept=heard.kept)
            records.tell(self.store, self.ledger, record)
        if not heard.kept:
            self.ledger.set_state(row.id, "removed")

    def _conclude(self) -> None:
        total = self.ledger.execute(
            "SELECT count(*), sum(original_bytes), sum(archive_bytes) FROM archives WHERE state IN ('committed', 'removed')"
        ).fetchone()
        summary = self.summary
        summary.total_archives, summary.total_original_bytes, summary.total_archive_bytes = (int(value or 0) for value in total)
        record = audit.event("run ended", archives=summary.archives, failed=sum(summary.failed.values()))
        summary.audit_head = records.tell(self.store, self.ledger, record)

    def _told(self) -> str:
        ratio = self.summary.original_bytes / self.summary.archive_bytes if self.summary.archive_bytes else 0.0
        return f"{self.summary.archives:,} archives" + (f", {ratio:.2f}x smaller" if ratio else "")


def _digests(result: jobs.Result) -> dict[str, Any]:
    """What the audit trail says of an archive; `sources` is the SHA-256 of the SHA-256s of its files by path."""
    joined = hashlib.sha256(b"".join(bytes.fromhex(file.sha256) for file in sorted(result.files, key=lambda file: file.path)))
    return {
        "sha256": result.sha256,
        "bytes": result.archive_bytes,
        "files": len(result.files),
        "sources": joined.hexdigest(),
        "original_bytes": result.original_bytes,
        "preset": result.preset,
        "weights": list(result.weights),
    }
