"""Files as archives need them: written whole or not at all, read at random places, every OSError a StorageError."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from medzip.container.checksum import crc32c
from medzip.errors import MedzipError, StorageError, StorageFullError, TruncatedArchiveError, UsageError
from medzip.optional import library

_BLOCK = 1 << 20
_REMOTE_BLOCK = 1 << 16


def storage_error(path: Path | str, doing: str, error: OSError) -> StorageError:
    """A StorageError that says what failed on `path`, and what to do where the disk is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(f"{path}: no space left on the device while {doing}; free some and try again")
    return StorageError(f"{path}: {error.strerror or error} while {doing}; check the path, its permissions and the device")


class AtomicFile:
    """Appears under its final name complete, or not at all.

    A context manager. Bytes go to `temporary`, a hidden file in the same folder, until `publish`; leaving the context
    before that removes it. Raises UsageError where the final name exists and `overwrite` is False, StorageError where
    the system fails.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path
        # 40 characters keep the temporary name within 255 bytes whatever the script.
        self.temporary = path.parent / f".{path.name[:40]}.{secrets.token_hex(4)}.tmp"
        self._overwrite = overwrite
        self._file: BinaryIO | None = None
        if not overwrite and os.path.lexists(path):
            raise self._exists()

    def __enter__(self) -> Self:
        try:
            self._file = self.temporary.open("xb")
        except OSError as error:
            raise storage_error(self.path, "creating a temporary file beside it", error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        # Closing flushes again, and fails again on a full disk.
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        with contextlib.suppress(OSError):
            self.temporary.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Appends `data`."""
        if self._file is None:
            raise ValueError("the file is not open")
        try:
            self._file.write(data)
        except OSError as error:
            raise storage_error(self.path, "writing", error) from error

    def seal(self) -> None:
        """Brings everything to the device and closes the temporary file, which can be read from now on."""
        if self._file is None:
            raise ValueError("the file is not open")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise storage_error(self.path, "writing", error) from error

    def publish(self) -> None:
        """Gives the sealed file its final name; a file that took that name meanwhile is kept unless `overwrite`."""
        try:
            if self._overwrite:
                self.temporary.replace(self.path)
            else:
                self._publish_new()
            sync_folder(self.path.parent)
        except FileExistsError as error:
            raise self._exists() from error
        except OSError as error:
            raise storage_error(self.path, "renaming the temporary file", error) from error

    def _publish_new(self) -> None:
        """A hard link never replaces; where the file system has none, an exclusive empty file reserves the name."""
        try:
            self.path.hardlink_to(self.temporary)
        except FileExistsError:
            raise
        except OSError:
            self.temporary.stat()  # raises where it was swept away: no name is reserved for nothing
            self.path.touch(exist_ok=False)
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink()

    def _exists(self) -> UsageError:
        return UsageError(f"{self.path}: expected no such file, found one; choose another name, or replace it with --overwrite")


def sync_folder(folder: Path) -> None:
    """Makes a rename durable; Windows cannot open folders, and some file systems cannot sync them."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _remote(url: str) -> BinaryIO:
    """A file at a URL that fsspec knows, read by ranges; of them, the last few blocks stay in memory."""
    fsspec = library("fsspec", "remote", url)
    filesystem, path = fsspec.url_to_fs(url)
    file: BinaryIO = filesystem.open(path, "rb", block_size=_REMOTE_BLOCK, cache_type="blockcache")
    return file


class RandomAccessFile:
    """Reads a file at any place, from any thread, and lays repaired bytes over damaged ones.

    `source` is a path, a URL for fsspec (a str), or a seekable binary file.
    """

    def __init__(self, source: Path | str | BinaryIO) -> None:
        self.name = str(source) if isinstance(source, Path | str) else str(getattr(source, "name", "archive"))
        self._owned = isinstance(source, Path | str)
        self._remote = isinstance(source, str)
        self._patches: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()
        with self._errors("opening"):
            self._file = self._opened(source)
            self.size = self._file.seek(0, os.SEEK_END)

    @staticmethod
    def _opened(source: Path | str | BinaryIO) -> BinaryIO:
        if isinstance(source, str):
            return _remote(source)
        return source.open("rb") if isinstance(source, Path) else source

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """What the system or, of a remote file, any library on the way raises as StorageError."""
        try:
            yield
        except MedzipError:
            raise
        except OSError as error:
            raise storage_error(self.name, doing, error) from error
        except Exception as error:  # each protocol behind fsspec has errors of its own
            if not self._remote:
                raise
            raise StorageError(f"{self.name}: {type(error).__name__} while {doing}; check the URL and the connection") from error

    def close(self) -> None:
        """Closes the file where this object opened it."""
        if self._owned:
            self._file.close()

    def patch(self, offset: int, data: bytes) -> None:
        """From now on, reads that begin and end inside `data` see it instead of the file."""
        self._patches.append((offset, data))

    def remove_patches(self) -> None:
        """From now on, reads see the file again."""
        self._patches.clear()

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes; the caller has compared `offset + length` with `size`.

        Raises TruncatedArchiveError where the file ends before them, StorageError where the system fails.
        """
        for start, data in self._patches:
            if start <= offset and offset + length <= start + len(data):
                return data[offset - start : offset - start + length]
        if offset + length > self.size:
            raise TruncatedArchiveError(
                f"{self.name}: expected {offset + length} bytes, found {self.size}; restore the archive from a copy"
            )
        with self._errors("reading"), self._lock:
            self._file.seek(offset)
            data = self._file.read(length)
        if len(data) != length:
            raise TruncatedArchiveError(f"{self.name}: the file became shorter while it was read; restore it from a copy")
        return data

    def crc(self, offset: int, length: int, value: int = 0) -> int:
        """CRC-32C of `length` bytes, continued from `value`, never holding more than a block."""
        for start in range(offset, offset + length, _BLOCK):
            value = crc32c(self.read(start, min(_BLOCK, offset + length - start)), value)
        return value
