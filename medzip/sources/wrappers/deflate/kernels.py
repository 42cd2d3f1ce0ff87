"""How the loops of this package are compiled, and their memory: numba and numpy, or plain Python and lists, the same bytes.

A kernel works on integers that fit 64 bits, takes arrays or lists alike, and neither makes nor slices one.
`0 + byte` stands where a byte is shifted: numba shifts unsigned numbers as unsigned ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from medzip.exact.compiled import setup

_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(function: _Function) -> _Function:
    """Compiles a loop where numba is there and allowed; elsewhere it runs as it is."""
    return setup.njit(function, allocates=False) if setup.available() else function


def integers(count: int, fill: int = 0, dtype: Any = np.int64) -> Any:
    """`count` integers to be changed by kernels."""
    return np.full(count, fill, dtype) if setup.available() else [fill] * count


def octets(data: bytes | bytearray | memoryview) -> Any:
    """Bytes to be read by kernels, not copied."""
    view = memoryview(data).toreadonly()
    return np.frombuffer(view, np.uint8) if setup.available() else view


def buffer(data: bytes | int) -> Any:
    """Bytes to be changed by kernels: so many zeros, or a copy of `data`."""
    made = bytearray(data)
    return np.frombuffer(made, np.uint8) if setup.available() else made
