"""Archives at a URL that fsspec knows, above all in an object store; ledger, audit trail and key stay on this machine.

An object appears under its name whole, and only where nothing has that name: s3 is asked to refuse otherwise (If-None-Match, RFC
9110, 13.1.2); elsewhere a file is sent under another name and renamed. What was sent is read back and compared before it counts.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medzip.container.storage import AtomicFile
from medzip.errors import MedzipError, StorageError, UsageError, VerificationError
from medzip.optional import library
from medzip.outputs import SUFFIX

CONDITIONAL = ("s3", "s3a")
ARCHIVE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}(-[0-9]+)?" + re.escape(SUFFIX))
BLOCK = 1 << 22


class Remote:
    """The place at a URL; names are those of archives, or of what lies beside them. All methods raise StorageError."""

    def __init__(self, url: str) -> None:
        self.url = url
        fsspec = library("fsspec", "remote", url)
        with self._errors("looked at"):
            self._system, base = fsspec.url_to_fs(url, use_listings_cache=False)
        self._base = str(base).rstrip("/")
        self._conditional = not {self._system.protocol, *self._system.protocol}.isdisjoint(CONDITIONAL)

    def everything(self) -> list[str]:
        """Names of all that lies there, sorted."""
        with self._errors("listed"):
            found = self._system.find(self._base)
        return sorted(str(path)[len(self._base) :].lstrip("/") for path in found)

    def names(self) -> list[str]:
        """All archives, sorted."""
        return [name for name in self.everything() if ARCHIVE.fullmatch(name)]

    def holds(self, name: str) -> bool:
        with self._errors("looked at"):
            return bool(self._system.exists(self._at(name)))

    def publish(self, local: Path, name: str, sha256: str) -> None:
        """Sends an archive; one that is there already has to be the same. Raises VerificationError where what can be read there
        is another."""
        sent = not self.holds(name)
        if sent:
            sent = self._sent(local, name)
        if self.digest(name) != sha256:
            if sent:
                self.remove(name)
            raise VerificationError(f"{self.url}: {name}: expected what was sent, read something else; run the command again")

    def replace(self, local: Path, name: str) -> None:
        """Sends what is no archive, in the place of what is there."""
        with self._errors("sent"):
            self._make_folder(name)
            self._system.put_file(str(local), self._at(name))

    def fetch(self, name: str, local: Path) -> None:
        """Brings an archive here, complete or not at all."""
        with AtomicFile(local, overwrite=True) as file:
            for block in self._blocks(name):
                file.write(block)
            file.seal()
            file.publish()

    def digest(self, name: str) -> str:
        """SHA-256 in hex of what can be read there."""
        digest = hashlib.sha256()
        for block in self._blocks(name):
            digest.update(block)
        return digest.hexdigest()

    def remove(self, name: str) -> None:
        if self.holds(name):
            with self._errors("removed"):
                self._system.rm_file(self._at(name))

    def _sent(self, local: Path, name: str) -> bool:
        """False where another was quicker."""
        with self._errors("sent"):
            if self._conditional:
                try:
                    self._system.put_file(str(local), self._at(name), mode="create")
                except FileExistsError:
                    return False
                return True
            self._make_folder(name)
            temporary = self._at(f"{name}.{secrets.token_hex(4)}.tmp")
            try:
                self._system.put_file(str(local), temporary)
                if self._system.exists(self._at(name)):
                    return False
                self._system.mv(temporary, self._at(name))
            finally:
                if self._system.exists(temporary):
                    self._system.rm_file(temporary)
        return True

    def _make_folder(self, name: str) -> None:
        if not self._conditional:  # where there are no folders, this would make a bucket
            self._system.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)

    def _blocks(self, name: str) -> Iterator[bytes]:
        with self._errors("read"), self._system.open(self._at(name), "rb", cache_type="none") as file:
            while block := file.read(BLOCK):
                yield block

    def _at(self, name: str) -> str:
        return f"{self._base}/{name}"

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Each protocol behind fsspec has errors of its own."""
        try:
            yield
        except (MedzipError, GeneratorExit):
            raise
        except Exception as error:
            reason = type(error).__name__
            raise StorageError(f"{self.url}: could not be {doing} ({reason}); check the URL, rights and connection") from error


def checked(url: str) -> str:
    """A URL as it is kept. Raises UsageError for what is none, or has a password in it."""
    protocol, mark, rest = url.partition("://")
    if not (protocol and mark and rest.strip("/")) or "@" in rest.partition("/")[0] or any(ord(c) < 33 for c in url):
        raise UsageError("--remote: expected a URL like s3://bucket/archive without a password, found something else")
    return url.rstrip("/")


def of(url: str | None) -> Remote | None:
    return Remote(url) if url else None
