"""What every kind of chunk can do, and the one error they share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medzip.errors import ArchiveDamagedError


class ChunkKind(Protocol):
    """A lossless codec for a chunk's samples, beside the entropy model.

    `encode` takes samples (planes, rows, columns) of a dtype that it accepts, native byte order; `decode` gives them back, bit
    for bit, and allocates no more than shape and dtype ask for. It raises ArchiveDamagedError where the payload holds
    anything else.
    """

    @property
    def name(self) -> str: ...

    def accepts(self, dtype: np.dtype[Any]) -> bool: ...

    def encode(self, samples: NDArray[Any]) -> bytes: ...

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]: ...


def damaged(kind: str, shape: tuple[int, ...], dtype: np.dtype[Any], found: str) -> ArchiveDamagedError:
    """The error for a payload that does not hold what the chunk's header says."""
    return ArchiveDamagedError(
        f"chunk of kind {kind}: expected {dtype} samples {shape}, found {found}; restore the archive from a copy"
    )
