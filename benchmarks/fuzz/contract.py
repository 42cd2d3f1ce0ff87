"""What a target of the fuzzer is."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol


class Target(Protocol):
    """`seeds` are valid inputs. `mutated` makes an input; `run` gives whether it was taken.

    `run` raises MedzipError where the input was refused, as it may be, and anything else where a promise was broken.
    """

    @property
    def seeds(self) -> Sequence[bytes]: ...

    def mutated(self, random: Random) -> bytes: ...

    def run(self, data: bytes) -> bool: ...


class BrokenPromiseError(AssertionError):
    """What was taken did not come back."""
