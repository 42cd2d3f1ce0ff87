"""DST: archives in folders of two digits, and `_medzip/` with all that is no archive.

DST/3f/3f0c...mdz    DST/SHA256SUMS    DST/_medzip/{ledger.sqlite, audit.jsonl, site.key, FORMAT.md, weights/ ...}
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from medzip.archiving import names
from medzip.archiving.remote import Remote, checked
from medzip.container.sidecar import beside
from medzip.container.storage import AtomicFile, storage_error, sync_folder
from medzip.errors import StorageError, UsageError
from medzip.outputs import SUFFIX

PRIVATE = "_medzip"
KEY_BYTES = 32
URL = "url"
FETCHED = "fetched-"
BESIDE = re.compile(r"SHA256SUMS|_medzip/((weights|forgotten)/)?[0-9A-Za-z][0-9A-Za-z.-]*")
"""What `Store.mirror` sends besides archives."""
SHARD = re.compile(r"[0-9a-f]{2}")
TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.tmp")


@dataclass(frozen=True)
class Store:
    """A folder of archives (`root`) and the site key of its names; no bytes where the key is not here, and not needed. With a
    `url` the archives lie there, and are in the folder only while they are made."""

    root: Path
    key: bytes
    url: str | None = None

    @cached_property
    def remote(self) -> Remote | None:
        return Remote(self.url) if self.url else None

    @property
    def private(self) -> Path:
        return self.root / PRIVATE

    @property
    def ledger(self) -> Path:
        return self.private / "ledger.sqlite"

    @property
    def audit(self) -> Path:
        return self.private / "audit.jsonl"

    @property
    def sums(self) -> Path:
        return self.root / "SHA256SUMS"

    @property
    def weights(self) -> Path:
        return self.private / "weights"

    @property
    def forgotten(self) -> Path:
        return self.private / "forgotten"

    def archive(self, name: str) -> Path:
        """Where an archive lies in the folder."""
        return self.root.joinpath(*name.split("/"))

    def holds(self, name: str) -> bool:
        """Whether an archive lies in its place, or was made and is still to be sent there."""
        return self.archive(name).exists() or (self.remote is not None and self.remote.holds(name))

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """A file with an archive: the archive itself, or what was brought from the URL for the time of the block."""
        if self.remote is None:
            yield self.archive(name)
            return
        with TemporaryDirectory(prefix=FETCHED, dir=self.private) as folder:
            local = Path(folder, name.rpartition("/")[2])
            self.remote.fetch(name, local)
            yield local

    def remove(self, name: str) -> None:
        """An archive and its parity. Raises StorageError."""
        if self.remote is not None:
            self.remote.remove(name)
        try:
            beside(self.archive(name)).unlink(missing_ok=True)
            self.archive(name).unlink(missing_ok=True)
            if self.archive(name).parent.is_dir():
                sync_folder(self.archive(name).parent)
        except OSError as error:
            raise StorageError(f"{self.archive(name)}: {error.strerror}; it is not removed, run the command again") from error

    def mirror(self, *paths: Path) -> None:
        """Sends what lies beside the archives to where they lie, too."""
        for path in paths if self.remote is not None else ():
            assert self.remote is not None
            self.remote.replace(path, path.relative_to(self.root).as_posix())

    def digest(self, kind: str, identity: str) -> str:
        """What stands for a UID outside the archives. Raises UsageError where the key is not here."""
        if not self.key:
            raise UsageError(f"{self.private / 'site.key'}: expected the site key of the archives' names, found none")
        return names.digest(self.key, kind, identity)

    def tombstones(self) -> set[str]:
        """Digests of the series that were forgotten, and must not come back."""
        return {path.stem for path in self.forgotten.glob("*.json")}

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Nobody else writes archives or the ledger meanwhile; what killed processes left under temporary names is removed."""
        with locked(
            self.private / "lock.sqlite", 1.0, f"{self.root}: expected to work on it alone, found another medzip at work"
        ):
            self._sweep()
            yield

    def keep_shard(self, which: int, count: int) -> None:
        """Notes which shard of how many this folder is, when it begins. Raises UsageError where it is another."""
        place, text = self.private / "shard", f"{which}/{count}"
        known = place.read_text("ascii").strip() if place.exists() else "1/1" if self.ledger.exists() else text
        if known != text:
            raise UsageError(f"{self.root}: expected --shard {known}, found {text}; a shard keeps its folder")
        if not place.exists() and count > 1:
            write_file(place, text.encode() + b"\n")

    def archives(self) -> Iterator[str]:
        """Names of all archives that lie in their place, sorted."""
        if self.remote is not None:
            yield from self.remote.names()
            return
        for folder in sorted(self._shards()):
            yield from sorted(f"{folder.name}/{path.name}" for path in folder.glob("*" + SUFFIX) if path.name[0] != ".")

    def archives_of(self, stem: str) -> list[str]:
        """Names of the archives, all parts, of the series that a digest stands for."""
        here = {f"{stem[:2]}/{path.name}" for path in (self.root / stem[:2]).glob(f"{stem}*{SUFFIX}")}
        there = self.remote.names() if self.remote is not None else ()
        return sorted(here | {name for name in there if names.stem_of(name) == stem})

    def _shards(self) -> Iterator[Path]:
        return (Path(entry.path) for entry in os.scandir(self.root) if SHARD.fullmatch(entry.name) and entry.is_dir())

    def discard(self, name: str) -> None:
        """Removes what workers that died left of an archive."""
        path = self.archive(name)
        _remove_temporaries(path.parent, f".{path.name}.")

    def _sweep(self) -> None:
        for folder in (*self._shards(), self.root, self.private, self.weights, self.forgotten):
            _remove_temporaries(folder)
        for folder in self.private.glob(FETCHED + "*"):
            shutil.rmtree(folder, ignore_errors=True)


def _remove_temporaries(folder: Path, prefix: str = ".") -> None:
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(prefix) and TEMPORARY.fullmatch(entry.name):
                Path(entry.path).unlink(missing_ok=True)


def create(root: Path, key_file: Path | None, url: str | None = None) -> Store:
    """The store at `root`, made if need be; `url` is where its archives lie, unless that is known. Raises UsageError where its
    key or URL is another, or the key is missing."""
    private = root / PRIVATE
    try:
        private.mkdir(parents=True, exist_ok=True)
        for folder in (private / "weights", private / "forgotten"):
            folder.mkdir(exist_ok=True)
        sync_folder(root)
    except OSError as error:
        raise StorageError(f"{root}: {error.strerror}; expected a folder that medzip may write to") from error
    with locked(private / "key.lock", 60.0, f"{root}: expected to make its site key, found another medzip at it"):
        return replace(_with_key(root, key_file), url=_with_url(root, url))


def _with_url(root: Path, url: str | None) -> str | None:
    """The URL that a store was made with; it is kept when the store is made."""
    place, known = root / PRIVATE / URL, _url(root)
    if url is None or checked(url) == known:
        return known
    if known is not None or (root / PRIVATE / "ledger.sqlite").exists():
        raise UsageError(f"{root}: expected --remote to be where its archives lie, found another; see {place}")
    write_file(place, checked(url).encode() + b"\n")
    return checked(url)


def _url(root: Path) -> str | None:
    place = root / PRIVATE / URL
    return checked(place.read_text("utf-8").strip()) if place.exists() else None


def _with_key(root: Path, key_file: Path | None) -> Store:
    own, identity = root / PRIVATE / "site.key", root / PRIVATE / "key-id"
    try:
        if key_file is None and not own.exists() and not identity.exists():
            _write_key(own)
    except OSError as error:
        raise storage_error(own, "writing the site key", error) from error
    store = Store(root, _key(root, key_file))
    if not identity.exists():
        write_file(identity, _key_id(store.key))
    return store


def open_store(root: Path, key_file: Path | None = None) -> Store:
    """The store at `root`; its key may be missing unless its file is named. Raises UsageError where there is no store."""
    if not (root / PRIVATE).is_dir():
        raise UsageError(f"{root}: expected a folder that `medzip archive` wrote, found no {PRIVATE} in it; check the path")
    if key_file is None and not (root / PRIVATE / "site.key").exists():
        return Store(root, b"", _url(root))
    return Store(root, _key(root, key_file), _url(root))


def adopt(root: Path, url: str) -> None:
    """A folder for archives at a URL whose own folder is lost, with all that lies beside them there; the site key is not among
    it. Raises UsageError where a store of other archives is in the folder, StorageError."""
    private, remote = root / PRIVATE, Remote(checked(url))
    if private.exists() and _url(root) != checked(url):
        raise UsageError(f"{root}: expected a new folder, or that of the archives at --remote, found another store")
    try:
        for folder in (private / "weights", private / "forgotten"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{root}: {error.strerror}; expected a folder that medzip may write to") from error
    for name in filter(BESIDE.fullmatch, remote.everything()):
        if not root.joinpath(*name.split("/")).exists():
            remote.fetch(name, root.joinpath(*name.split("/")))
    write_file(private / URL, checked(url).encode() + b"\n")


def write_file(path: Path, data: bytes) -> None:
    """Replaces a small file as a whole, durably."""
    with AtomicFile(path, overwrite=True) as file:
        file.write(data)
        file.seal()
        file.publish()


@contextmanager
def locked(path: Path, patience: float, refusal: str) -> Iterator[None]:
    """A lock that ends with its process, however that ends: SQLite has one on every system.

    Raises StorageError after `patience` seconds.
    """
    try:
        connection = sqlite3.connect(path, timeout=patience, isolation_level=None)
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot be used as a lock ({error}); check its permissions") from error
    try:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise StorageError(f"{refusal}; wait for it, or end it") from error
            raise StorageError(f"{path}: cannot be used as a lock ({error}); check its permissions and the disk") from error
        yield
    finally:
        connection.close()


def _write_key(path: Path) -> None:
    """A new site key, readable by its owner alone from its first byte on."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_hex(KEY_BYTES).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def _key(root: Path, key_file: Path | None) -> bytes:
    path = root / PRIVATE / "site.key" if key_file is None else key_file
    try:
        key = bytes.fromhex(path.read_text("ascii").strip())
    except OSError as error:
        raise UsageError(f"{path}: expected the site key of {root}: {error.strerror}; name its file with --key-file") from error
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise UsageError(f"{path}: expected a site key of {KEY_BYTES} bytes or more in hexadecimal, found something else")
    identity = root / PRIVATE / "key-id"
    if identity.exists() and identity.read_bytes() != _key_id(key):
        raise UsageError(f"{path}: expected the site key that the archives in {root} are named with, found another")
    return key


def _key_id(key: bytes) -> bytes:
    return names.digest(key, "key", "id").encode() + b"\n"
