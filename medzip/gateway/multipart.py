"""multipart/related bodies (RFC 2046, RFC 2387) as they come, each part into a file: no part has to fit into memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import BinaryIO

HEADER_LIMIT = 1 << 13
BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{1,70}", re.ASCII)


class BrokenBodyError(ValueError):
    """The body breaks the rules of multipart/related, or ends before its end."""


@dataclass
class Part:
    """A part that has come: its content type in lower case without parameters, and where its bytes lie."""

    content_type: str
    path: Path


def parameters(value: str) -> tuple[str, dict[str, str]]:
    """A header's value and its parameters, in lower case but for the parameters' values."""
    message = Message()
    message["content-type"] = value
    found = message.get_params(failobj=[("", "")])
    return found[0][0].lower(), {name.lower(): text for name, text in found[1:]}


class Parts:
    """Takes a body in pieces; `parts` are those that are complete. `place` names a file for each."""

    def __init__(self, boundary: str, place: Callable[[], Path]) -> None:
        if not BOUNDARY.fullmatch(boundary):
            raise BrokenBodyError("expected a boundary as RFC 2046 has it, found another")
        self._delimiter = b"\r\n--" + boundary.encode()
        self._place = place
        self._left = b"\r\n"
        self._file: BinaryIO | None = None
        self._begun = False
        self._ended = False
        self.parts: list[Part] = []

    def feed(self, data: bytes) -> None:
        """Raises BrokenBodyError, OSError."""
        self._left += data
        while not self._ended and self._step():
            pass

    def end(self) -> None:
        """Raises BrokenBodyError where the last delimiter has not come."""
        if not self._ended:
            raise BrokenBodyError("expected the last delimiter of the body, found its end before that")

    def close(self) -> None:
        """Removes all files that are still there."""
        if self._file:
            self._file.close()
        for part in self.parts:
            part.path.unlink(missing_ok=True)

    def _step(self) -> bool:
        """Whether something was used up that what follows can be looked at."""
        found = self._left.find(self._delimiter)
        if found < 0:
            keep = len(self._delimiter) - 1
            self._take(self._left[:-keep])
            self._left = self._left[-keep:]
            return False
        after = found + len(self._delimiter)
        head, line, _ = self._left[after : after + HEADER_LIMIT].partition(b"\r\n\r\n")
        if self._left[after : after + 2] == b"--":
            self._take(self._left[:found])
            self._finish()
            self._ended = True
            return False
        if not line:
            if len(self._left) - after >= HEADER_LIMIT:
                raise BrokenBodyError("expected a part with a header, found none")
            self._take(self._left[:found])
            self._left = self._left[found:]
            return False
        self._take(self._left[:found])
        self._finish()
        self._begin(head)
        self._left = self._left[after + len(head) + 4 :]
        return True

    def _begin(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(":", 1) for line in lines if ":" in line)
        content_type = parameters(fields.get("content-type", "").strip())[0]
        path = self._place()
        self.parts.append(Part(content_type, path))
        self._file = path.open("xb")

    def _take(self, data: bytes) -> None:
        if self._file:
            self._file.write(data)

    def _finish(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
