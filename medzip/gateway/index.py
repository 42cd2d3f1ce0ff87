"""What the gateway can be asked for: patients, studies, series and instances, in SQLite beside the spool.

Everything in it can be read again from the spool and the archives, so a lost or damaged index is made again at the next start.
It holds names and UIDs: the file is its owner's alone.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medzip.archiving.ledger import Ledger, failures
from medzip.gateway.headers import IMAGE, PATIENT, SERIES, STUDY, Header

VERSION = 1
KEPT = "state IN ('committed', 'removed')"
_SCHEMA = """
CREATE TABLE studies (
  uid TEXT PRIMARY KEY, patient TEXT NOT NULL, date TEXT NOT NULL, accession TEXT NOT NULL, facts TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX by_patient ON studies (patient);
CREATE INDEX by_date ON studies (date);
CREATE INDEX by_accession ON studies (accession);
CREATE TABLE series (
  study TEXT NOT NULL, uid TEXT NOT NULL, modality TEXT NOT NULL, facts TEXT NOT NULL, PRIMARY KEY (study, uid)) WITHOUT ROWID;
CREATE INDEX series_by_uid ON series (uid);
CREATE TABLE instances (
  study TEXT NOT NULL, series TEXT NOT NULL, uid TEXT NOT NULL, class TEXT NOT NULL, syntax TEXT NOT NULL,
  path TEXT NOT NULL UNIQUE, archive TEXT, facts TEXT NOT NULL, PRIMARY KEY (study, series, uid)) WITHOUT ROWID;
CREATE INDEX by_uid ON instances (uid);
CREATE INDEX by_archive ON instances (archive);
CREATE TABLE seen (archive TEXT PRIMARY KEY) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Instance:
    """An instance and where it lies: `path` below the root of the tree, in the spool or, where `archive` is not None, there."""

    study: str
    series: str
    uid: str
    sop_class: str
    syntax: str
    path: str
    archive: str | None


class Index:
    """All methods may be called from any thread. Raises StorageError, ArchiveDamagedError where SQLite fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection = self._opened()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def add(self, header: Header, path: str) -> None:
        """An instance that lies in the spool; it takes the place of one with the same UIDs."""
        with self._changing():
            self._insert(header, path, None)

    def has(self, path: str) -> bool:
        return bool(self._rows("SELECT 1 FROM instances WHERE path = ?", path))

    def instances(self, where: str, values: Iterable[str]) -> list[Instance]:
        """Those that a condition on their columns holds for, in an order that does not change."""
        found = self._rows(
            f"SELECT study, series, uid, class, syntax, path, archive FROM instances WHERE {where}"
            " ORDER BY study, series, archive, path",
            *values,
        )
        return [Instance(*row) for row in found]

    def select(self, statement: str, values: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        """Rows of a statement that only reads."""
        yield from self._rows(statement, *values)

    def counts(self) -> tuple[int, int, int]:
        """Studies, series and instances."""
        studies, series, instances = (
            self._rows(f"SELECT count(*) FROM {name}")[0][0] for name in ("studies", "series", "instances")
        )
        return studies, series, instances

    def sync(self, ledger: Ledger, headers: Callable[[str, list[str]], Iterator[tuple[str, Header]]]) -> None:
        """Takes up what archives were committed and drops what was forgotten; `headers` reads those of paths of an archive."""
        kept = {row.name: row.id for row in ledger.rows(f"{KEPT} AND kind <> 'tree'")}
        seen = {name for (name,) in self._rows("SELECT archive FROM seen")}
        for name in seen - kept.keys():
            with self._changing():
                self._execute("DELETE FROM instances WHERE archive = ?", name)
                self._execute("DELETE FROM seen WHERE archive = ?", name)
                self._drop_empty()
        for name in sorted(kept.keys() - seen, key=lambda name: kept[name]):
            paths = [file.path for file in ledger.files(kept[name])]
            new = [path for path in paths if not self.has(path)]
            read = list(headers(name, new)) if new else []
            with self._changing():
                for path in paths:
                    self._execute("UPDATE instances SET archive = ? WHERE path = ?", name, path)
                for path, header in read:
                    self._insert_archived(header, path, name, kept)
                self._execute("INSERT INTO seen VALUES (?)", name)
        for one in self.instances("archive IS NULL", ()):  # those that were archived before, and came again
            found = ledger.kept(one.path)
            if found and (name := next((name for name, number in kept.items() if number == found[0]), None)):
                with self._changing():
                    self._execute("UPDATE instances SET archive = ? WHERE path = ?", name, one.path)

    def forget(self, paths: list[str]) -> None:
        """Drops instances that lie nowhere any more."""
        with self._changing():
            for path in paths:
                self._execute("DELETE FROM instances WHERE path = ?", path)
            self._drop_empty()

    def _insert_archived(self, header: Header, path: str, name: str, kept: dict[str, int]) -> None:
        """One of several versions of an instance: that of the newest archive stays, and one that lies in the spool."""
        there = self._execute(
            "SELECT archive FROM instances WHERE study = ? AND series = ? AND uid = ?",
            *(header.study, header.series, header.instance),
        ).fetchone()
        if there is None or (there[0] is not None and kept.get(there[0], 0) < kept[name]):
            self._insert(header, path, name)

    def _insert(self, header: Header, path: str, archive: str | None) -> None:
        def facts(keywords: tuple[str, ...]) -> str:
            return json.dumps({keyword: header.values[keyword] for keyword in keywords if header.values.get(keyword)})

        about = [header.values.get(keyword, "") for keyword in ("PatientID", "StudyDate", "AccessionNumber")]
        self._execute("INSERT OR REPLACE INTO studies VALUES (?, ?, ?, ?, ?)", header.study, *about, facts(PATIENT + STUDY))
        self._execute(
            "INSERT OR REPLACE INTO series VALUES (?, ?, ?, ?)",
            *(header.study, header.series, header.values.get("Modality", ""), facts(SERIES)),
        )
        self._execute(
            "INSERT OR REPLACE INTO instances VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(header.study, header.series, header.instance, header.sop_class, header.syntax, path, archive, facts(IMAGE)),
        )

    def _drop_empty(self) -> None:
        self._execute(
            "DELETE FROM series WHERE NOT EXISTS (SELECT 1 FROM instances WHERE study = series.study AND series = series.uid)"
        )
        self._execute("DELETE FROM studies WHERE NOT EXISTS (SELECT 1 FROM series WHERE study = studies.uid)")

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock, failures(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        with self._lock, failures(self.path):
            return self._connection.execute(statement, values).fetchall()

    def _opened(self) -> sqlite3.Connection:
        """The index; an empty one in the place of one that is damaged or of another version."""
        connection = self._connected()
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] == VERSION:
                connection.execute("SELECT count(*) FROM seen").fetchone()
                return connection
        except sqlite3.DatabaseError:
            pass
        connection.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        connection = self._connected()
        with failures(self.path):
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        return connection

    def _connected(self) -> sqlite3.Connection:
        with failures(self.path):
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA secure_delete = ON")
            except sqlite3.DatabaseError:
                pass  # a damaged one: `_opened` makes another
        return connection
