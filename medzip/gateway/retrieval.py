"""Instances back from the archives: decoded by worker processes, slice after slice, into a cache of bounded size.

SPOOL/cache/ARCHIVE/...   files as they were stored; of series that are being given out, and the last ones that were
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import queue
import shutil
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medzip.archiving.pool import Failure, Limits, Pool, Progressed
from medzip.archiving.store import Store
from medzip.container.storage import storage_error
from medzip.errors import MedzipError
from medzip.gateway import decoders
from medzip.gateway.index import Index, Instance
from medzip.gateway.spool import Spool

LOG = logging.getLogger("medzip.gateway")
SECONDS_BETWEEN_WORDS = 2.0
"""How long a caller waits before it hears that nothing came yet."""
Idle = Callable[[], None]


def _patient() -> None:
    """Waits as long as the worker may."""


@dataclass(eq=False)
class _Request:
    """A job for a worker, and what is heard of it: Progressed, then the result, Failure or Died."""

    work: Callable[[Any, Callable[[str, int, int], None]], Any]
    job: object
    heard: queue.SimpleQueue[object] = field(default_factory=queue.SimpleQueue)


class Retriever:
    """All methods may be called from any thread."""

    def __init__(self, kept: Store, spool: Spool, index: Index, cache_bytes: int, workers: int, limits: Limits) -> None:
        self.store, self.spool, self._index, self._limit = kept, spool, index, cache_bytes
        self.folder = spool.root / "cache"
        self._size, self._limits = workers, limits
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="retriever", daemon=True)
        self._lock = threading.Lock()
        self._decoding: dict[str, threading.Lock] = {}
        self._cached: OrderedDict[str, int] = OrderedDict()
        self._used: Counter[str] = Counter()

    def start(self) -> None:
        """Raises StorageError."""
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise storage_error(self.folder, "making the cache", error) from error
        self._thread.start()
        for _ in range(self._size):
            self._requests.put(_Request(decoders.warm_up, None))

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        self._requests.put(None)
        if self._thread.is_alive():
            self._thread.join()

    @property
    def cached_bytes(self) -> int:
        with self._lock:
            return sum(self._cached.values())

    def files(self, wanted: list[Instance], idle: Idle) -> Generator[tuple[Instance, Path | None], None, None]:
        """Each instance and a file of it, byte for byte as it came, that is there until the next one is asked for; None where it
        could not be brought back. `idle` is called every now and then while nothing comes, and may raise to give up."""
        rest: list[Instance] = []
        for one in wanted:
            link = self._linked(one)
            if link is None:
                rest.append(one)
                continue
            try:
                yield one, link
            finally:
                link.unlink(missing_ok=True)
        rest = sorted((self._again(one) for one in rest), key=lambda one: one.archive or "")
        for archive, group in itertools.groupby(rest, key=lambda one: one.archive):
            if archive is None:
                yield from ((one, None) for one in group)
            else:
                yield from self._archived(archive, list(group), idle)

    def _linked(self, one: Instance) -> Path | None:
        """A second name of a spooled file, which stays when the archiver removes the first; None where it lies there no more."""
        path, link = self.spool.find(one.path), self.spool.partial_path()
        if path is None:
            return None
        try:
            link.hardlink_to(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(self.spool.root, "linking an instance", error) from error
        return link

    def _again(self, one: Instance) -> Instance:
        """The same instance, with the archive that it went to meanwhile: that is noted before it leaves the spool."""
        return next(iter(self._index.instances("path = ?", (one.path,))), one) if one.archive is None else one

    def converted(self, path: Path, syntax: str, idle: Idle) -> Path:
        """A copy in an uncompressed transfer syntax, for the caller to remove. Raises MedzipError where it cannot be decoded."""
        self.spool.check_space(path.stat().st_size)
        target = self.spool.partial_path()
        ended = self._ended(_Request(decoders.convert, decoders.Converting(path, target, syntax)), idle)
        if ended is not None:
            target.unlink(missing_ok=True)
            raise MedzipError(f"expected pixel data that can be decoded: {getattr(ended, 'type', 'the worker died')}")
        return target

    def headers(self, wanted: list[Instance]) -> list[str | None]:
        """The header of each instance as JSON, None where it could not be read. Nothing of its pixels is decoded."""
        links = [self._linked(one) for one in wanted]
        try:
            sources: list[tuple[Path | None, str]] = []
            for one, link in zip(wanted, links, strict=True):
                archive = None if link else self._again(one).archive
                sources.append((self.store.archive(archive) if archive else None, str(link or one.path)))
            ended = self._ended(_Request(decoders.describe, decoders.Describing(tuple(sources))), _patient)
        finally:
            for link in filter(None, links):
                link.unlink(missing_ok=True)
        return ended if isinstance(ended, list) else [None] * len(wanted)

    def frames(self, path: Path, numbers: tuple[int, ...], *, stored: bool) -> Iterator[bytes]:
        """Frames of a file, counted from 1, decoded or as they are stored. Raises MedzipError before the first."""
        target = self.spool.partial_path()
        try:
            ended = self._ended(_Request(decoders.frames, decoders.Framing(path, target, numbers, stored)), _patient)
            if not isinstance(ended, list):
                raise MedzipError(f"expected frames that can be decoded: {getattr(ended, 'type', 'the worker died')}")
            with target.open("rb") as file:
                for length in ended:
                    yield file.read(length)
        finally:
            target.unlink(missing_ok=True)

    def _archived(self, archive: str, wanted: list[Instance], idle: Idle) -> Iterator[tuple[Instance, Path | None]]:
        folder = self.folder / Path(archive).stem
        targets = {one.path: folder / f"{hashlib.sha256(one.path.encode()).hexdigest()}.dcm" for one in wanted}
        with self._lock:
            self._used[archive] += 1
            turn = self._decoding.setdefault(archive, threading.Lock())
        try:
            while not turn.acquire(timeout=SECONDS_BETWEEN_WORDS):
                idle()
            try:
                left = {one.path: one for one in wanted}
                there = [path for path in left if targets[path].exists()]
                for path in there:
                    yield left.pop(path), targets[path]
                if left:
                    folder.mkdir(mode=0o700, exist_ok=True)
                    self.spool.check_space()
                    job = decoders.Restoring(self.store.archive(archive), tuple((path, targets[path]) for path in left))
                    for path in self._progress(_Request(decoders.restore, job), archive, idle):
                        yield left.pop(path), targets[path]
                yield from ((one, None) for one in left.values())
            finally:
                turn.release()
        except (MedzipError, OSError) as error:
            LOG.error("restoring from %s: %s", archive, type(error).__name__)
            yield from ((one, None) for one in wanted if not targets[one.path].exists())
        finally:
            self._release(archive, folder)

    def _progress(self, request: _Request, archive: str, idle: Idle) -> Iterator[str]:
        """Names of the files as they come; says in the log where the worker failed."""
        self._requests.put(request)
        while True:
            try:
                heard = request.heard.get(timeout=SECONDS_BETWEEN_WORDS)
            except queue.Empty:
                idle()
                continue
            if not isinstance(heard, Progressed):
                if not isinstance(heard, int):
                    LOG.error("restoring from %s: %s", archive, getattr(heard, "type", "the worker died"))
                return
            yield heard.phase

    def _ended(self, request: _Request, idle: Idle) -> object:
        self._requests.put(request)
        while True:
            try:
                heard = request.heard.get(timeout=SECONDS_BETWEEN_WORDS)
            except queue.Empty:
                idle()
            else:
                return heard

    def _release(self, archive: str, folder: Path) -> None:
        """Notes what a series takes, and drops the series that were not asked for longest, until the rest fits."""
        size = sum(path.stat().st_size for path in folder.glob("*.dcm")) if folder.is_dir() else 0
        with self._lock:
            self._used[archive] -= 1
            self._cached[archive] = size
            self._cached.move_to_end(archive)
            for name in list(self._cached):
                if sum(self._cached.values()) <= self._limit:
                    break
                if self._used[name] <= 0:
                    shutil.rmtree(self.folder / Path(name).stem, ignore_errors=True)
                    del self._cached[name], self._used[name]
                    self._decoding.pop(name, None)

    def _work(self) -> None:
        """The only thread that talks to the workers."""
        numbers, running = itertools.count(), dict[int, _Request]()
        ending = False
        with Pool(self._size, self._limits) as pool:
            while not ending:
                while pool.free:
                    try:
                        request = self._requests.get(timeout=0 if running else 0.5)
                    except queue.Empty:
                        break
                    if request is None:
                        ending = True
                        break
                    number = next(numbers)
                    running[number] = request
                    pool.submit(number, request.work, request.job)
                if running:
                    for number, heard in pool.wait(0.05):
                        running[number].heard.put(heard)
                        if not isinstance(heard, Progressed):
                            del running[number]
        for left in running.values():
            left.heard.put(Failure("StorageError", 6, "the gateway ends"))
