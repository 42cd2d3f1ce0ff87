"""SHA256SUMS: `sha256sum -c SHA256SUMS` proves all archives without medzip."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from medzip.archiving import toolkit
from medzip.archiving.jobs import sha256_of
from medzip.archiving.ledger import Ledger
from medzip.archiving.store import Store
from medzip.container.storage import AtomicFile, storage_error

LINE = re.compile(r"^([0-9a-f]{64})  ([^\n]+)\n", re.MULTILINE)


def line(digest: str, name: str) -> str:
    return f"{digest}  {name}\n"


def append(store: Store, digest: str, name: str) -> None:
    """Adds a line at once; `rewrite` puts all in order when a run begins and ends."""
    try:
        with store.sums.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - 1, 0))
            torn = file.read(1) not in (b"", b"\n")  # of a disk that was full
            file.write(b"\n" * torn + line(digest, name).encode())
    except OSError as error:
        raise storage_error(store.sums, "writing", error) from error


def rewrite(store: Store, ledger: Ledger) -> None:
    """The sums of all committed archives and of what lies beside them, sorted, in place of those before."""
    with AtomicFile(store.sums, overwrite=True) as file:
        for text in _lines(store, ledger):
            file.write(text.encode())
        file.seal()
        file.publish()


def read(store: Store) -> dict[str, str]:
    """SHA-256 of each file by its name, as far as the lines are whole."""
    try:
        text = store.sums.read_text("ascii", errors="replace")
    except FileNotFoundError:
        return {}
    return {name: digest for digest, name in LINE.findall(text)}


def _lines(store: Store, ledger: Ledger) -> Iterator[str]:
    for row in ledger.execute("SELECT sha256, name FROM archives WHERE state IN ('committed', 'removed') ORDER BY name"):
        yield line(row[0], row[1])
    for path in toolkit.files(store):
        yield line(sha256_of(path), path.relative_to(store.root).as_posix())
