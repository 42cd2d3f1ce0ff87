"""What a codec of encapsulated frames has to offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medzip.errors import ArchiveDamagedError

Samples = NDArray[np.generic]


class NotReproducibleError(Exception):
    """A stream that a codec cannot make again bit for bit; never seen outside: such a frame is kept as it is."""


@dataclass(frozen=True)
class Layout:
    """What the header of a file says of one frame: rows, columns, channels (1 or 3) and the word allocated, native byte order."""

    rows: int
    columns: int
    channels: int
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.columns, *((3,) if self.channels == 3 else ()))


class FrameCodec(Protocol):
    """An image codec whose encoder has no freedom but what a recipe says."""

    name: str

    def decode(self, stream: bytes, layout: Layout) -> tuple[Samples | None, bytes]:
        """The samples (rows, columns[, 3]) of a frame, and the recipe; None where the recipe says everything.

        Raises NotReproducibleError.
        """
        ...

    def encode(self, samples: Samples | None, recipe: bytes) -> bytes:
        """The stream again. Raises ArchiveDamagedError for a recipe that `decode` does not give with such samples."""
        ...


class RecipeWriter:
    """A recipe: numbers in LEB128 (seven bits a byte, lowest first, bit 7 set but in the last), and blocks with their length."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def number(self, value: int) -> None:
        while value > 0x7F:
            self._bytes.append(value & 0x7F | 0x80)
            value >>= 7
        self._bytes.append(value)

    def block(self, data: bytes) -> None:
        self.number(len(data))
        self._bytes += data

    def finish(self) -> bytes:
        return bytes(self._bytes)


class RecipeReader:
    """The same read back. Raises ArchiveDamagedError where a recipe ends early or late."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def number(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            if self._position >= len(self._data):
                break
            byte = self._data[self._position]
            self._position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise damaged("a number of at most 63 bits")

    def block(self) -> bytes:
        length = self.number()
        data = self._data[self._position : self._position + length]
        if len(data) != length:
            raise damaged("a block as long as it says")
        self._position += length
        return data

    def end(self) -> None:
        if self._position != len(self._data):
            raise damaged("nothing behind the last entry")


def damaged(expected: str) -> ArchiveDamagedError:
    """The error for a recipe that no encoder wrote for these samples."""
    return ArchiveDamagedError(
        f"recipe of an encapsulated frame: expected {expected}, found something else; restore it from a copy"
    )
