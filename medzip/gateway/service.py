"""The gateway as a whole: what is configured, put together, started and ended in order."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from medzip.archiving import toolkit
from medzip.archiving.giving_back import use_weights_of
from medzip.archiving.store import locked
from medzip.container.storage import storage_error
from medzip.errors import StorageError
from medzip.gateway import decoders
from medzip.gateway.archiver import Archiver, opened_store
from medzip.gateway.commitment import Commitments
from medzip.gateway.config import Config
from medzip.gateway.dimse import Listener, entity
from medzip.gateway.index import Index
from medzip.gateway.metrics import Metrics
from medzip.gateway.query_retrieve import QueryRetrieve
from medzip.gateway.receiving import Receiver
from medzip.gateway.retrieval import Retriever
from medzip.gateway.spool import Spool
from medzip.gateway.watch import Watch
from medzip.gateway.web import Web

LOG = logging.getLogger("medzip.gateway")


def _alone(spool: Path) -> AbstractContextManager[None]:
    """Keeps a second gateway out of a spool. Raises StorageError where there is one."""
    try:
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(spool, "making the spool", error) from error
    return locked(spool / "lock.sqlite", 1.0, f"{spool}: expected to work in it alone, found another gateway at work")


class Gateway:
    """Everything of one configuration. `start` returns when all that was configured answers; `end` leaves nothing running."""

    def __init__(self, options: Config) -> None:
        self.options, self.metrics = options, Metrics()
        self._alone = ExitStack()
        self._alone.enter_context(_alone(options.archive.spool))
        self.store = opened_store(options.archive)
        self.spool = Spool(options.archive.spool, options.archive.minimum_free_bytes)
        self.index = Index(self.spool.root / "index.sqlite")
        self.receiver = Receiver(self.store, self.spool, self.index, self.metrics)
        self.archiver = Archiver(options.archive, self.store, self.spool, self.index, self.metrics)
        archive = options.archive
        self.retriever = Retriever(self.store, self.spool, self.index, archive.cache_bytes, archive.jobs, self.archiver.limits)
        self.commitments = self._commitments()
        self.listener = self._listener()
        self.watch = Watch(options.watch, self.receiver, self.metrics) if options.watch else None
        self.web = self._web()
        self.ready = False
        self.metrics.gauge("studies", "Indexed studies", lambda: self.index.counts()[0])
        self.metrics.gauge("series", "Indexed series", lambda: self.index.counts()[1])
        self.metrics.gauge("instances", "Indexed instances", lambda: self.index.counts()[2])
        self.metrics.gauge("spooled_instances", "Instances that no proved archive holds yet", lambda: len(self.spool.names()))
        self.metrics.gauge("cache_bytes", "Bytes of restored series", lambda: self.retriever.cached_bytes)
        self.metrics.gauge("free_bytes", "Free bytes on the spool's disk", self.spool.free_bytes)
        self.metrics.gauge("ready", "Whether instances can be taken", self.is_ready)

    def start(self) -> None:
        """Raises StorageError where an address cannot be had, and what the spool and the store raise."""
        use_weights_of(self.store)
        toolkit.provide(self.store)
        decoders.quiet()
        self.archiver.take_up()
        self.retriever.start()
        for name, service in (("dicom", self.listener), ("web", self.web)):
            if service:
                try:
                    service.start()
                except OSError as error:
                    self.end()
                    place = f"[{name}] host and port {service.options.host}:{service.options.port}"
                    raise StorageError(f"{place}: expected an address to listen on: {error.strerror}") from error
        self.archiver.start()
        if self.commitments:
            self.commitments.start()
        if self.watch:
            try:
                self.watch.start()
            except OSError as error:
                self.end()
                raise StorageError(f"[watch]: {error.strerror}; expected folders that can be used") from error
        self.ready = True

    def addresses(self) -> dict[str, str]:
        """Where each service listens."""
        found = {}
        if self.listener:
            found["dicom"] = f"{self.listener.options.ae_title}@{self.listener.options.host}:{self.listener.port}"
        if self.web:
            scheme = "https" if self.web.options.tls else "http"
            host = f"[{self.web.options.host}]" if ":" in self.web.options.host else self.web.options.host
            found["web"] = f"{scheme}://{host}:{self.web.port}/dicom-web"
        return found

    def end(self) -> None:
        self.ready = False
        if self.web:
            self.web.end()
        if self.watch:
            self.watch.end()
        if self.listener:
            self.listener.end()
        if self.commitments:
            self.commitments.end()
        self.archiver.end()
        self.retriever.end()
        self.index.close()
        self._alone.close()

    def is_ready(self) -> bool:
        """Whether everything was started and instances can be taken."""
        return self.ready and self.is_healthy() and self.spool.has_space()

    def is_healthy(self) -> bool:
        """Whether nothing has ended that should not."""
        threads = (self.archiver, self.retriever, self.commitments, self.watch)
        return all(thread.is_alive() for thread in threads if thread)

    def _web(self) -> Web | None:
        if self.options.web is None:
            return None
        services = self.receiver, self.index, self.retriever, self.metrics
        return Web(self.options.web, *services, self.is_healthy, self.is_ready)

    def _listener(self) -> Listener | None:
        if self.options.dicom is None:
            return None
        services = [QueryRetrieve(self.options.dicom, self.index, self.retriever, self.metrics), self.commitments]
        handlers = [handler for service in services if service for handler in service.handlers]
        contexts = [context for service in services if service for context in service.contexts]
        return Listener(self.options.dicom, self.receiver, self.metrics, handlers, contexts)

    def _commitments(self) -> Commitments | None:
        dicom = self.options.dicom
        if dicom is None:
            return None
        return Commitments(dicom, self.store, self.spool, self.index, self.metrics, lambda: entity(dicom))
