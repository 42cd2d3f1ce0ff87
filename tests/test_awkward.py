"""Unusual files of other projects: each comes back byte for byte, and what a reader library sees of it is recognised.

The folder with the files is no part of the repository; without it, these tests are skipped. `docs/formats.md` has the table.
"""

from __future__ import annotations

import csv
import gzip
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray

import medzip
from medzip import pipeline
from medzip.errors import MedzipError, UnsupportedInputError
from medzip.sources import contents, groups, read
from medzip.volume import Volume, join

AWKWARD = Path(__file__).resolve().parents[2] / "shared" / "data" / "awkward"
pytestmark = pytest.mark.skipif(not AWKWARD.is_dir(), reason="the shared data folder is not there")
ROWS = {}
if AWKWARD.is_dir():
    with (AWKWARD / "MANIFEST.tsv").open(newline="") as table:
        ROWS = {row["path"]: row for row in csv.DictReader(table, delimiter="\t")}
WHOLE = [path for path in ROWS if not path.startswith("damaged/")]
DAMAGED = [path for path in ROWS if path.startswith("damaged/")]
LARGEST = 1 << 15
"""Larger images are taken apart and joined again here; `benchmarks/awkward.py` compresses them, too."""


MADE_AGAIN = ("RLE Lossless", "JPEG Lossless", "JPEG-LS")
"""Transfer syntaxes of the table whose frames are voxels."""


def awaited(row: dict[str, str]) -> str | None:
    """Why no voxels of a file are recognised although a reader sees some; None where they are to be."""
    note, kind = row["compression_note"], row["kind"]
    if "bzip2" in note:
        return "samples in bzip2"
    if "encapsulated" in note and not row["transfer_syntax"].startswith(MADE_AGAIN):
        return "DICOM in a compression that nothing here makes again from voxels"
    if "minc2" in note:
        return "HDF5 with compressed chunks"
    if any(word in kind for word in ("GIFTI", "CIFTI", "ECAT", "MRtrix", "bare HTJ2K")):
        return "no image, or exempt"
    return None


NO_VOXELS = {
    "nipy_nibabel/analyze.hdr": "its samples are not there",
    "mhe_pynrrd/BallBinary30x30x30_byteskip_minus_five.nhdr": "a byte skip of -5 is not defined, and all readers refuse it",
    "niivue_niivue/aal.nii.gz": "a gzip stream of zopfli, which nothing predicts",
    "niivue_niivue/aparc.a2009s+aseg.mgz": "a gzip stream of zopfli, which nothing predicts",
    "pydicom_pydicom-data/liver_nonbyte_aligned_rle.dcm": "RLE of single bits, which all readers refuse",
    "pydicom_pydicom/no_meta.dcm": "a stray byte before the data set, which all readers refuse",
    "pydicom_pydicom/meta_missing_tsyntax.dcm": "pixel data without Rows and Columns",
    "pydicom_pydicom/nested_priv_SQ.dcm": "pixel data without Rows and Columns",
}
"""Files that look like images, of which no reader gives voxels."""


STREAMS: dict[str, Callable[[bytes], NDArray[Any]]] = {
    pydicom.uid.JPEGLossless: imagecodecs.jpeg8_decode,
    pydicom.uid.JPEGLosslessSV1: imagecodecs.jpeg8_decode,
    pydicom.uid.JPEGLSLossless: imagecodecs.jpegls_decode,
    pydicom.uid.JPEGLSNearLossless: imagecodecs.jpegls_decode,
}


def of_dicom(path: Path) -> NDArray[Any]:
    """What pydicom reads, unchanged: (frames, rows, columns[, 3]), colours as they are stored."""
    content = path.read_bytes()
    dataset = pydicom.dcmread(io.BytesIO(gzip.decompress(content) if path.suffix == ".gz" else content), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    shape = (-1, dataset.Rows, dataset.Columns, *((3,) if dataset.SamplesPerPixel == 3 else ()))
    if path.name in ("mlut_18.dcm", "badVR.dcm"):
        # pydicom clears what lies above BitsStored, and refuses "1A" frames, of which SimpleITK reads one. Expected are the bits
        # as they are stored, and as many frames as there are.
        return np.frombuffer(dataset.PixelData, "<i2" if dataset.BitsAllocated == 16 else "<u4").reshape(shape)
    if dataset.file_meta.TransferSyntaxUID in STREAMS:
        return of_streams(dataset).reshape(shape)
    array = pydicom.pixels.pixel_array(dataset, raw=True).reshape(shape)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        # pydicom repeats each of the colours; expected is what the file holds.
        columns = array.shape[2]
        bright = array[..., 0].reshape(-1, columns // 2, 2)
        return np.concatenate([bright, array[:, :, ::2, 1:].reshape(*bright.shape[:2], 2)], axis=2)
    return array


def of_streams(dataset: pydicom.Dataset) -> NDArray[Any]:
    """What libjpeg-turbo or CharLS reads of each frame, with the sign of its highest bit stored."""
    decode = STREAMS[dataset.file_meta.TransferSyntaxUID]
    frames = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames", 1)))
    array = np.stack([decode(frame) for frame in frames]).astype(f"u{dataset.BitsAllocated // 8}")
    unused = dataset.BitsAllocated - dataset.BitsStored
    return (array << unused).view(f"i{array.itemsize}") >> unused if dataset.PixelRepresentation else array


def of_nibabel(path: Path) -> NDArray[Any]:
    """What nibabel reads before it rescales, in the order of the file: fastest axis last, components behind it."""
    image = nibabel.load(path)
    array = image.dataobj.get_unscaled()
    axes = tuple(range(array.ndim))[::-1]
    if array.dtype.names:
        return np.stack([array[name] for name in array.dtype.names], axis=-1).transpose(*axes, array.ndim)
    return array.transpose(axes)


def of_itk(path: Path) -> NDArray[Any]:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))


def of_par_rec(path: Path) -> NDArray[Any]:
    """nibabel sorts the slices of PAR/REC, so the expected result are those of the file: the table tells their places."""
    image = nibabel.load(path.with_suffix(".PAR"), permit_truncated=False, scaling="dv")
    slices = image.dataobj.get_unscaled().reshape(*image.shape[:2], -1, order="F")
    found = np.empty((slices.shape[2], *slices.shape[1::-1]), slices.dtype)
    found[image.header.get_sorted_slice_indices()] = slices.transpose(2, 1, 0)
    return found


def of_minc(path: Path) -> NDArray[Any]:
    """SimpleITK and nibabel rescale MINC, so the expected result is what nibabel's netCDF reader has before, without sign."""
    return np.array(nibabel.load(path).dataobj.minc_file._mincfile.variables["image"].data).view("u1")


READERS: dict[str, Callable[[Path], NDArray[Any]]] = {
    ".dcm": of_dicom,
    ".nii": of_nibabel,
    ".hdr": of_nibabel,
    ".mgz": of_nibabel,
    ".HEAD": of_nibabel,
    ".BRIK": of_nibabel,
    ".mha": of_itk,
    ".mhd": of_itk,
    ".img": of_nibabel,
    ".nhdr": of_itk,
    ".nrrd": of_itk,
    ".tif": of_itk,
    ".mnc": of_minc,
    ".PAR": of_par_rec,
    ".REC": of_par_rec,
}


def recognised(path: str) -> bool:
    """Whether the voxels of a file are to be recognised."""
    row = ROWS[path]
    is_image = row["shape"] != "-" and "no pixel data" not in row["compression_note"]
    return is_image and path not in NO_VOXELS and awaited(row) is None


def together(volumes: list[Volume]) -> NDArray[Any]:
    """Volumes that are components of one image, as (slices, rows, columns, components)."""
    parts = [volume.samples if volume.samples.ndim == 4 else volume.samples[..., None] for volume in volumes]
    columns = min(part.shape[2] for part in parts)  # of colours of half the width, two pixels of the others are one
    return np.concatenate([part.reshape(*part.shape[:2], columns, -1) for part in parts], axis=3)


def components(array: NDArray[Any]) -> NDArray[Any]:
    """An array with the parts of complex numbers side by side."""
    return array.copy().view(array.real.dtype) if array.dtype.kind == "c" else array


@pytest.mark.parametrize("path", WHOLE)
def test_a_file_comes_back_and_its_voxels_are_those_of_its_reader(path: str, tmp_path: Path) -> None:
    [group] = groups(AWKWARD / path, store=True)
    skeleton, volumes = read(group)
    given = {name: b"".join(pieces) for name, pieces in contents(group)}
    assert {file.name: b"".join(join(file, volumes)) for file in skeleton.files} == given
    if recognised(path):
        with warnings.catch_warnings(action="ignore"):
            expected = components(READERS.get(Path(path.removesuffix(".gz")).suffix, of_dicom)(AWKWARD / path))
        assert volumes, "its voxels lie in the archive as a blob"
        assert together(volumes).dtype == expected.dtype.newbyteorder("=")
        assert (together(volumes).reshape(-1) == expected.reshape(-1)).all()
        assert np.prod(volumes[0].samples.shape[1:3]) > 1
    if sum(volume.samples.size for volume in volumes) <= LARGEST:
        archived(AWKWARD / path, volumes, given, tmp_path)


def archived(path: Path, volumes: list[Volume], given: dict[str, bytes], folder: Path) -> None:
    """Compresses a file, and compares what the archive gives with its volumes and bytes."""
    [made] = medzip.compress(path, folder, preset="parametric", store=True, verify=False)
    with medzip.open(made.archive) as archive:
        described = [(volume.shape, volume.dtype.str) for volume in archive.volumes]
        assert described == [(volume.samples.shape, volume.samples.dtype.str) for volume in volumes]
        for lazy, volume in zip(archive.volumes, volumes, strict=True):
            assert lazy[:].tobytes() == volume.samples.tobytes()
    restored = medzip.decompress(made.archive, folder / "out")
    assert {name: (folder / "out" / name).read_bytes() for name in given} == given
    assert len(restored.files) == len(given)


@pytest.fixture(autouse=True)
def without_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another guarantee would save is told elsewhere, and takes a model."""
    monkeypatch.setattr(pipeline, "_content_saving", lambda *_: None)


@pytest.mark.parametrize("path", DAMAGED)
def test_a_damaged_file_is_refused_or_comes_back(path: str, tmp_path: Path) -> None:
    try:
        [group] = groups(AWKWARD / path)
        skeleton, volumes = read(group)
        assert b"".join(join(skeleton.files[0], volumes)) == (AWKWARD / path).read_bytes()
    except MedzipError as error:
        assert isinstance(error, UnsupportedInputError) and Path(path).name in str(error)
    archived(
        AWKWARD / path, read(groups(AWKWARD / path, store=True)[0])[1], {Path(path).name: (AWKWARD / path).read_bytes()}, tmp_path
    )


def test_the_folder_of_all_is_divided_into_groups_that_give_it_back() -> None:
    names = set()
    for group in groups(AWKWARD):
        skeleton, volumes = read(group)
        given = {name: b"".join(pieces) for name, pieces in contents(group)}
        assert {file.name: b"".join(join(file, volumes)) for file in skeleton.files} == given
        names |= given.keys()
    assert names == {path.relative_to(AWKWARD).as_posix() for path in AWKWARD.rglob("*") if path.is_file()}


def test_at_least_so_many_files_are_images_that_are_recognised() -> None:
    assert sum(map(recognised, WHOLE)) >= 90
