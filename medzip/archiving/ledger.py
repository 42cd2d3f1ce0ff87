"""The ledger: what was found, what became of it, and which archive holds what. One SQLite file.

An archive goes discovered > encoded > verified > committed > removed (its sources, with --rm). Each step is a transaction of its
own, and means something that is already on the disk, so that a run can be killed between any two.

The journal is SQLite's rollback journal with synchronous=EXTRA, not WAL: after every transaction the ledger is one whole file
that can be copied, and readers need no shared memory. SQLite's locks do not work on network file systems; there the ledger may
break (archives do not, and `medzip index rebuild` makes it again).
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medzip.archiving.audit import now
from medzip.container.storage import sync_folder
from medzip.errors import ArchiveDamagedError, StorageError, StorageFullError, UsageError

VERSION = 2
PATIENCE_SECONDS = 300.0
UNREAD = "unread"  # the kind of files whose header could not be read
OPEN = "state IN ('discovered', 'encoded', 'verified')"
_SCHEMA = """
CREATE TABLE archives (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, key TEXT NOT NULL, study TEXT NOT NULL,
  part INTEGER NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, error TEXT, preset TEXT,
  original_bytes INTEGER, archive_bytes INTEGER, sha256 TEXT, weights TEXT,
  discovered TEXT, encoded TEXT, verified TEXT, committed TEXT, removed TEXT, proved TEXT, damage TEXT);
CREATE INDEX by_key ON archives (key, kind);
CREATE INDEX by_study ON archives (study);
CREATE INDEX by_state ON archives (state);
CREATE TABLE files (
  path TEXT NOT NULL, archive INTEGER NOT NULL REFERENCES archives (id) ON DELETE CASCADE, generation INTEGER NOT NULL,
  bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, mtime_ns INTEGER, inode INTEGER, ctime_ns INTEGER,
  PRIMARY KEY (path, archive)) WITHOUT ROWID;
CREATE INDEX by_archive ON files (archive);
CREATE TABLE found (
  path TEXT PRIMARY KEY, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  kind TEXT NOT NULL, key TEXT NOT NULL, study TEXT NOT NULL, source TEXT NOT NULL, wrapped INTEGER NOT NULL,
  archive INTEGER, run INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX found_by_archive ON found (archive);
CREATE TABLE entries (
  path TEXT NOT NULL, target TEXT, archive INTEGER NOT NULL REFERENCES archives (id) ON DELETE CASCADE,
  PRIMARY KEY (path, archive)) WITHOUT ROWID;
CREATE TABLE outbox (id TEXT PRIMARY KEY, event TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Identity:
    """What tells without reading it that a file is still the same: size in bytes, time of change in nanoseconds, inode.

    `ctime_ns`, which no program can set back, is not compared: links and permissions change it, too. Where it alone differs,
    `touched` tells that the file has to be read.
    """

    bytes: int
    mtime_ns: int
    inode: int
    ctime_ns: int = field(compare=False)

    @classmethod
    def of(cls, path: Path) -> Identity:
        stat = path.stat(follow_symlinks=False)
        most = (1 << 63) - 1  # SQLite's; inodes and times after the year 2262 are beyond
        return cls(stat.st_size, stat.st_mtime_ns & most, stat.st_ino & most, stat.st_ctime_ns & most)

    def touched(self, before: Identity) -> bool:
        """Whether anything differs from what was noted before."""
        return self != before or self.ctime_ns != before.ctime_ns


@dataclass(frozen=True)
class Row:
    """An archive as the ledger knows it."""

    id: int
    name: str
    kind: str
    key: str
    study: str
    part: int
    state: str
    attempts: int
    original_bytes: int
    archive_bytes: int
    sha256: str
    weights: tuple[str, ...]


@dataclass(frozen=True)
class KeptFile:
    """A file that an archive holds: POSIX path below the root of the tree, size in bytes, SHA-256 in hex."""

    path: str
    bytes: int
    sha256: str


class Ledger:
    """An open ledger; a context manager. Raises ArchiveDamagedError where the file is no ledger, StorageError where
    SQLite fails, UsageError where there is none."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UsageError(f"{path}: expected the ledger, found none; `medzip index rebuild` makes it from the archives")
        self.path = path
        self._connection = sqlite3.connect(path, timeout=PATIENCE_SECONDS, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        try:
            with failures(path):
                self._configure()
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def create(cls, path: Path) -> None:
        """An empty ledger, complete under its name or not there."""
        temporary = cls.temporary(path)
        cls.create_at(temporary)
        cls.publish(temporary, path)

    @staticmethod
    def temporary(path: Path) -> Path:
        """A name beside a ledger that is swept up after a killed process."""
        return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")

    @staticmethod
    def publish(temporary: Path, path: Path) -> None:
        """Puts a closed ledger in the place of another, whose journal must not be applied to it."""
        path.with_name(path.name + "-journal").unlink(missing_ok=True)
        temporary.replace(path)
        sync_folder(path.parent)

    @staticmethod
    def create_at(path: Path) -> None:
        """An empty ledger."""
        with failures(path):
            path.touch(0o600)  # it names patients' files
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
            finally:
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._connection.close()
        if isinstance(error, sqlite3.Error):  # raised while rows were read, past `execute`
            with failures(self.path):
                raise error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing of it, durable when it ends."""
        with failures(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has ended it
                    self._connection.execute("ROLLBACK")
                raise

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        with failures(self.path):
            return self._connection.execute(statement, values)

    def number(self, statement: str, *values: Any) -> int:
        """The first value of the first row, 0 for none."""
        row = self.execute(statement, *values).fetchone()
        return int(row[0] or 0) if row else 0

    def rows(self, where: str, *values: Any) -> list[Row]:
        """The archives that a condition holds for; the condition may end in an order."""
        return [_row(row) for row in self.execute(f"SELECT * FROM archives WHERE {where}", *values)]

    def files(self, archive: int) -> list[KeptFile]:
        found = self.execute("SELECT path, bytes, sha256 FROM files WHERE archive = ? ORDER BY path", archive)
        return [KeptFile(*row) for row in found]

    def kept(self, path: str) -> tuple[int, str, Identity | None] | None:
        """Of the newest version of a file: its archive, SHA-256, and its identity where that is known; None for a new file."""
        newest = "FROM files WHERE path = ? ORDER BY generation DESC LIMIT 1"
        row = self.execute(f"SELECT archive, sha256, bytes, mtime_ns, inode, ctime_ns {newest}", path).fetchone()
        if row is None:
            return None
        return row[0], row[1], None if row["mtime_ns"] is None else Identity(*row[2:])

    def set_state(self, archive: int, state: str) -> None:
        """A step forward, with its time."""
        if state not in ("encoded", "verified", "removed"):
            raise ValueError(state)
        with self.transaction():
            self.execute(f"UPDATE archives SET state = ?, {state} = ? WHERE id = ?", state, now(), archive)

    def begin(self, archive: int) -> None:
        """Counts an attempt before it is made, so that one that ends this process counts too."""
        with self.transaction():
            self.execute("UPDATE archives SET attempts = attempts + 1, state = 'discovered' WHERE id = ?", archive)

    def fail(self, archive: int, error: str) -> None:
        with self.transaction():
            self.execute("UPDATE archives SET error = ? WHERE id = ?", error, archive)

    def tell(self, record: dict[str, Any]) -> None:
        """Keeps an event for the audit trail; inside a transaction it is told if and only if that is."""
        self.execute("INSERT INTO outbox VALUES (?, ?)", record["id"], json.dumps(record))

    def untold(self) -> list[dict[str, Any]]:
        return [json.loads(row[0]) for row in self.execute("SELECT event FROM outbox ORDER BY rowid")]

    def told(self, record: dict[str, Any]) -> None:
        self.execute("DELETE FROM outbox WHERE id = ?", record["id"])

    def _configure(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise ArchiveDamagedError(
                f"{self.path}: expected a ledger of version {VERSION}, found {version}; install a newer medzip, or move it away"
                " and run `medzip index rebuild`"
            )
        for pragma in ("journal_mode = DELETE", "synchronous = EXTRA", "secure_delete = ON", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {pragma}")


@contextmanager
def failures(path: Path) -> Iterator[None]:
    """SQLite's errors as medzip's."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise StorageFullError(f"{path}: no space left on the device; free some and try again") from error
        raise StorageError(
            f"{path}: {error}; check that it is on a local disk with space, and that you may write to it"
        ) from error
    except sqlite3.DatabaseError as error:
        raise ArchiveDamagedError(
            f"{path}: expected a ledger, found a damaged one ({error}); move it away and run `medzip index rebuild`"
        ) from error


def event_id() -> str:
    return os.urandom(8).hex()


def _row(row: sqlite3.Row) -> Row:
    known = {name: row[name] for name in ("id", "name", "kind", "key", "study", "part", "state", "attempts")}
    known |= {"original_bytes": row["original_bytes"] or 0, "archive_bytes": row["archive_bytes"] or 0}
    return Row(**known, sha256=row["sha256"] or "", weights=tuple(json.loads(row["weights"] or "[]")))
