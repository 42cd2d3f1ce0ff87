"""medzip as a codec of numcodecs, for arrays in Zarr format 2: found by its entry point under the name 'medzip'."""

from __future__ import annotations

from typing import Any

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_bytes, ndarray_copy

from medzip import array_bytes


class Medzip(Codec):  # type: ignore[misc]  # numcodecs has no types
    """Each chunk as `medzip.array_bytes.encode` makes it. It has to come first, without filters, to see the chunk's shape."""

    codec_id = "medzip"

    def __init__(self, preset: str = "default") -> None:
        self.preset = preset

    def encode(self, buf: Any) -> bytes:
        return array_bytes.encode(np.asarray(buf) if hasattr(buf, "dtype") else np.frombuffer(buf, np.uint8), self.preset)

    def decode(self, buf: Any, out: Any = None) -> Any:
        return ndarray_copy(array_bytes.decode(ensure_bytes(buf)), out)
