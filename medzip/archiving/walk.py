"""From a tree of files to the archives that are due: what is new, and what shares an archive with what.

Only headers are read, and only of files that are new by size, time and inode. Nothing that is committed is planned again.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medzip import sources
from medzip.archiving.audit import now
from medzip.archiving.ledger import OPEN, UNREAD, Identity, Ledger
from medzip.archiving.names import archive_name, shard_of
from medzip.archiving.store import Store
from medzip.errors import MedzipError, StorageError, UnsupportedInputError

ROWS_PER_TRANSACTION = 2000
Count = Callable[[int], None]


@dataclass
class Walked:
    """What a walk came across. `folders` are those that nothing lies in, `links` map symbolic links to their targets;
    `special` counts devices, sockets and pipes, `forgotten` files of series that `medzip forget` erased, `elsewhere` those of
    other shards, `failed` holds errors by path."""

    files: int = 0
    special: int = 0
    forgotten: int = 0
    elsewhere: int = 0
    folders: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    failed: dict[str, MedzipError] = field(default_factory=dict)


class Walk:
    """One walk over the tree at `root` into the ledger."""

    def __init__(self, root: Path, store: Store, ledger: Ledger, shard: tuple[int, int] = (1, 1)) -> None:
        self._shard = shard
        self.root, self.store, self.ledger = root, store, ledger
        self.result = Walked()
        self._forgotten = store.tombstones()
        self._run = ledger.number("SELECT max(run) FROM found") + 1

    def __call__(self, count: Count) -> Walked:
        """Notes all files that no archive holds yet; what was found before and is no longer there is dropped."""
        folders = self._folders()
        while batch := self._batch(folders):
            with self.ledger.transaction():
                for files in batch:
                    self._note(files)
            count(self.result.files)
        with self.ledger.transaction():
            self._drop()
        return self.result

    def _drop(self) -> None:
        """Forgets what was found before and is no longer there; what cannot be looked at now may be there."""
        if not self.result.failed:
            self.ledger.execute("DELETE FROM found WHERE run <> ?", self._run)
            return
        for (name,) in self.ledger.execute("SELECT path FROM found WHERE run <> ?", self._run).fetchall():
            try:
                self.root.joinpath(*name.split("/")).lstat()
            except (FileNotFoundError, NotADirectoryError):
                self.ledger.execute("DELETE FROM found WHERE path = ?", name)
            except OSError:
                continue

    def _batch(self, folders: Iterator[dict[str, Path]]) -> list[dict[str, Path]]:
        batch, files = [], 0
        for folder in folders:
            batch.append(folder)
            files += len(folder)
            if files >= ROWS_PER_TRANSACTION:
                break
        return batch

    def _folders(self) -> Iterator[dict[str, Path]]:
        """The regular files of each folder by name, in an order that does not depend on the file system."""

        def fail(error: OSError) -> None:
            self.result.failed[str(error.filename)] = StorageError(f"{error.filename}: {error.strerror}; check its permissions")

        for folder, subfolders, names in os.walk(self.root, onerror=fail):
            subfolders.sort()
            place = Path(folder)
            links = [name for name in (*subfolders, *names) if (place / name).is_symlink()]
            for name in links:
                self._link(place / name)
            if not subfolders and not names and place != self.root:
                self._entry(place, lambda path: self.result.folders.append(path))
            yield dict(self._regular(place, sorted(set(names) - set(links))))

    def _regular(self, folder: Path, names: list[str]) -> Iterator[tuple[str, Path]]:
        for name in names:
            path = folder / name
            try:
                regular = stat.S_ISREG(path.lstat().st_mode)
            except OSError as error:
                self.result.failed[str(path)] = StorageError(f"{path}: {error.strerror}; check its permissions")
                continue
            if not regular:
                self.result.special += 1
            elif relative := self._relative(path):
                yield relative, path

    def _link(self, path: Path) -> None:
        def keep(name: str) -> None:
            try:
                self.result.links[name] = sources.portable(os.fspath(path.readlink()))
            except OSError as error:
                self.result.failed[str(path)] = StorageError(f"{path}: {error.strerror}; run the command again")
            except MedzipError:
                self.result.failed[ascii(str(path))] = UnsupportedInputError(
                    f"{str(path)!a}: expected a link to a name in Unicode, found other bytes; make it anew"
                )

        self._entry(path, keep)

    def _entry(self, path: Path, keep: Callable[[str], None]) -> None:
        if name := self._relative(path):
            keep(name)

    def _relative(self, path: Path) -> str | None:
        """POSIX path below the root; None, and a failure, where it is no Unicode and no archive could hold it."""
        name = path.relative_to(self.root).as_posix()
        try:
            return sources.portable(name)
        except MedzipError as error:
            self.result.failed[ascii(str(path))] = error
            return None

    def _note(self, files: dict[str, Path]) -> None:
        """The files of one folder."""
        self.result.files += len(files)
        new: dict[str, Identity] = {}
        for name, path in files.items():
            try:
                identity = Identity.of(path)
                if not self._known(name, path, identity):
                    new[name] = identity
            except OSError as error:
                self.result.failed[str(path)] = StorageError(f"{path}: {error.strerror}; check its permissions")
        if not new:
            return
        members = {name: self._member(files[name], name) for name in new}
        readable = {name: path for name, path in files.items() if name not in members or members[name].kind != UNREAD}
        members |= {name: member for name, member in _paired(readable).items() if name in new}
        for name, identity in new.items():
            self._found(name, identity, members[name])

    def _known(self, name: str, path: Path, identity: Identity) -> bool:
        """Whether nothing is to be found out about a file: an archive holds it as it is, or it waits for its archive."""
        kept = self.ledger.kept(name)
        if kept:
            archive, sha256, before = kept
            same = before is not None and not identity.touched(before)
            if not same and (before is None or before.bytes == identity.bytes) and _sha256(path) == sha256:
                self.ledger.execute(
                    "UPDATE files SET mtime_ns = ?, inode = ?, ctime_ns = ? WHERE path = ? AND archive = ?",
                    *(identity.mtime_ns, identity.inode, identity.ctime_ns, name, archive),
                )
                # It was restored to where it had been removed: --rm is to look at it again.
                self.ledger.execute("UPDATE archives SET state = 'committed' WHERE id = ? AND state = 'removed'", archive)
                same = True
            if same:
                self.ledger.execute("DELETE FROM found WHERE path = ?", name)
                return True
        known = self.ledger.execute(
            "UPDATE found SET run = ? WHERE path = ? AND bytes = ? AND mtime_ns = ? AND inode = ? AND kind <> ?",
            *(self._run, name, identity.bytes, identity.mtime_ns, identity.inode, UNREAD),
        )
        return known.rowcount == 1

    @staticmethod
    def _member(path: Path, name: str) -> sources.Member:
        try:
            return sources.member(path, name)
        except Exception:  # whatever a hostile header brings about here, in a worker it costs its own file only
            return sources.Member(UNREAD, name, sources.STORED)

    def _found(self, name: str, identity: Identity, member: sources.Member) -> None:
        stem = self.store.digest(member.kind, member.key)
        if shard_of(stem, self._shard[1]) != self._shard[0]:
            self.result.elsewhere += 1
            return
        if stem in self._forgotten:
            self.result.forgotten += 1
            return
        self.ledger.execute(
            "INSERT OR REPLACE INTO found VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)",
            *(name, identity.bytes, identity.mtime_ns, identity.inode, identity.ctime_ns),
            *(member.kind, member.key, member.study, member.source, member.wrapped, self._run),
        )


def plan(store: Store, ledger: Ledger) -> None:
    """Gives every file that was found an archive that is not committed: one for each series, part after part.

    Archives that were planned and have no file left are given up, unless they lie here already.
    """
    with ledger.transaction():
        due = ledger.execute(
            "SELECT DISTINCT kind, key, study FROM found WHERE archive IS NULL ORDER BY kind, key, study"
        ).fetchall()
        for kind, key, study in due:
            archive = open_archive(store, ledger, kind, key, study)
            ledger.execute(
                "UPDATE found SET archive = ? WHERE archive IS NULL AND kind = ? AND key = ? AND study = ?",
                *(archive, kind, key, study),
            )
        for row in ledger.rows(f"{OPEN} AND NOT EXISTS (SELECT 1 FROM found WHERE found.archive = archives.id)"):
            if not store.holds(row.name):
                ledger.execute("DELETE FROM archives WHERE id = ?", row.id)


def open_archive(store: Store, ledger: Ledger, kind: str, key: str, study: str) -> int:
    """The archive of a series that still takes files; a new part where all are committed."""
    open_one = ledger.rows(f"kind = ? AND key = ? AND study = ? AND {OPEN}", kind, key, study)
    if open_one:
        return open_one[0].id
    part = ledger.number("SELECT max(part) FROM archives WHERE kind = ? AND key = ?", kind, key) + 1
    made = ledger.execute(
        "INSERT INTO archives (name, kind, key, study, part, state, discovered) VALUES (?, ?, ?, ?, ?, 'discovered', ?)",
        *(archive_name(store.digest(kind, key), part), kind, key, study, part, now()),
    )
    return int(made.lastrowid or 0)


def _paired(files: dict[str, Path]) -> dict[str, sources.Member]:
    try:
        return sources.paired(files)
    except Exception:  # one of them cannot be read, or worse: all of the folder are looked at one by one
        return {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
