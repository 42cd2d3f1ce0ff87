"""An instance comes in, by whatever way: checked, spooled, synced and indexed, before anybody is told that it is here."""

from __future__ import annotations

import shutil
from pathlib import Path

from medzip.archiving.ledger import Identity, Ledger
from medzip.archiving.store import Store
from medzip.errors import MedzipError, StorageError, UnsupportedInputError
from medzip.gateway import headers
from medzip.gateway.headers import Header
from medzip.gateway.index import KEPT, Index
from medzip.gateway.metrics import Metrics
from medzip.gateway.spool import Spool


class ForgottenError(MedzipError):
    """The instance belongs to a series that was erased with `medzip forget`, and must not come back."""

    exit_code = 1


class OtherInstanceError(UnsupportedInputError):
    """The data set is another instance than its message announced."""


class Receiver:
    """All methods may be called from any thread."""

    def __init__(self, kept: Store, spool: Spool, index: Index, metrics: Metrics) -> None:
        self.store, self.spool, self._index, self._metrics = kept, spool, index, metrics

    def take(
        self, received: Path, *, sop_class: str | None = None, instance: str | None = None, study: str | None = None
    ) -> Header:
        """Takes a file in `spool.partial` over; when this returns, the instance survives a crash of the machine.

        Raises UnsupportedInputError for what is no DICOM instance, or another one than was announced, NoSpaceError,
        ForgottenError, StorageError; then the file is left.
        """
        self.spool.check_space()
        header = headers.read(received)
        announced = sop_class or header.sop_class, instance or header.instance, study or header.study
        if announced != (header.sop_class, header.instance, header.study):
            raise OtherInstanceError("expected the UIDs that were announced, found others in the data set")
        if (self.store.forgotten / f"{self.store.digest('series', header.series)}.json").exists():
            raise ForgottenError("expected an instance of a series that was not forgotten, found one that was")
        name = self.spool.name(header, received)
        size = received.stat().st_size
        if self._is_here(name):
            self._metrics.add("instances_again_total")
            received.unlink()
        else:
            self.spool.keep(received, name)
            self._index.add(header, name)
        self._metrics.add("instances_received_total")
        self._metrics.add("bytes_received_total", size)
        return header

    def copy(self, source: Path, identity: Identity) -> Header:
        """The same of a file that lies elsewhere, and stays there. Raises StorageError where it is another one than it was."""
        self.spool.check_space(identity.bytes)
        partial = self.spool.partial_path()
        try:
            shutil.copyfile(source, partial)
            if Identity.of(source) != identity or partial.stat().st_size != identity.bytes:
                raise StorageError("expected a file that does not change any more, found one that does")
            return self.take(partial)
        finally:
            partial.unlink(missing_ok=True)

    def _is_here(self, name: str) -> bool:
        """Whether the same data set lies in the spool, or in an archive that is not known to be damaged."""
        found = self._index.instances("path = ?", (name,))
        if not found:
            return False
        if self.spool.find(name) is not None:
            return True
        archive = found[0].archive
        if archive is None or not self.store.archive(archive).is_file():
            return False
        with Ledger(self.store.ledger) as ledger:
            return bool(ledger.rows(f"name = ? AND damage IS NULL AND {KEPT}", archive))
