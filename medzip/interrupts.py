"""Ctrl-C that is not lost: Python drops an exception that is raised inside a callback, such as numba's when it loads code."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_seen = False


def remember() -> None:
    """From now on an interrupt from the keyboard raises KeyboardInterrupt at once, and again at every `check`."""
    global _seen
    _seen = False
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _tell


def check() -> None:
    """Long work calls this every now and then, in any thread. Raises KeyboardInterrupt after an interrupt."""
    if _seen:
        raise KeyboardInterrupt


def _tell(dropped: UnraisableHookArgs) -> None:
    """Python's own way, but for interrupts, which `check` will raise again."""
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    global _seen
    _seen = True
    raise KeyboardInterrupt
