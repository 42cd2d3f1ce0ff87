"""What a file format has to offer to be a source, and what all formats share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from medzip.errors import UnsupportedInputError
from medzip.volume import FileSkeleton, Literal, Segment, Skeleton, Volume

HEAD_BYTES = 4096


class Source(Protocol):
    """A file format. `detect` and `archive_name` read headers only; `split` gets whole files, each read once."""

    name: str

    def detect(self, head: bytes) -> bool:
        """Whether a file claims to be of this format, by its first HEAD_BYTES bytes; a bad claim is found out later."""
        ...

    def archive_name(self, file: BinaryIO, size: int, name: str) -> str | None:
        """The archive that a file of a folder belongs to, named alike for files that share one.

        None where the file is valid but holds nothing that this format codes better than any other file.
        Raises UnsupportedInputError where the file breaks the rules of its format. `size` is the file's length in bytes.
        """
        ...

    def split(self, files: Iterable[tuple[str, bytes]]) -> tuple[Skeleton, list[Volume]]:
        """Takes files, given as (name stored in the archive, content), apart; `medzip.volume.join` is the inverse.

        Samples of the volumes may be read-only views. Raises UnsupportedInputError as `archive_name` does.
        """
        ...


KEEP_WHOLE = "--store, or compressing the folder it lies in, keeps it whole, byte for byte"


def broken(name: str, expected: str, found: str) -> UnsupportedInputError:
    """The error for a file that breaks the rules of its format."""
    return UnsupportedInputError(f"{name}: expected {expected}, found {found}; {KEEP_WHOLE}")


def volume_shape(axes: Sequence[int]) -> tuple[int, int, int]:
    """(slices, rows, columns) for an array whose axes are given from the slowest to the fastest.

    Fastest axes of length one are dropped first, so that columns and rows are axes along which the image extends.
    """
    lengths = list(axes)
    while len(lengths) > 1 and lengths[-1] == 1:
        lengths.pop()
    lengths = [1] * (3 - len(lengths)) + lengths
    return prod(lengths[:-2]), lengths[-2], lengths[-1]


def native(samples: NDArray[np.generic]) -> NDArray[np.generic]:
    """The same samples, aligned and in this machine's byte order; bytes are swapped, never converted, so NaNs stay."""
    if not samples.dtype.isnative:
        samples = samples.byteswap().view(samples.dtype.newbyteorder("="))
    return np.require(samples, requirements=["A"])


def literals(data: bytes) -> tuple[Segment, ...]:
    """`data` as segments: one Literal, or none for no bytes."""
    return (Literal(data),) if data else ()


def whole(name: str, data: bytes) -> FileSkeleton:
    """A file kept as it is."""
    return FileSkeleton(name, literals(data))
