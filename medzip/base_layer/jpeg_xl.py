"""What both JPEG XL base layers need of imagecodecs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.errors import ArchiveDamagedError, UnsupportedInputError

# Effort 1 of libjxl 0.11 corrupts the heap on noisy images of 14 bits and more.
EFFORT = 7


def encode(layer: str, image: NDArray[Any], **options: Any) -> bytes:
    """A codestream of `image`, uint8 or uint16. Raises UnsupportedInputError where libjxl refuses it."""
    import imagecodecs

    try:
        return bytes(imagecodecs.jpegxl_encode(np.ascontiguousarray(image), effort=EFFORT, numthreads=1, **options))
    except Exception as error:
        raise UnsupportedInputError(
            f"base layer {layer}: libjxl refused an image {image.shape} of {image.dtype}; use another preset"
        ) from error


def decode(layer: str, payload: bytes, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """The image, which must have this shape and dtype. Raises ArchiveDamagedError."""
    import imagecodecs

    image = np.empty(shape, dtype)
    try:
        # Given an output, imagecodecs refuses a codestream of other size or depth instead of allocating for it.
        imagecodecs.jpegxl_decode(payload, numthreads=1, out=image)
    except Exception as error:
        raise damaged(layer, f"an image {shape} of {dtype}", "no such codestream") from error
    return image


def check_dtype(layer: str, dtype: np.dtype[Any]) -> None:
    """Raises UnsupportedInputError where samples are no integers of 8 or 16 bits."""
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        raise UnsupportedInputError(f"base layer {layer}: expected integers of 8 or 16 bits, found {dtype}; use another preset")


def damaged(layer: str, expected: str, found: str) -> ArchiveDamagedError:
    return ArchiveDamagedError(f"base layer {layer}: expected {expected}, found {found}; restore the archive from a copy")
