"""Storage Commitment Push Model (PS3.4 annex J): requests outlive the gateway, and are answered when archives are proved."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom import AE, build_role, evt
from pynetdicom.events import EventHandlerType

from medzip.archiving.ledger import Ledger, failures
from medzip.archiving.store import Store
from medzip.errors import MedzipError
from medzip.gateway import config
from medzip.gateway.headers import UID
from medzip.gateway.index import KEPT, Index
from medzip.gateway.metrics import Metrics
from medzip.gateway.spool import Spool

LOG = logging.getLogger("medzip.gateway")
PUSH_MODEL, WELL_KNOWN = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
SUCCESS, INVALID_ARGUMENT, NO_SUCH_ACTION, NOT_AUTHORIZED = 0x0000, 0x0115, 0x0123, 0x0124
FAILED, NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0110, 0x0112, 0x0119
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BEFORE_RETRY, MOST_SECONDS_BEFORE_RETRY = 5.0, 3600.0
SECONDS_TO_LIVE = 7 * 86_400.0
"""After this a request is answered as it stands, or given up where nobody takes the answer."""
MOST_REFERENCES = 100_000
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS requests (id INTEGER PRIMARY KEY, peer TEXT NOT NULL, uid TEXT NOT NULL, wanted TEXT NOT NULL,"
    " asked REAL NOT NULL, attempts INTEGER NOT NULL, due REAL NOT NULL, UNIQUE (peer, uid))"
)


class Commitments:
    """A thread that answers, and the handler of requests for `dimse.Listener`. `entity` makes an AE to call peers with."""

    def __init__(
        self, options: config.Dicom, kept: Store, spool: Spool, index: Index, metrics: Metrics, entity: Callable[[], AE]
    ) -> None:
        self._options, self._store, self._spool, self._index = options, kept, spool, index
        self._metrics, self._entity = metrics, entity
        self._path = spool.root / "commitments.sqlite"
        self._lock = threading.Lock()
        self._connection = self._opened(self._path)
        self.contexts = [PUSH_MODEL]
        self.handlers: list[EventHandlerType] = [(evt.EVT_N_ACTION, self._asked)]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="commitment", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._connection.close()

    def waiting(self) -> int:
        return int(self._rows("SELECT count(*) FROM requests")[0][0])

    def _asked(self, event: evt.Event) -> tuple[int, None]:
        """N-ACTION: the request is on the disk before it is answered."""
        title = str(event.assoc.requestor.ae_title).strip()
        peer = self._options.peer(title)
        if peer is None or peer.host is None:
            LOG.warning("refused a storage commitment: nobody to send its result to is configured")
            return NOT_AUTHORIZED, None
        if event.action_type != 1:
            return NO_SUCH_ACTION, None
        try:
            asked = event.action_information
            uid = str(asked.TransactionUID)
            wanted = [(str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID)) for one in asked.ReferencedSOPSequence]
        except Exception:  # pydicom raises whatever the information makes it run into
            return INVALID_ARGUMENT, None
        if not (all(map(UID.fullmatch, [uid, *(one for pair in wanted for one in pair)])) and 0 < len(wanted) <= MOST_REFERENCES):
            return INVALID_ARGUMENT, None
        now = time.time()
        self._rows(
            "INSERT OR REPLACE INTO requests (peer, uid, wanted, asked, attempts, due) VALUES (?, ?, ?, ?, 0, ?)",
            *(title, uid, json.dumps(wanted), now, now),
        )
        return SUCCESS, None

    def look(self) -> None:
        """Answers the requests that can be answered now. Raises MedzipError."""
        for number, title, uid, text, asked, attempts in self._rows(
            "SELECT id, peer, uid, wanted, asked, attempts FROM requests WHERE due <= ? ORDER BY id", time.time()
        ):
            if self._ending.is_set():
                return
            late = time.time() - asked > SECONDS_TO_LIVE
            reasons = self._reasons([tuple(pair) for pair in json.loads(text)])
            if any(reason is None for reason in reasons.values()) and not late:
                self._rows("UPDATE requests SET due = ? WHERE id = ?", time.time() + SECONDS_BETWEEN_LOOKS, number)
                continue
            if self._delivered(title, uid, {pair: FAILED if reason is None else reason for pair, reason in reasons.items()}):
                self._metrics.add("commitments_total")
                self._rows("DELETE FROM requests WHERE id = ?", number)
            elif late:
                LOG.error("gave up a storage commitment result after %d attempts", attempts + 1)
                self._rows("DELETE FROM requests WHERE id = ?", number)
            else:
                pause = min(SECONDS_BEFORE_RETRY * 2 ** min(attempts, 20), MOST_SECONDS_BEFORE_RETRY)
                self._rows("UPDATE requests SET attempts = ?, due = ? WHERE id = ?", attempts + 1, time.time() + pause, number)

    def _reasons(self, wanted: list[tuple[str, ...]]) -> dict[tuple[str, ...], int | None]:
        """Of each (class, instance): 0 where it is committed, why it is not, or None where that has to be waited for."""
        with Ledger(self._store.ledger) as ledger:
            good = {row.name for row in ledger.rows(f"{KEPT} AND damage IS NULL")}
        return {pair: self._reason(pair, good) for pair in wanted}

    def _reason(self, pair: tuple[str, ...], good: set[str]) -> int | None:
        found = self._index.instances("uid = ?", (pair[1],))
        if not found:
            return NO_SUCH_INSTANCE
        fitting = [one for one in found if one.sop_class == pair[0]]
        if not fitting:
            return CLASS_CONFLICT
        # It leaves the spool only when a process that never encoded anything has decoded its archive.
        if any(one.archive is None or self._spool.find(one.path) for one in fitting):
            return None
        there = all(one.archive in good and self._store.archive(str(one.archive)).is_file() for one in fitting)
        return SUCCESS if there else FAILED

    def _delivered(self, title: str, uid: str, reasons: dict[tuple[str, ...], int]) -> bool:
        """Whether the peer has acknowledged the N-EVENT-REPORT."""
        peer = self._options.peer(title)
        if peer is None or peer.host is None or peer.port is None:
            return False
        tls = (self._options.tls.client(), peer.host) if peer.tls and self._options.tls else None
        entity = self._entity()
        entity.add_requested_context(PUSH_MODEL)
        roles = [build_role(PUSH_MODEL, scp_role=True)]
        association = entity.associate(peer.host, peer.port, ae_title=title, ext_neg=roles, tls_args=tls)  # type: ignore[arg-type]  # a list of one kind
        if not association.is_established:
            return False
        try:
            failed = any(reasons.values())
            status, _ = association.send_n_event_report(self._report(uid, reasons), 2 if failed else 1, PUSH_MODEL, WELL_KNOWN)
            return bool(status.get("Status") == SUCCESS)
        except (ValueError, RuntimeError):
            return False
        finally:
            association.release()

    def _report(self, uid: str, reasons: dict[tuple[str, ...], int]) -> Dataset:
        report = Dataset()
        report.TransactionUID, report.RetrieveAETitle = uid, self._options.ae_title
        good: list[Dataset] = []
        failed: list[Dataset] = []
        for (sop_class, instance), reason in reasons.items():
            one = Dataset()
            one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = sop_class, instance
            if reason:
                one.FailureReason = reason
            (failed if reason else good).append(one)
        if good:
            report.ReferencedSOPSequence = Sequence(good)
        if failed:
            report.FailedSOPSequence = Sequence(failed)
        return report

    def _work(self) -> None:
        while not self._ending.wait(SECONDS_BETWEEN_LOOKS):
            try:
                self.look()
            except (MedzipError, OSError) as error:
                LOG.error("storage commitment: %s", type(error).__name__)
            except Exception as error:  # the thread must not end: requests wait for it
                LOG.error("storage commitment: unexpected %s", type(error).__name__)

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        with self._lock, failures(self._path):
            return self._connection.execute(statement, values).fetchall()

    @staticmethod
    def _opened(path: Path) -> sqlite3.Connection:
        with failures(path):
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute(_SCHEMA)
        return connection
