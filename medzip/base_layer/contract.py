"""What every base layer can do."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]


class BaseLayer(Protocol):
    """A coarse version of a stack, coded before the residuals.

    `encode` takes a stack (3, rows, columns), integers of 8 or 16 bits, and returns the payload and what a decoder will see,
    same shape and dtype; it raises UnsupportedInputError for other dtypes. `decode` gives that again, and raises
    ArchiveDamagedError where the payload does not hold it. `portable` tells whether every machine sees the same.
    """

    @property
    def name(self) -> str: ...

    @property
    def portable(self) -> bool: ...

    def encode(self, stack: Integers) -> tuple[bytes, Integers]: ...

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Integers: ...
