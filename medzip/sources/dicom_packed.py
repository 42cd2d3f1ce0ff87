"""Native pixel data of DICOM whose samples are no words in a row: bits, swapped bytes, and colours of half the width.

PS3.5 sections 8.1.1 and 8.2 and annex A.3; PS3.3 section C.7.6.3.1.2 for YBR_FULL_422 and YBR_PARTIAL_422.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from medzip.sources.contract import literals
from medzip.volume import BITS, SWAPPED, FileSkeleton, Interleaved, Segment, Volume, Voxels, join

HALF_WIDTH = {"YBR_FULL_422", "YBR_PARTIAL_422"}


@dataclass(frozen=True)
class Pixels:
    """Pixel data of `length` bytes at `offset`, said to be frames of `shape` (frames, rows, columns[, 3]).

    `bits` are those allocated for a sample; `swapped` tells that the two bytes of each word are.
    """

    offset: int
    length: int
    shape: tuple[int, ...]
    bits: int
    swapped: bool
    photometric: str

    def segment(self, data: bytes, volume: int) -> tuple[int, Segment, list[Volume]] | None:
        """How many bytes of the file are the frames, and what they are, from volume number `volume` on; None for other kinds."""
        count, rows, columns, *channels = self.shape
        room = np.frombuffer(data, np.uint8, self.length, self.offset)
        samples: list[NDArray[np.uint8]]
        kinds: tuple[str, ...]
        turns: tuple[int, ...] = ()
        if self.bits == 1 and not channels and not self.swapped:
            size = -(-prod(self.shape) // 8)
            samples = [np.unpackbits(room[:size], bitorder="little")[: prod(self.shape)].reshape(self.shape)]
            kinds = (BITS,)
        elif self.bits == 8 and self.swapped and self.photometric not in HALF_WIDTH:
            size = prod(self.shape) + prod(self.shape) % 2
            words = room[:size].view(">u2").astype("<u2").view(np.uint8)
            samples = [words[: prod(self.shape)].reshape(self.shape)]
            kinds = (SWAPPED,)
        elif self.bits == 8 and not self.swapped and self.photometric in HALF_WIDTH and channels and columns % 2 == 0:
            size = count * rows * columns * 2
            four = room[:size].reshape(count, rows, columns // 2, 4)
            samples = [four[..., :2].reshape(count, rows, columns), four[..., 2], four[..., 3]]
            kinds, turns = ("|u1",) * 3, (2, 1, 1)
        else:
            return None
        runs = tuple(Voxels(volume + number, 0, count, kind) for number, kind in enumerate(kinds))
        segment: Segment = Interleaved(runs, turns) if turns else runs[0]
        return size, segment, [Volume(np.ascontiguousarray(one)) for one in samples]

    def fits(self) -> bool:
        """Whether the frames fill the pixel data, but for less than a frame."""
        per_frame = prod(self.shape[1:3]) * self.bits * (2 if self.photometric in HALF_WIDTH else prod(self.shape[3:]))
        size = -(-self.shape[0] * per_frame // 8)
        return 0 not in self.shape and 0 <= self.length - size < max(per_frame // 8, 2)


def taken_apart(name: str, data: bytes, pixels: Pixels, volume: int) -> tuple[FileSkeleton, list[Volume]] | None:
    """A file as literals around its frames, and its volumes, numbered from `volume` on.

    None where its pixel data is of another kind or not what its header says, or holds bits that no sample does.
    """
    found = pixels.segment(data, volume) if pixels.fits() else None
    if found is None:
        return None
    size, segment, volumes = found
    before, after = data[: pixels.offset], data[pixels.offset + size :]
    file = FileSkeleton(name, (*literals(before), segment, *literals(after)))
    proved = b"".join(join(file, [Volume(np.zeros((0, 1, 1), np.uint8))] * volume + volumes)) == data
    return (file, volumes) if proved else None
