"""DICOM files of an archive with JPEG XL frames, for systems that take these; no other element of them changes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medzip.archived_file import opened, unwrapped
from medzip.container.storage import AtomicFile
from medzip.errors import MedzipError, StorageError, UsageError, VerificationError
from medzip.optional import library
from medzip.restore import archives_of, target_in
from medzip.scan import Scan
from medzip.volume import FileSkeleton

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

Words = NDArray[np.unsignedinteger[Any]]
Progress = Callable[[str, int, int], None]
TRANSFER_SYNTAXES = ("jxl",)
IMPLICIT, EXPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
NATIVE = {IMPLICIT, EXPLICIT, DEFLATED}
RLE = "1.2.840.10008.1.2.5"
LOSSLESS = {RLE, "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"}
PREFIX_AT = 128
META_CHANGES = ("TransferSyntaxUID", "FileMetaInformationGroupLength")
OFFSET_TABLES = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")


@dataclass(frozen=True)
class Exported:
    """A DICOM file that was written, with all that differs from the archived one in `changes`; without any, it is the same bytes,
    and `reason` says why."""

    name: str
    file: str
    original_bytes: int
    bytes: int
    changes: tuple[str, ...]
    reason: str


class _StaysError(Exception):
    """A file that is written as it is; the message says why."""


def export(
    archive: Path | str,
    folder: Path | str,
    *,
    transfer_syntax: str = "jxl",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Exported]:
    """Write the DICOM files of an archive, or of a folder of archives, with lossless JPEG XL frames (1.2.840.10008.1.2.4.110).

    The SOP Instance UID stays, for a new one is due after lossy compression only (PS3.3 C.7.6.1.1.5). Pixel data that this
    cannot code without loss, or that is compressed already in another way than RLE, JPEG lossless or JPEG-LS, stays as it is:
    then the whole file does. Files that are no DICOM are not written. Each file is read back from the disk, its pixels and its
    other elements compared, before any gets its name.

    Raises UsageError (no DICOM files, a file exists), LibraryMissingError (pydicom), VerificationError, and what decoding raises.
    """
    if transfer_syntax not in TRANSFER_SYNTAXES:
        raise UsageError(f"expected a transfer syntax of {', '.join(TRANSFER_SYNTAXES)}, found {transfer_syntax!r}")
    library("pydicom", "pacs", "export")
    from medzip import pydicom_plugin

    pydicom_plugin.register()
    written: dict[Path, tuple[AtomicFile, Exported]] = {}
    paths = [path for path, _ in archives_of(Path(archive), manifests=False)]
    with ExitStack() as temporaries:
        for number, path in enumerate(paths):
            with Scan(path) as scan:
                for file, digest in _in_order_of_slices(scan):
                    target = target_in(Path(folder), file.name)
                    if target in written:
                        raise UsageError(f"{target}: two archives hold a file of this name; export them one by one")
                    found = _written(scan, file, digest, target, overwrite, temporaries)
                    if found is not None:
                        written[target] = found
            if progress:
                progress("export", number + 1, len(paths))
        if not written:
            raise UsageError(f"{archive}: expected DICOM files to export, found none; medzip decompress restores other files")
        for temporary, _ in written.values():
            temporary.publish()
    return [exported for _, exported in written.values()]


def _in_order_of_slices(scan: Scan) -> list[tuple[FileSkeleton, bytes | None]]:
    """All files, those of a volume one after another, so that each chunk is decoded once; with their SHA-256 if not from gzip."""
    files = sorted(scan.skeleton().files, key=lambda file: min(((run.volume, run.first) for run in file.voxels), default=(-1, 0)))
    return [(inner, scan.digests.get(file.name) if inner is file else None) for file in files for inner in [unwrapped(file)]]


def _written(
    scan: Scan, file: FileSkeleton, digest: bytes | None, target: Path, overwrite: bool, temporaries: ExitStack
) -> tuple[AtomicFile, Exported] | None:
    """A file under its temporary name, proved; None for one that is no DICOM."""
    with opened(scan, file) as stream:
        original = stream.read()
    if digest is not None and hashlib.sha256(original).digest() != digest:
        raise VerificationError(f"{file.name}: expected the SHA-256 of the original, found another; nothing was written")
    if original[PREFIX_AT : PREFIX_AT + 4] != b"DICM":
        return None
    data, changes, words, reason = original, tuple[str, ...](), None, ""
    try:
        data, changes, words = _in_jpeg_xl(scan, file, original)
    except _StaysError as stays:
        reason = str(stays)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{target.parent}: {error.strerror}; check the path and its permissions") from error
    temporary = temporaries.enter_context(AtomicFile(target, overwrite=overwrite))
    temporary.write(data)
    temporary.seal()
    _prove(temporary.temporary, data, words, file.name)
    return temporary, Exported(file.name, str(target), len(original), len(data), changes, reason)


def _in_jpeg_xl(scan: Scan, file: FileSkeleton, original: bytes) -> tuple[bytes, tuple[str, ...], Words]:
    """The file with JPEG XL frames, what differs, and the words of its frames. Raises _StaysError."""
    from pydicom.encaps import encapsulate

    from medzip import pydicom_plugin

    try:
        dataset = _read(original)
        words = _words(scan, file, dataset)
        signed = dataset.PixelRepresentation == 1
        frames = [pydicom_plugin.encoded(frame, dataset.BitsStored, signed=signed) for frame in words]
        changes = list(_changes(dataset))
        dataset.PixelData = encapsulate(frames)
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = pydicom_plugin.LOSSLESS
        if dataset.SamplesPerPixel == 3:
            dataset.PlanarConfiguration = 0
        for keyword in OFFSET_TABLES:
            if keyword in dataset:
                del dataset[keyword]
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        after, before = _read(buffer.getvalue()), _read(original)
        if not _same_elements(before, after):
            raise _StaysError("pydicom would write other elements than those it read")
    except (_StaysError, MedzipError):
        raise
    except Exception as error:  # pydicom raises whatever a file that breaks a rule makes it run into
        raise _StaysError(f"pydicom does not write it again ({type(error).__name__})") from error
    return buffer.getvalue(), tuple(changes), words


def _read(data: bytes) -> FileDataset:
    from pydicom import dcmread

    return dcmread(io.BytesIO(data))


def _words(scan: Scan, file: FileSkeleton, dataset: FileDataset) -> Words:
    """The stored words of all frames, (frames, rows, columns[, 3]), uint8 or uint16. Raises _StaysError."""
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "missing"))
    if "PixelData" not in dataset:
        raise _StaysError("it has no pixel data of integers")
    if syntax not in NATIVE | LOSSLESS:
        raise _StaysError(f"its transfer syntax is {syntax}")
    _check_profile(dataset)
    count, colours = int(dataset.get("NumberOfFrames") or 1), dataset.SamplesPerPixel == 3
    shape = (count, dataset.Rows, dataset.Columns, *((3,) if colours else ()))
    if syntax in LOSSLESS:
        if colours and syntax != RLE:  # what the codestream's colours are is told in more than one place
            raise _StaysError("its colours are compressed")
        return _decoded(scan, file, shape).view(f"u{dataset.BitsAllocated // 8}")
    length = prod(shape) * dataset.BitsAllocated // 8
    if len(dataset.PixelData) != length + length % 2:
        raise _StaysError("its pixel data has another length than its frames")
    samples = np.frombuffer(dataset.PixelData, f"<u{dataset.BitsAllocated // 8}", prod(shape))
    if colours and dataset.get("PlanarConfiguration") == 1:
        return np.moveaxis(samples.reshape(count, 3, *shape[1:3]), 1, -1)
    return samples.reshape(shape)


def _check_profile(dataset: FileDataset) -> None:
    """Raises _StaysError for pixel data that lossless JPEG XL in DICOM is not for (PS3.5 table 8.2.15-1)."""
    from medzip.pydicom_plugin import PROFILE

    for photometric, channels, signs, allocated, stored in PROFILE:
        if (
            (dataset.PhotometricInterpretation, dataset.SamplesPerPixel) == (photometric, channels)
            and dataset.PixelRepresentation in signs
            and dataset.BitsAllocated in allocated
            and dataset.BitsStored in stored
        ):
            return
    raise _StaysError("JPEG XL in DICOM is not for such pixel data")


def _decoded(scan: Scan, file: FileSkeleton, shape: tuple[int, ...]) -> NDArray[Any]:
    """The frames of a file that was compressed, as medzip has decoded them. Raises _StaysError where these are not all."""
    frames = [scan.volumes[run.volume][run.first : run.first + run.count] for run in file.voxels]
    if sum(map(len, frames)) != shape[0] or frames[0].shape[1:] != shape[1:]:
        raise _StaysError("some of its frames are kept as they were compressed")
    return np.concatenate(frames)


def _changes(dataset: FileDataset) -> Iterator[str]:
    """What differs from the dataset once its frames are JPEG XL."""
    yield f"transfer syntax {dataset.file_meta.TransferSyntaxUID} -> 1.2.840.10008.1.2.4.110 (JPEG XL Lossless)"
    if dataset.get("SamplesPerPixel") == 3 and dataset.get("PlanarConfiguration") != 0:
        yield "planar configuration -> 0"
    if any(keyword in dataset for keyword in OFFSET_TABLES):
        yield "extended offset table left out"
    if any(element.tag.element == 0 for element in dataset):
        yield "group lengths left out"


def _same_elements(before: FileDataset, after: FileDataset) -> bool:
    """Whether two data sets have the same elements but for those that describe how pixel data is compressed."""
    from pydicom.filewriter import correct_ambiguous_vr

    for dataset in (before, after):
        correct_ambiguous_vr(dataset, True)
        for tag in [element.tag for element in dataset if element.tag.element == 0]:
            del dataset[tag]
        for keyword in ("PixelData", "PlanarConfiguration", *OFFSET_TABLES):
            if keyword in dataset:
                del dataset[keyword]
    meta = all(after.file_meta.get(element.tag) == element for element in before.file_meta if element.keyword not in META_CHANGES)
    return meta and bool(before == after) and before.preamble == after.preamble


def _prove(path: Path, data: bytes, words: Words | None, name: str) -> None:
    """Reads a file back from the disk and decodes what was coded of it: `words` are those of its frames."""
    try:
        found = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror} while reading it back; check the device") from error
    good = found == data
    if good and words is not None:
        try:
            good = _decodes_to(_read(found), words)
        except Exception:  # pydicom raises several kinds
            good = False
    if not good:
        raise VerificationError(f"{name}: the file just written does not have the pixels of the archive; report this")


def _decodes_to(dataset: FileDataset, words: Words) -> bool:
    """Whether pydicom decodes these words; of unused bits nothing may be assumed (PS3.5 section 8.1.1)."""
    from pydicom.pixels.decoders.base import get_decoder

    frames = get_decoder(dataset.file_meta.TransferSyntaxUID).iter_buffer(dataset)
    unused = dataset.BitsAllocated - dataset.BitsStored
    again = (np.frombuffer(frame, words.dtype).reshape(words.shape[1:]) for frame, _ in frames)
    return all(np.array_equal(one << unused, other << unused) for one, other in zip(again, words, strict=True))
