"""An audit trail: JSON lines, only ever appended, each with the SHA-256 of the line before.

Who changes or removes a line in the middle breaks the chain. Who cuts off its end does not: that shows only beside the head
(the SHA-256 of the last line) that somebody noted elsewhere.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import medzip
from medzip.archiving.store import locked
from medzip.container.storage import storage_error
from medzip.errors import StorageError, VerificationError

START = "0" * 64
BLOCK = 1 << 16


def event(action: str, **facts: Any) -> dict[str, Any]:
    """What happened, now, by whom and with which version; `facts` hold digests and counts, never a UID, a path or a name."""
    return {"time": now(), "who": _user(), "action": action, "medzip": medzip.__version__, **facts}


def now() -> str:
    """UTC, ISO 8601, in microseconds: times in text sort as times."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Checked:
    """A chain that was found whole: how many lines, and the SHA-256 of the last."""

    entries: int
    head: str


def append(path: Path, record: dict[str, Any]) -> str:
    """Adds one line, durably, and returns the new head. Raises StorageError.

    A last line without its end was never acknowledged (the machine stopped while it was written): it is cut off, and a line
    of its own says so.
    """
    with locked(path.with_suffix(".lock"), 60.0, f"{path}: expected to append to it, found it locked"):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                last, torn = _last_line(file.seek(0, os.SEEK_END), file)
                head = hashlib.sha256(last).hexdigest() if last else START
                records = [event("torn line cut off", sha256=hashlib.sha256(torn).hexdigest())] if torn else []
                file.seek(-len(torn), os.SEEK_END)
                file.truncate()
                for one in (*records, record):
                    line = json.dumps({"previous": head, **one}, sort_keys=True).encode()
                    file.write(line + b"\n")
                    head = hashlib.sha256(line).hexdigest()
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(path, "appending to the audit trail", error) from error
    return head


def holds(path: Path, identity: str) -> bool:
    """Whether a line with this `id` was written."""
    mark = json.dumps({"id": identity})[1:-1].encode()
    try:
        with path.open("rb") as file:
            return any(mark in line and line.endswith(b"\n") for line in file)
    except FileNotFoundError:
        return False


def verify(path: Path, expected: str | None = None) -> Checked:
    """Follows the chain. `expected` is a head that was noted before: it has to be in the chain.

    Raises VerificationError where a line was changed, removed or added in between, or the noted head is not there.
    """
    head, count, seen = START, 0, expected == START
    try:
        with path.open("rb") as file:
            for count, line in enumerate(file, 1):
                if not line.endswith(b"\n") or _previous(line) != head:
                    raise VerificationError(
                        f"{path}: line {count}: expected a whole line that names the SHA-256 of the one before, found another;"
                        " the trail was changed: compare it with a copy"
                    )
                head = hashlib.sha256(line[:-1]).hexdigest()
                seen = seen or head == expected
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; expected an audit trail") from error
    if expected is not None and not seen:
        raise VerificationError(
            f"{path}: expected to find the head {expected}, found {count} whole lines without it;"
            " the end was cut off or rewritten: compare it with a copy"
        )
    return Checked(count, head)


def _previous(line: bytes) -> str | None:
    try:
        record = json.loads(line)
        return str(record["previous"])
    except (ValueError, KeyError, TypeError):
        return None


def _last_line(size: int, file: Any) -> tuple[bytes, bytes]:
    """The last whole line, without its end, and what follows it."""
    length = min(BLOCK, size)
    while True:
        file.seek(size - length)
        lines = file.read(length).split(b"\n")
        if len(lines) > 2 or length == size:
            return (lines[-2] if len(lines) > 1 else b""), lines[-1]
        length = min(2 * length, size)


def _user() -> str:
    """The name of the account; `getpass.getuser` would believe the environment, which anybody sets."""
    try:
        import pwd
    except ImportError:  # Windows
        return getpass.getuser()
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        return f"uid {os.getuid()}"
