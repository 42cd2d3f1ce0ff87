"""The held-out volumes of the data folder as files that every codec can be measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fine_tune.datasets.manifest import load
from medzip.bench.measure import read_scans
from medzip.errors import UnsupportedInputError


def voxels(data: Path, row: dict[str, str]) -> NDArray[Any]:
    """The stored integers, (slices, rows, columns), of one line of the manifest."""
    source = data / row["path"]
    if row["path"].endswith(".jxl"):
        samples: NDArray[Any] = (load(data, row).samples + int(row["offset"] or 0)).astype(row["dtype"])
        return samples
    scans = read_scans(source)
    if not scans:
        return _compressed_series(source)
    volumes = [volume.samples for scan in scans for volume in scan.volumes]
    if len(volumes) != 1 or volumes[0].ndim != 3:
        raise UnsupportedInputError(f"{source}: expected one volume of one colour, found {len(volumes)} of other shapes")
    return volumes[0]


def source(data: Path, row: dict[str, str], folder: Path) -> Path:
    """The scan of one line of the manifest as its owner has it, if medzip codes its voxels; else these as .npy in `folder`."""
    own = data / row["path"]
    return own if not row["path"].endswith(".jxl") and read_scans(own) else saved(data, row, folder)


def saved(data: Path, row: dict[str, str], folder: Path) -> Path:
    """The voxels of one line of the manifest as a .npy file in `folder`."""
    path = folder / f"{Path(row['path']).name.split('.')[0]}.npy"
    np.save(path, voxels(data, row))
    return path


def _compressed_series(folder: Path) -> NDArray[Any]:
    """A series of DICOM files of one JPEG 2000 frame each, decoded, in the order of their instance numbers."""
    import imagecodecs
    import pydicom
    from pydicom.encaps import generate_frames

    files = sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda file: int(file.InstanceNumber))
    return np.stack([imagecodecs.jpeg2k_decode(next(generate_frames(file.PixelData, number_of_frames=1))) for file in files])
