"""A volume of an archive as an array that decodes what is asked of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medzip import stacks
from medzip.container.sections import is_natural

if TYPE_CHECKING:
    from medzip.archive import Archive

SAMPLE_DTYPE = re.compile(r"\|[iu]1|<[iu][248]|<f[248]")


class LazyVolume:
    """A volume of an archive: indexing along the first axis, as numpy does it, decodes only the chunks touched.

    `shape` is (slices, rows, columns[, 3]), `dtype` that of the stored samples, which are never rescaled, `affine` 4x4 in
    millimetres or None. Can be pickled where its archive can.
    Every access may raise ArchiveDamagedError, ModelMismatchError, ModelMissingError or StorageError.
    """

    def __init__(self, archive: Archive, index: int, record: dict[str, Any]) -> None:
        self.archive, self.index = archive, index
        shape, dtype, affine = record.get("shape"), record.get("dtype"), record.get("affine")
        if not (isinstance(shape, list) and all(is_natural(n) and n for n in shape)):
            raise archive.damaged(f"a shape of volume {index}")
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != stacks.PLANES_PER_STACK):
            raise archive.damaged(f"volume {index} as slices x rows x columns")
        if not (isinstance(dtype, str) and SAMPLE_DTYPE.fullmatch(dtype)):
            raise archive.damaged(f"a dtype of samples for volume {index}")
        if not (affine is None or (isinstance(affine, list) and [type(n) for n in affine] == [float] * 16)):
            raise archive.damaged(f"an affine of 16 numbers for volume {index}")
        self.shape: tuple[int, ...] = tuple(shape)
        self.dtype = np.dtype(dtype).newbyteorder("=")
        self.affine = None if affine is None else np.array(affine).reshape(4, 4)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _volume_of, (self.archive, self.index)

    def __repr__(self) -> str:
        return f"<volume {self.index} of {self.archive.name}: shape {self.shape}, {self.dtype}>"

    def __dask_tokenize__(self) -> object:
        return (self.archive.name, self.archive.fingerprint, self.index)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def planes(self) -> int:
        """Slices, or colours of all frames: what chunks count."""
        return self.shape[0] * (stacks.PLANES_PER_STACK if self.ndim == 4 else 1)

    @property
    def plane_bytes(self) -> int:
        return self.shape[1] * self.shape[2] * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Lengths along each axis of the blocks that are decoded as one, as dask writes them."""
        return (self.archive.slices_per_chunk(self.index), *((length,) for length in self.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a volume of an archive has to be decoded: an array without a copy is not to be had")
        samples: NDArray[Any] = self[:]
        return samples if dtype is None else samples.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        """What numpy's indexing gives; of the first axis, what integers, a slice or a list of integers leave out stays packed."""
        first, *rest = key if isinstance(key, tuple) and key else (key,)
        if isinstance(first, slice):
            numbers = range(*first.indices(len(self)))
            increasing = numbers if numbers.step > 0 else numbers[::-1]
            return self.archive.slices(self.index, increasing)[(slice(None, None, 1 if numbers.step > 0 else -1), *rest)]
        wanted = _integers(first)
        if wanted is None:
            return self.archive.slices(self.index, range(len(self)))[key]
        if wanted.size and not -len(self) <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"expected slices from {-len(self)} to {len(self) - 1}, found {wanted.min()} to {wanted.max()}")
        unique, places = np.unique(np.where(wanted < 0, wanted + len(self), wanted), return_inverse=True)
        where = places if wanted.ndim else int(places.item())
        return self.archive.slices(self.index, unique)[(where, *rest)]

    @property
    def pixel_array(self) -> NDArray[Any]:
        """What pydicom's `pixel_array` is for the files of the volume, one after another along the first axis.

        Raises UnsupportedInputError where they are no DICOM, LibraryMissingError without pydicom.
        """
        from medzip.conversions import pixel_array

        return pixel_array(self)

    def to_nibabel(self) -> Any:
        """The volume as nibabel's image; see `medzip.conversions.to_nibabel`."""
        from medzip.conversions import to_nibabel

        return to_nibabel(self)

    def to_sitk(self) -> Any:
        """The volume as SimpleITK's image; see `medzip.conversions.to_sitk`."""
        from medzip.conversions import to_sitk

        return to_sitk(self)

    def to_dask(self) -> Any:
        """The volume as dask's array, one block for each chunk. Raises LibraryMissingError without dask."""
        from medzip.conversions import to_dask

        return to_dask(self)


def _volume_of(archive: Archive, index: int) -> LazyVolume:
    return archive.volumes[index]


def _integers(index: Any) -> NDArray[np.int64] | None:
    """An index of integers, one or a list of them; None for what is another kind of index."""
    if isinstance(index, bool | np.bool_) or not isinstance(index, int | np.integer | list | np.ndarray):
        return None
    if isinstance(index, int) and abs(index) >> 62:
        return None  # numpy says what it is
    numbers = np.asarray(index)
    listed = isinstance(index, list) and not index
    return numbers.astype(np.int64) if numbers.ndim < 2 and (listed or numbers.dtype.kind in "iu") else None
