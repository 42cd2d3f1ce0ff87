"""What `medzip.open` gives: an archive that is itself the array of its volume where it holds only one."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.archive import Archive
from medzip.errors import UsageError
from medzip.lazy_volume import LazyVolume
from medzip.volume import Skeleton


class Scan(Archive):
    """An open archive and, where it holds one volume, an array: `shape`, `dtype`, `affine`, slicing and all else of LazyVolume.

    With another number of volumes these raise UsageError, but for what is of whole files (`to_nibabel`, `to_sitk` and
    `pixel_array` of a file with several volumes); `volumes` holds them all. Can be pickled: it is opened again.
    """

    @cached_property
    def _files(self) -> Skeleton:
        return super().skeleton()

    def skeleton(self) -> Skeleton:
        """All files, read once."""
        return self._files

    @property
    def _volume(self) -> LazyVolume:
        if not self.volumes:
            raise UsageError(f"{self.name}: expected a volume, found files that are kept whole; restore them: medzip decompress")
        if len(self.volumes) != 1:
            raise UsageError(f"{self.name}: expected one volume, found {len(self.volumes)}; say which: .volumes[0] ...")
        return self.volumes[0]

    @property
    def _of_files(self) -> LazyVolume:
        """A volume to stand for the files that the archive was made of: any, where all volumes are of the same files."""
        having = [file for file in self.skeleton().files if file.voxels]
        numbers = {run.volume for file in having for run in file.voxels}
        alike = all({run.volume for run in file.voxels} == numbers for file in having)
        return self.volumes[0] if alike and numbers == set(range(len(self.volumes))) and numbers else self._volume

    @property
    def shape(self) -> tuple[int, ...]:
        """(slices, rows, columns[, 3])"""
        return self._volume.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._volume.dtype

    @property
    def ndim(self) -> int:
        return self._volume.ndim

    @property
    def affine(self) -> NDArray[np.float64] | None:
        """4x4, from (column, row, slice, 1) to millimetres in the space of the source, or None."""
        return self._volume.affine

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """See LazyVolume.chunks."""
        return self._volume.chunks

    @property
    def pixel_array(self) -> NDArray[Any]:
        """See LazyVolume.pixel_array."""
        return self._of_files.pixel_array

    def __len__(self) -> int:
        return len(self._volume)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        return self._volume[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._volume.__array__(dtype, copy)

    def __dask_tokenize__(self) -> object:
        return self._volume.__dask_tokenize__()

    def to_nibabel(self) -> Any:
        """See medzip.conversions.to_nibabel."""
        return self._of_files.to_nibabel()

    def to_sitk(self) -> Any:
        """See medzip.conversions.to_sitk."""
        return self._of_files.to_sitk()

    def to_dask(self) -> Any:
        """See medzip.conversions.to_dask."""
        return self._volume.to_dask()
