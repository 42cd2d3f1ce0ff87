"""Libraries that medzip uses where they are installed, and needs for nothing that it promises."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from medzip.errors import LibraryMissingError


def library(name: str, extra: str, purpose: str) -> Any:
    """The module `name`, of the extra `extra`; raises LibraryMissingError, which says what it is for and how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise LibraryMissingError(
            f"{purpose}: expected the library {name}, found it missing; install it with pip install 'medzip[{extra}]'"
        ) from error
