"""Base layers to train and to compare with: those that archives may have, at any quality, and baseline JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medzip.base_layer import BaseLayer, base_layer
from medzip.base_layer.contract import Integers
from medzip.base_layer.jxl_lossy import JxlLossy
from medzip.errors import UsageError


@dataclass(frozen=True)
class Jpeg:
    """Baseline JPEG (ITU-T T.81) of each slice by itself, 8 bits: wider samples lose their low bits first.

    No archive holds one: encoders of libjpeg's kind differ from version to version. `quality` is libjpeg's.
    """

    quality: int = 50

    name = "jpeg"
    portable = False

    def encode(self, stack: Integers) -> tuple[bytes, Integers]:
        """Codes a stack (3, rows, columns); gives all slices' bytes together, and what a decoder sees."""
        import imagecodecs

        values = stack.astype(np.int64)
        low = int(values.min())
        shift = max(int(values.max() - low).bit_length() - 8, 0)
        codes = [imagecodecs.jpeg8_encode(image, level=self.quality) for image in ((values - low) >> shift).astype(np.uint8)]
        seen = np.stack([imagecodecs.jpeg8_decode(code) for code in codes]).astype(np.int64)
        centred = (seen << shift) + low + ((1 << shift) >> 1)
        limits = np.iinfo(stack.dtype)
        return b"".join(codes), np.clip(centred, limits.min, limits.max).astype(stack.dtype)

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Integers:  # noqa: ARG002, the contract's
        """No archive needs it. Raises UsageError."""
        raise UsageError("base layer jpeg: expected a base layer that archives may have, found one to compare with")


def named(settings: dict[str, Any] | None) -> BaseLayer:
    """The base layer of a configuration: `{layer: jxl_lossy, quality: 68}`, the default, or another of jpeg, jxl_decimated, none.

    Raises UsageError, UnsupportedArchiveError for others.
    """
    settings = settings or {"layer": "jxl_lossy"}
    layer, quality = settings.get("layer"), settings.get("quality")
    if layer == "jxl_lossy":
        return JxlLossy() if quality is None else JxlLossy(quality)
    if layer == "jpeg":
        return Jpeg() if quality is None else Jpeg(quality)
    if quality is not None or not isinstance(layer, str):
        raise UsageError(f"base: expected a layer, and a quality for jxl_lossy and jpeg only, found {settings}")
    return base_layer(layer)
