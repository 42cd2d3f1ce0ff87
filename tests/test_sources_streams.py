"""Samples in deflate streams of all formats are volumes, and every stream comes back byte for byte, or the file is kept whole."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import tifffile
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

import medzip
from medzip.errors import UnsupportedInputError
from medzip.sources import contents, groups, read
from medzip.sources.wrappers import deflate
from medzip.volume import Deflated, Literal, Volume, join


def scan(shape: tuple[int, ...] = (6, 30, 40)) -> NDArray[np.int16]:
    """Smooth samples with noise."""
    rng = np.random.default_rng(3)
    return (np.add.accumulate(rng.normal(0, 3, shape), axis=-1) + 200).astype("<i2")


def taken_apart(path: Path) -> tuple[list[Volume], int]:
    """The volumes of a file, and how many of its segments are streams, once all of it was found to come back."""
    [group] = groups(path)
    skeleton, volumes = read(group)
    given = {name: b"".join(pieces) for name, pieces in contents(group)}
    assert {file.name: b"".join(join(file, volumes)) for file in skeleton.files} == given
    streams = [segment for file in skeleton.files for segment in file.segments if isinstance(segment, Deflated)]
    assert all(file.voxels or all(isinstance(segment, Literal) for segment in file.segments) for file in skeleton.files)
    return volumes, len(streams)


def itk(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(scan()), folder / name, useCompression=True)
        return folder / name

    return write


def mgz(folder: Path) -> Path:
    nibabel.MGHImage(scan().transpose(2, 1, 0), np.eye(4)).to_filename(folder / "a.mgz")
    return folder / "a.mgz"


def pair(folder: Path) -> Path:
    nibabel.Nifti1Pair(scan().transpose(2, 1, 0), np.eye(4)).to_filename(folder / "a.img.gz")
    return folder / "a.hdr.gz"


def half_packed_pair(folder: Path) -> Path:
    path = pair(folder)
    (folder / "a.hdr").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    return folder / "a.img.gz"


def detached_nrrd(folder: Path) -> Path:
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 40 30 6\nendian: little\nencoding: gzip\nbyte skip: 7\ndata file: a.raw.gz\n"
    )
    (folder / "a.nhdr").write_text(header)
    (folder / "a.raw.gz").write_bytes(gzip.compress(b"skipped" + scan().tobytes() + b"behind"))
    return folder / "a.nhdr"


def lines_before_nrrd(folder: Path) -> Path:
    header = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 40 30 6\nendian: little\nencoding: gz\nline skip: 1\n\nskipped\n"
    (folder / "a.nrrd").write_bytes(header + gzip.compress(scan().tobytes()) + b"behind")
    return folder / "a.nrrd"


def afni(folder: Path) -> Path:
    attributes = {"DATASET_DIMENSIONS": "40 30 6", "DATASET_RANK": "3 1", "BRICK_TYPES": "1"}
    texts = (
        f"\ntype = integer-attribute\nname = {name}\ncount = {len(values.split())}\n {values}\n"
        for name, values in attributes.items()
    )
    (folder / "a+orig.HEAD").write_text("".join(texts))
    (folder / "a+orig.BRIK.gz").write_bytes(gzip.compress(scan().tobytes()))
    return folder / "a+orig.HEAD"


def deflated_dicom(folder: Path) -> Path:
    dataset = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames, dataset.PixelData = 30, 40, 6, scan().tobytes()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(folder / "a.dcm")
    return folder / "a.dcm"


def npz(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", scan())
    return folder / "a.npz"


def tiff(folder: Path, **options: object) -> Path:
    tifffile.imwrite(folder / "a.tif", scan(), photometric="minisblack", compression="zlib", predictor=False, **options)
    return folder / "a.tif"


def tiff_of_strips(folder: Path) -> Path:
    return tiff(folder, rowsperstrip=7)


FORMATS = {
    "NRRD": itk("a.nrrd"),
    "detached NRRD": detached_nrrd,
    "NRRD behind lines": lines_before_nrrd,
    "MetaImage": itk("a.mha"),
    "MetaImage in two files": itk("a.mhd"),
    "MGH": mgz,
    "pair": pair,
    "half of a pair": half_packed_pair,
    "AFNI": afni,
    "DICOM": deflated_dicom,
    "npz": npz,
    "TIFF": tiff,
    "TIFF of strips": tiff_of_strips,
}


@pytest.mark.parametrize("kind", FORMATS)
def test_samples_in_streams_are_volumes(kind: str, tmp_path: Path) -> None:
    path = FORMATS[kind](tmp_path)
    [volume], streams = taken_apart(path)
    assert (volume.samples == scan()).all() and streams == 1
    [made] = medzip.compress(path, tmp_path / "out", preset="parametric")
    given = {found.name: found.read_bytes() for found in tmp_path.iterdir() if found.is_file()}
    medzip.decompress(made.archive, tmp_path / "back")
    assert {found.name: found.read_bytes() for found in (tmp_path / "back").iterdir()} == given


@pytest.mark.parametrize("kind", FORMATS)
def test_streams_that_cannot_be_made_again_are_kept_whole(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = FORMATS[kind](tmp_path)
    monkeypatch.setattr("medzip.sources.wrappers.deflate.taken_apart", lambda *_, **__: None)
    assert taken_apart(path) == ([], 0)


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_streams_are_kept_whole_or_refused(kind: str, tmp_path: Path) -> None:
    FORMATS[kind](tmp_path)
    path = max(tmp_path.iterdir(), key=lambda found: found.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    try:
        assert kind == "DICOM" or taken_apart(path) == ([], 0)  # there are no checksums in DICOM
        taken_apart(path)
    except UnsupportedInputError as error:
        assert path.name.split(".")[0] in str(error)


def test_a_stream_that_holds_less_than_its_header_says_is_kept_whole(tmp_path: Path) -> None:
    for name, header in {
        "a.nrrd": b"NRRD0004\ntype: short\ndimension: 3\nsizes: 40 30 7\nendian: little\nencoding: gzip\n\n",
        "a.mha": b"NDims = 3\nDimSize = 40 30 7\nElementType = MET_SHORT\nBinaryData = True\nCompressedData = True\n"
        b"ElementDataFile = LOCAL\n",
    }.items():
        stream = gzip.compress(scan().tobytes()) if name == "a.nrrd" else zlib.compress(scan().tobytes())
        (tmp_path / name).write_bytes(header + stream)
        assert taken_apart(tmp_path / name) == ([], 0)


def test_a_series_of_deflated_files_is_one_volume(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    dataset.Rows, dataset.Columns, dataset.file_meta.TransferSyntaxUID = 30, 40, pydicom.uid.DeflatedExplicitVRLittleEndian
    for number, frame in enumerate(scan()):
        dataset.InstanceNumber, dataset.ImagePositionPatient, dataset.PixelData = number, [0, 0, number], frame.tobytes()
        dataset.save_as(tmp_path / f"{5 - number}.dcm")
    [volume], streams = taken_apart(tmp_path)
    assert (volume.samples == scan()).all() and streams == 6


@pytest.mark.parametrize("unpredictable", [False, True])
def test_a_series_in_gzip_is_one_volume_of_the_files_that_can_be_made_again(
    unpredictable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    for number in range(3):
        dataset.InstanceNumber, dataset.ImagePositionPatient = number, [0, 0, number]
        dataset.save_as(tmp_path / "a.dcm")
        (tmp_path / f"{number}.dcm.gz").write_bytes(gzip.compress((tmp_path / "a.dcm").read_bytes()))
    (tmp_path / "a.dcm").unlink()
    possible = deflate.taken_apart
    fails = (tmp_path / "1.dcm.gz").read_bytes() if unpredictable else b""
    monkeypatch.setattr(deflate, "taken_apart", lambda data, **options: None if data == fails else possible(data, **options))
    [volume], streams = taken_apart(tmp_path)
    assert streams == len(volume.samples) == 3 - unpredictable
    assert groups(tmp_path / "0.dcm.gz")[0].source == "dicom"
    assert groups(tmp_path, encapsulated="voxels") == groups(tmp_path, "content") == groups(tmp_path)


@pytest.mark.parametrize("packed", [{"a.hdr"}, {"a.img"}, {"a.hdr", "a.img"}])
def test_both_files_of_a_pair_in_gzip_are_one_group(packed: set[str], tmp_path: Path) -> None:
    nibabel.Nifti1Pair(scan().transpose(2, 1, 0), np.eye(4)).to_filename(tmp_path / "a.hdr")
    for name in packed:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        (tmp_path / name).unlink()
    [group] = groups(tmp_path)
    assert [groups(path) for path in tmp_path.iterdir()] == [[group]] * 2
    [volume], streams = taken_apart(tmp_path)
    assert (volume.samples == scan()).all() and streams >= ("a.img" in packed)


def test_stored_and_deflated_members_of_npz_and_those_that_are_no_numbers(tmp_path: Path) -> None:
    arrays = {"a": scan(), "b": scan((40, 50)), "c": np.array(["text"] * 99), "d": scan((70, 80)), "e": scan((3, 5, 7))}
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for number, (name, array) in enumerate(arrays.items()):
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue(), zipfile.ZIP_STORED if number in (1, 4) else zipfile.ZIP_DEFLATED)
    volumes, streams = taken_apart(tmp_path / "a.npz")
    assert streams == 2
    for volume, name in zip(volumes, ("a", "b", "d", "e"), strict=True):
        assert (volume.samples.reshape(arrays[name].shape) == arrays[name]).all()


def test_members_that_lie_between_streams_near_each_other_come_back(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, array in {"a": scan(), "b": scan((3, 4)), "c": scan()}.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue(), zipfile.ZIP_STORED if name == "b" else zipfile.ZIP_DEFLATED)
    volumes, streams = taken_apart(tmp_path / "a.npz")
    assert [volume.samples.shape for volume in volumes] == [scan().shape] * 2 and streams == 1


def test_pages_of_tiff_with_predictors_are_kept_among_others(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number in range(3):
            file.write(scan((64, 96)), compression="zlib", predictor=number == 1, contiguous=False)
        file.write(scan((32, 48)), contiguous=False)
        file.write(scan((64, 96)), compression="zlib", predictor=False, tile=(32, 48), contiguous=False)
    pages, tiles = taken_apart(tmp_path / "a.tif")[0]
    assert (pages.samples == scan((64, 96))).all() and pages.samples.shape == (2, 64, 96)
    assert tiles.samples.shape == (5, 32, 48)
