"""A folder whose DICOM files are taken once they have stopped changing; what is none is put aside."""

from __future__ import annotations

import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from medzip.archiving.ledger import Identity
from medzip.container.storage import sync_folder
from medzip.errors import MedzipError, UnsupportedInputError
from medzip.gateway import config
from medzip.gateway.metrics import Metrics
from medzip.gateway.receiving import ForgottenError, Receiver

LOG = logging.getLogger("medzip.gateway")
SECONDS_BETWEEN_LOOKS = 1.0


class Watch:
    """A thread that looks through the folder. A file leaves it when the spool holds it, synced, or for the poison folder.

    Links and what is no regular file are left alone, and so are files that cannot be taken now: they are tried again.
    """

    def __init__(self, options: config.Watch, receiver: Receiver, metrics: Metrics) -> None:
        self._options, self._receiver, self._metrics = options, receiver, metrics
        self._seen: dict[Path, tuple[Identity, float]] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)

    def start(self) -> None:
        """Raises OSError where a folder cannot be had."""
        self._options.folder.mkdir(parents=True, exist_ok=True)
        self._options.poison.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """One look through the folder."""
        seen, now = self._seen, time.monotonic()
        self._seen = {}
        for path in self._files():
            if self._ending.is_set():
                return
            try:
                identity = Identity.of(path)
                before, since = seen.get(path, (None, now))
                since = since if before == identity else now
                if now - since < self._options.stable_seconds:
                    self._seen[path] = identity, since
                elif not self._taken(path, identity):
                    self._seen[path] = identity, now
            except OSError as error:
                LOG.warning("watch folder: %s", type(error).__name__)

    def _files(self) -> Iterator[Path]:
        for folder, folders, names in os.walk(self._options.folder):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path

    def _taken(self, path: Path, identity: Identity) -> bool:
        """Whether the file has left the folder."""
        try:
            self._receiver.copy(path, identity)
        except (UnsupportedInputError, ForgottenError) as error:
            self._put_aside(path)
            LOG.warning("watch folder: a file was put aside: %s", type(error).__name__)
            return True
        except MedzipError as error:
            LOG.warning("watch folder: a file has to wait: %s", type(error).__name__)
            return False
        path.unlink()
        self._metrics.add("watch_taken_total")
        return True

    def _put_aside(self, path: Path) -> None:
        """Moves a file to the poison folder, under a name that nothing has there."""
        target = self._options.poison / f"{secrets.token_hex(4)}-{path.name}"[:200]
        try:
            path.rename(target)
        except OSError:  # another disk
            target.write_bytes(path.read_bytes())
            sync_folder(target.parent)
            path.unlink()
        self._metrics.add("watch_poisoned_total")

    def _work(self) -> None:
        while not self._ending.wait(SECONDS_BETWEEN_LOOKS):
            try:
                self.look()
            except Exception as error:  # the thread must not end: a file that vanished, a folder that cannot be read now
                LOG.error("watch folder: %s", type(error).__name__)
