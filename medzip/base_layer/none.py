"""No base layer: nothing is stored, and zeros are seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from medzip.base_layer.contract import Integers
from medzip.errors import ArchiveDamagedError


class NoBaseLayer:
    """For models that need no base, and for comparison."""

    name = "none"
    portable = True

    def encode(self, stack: Integers) -> tuple[bytes, Integers]:
        """An empty payload, and zeros."""
        return b"", np.zeros_like(stack)

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Integers:
        """Zeros. Raises ArchiveDamagedError where there is a payload."""
        if payload:
            raise ArchiveDamagedError(
                f"base layer none: expected no bytes, found {len(payload)}; restore the archive from a copy"
            )
        return np.zeros(shape, dtype)
