"""xarray.open_dataset("scan.mdz"): found by its entry point under the name 'medzip'."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from xarray import Dataset, Variable
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from medzip import pipeline
from medzip.lazy_volume import LazyVolume
from medzip.outputs import SUFFIX

AXES = ("slice", "row", "column", "colour")


class MedzipBackend(BackendEntrypoint):
    """Each volume of an archive is a variable, `volume` if it is the only one, else `volume_0` and so on.

    Its values are the stored samples, decoded where they are asked for; `affine` is an attribute. `chunks={}` gives one dask
    block for each chunk.
    """

    description = "Volumes of medzip archives (.mdz)"
    open_dataset_parameters = ("filename_or_obj", "drop_variables")

    def open_dataset(self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None) -> Dataset:
        scan = pipeline.open(filename_or_obj)
        several = len(scan.volumes) > 1
        variables = {}
        for volume in scan.volumes:
            ending = f"_{volume.index}" if several else ""
            variables[f"volume{ending}"] = _variable(volume, [axis + ending for axis in AXES[: volume.ndim]])
        dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
        dataset = Dataset({name: variable for name, variable in variables.items() if name not in dropped})
        dataset.set_close(scan.close)
        return dataset

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        return isinstance(filename_or_obj, str | os.PathLike) and os.fspath(filename_or_obj).endswith(SUFFIX)


def _variable(volume: LazyVolume, axes: list[str]) -> Variable:
    attributes = {} if volume.affine is None else {"affine": volume.affine.ravel().tolist()}
    encoding = {"preferred_chunks": dict(zip(axes, volume.chunks, strict=True))}
    return Variable(axes, indexing.LazilyIndexedArray(_Samples(volume)), attributes, encoding)


class _Samples(BackendArray):
    """The samples of a volume; xarray asks for integers and slices only."""

    def __init__(self, volume: LazyVolume) -> None:
        self.shape, self.dtype, self._volume = volume.shape, volume.dtype, volume

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        basic = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(key, self.shape, basic, self._volume.__getitem__)
