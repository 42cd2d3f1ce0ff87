"""The loops of the codecs of this folder, compiled where numba is there, else the same functions in plain Python.

Import this module, and those of the loops, only where they are used: numba is slow to import. Plain Python gets lists instead of
arrays, as Python's integers neither overflow nor have to be made first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medzip.exact.compiled import setup

COMPILED = setup.available()

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """The function as machine code, or as it is."""
    return setup.njit(function) if COMPILED else function


def loop_input(values: Any, dtype: str) -> Any:
    """Bytes or numbers for a loop, as a copy: a one-dimensional array, or what plain Python indexes fastest."""
    array = np.frombuffer(values, np.uint8) if isinstance(values, bytes) else np.asarray(values)
    return np.array(array.ravel(), dtype) if COMPILED else array.astype(dtype).ravel().tolist()


def loop_output(length: int, dtype: str) -> Any:
    """Room for `length` numbers that a loop writes before it reads them."""
    return np.empty(length, dtype) if COMPILED else [0] * length


def as_array(values: Any, dtype: str) -> NDArray[Any]:
    """What a loop wrote, as an array."""
    return np.asarray(values, dtype)
