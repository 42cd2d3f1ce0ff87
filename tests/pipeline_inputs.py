"""Scans made up for the tests of the pipeline, and archives with contents that no encoder writes."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from test_sources_dicom import placed
from test_sources_nifti import nifti

from medzip.container.reader import ArchiveReader
from medzip.container.writer import ArchiveWriter

Samples = NDArray[Any]
Change = Callable[[Any], Any]


def npy(samples: Samples) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, samples)
    return buffer.getvalue()


def smooth(shape: tuple[int, ...], dtype: str = "i2", seed: int = 5) -> Samples:
    """Samples (slices, rows, columns) that a model codes well."""
    steps = np.random.default_rng(seed).integers(-3, 4, shape).cumsum(axis=1).cumsum(axis=2)
    return (steps - steps.min()).astype(dtype)


def files_of(source: str, samples: Samples) -> dict[str, bytes]:
    """The file, or the series of files, of `samples` (slices, rows, columns), whose dtype has the byte order wanted."""
    if source == "npy":
        return {"scan.npy": npy(samples)}
    if source == "nii":
        order = ">" if samples.dtype.str.startswith(">") else "<"
        return {"scan.nii": nifti(samples.transpose(2, 1, 0), order)}
    if source == "nii.gz":
        return {"scan.nii.gz": gzip.compress(files_of("nii", samples)["scan.nii"], mtime=0)}
    return {f"{len(samples) - z:03}.dcm": placed(2.5 * z, z, samples[z : z + 1]) for z in range(len(samples))}


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder: bytes of files, targets of symbolic links, None for folders."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


def rewritten(archive: Path, target: Path, **changes: Change) -> Path:
    """The archive with good checksums but `head`, `files`, `skeleton` (bytes) or each chunk's `header` changed."""

    def same(value: Any) -> Any:
        return value

    with ArchiveReader(archive) as reader, ArchiveWriter(target, overwrite=True) as writer:
        head = {key: value for key, value in reader.head.items() if key != "format"}
        writer.head(changes.get("head", same)(head))
        writer.files(changes.get("files", same)(reader.files))
        writer.skeleton(changes.get("skeleton", same)(reader.skeleton))
        for ordinal in reader.bases:
            writer.base(reader.base_payload(ordinal))
        for number, chunk in enumerate(reader.chunks):
            writer.chunk(changes.get("header", same)(chunk.header), reader.chunk_payload(number))
        writer.finish()
        writer.publish()
    return target


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
