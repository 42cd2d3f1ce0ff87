"""How the slices of a series are divided into volumes, and in which order they lie (PS3.3 C.7.6.2, C.8.3.1, C.8.13.5).

All of it is a hint for compression and for readers of an archive: no file's restoration depends on it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

IMAGE_TYPE = 0x00080008
MAX_NUMBER = 1e9  # in millimetres as well as in frames
INSTANCE_NUMBER, POSITION, ORIENTATION = 0x00200013, 0x00200032, 0x00200037
PIXEL_SPACING = 0x00280030
KEYS: tuple[tuple[int, ...], ...] = (
    (IMAGE_TYPE,),
    (0x00180086, 0x00180081),  # echo: number and time
    (0x00189087, 0x0019100C, 0x00431039, 0x20011003),  # b-value: standard, Siemens, GE, Philips
    (0x00189089, 0x0019100E, 0x001910BB, 0x001910BC, 0x001910BD, 0x20011004),  # gradient: the same
    (0x00200100,),  # temporal position
    (0x00200012,),  # acquisition
    (0x00181060, 0x00541300),  # time: of the heart's beat, of a PET frame
    (0x00080032,),  # time of the acquisition
)
"""What tells slices at one place apart, in this order."""
SAMPLED_PAIRS, SAMPLED_ROWS = 24, 64
MARGIN = 0.1


class SliceHeader(Protocol):
    """What is asked of a slice's header: texts by tag, and `floats` as `medzip.sources.dicom.Header` gives them."""

    texts: dict[int, str]

    def floats(self, tag: int, count: int) -> tuple[float, ...] | None: ...


class Slice(Protocol):
    """A single-frame file."""

    @property
    def name(self) -> str: ...

    @property
    def header(self) -> SliceHeader: ...

    def samples(self) -> NDArray[np.generic]:
        """(1, rows, columns[, 3])"""
        ...


S = TypeVar("S", bound=Slice)


def orientation(header: SliceHeader) -> tuple[float, ...] | None:
    """Direction cosines of row and column, so coarse that the rounding of one scanner does not divide a series."""
    values = header.floats(ORIENTATION, 6)
    return values and tuple(round(value, 2) + 0.0 for value in values)


def image_kind(header: SliceHeader) -> tuple[str, ...]:
    """The values of ImageType that a standard defines: those behind differ within series of some makers."""
    return tuple(header.texts.get(IMAGE_TYPE, "").split("\\")[:3])


def place(header: SliceHeader) -> float:
    """Millimetres along the normal, infinite where something is missing."""
    cosines, position = header.floats(ORIENTATION, 6), header.floats(POSITION, 3)
    return math.inf if cosines is None or position is None else float(np.dot(np.cross(cosines[:3], cosines[3:]), position))


def slice_order(header: SliceHeader, name: str) -> tuple[object, ...]:
    """Sorts slices along their normal, then by InstanceNumber, then by name; what is missing comes last (PS3.3 C.7.6.2)."""
    instance = header.floats(INSTANCE_NUMBER, 1)
    return (place(header), math.inf if instance is None else instance[0], name)


def affine(headers: Sequence[SliceHeader]) -> NDArray[np.float64] | None:
    """From (column, row, slice, 1) to millimetres in the patient's space, x to the left, y to the back, z to the head.

    PS3.3 C.7.6.2.1.1 for the plane; slices lie evenly between the first and the last position, and one millimetre
    along the normal where there is only one. None where something is missing, or two slices lie at one place.
    """
    cosines, spacing = headers[0].floats(ORIENTATION, 6), headers[0].floats(PIXEL_SPACING, 2)
    first, last = headers[0].floats(POSITION, 3), headers[-1].floats(POSITION, 3)
    if cosines is None or spacing is None or first is None or last is None or _most_at_one_place(headers) > 1:
        return None
    step = np.cross(cosines[:3], cosines[3:]) if len(headers) == 1 else np.subtract(last, first) / (len(headers) - 1)
    if not step.any():
        return None
    matrix = np.eye(4)
    matrix[:3, 0] = np.multiply(cosines[:3], spacing[1])
    matrix[:3, 1] = np.multiply(cosines[3:], spacing[0])
    matrix[:3, 2] = step
    matrix[:3, 3] = first
    return matrix


def divided(slices: list[S]) -> list[list[S]]:
    """The volumes of slices of one size and orientation, each in its order.

    Slices at one place are told apart by KEYS, or by their order where all places have equally many. They remain one volume,
    beside each other, where they are more alike than neighbours along the normal: the slice before then lies in time or echo.
    """
    slices = sorted(slices, key=lambda part: slice_order(part.header, part.name))
    parts = [slices]
    for tags in KEYS:
        parts = [piece for part in parts for piece in _by_values(part, tags)]
    parts = [piece for part in parts for piece in _by_turns(part)]
    parts.sort(key=lambda part: min(slice_order(one.header, one.name)[1:] for one in part))
    if len(parts) > 1 and _alike_at_one_place(parts):
        ranks = {one.name: rank for rank, part in enumerate(parts) for one in part}
        return [sorted(slices, key=lambda one: (_rounded(one.header), ranks[one.name]))]
    return parts


def _rounded(header: SliceHeader) -> float:
    return round(place(header), 3)


def _most_at_one_place(headers: Sequence[SliceHeader]) -> int:
    return max(Counter(map(_rounded, headers)).values())


def _by_values(slices: list[S], tags: tuple[int, ...]) -> list[list[S]]:
    """Divided by the values of tags; not where more parts come of it than slices lie at one place, as these tags count slices."""
    most = _most_at_one_place([one.header for one in slices])
    groups: dict[tuple[str, ...], list[S]] = {}
    for one in slices:
        groups.setdefault(tuple(one.header.texts.get(tag, "") for tag in tags), []).append(one)
    return list(groups.values()) if len(groups) <= most and math.isfinite(place(slices[-1].header)) else [slices]


def _by_turns(slices: list[S]) -> list[list[S]]:
    """The first, second and so on of every place, where all places have equally many."""
    counts = set(Counter(_rounded(one.header) for one in slices).values())
    if len(counts) > 1 or len(slices) in counts:
        return [slices]
    return [slices[first :: max(counts)] for first in range(max(counts))]


def _alike_at_one_place(parts: list[list[S]]) -> bool:
    """Whether a slice tells more of that at its place in the next part than of the next one in its own."""
    across, along = list[tuple[S, S]](), list[tuple[S, S]]()
    for part, following in itertools.pairwise(parts):
        there = {_rounded(one.header): one for one in following}
        across += [(one, there[where]) for one in part if (where := _rounded(one.header)) in there]
        along += itertools.pairwise(part)
    return bool(across) and (not along or _likeness(across) > _likeness(along) + MARGIN)


def _likeness(pairs: list[tuple[S, S]]) -> float:
    """Mean correlation of what no neighbour in the row foretells, of pairs spread over all."""
    chosen = pairs[:: -(-len(pairs) // SAMPLED_PAIRS)]
    return float(np.mean([_correlation(*(_differences(one.samples()) for one in pair)) for pair in chosen]))


def _differences(samples: NDArray[np.generic]) -> NDArray[np.float64]:
    rows = np.nan_to_num(samples[0, :: -(-samples.shape[1] // SAMPLED_ROWS)].astype(np.float64), posinf=0, neginf=0)
    return np.diff(rows, axis=1).ravel()


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    one, other = one - one.sum() / max(one.size, 1), other - other.sum() / max(other.size, 1)
    scale = math.sqrt(float(one @ one)) * math.sqrt(float(other @ other))
    return float(one @ other) / scale if 0 < scale < math.inf else 0.0
