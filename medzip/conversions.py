"""Volumes of an archive as nibabel, SimpleITK, pydicom and dask have them; each library is imported where it is asked for."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medzip.archived_file import opened, unwrapped
from medzip.errors import UnsupportedInputError
from medzip.lazy_volume import LazyVolume
from medzip.optional import library
from medzip.sources.contract import HEAD_BYTES
from medzip.volume import EncodedFrame, FileSkeleton, Literal, Voxels

EXPLICIT_LITTLE, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"
GZIP_MAGIC = b"\x1f\x8b"
TEXT_HEADERS = (".par", ".head")
LEFT_TO_RIGHT = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From DICOM's patient (x to the left, y to the back; PS3.3 C.7.6.2.1.1) to nibabel's (x to the right, y to the front)."""


def to_dask(volume: LazyVolume) -> Any:
    """dask.array.Array with the volume's shape and dtype and one block for each chunk. Raises LibraryMissingError."""
    array = library("dask.array", "dask", "to_dask")
    return array.from_array(volume, chunks=volume.chunks, asarray=True)


def pixel_array(volume: LazyVolume) -> NDArray[Any]:
    """What pydicom's `pixel_array` is for the files of a volume, (slices, rows, columns[, 3]) in the order of its slices.

    Raises UnsupportedInputError where they are no DICOM, LibraryMissingError without pydicom.
    """
    arrays = [dataset.pixel_array[None] if count == 1 else dataset.pixel_array for dataset, count in _datasets(volume)]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def to_nibabel(volume: LazyVolume) -> Any:
    """nibabel's image of the file that the volume is of, as `nibabel.load` gives it, with its axes, header and scaling.

    Its `dataobj` decodes what it is asked for. A DICOM series in which slices have a place becomes a Nifti1Image, (columns, rows,
    slices) in the units of the modality (PS3.3 C.11.1.1.2), its affine in nibabel's space.
    Raises UnsupportedInputError for what nibabel has no image for, LibraryMissingError without nibabel.
    """
    nibabel = library("nibabel", "nibabel", "to_nibabel")
    files = _files(volume)
    if _is_dicom(files[0]):
        if volume.affine is None or volume.ndim != 3:
            raise _no_image(volume, "to_nibabel", "slices of one value each, with a place and an orientation")
        return nibabel.Nifti1Image(_rescaled(volume).transpose(2, 1, 0), LEFT_TO_RIGHT @ volume.affine)
    streams = {_name(file): _content(volume, file) for file in _all_files(volume)}
    for kind in (kind for kind in nibabel.all_image_classes if kind is not nibabel.Minc2Image):  # reads from the disk alone
        holders = _holders(kind, streams, nibabel.FileHolder)
        if holders is not None:
            return kind.from_file_map(holders)
    raise _no_image(volume, "to_nibabel", "a format of nibabel's or a DICOM series")


def to_sitk(volume: LazyVolume) -> Any:
    """SimpleITK's image of the file that the volume is of, or of the series, as SimpleITK reads them: they are restored into a
    temporary folder for it.

    Raises UnsupportedInputError for files that SimpleITK does not read, LibraryMissingError without SimpleITK.
    """
    sitk = library("SimpleITK", "sitk", "to_sitk")
    files = _files(volume)
    series = _is_dicom(files[0]) and len(files) > 1
    with _restored(volume, files if series else _all_files(volume)) as paths:
        names = [str(paths[file.name]) for file in files]
        try:
            if series:
                return sitk.ReadImage(names)
            return sitk.ReadImage(next((name for name in map(str, paths.values()) if _sitk_reads(sitk, name)), names[0]))
        except RuntimeError as error:
            raise _no_image(volume, "to_sitk", "a file that SimpleITK reads") from error


def _sitk_reads(sitk: Any, name: str) -> bool:
    """Whether SimpleITK has a reader for a file; of a pair it has one for the header."""
    return bool(sitk.ImageFileReader.GetImageIOFromFileName(name))


def _no_image(volume: LazyVolume, method: str, expected: str) -> UnsupportedInputError:
    return UnsupportedInputError(
        f"{volume.archive.name}: {method}: expected {expected}, found another; the samples are numpy.asarray(volume)"
    )


def _files(volume: LazyVolume) -> list[FileSkeleton]:
    """The files that slices of the volume are in, in the order of its slices."""
    files = _all_files(volume)
    runs = [(run.first, number) for number, file in enumerate(files) for run in _runs(volume, file)]
    return [files[number] for number in dict.fromkeys(number for _, number in sorted(runs))]


def _all_files(volume: LazyVolume) -> list[FileSkeleton]:
    """All files of the archive, without the gzip around them."""
    return [unwrapped(file) for file in volume.archive.skeleton().files]


def _runs(volume: LazyVolume, file: FileSkeleton) -> list[Voxels]:
    return [run for run in file.voxels if run.volume == volume.index]


def _content(volume: LazyVolume, file: FileSkeleton) -> BinaryIO:
    """What a file holds, without the gzip around it."""
    stream = opened(volume.archive, file)
    packed = stream.read(2) == GZIP_MAGIC
    stream.seek(0)
    return io.BufferedReader(gzip.GzipFile(fileobj=stream)) if packed else stream


def _name(file: FileSkeleton) -> str:
    """The name of what a file holds, without folders."""
    path = PurePosixPath(file.name)
    return path.name[: -len(path.suffix)] if path.suffix.lower() == ".gz" else path.name


def _holders(kind: Any, streams: Mapping[str, BinaryIO], holder: Any) -> dict[str, Any] | None:
    """The file map for an image class of nibabel, None where it would not take the files.

    As in `nibabel.load`, the endings of names and what the header looks like decide.
    """
    endings = {PurePosixPath(name).suffix.lower(): name for name in streams}
    parts = {part: endings.get(ending or "") for part, ending in kind.files_types}
    found = {part: holder(name, streams[name] if name else io.BytesIO()) for part, name in parts.items()}
    header = found.get("header") or found["image"]
    if not all(parts[part] for part in ("header", "image") if part in parts) or not set(endings) & set(kind.valid_exts):
        return None
    start = header.fileobj.peek()  # up to the first voxels, which would have to be decoded
    if PurePosixPath(header.filename).suffix.lower() in TEXT_HEADERS:
        header.fileobj = io.TextIOWrapper(header.fileobj, "utf-8", "surrogateescape")
    looks = getattr(kind.header_class, "may_contain_header", None)
    return found if looks is None or looks(start) else None


# DICOM


def _is_dicom(file: FileSkeleton) -> bool:
    from medzip.sources.dicom import DicomSource

    start = file.segments[0]  # DICOM does not begin with voxels
    return isinstance(start, Literal) and DicomSource().detect(start.data[:HEAD_BYTES])


def _datasets(volume: LazyVolume) -> Iterator[tuple[Any, int]]:
    """pydicom's dataset of each file of the volume, and how many of the slices are in it."""
    pydicom = library("pydicom", "pacs", "pixel_array")
    files = _files(volume)
    if not _is_dicom(files[0]):
        raise _no_image(volume, "pixel_array", "DICOM files")
    for file in files:
        runs = _runs(volume, file)
        count = sum(run.count for run in runs)
        encoded = any(isinstance(segment, EncodedFrame) for segment in file.segments)
        dataset = pydicom.dcmread(_content(volume, file), force=True, stop_before_pixels=encoded)
        yield (_decoded(volume, file, dataset, count) if encoded else dataset), count


def _decoded(volume: LazyVolume, file: FileSkeleton, dataset: Any, count: int) -> Any:
    """The dataset with the frames as medzip has decoded them, so that pydicom needs no plugin for them."""
    pydicom = library("pydicom", "pacs", "pixel_array")
    alike = dataset.SamplesPerPixel == 1 or dataset.file_meta.TransferSyntaxUID == RLE
    if not alike or count != int(dataset.get("NumberOfFrames") or 1):  # what a plugin of pydicom says of colours is for it to say
        return pydicom.dcmread(_content(volume, file), force=True)
    frames = np.concatenate([volume[run.first : run.first + run.count] for run in _runs(volume, file)])
    if dataset.SamplesPerPixel > 1:
        dataset.PlanarConfiguration = 0
    dataset.PixelData = frames.astype(frames.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE
    return dataset


def _rescaled(volume: LazyVolume) -> NDArray[Any]:
    """The samples times RescaleSlope plus RescaleIntercept of their file; integers stay integers where that is possible."""
    arrays = []
    for dataset, _ in _datasets(volume):
        if dataset.get("ModalityLUTSequence"):
            raise _no_image(volume, "to_nibabel", "units that a slope and an intercept give (RescaleSlope, RescaleIntercept)")
        slope, intercept = (
            default if dataset.get(keyword) in (None, "") else float(dataset[keyword].value)
            for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
        )
        stored = dataset.pixel_array.reshape(-1, *volume.shape[1:])
        if slope == 1 and intercept == 0:
            arrays.append(stored)
        elif slope.is_integer() and intercept.is_integer() and stored.dtype.itemsize <= 2:
            arrays.append(stored.astype(np.int32) * int(slope) + int(intercept))
        else:
            arrays.append(stored * slope + intercept)
    return np.concatenate(arrays)


@contextmanager
def _restored(volume: LazyVolume, files: list[FileSkeleton]) -> Iterator[dict[str, Path]]:
    """Files in a temporary folder that only this user can read, by their names in the archive."""
    with TemporaryDirectory(prefix="medzip-") as folder:
        paths = {file.name: Path(folder) / _name(file) for file in files}
        if len(set(paths.values())) < len(files):
            paths = {file.name: Path(folder) / f"{number:06}_{_name(file)}" for number, file in enumerate(files)}
        for file in files:
            with paths[file.name].open("xb") as target:
                stream = _content(volume, file)
                while piece := stream.read(1 << 24):
                    target.write(piece)
        yield paths
