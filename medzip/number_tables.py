"""Tables of 32-bit numbers in chunk headers: a Zstandard frame of four planes of bytes, the lowest byte of every number first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def packed(numbers: NDArray[np.generic]) -> bytes:
    """Numbers (n,) of 4 bytes, little endian."""
    import zstandard

    return zstandard.ZstdCompressor(level=19).compress(numbers.view(np.uint8).reshape(-1, 4).T.tobytes())


def unpacked(data: bytes, most: int) -> bytes | None:
    """The numbers that `packed` took, as bytes; None for what is no such table of at most `most` numbers."""
    import zstandard

    try:
        if zstandard.get_frame_parameters(data).content_size > 4 * most:
            return None
        planes = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError:
        return None
    return None if len(planes) % 4 else np.frombuffer(planes, np.uint8).reshape(4, -1).T.tobytes()
