"""Where instances lie, synced, from before they are acknowledged until an archive is proved to hold them.

SPOOL/incoming/STUDY/SERIES/INSTANCE.DIGEST.dcm   of series that still may grow
SPOOL/closed/...                                  the tree that is archived
SPOOL/partial/                                    what is being received; nothing of it was acknowledged
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import threading
import time
from pathlib import Path

from medzip.container.storage import storage_error, sync_folder
from medzip.errors import MedzipError
from medzip.gateway.headers import Header, split

BLOCK = 1 << 20
DIGEST_DIGITS = 32
SUFFIX = ".dcm"


class NoSpaceError(MedzipError):
    """Keeping the instance would leave less free space than the configured margin."""

    exit_code = 6


class Spool:
    """All methods may be called from any thread. Raises StorageError where the system fails."""

    def __init__(self, root: Path, minimum_free_bytes: int) -> None:
        self.root, self._minimum_free = root, minimum_free_bytes
        self.incoming, self.closed, self.partial = (root / name for name in ("incoming", "closed", "partial"))
        self._lock = threading.Lock()
        self._grown: dict[str, float] = {}
        try:
            for folder in (root, self.incoming, self.closed, self.partial):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in self.partial.iterdir():
                left.unlink()
            sync_folder(root)
        except OSError as error:
            raise storage_error(root, "making the spool", error) from error
        for path in self.incoming.glob("*/*/*" + SUFFIX):
            self._grown[path.parent.relative_to(self.incoming).as_posix()] = time.monotonic()

    def check_space(self, coming: int = 0) -> None:
        """Raises NoSpaceError where `coming` bytes would leave less than the margin."""
        free = self.free_bytes()
        if free - coming < self._minimum_free:
            raise NoSpaceError(f"expected {self._minimum_free} bytes to stay free on the spool's disk, found {free}")

    def has_space(self) -> bool:
        """Whether the margin is free."""
        return self.free_bytes() >= self._minimum_free

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def name(self, header: Header, path: Path) -> str:
        """POSIX path of an instance in the tree: the same for the same data set, another for the same UID with another one."""
        return f"{header.study}/{header.series}/{header.instance}.{_digest(header, path)}{SUFFIX}"

    def partial_path(self) -> Path:
        """A name for a file that is being received."""
        return self.partial / secrets.token_hex(16)

    def keep(self, received: Path, name: str) -> None:
        """Moves a received file to its place; when this returns, it survives a crash of the machine."""
        target = self.incoming.joinpath(*name.split("/"))
        try:
            _sync(received)
            with self._lock:
                if not target.parent.is_dir():
                    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    sync_folder(self.incoming)
                    sync_folder(target.parent.parent)
                received.replace(target)
                sync_folder(target.parent)
                self._grown[name.rpartition("/")[0]] = time.monotonic()
        except OSError as error:
            raise storage_error(self.root, "keeping an instance", error) from error

    def find(self, name: str) -> Path | None:
        """Where an instance lies, None where it does not (any more)."""
        parts = name.split("/")
        places = (self.incoming.joinpath(*parts), self.closed.joinpath(*parts))
        with self._lock:
            return next((path for path in places if path.exists()), None)

    def names(self) -> list[str]:
        """All instances that lie here."""
        with self._lock:
            return [
                path.relative_to(folder).as_posix()
                for folder in (self.incoming, self.closed)
                for path in folder.glob("*/*/*" + SUFFIX)
            ]

    def close(self, quiet_seconds: float) -> int:
        """Moves the series that have not grown for so long into the tree that is archived, and counts them."""
        now = time.monotonic()
        with self._lock:
            due = [series for series, grown in self._grown.items() if now - grown >= quiet_seconds]
        for series in due:
            try:
                with self._lock:
                    if now - self._grown[series] >= quiet_seconds:
                        self._move(series)
            except OSError as error:
                raise storage_error(self.root, "closing a series", error) from error
        return len(due)

    def remove_empty_folders(self) -> None:
        """Empty folders of the closed tree: an archive would tell of them."""
        with self._lock:
            for folder in (*self.closed.glob("*/*"), *self.closed.glob("*")):
                _remove_if_empty(folder)

    def closed_names(self) -> list[str]:
        """Files that wait for an archive, or to be removed when it is proved."""
        return sorted(path.relative_to(self.closed).as_posix() for path in self.closed.rglob("*") if path.is_file())

    def _move(self, series: str) -> None:
        source, target = self.incoming / series, self.closed / series
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(self.closed)
        sync_folder(target.parent)
        for path in source.iterdir():
            path.replace(target / path.name)
        sync_folder(target)
        sync_folder(source)
        _remove_if_empty(source)
        _remove_if_empty(source.parent)
        del self._grown[series]


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(header: Header, path: Path) -> str:
    """Of transfer syntax and data set; who received it when, as file meta information tells, does not count."""
    found = hashlib.sha256(header.syntax.encode() + b"\0")
    with path.open("rb") as file:
        file.seek(split(file)[1])
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()[:DIGEST_DIGITS]
