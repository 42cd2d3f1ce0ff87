"""medzip export: DICOM files in JPEG XL with the same pixels and elements, or the same file with a reason."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pipeline_inputs import contents, files_of, smooth, written
from pydicom.uid import RLELossless
from test_pydicom_plugin import dataset
from test_sources_dicom import BIG, IMPLICIT, image

import medzip
from medzip import dicom_export, pydicom_plugin
from medzip.cli import main
from medzip.errors import UsageError, VerificationError


def stored(made: pydicom.Dataset, number: int = 0) -> bytes:
    """A Part 10 file of the dataset with what a series has, and a private element."""
    made.SOPInstanceUID, made.SeriesInstanceUID, made.InstanceNumber = f"1.2.3.{number}", "1.2.3", number
    made.ImagePositionPatient, made.ImageOrientationPatient = [10, 20, 2.5 * number], [1, 0, 0, 0, 1, 0]
    made.PixelSpacing, made.PatientName = [0.5, 0.25], "Doe^Jane"
    made.private_block(0x0009, "MEDZIP TEST", create=True).add_new(1, "LO", "kept")
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def exported(folder: Path, files: dict[str, bytes]) -> Iterator[tuple[dicom_export.Exported, bytes]]:
    """What was written of a folder of files, each with its bytes."""
    medzip.compress(written(folder / "source", files), folder / "archives", preset="parametric")
    for file in medzip.export(folder / "archives", folder / "pacs"):
        yield file, Path(file.file).read_bytes()


@pytest.mark.parametrize(
    ("dtype", "bits", "frames", "colour"),
    [("u1", 8, 1, False), ("u2", 12, 1, False), ("i2", 16, 1, False), ("i2", 12, 3, False), ("u1", 8, 2, True)],
)
def test_pixels_and_elements_stay_and_what_changes_is_said(
    tmp_path: Path, dtype: str, bits: int, frames: int, colour: bool
) -> None:
    low = -(1 << (bits - 1)) if dtype[0] == "i" else 0
    shape = (3, frames, 24, 25, 3) if colour else (3, frames, 24, 25)
    samples = np.random.default_rng(1).integers(low, low + (1 << bits), shape).astype(dtype)
    files = {f"IM{9 - z}": stored(dataset(samples[z], bits, "RGB" if colour else "MONOCHROME2"), z) for z in range(3)}
    found = list(exported(tmp_path, files))
    assert sorted(file.name for file, _ in found) == sorted(files)
    for file, data in found:
        before, after = pydicom.dcmread(io.BytesIO(files[file.name])), pydicom.dcmread(io.BytesIO(data))
        assert after.file_meta.TransferSyntaxUID == pydicom_plugin.LOSSLESS and not file.reason
        assert [change.split()[0] for change in file.changes] == ["transfer"]
        np.testing.assert_array_equal(after.pixel_array, before.pixel_array)
        assert after.file_meta.MediaStorageSOPInstanceUID == before.SOPInstanceUID == after.SOPInstanceUID
        del before.PixelData, after.PixelData
        assert before == after


def test_a_smooth_series_becomes_smaller_and_unused_bits_are_kept(tmp_path: Path) -> None:
    samples = smooth((1, 64, 64), "<u2") | 0xA000
    [(file, data)] = exported(tmp_path, {"IM1": stored(dataset(samples, 12))})
    assert file.bytes == len(data) < file.original_bytes
    frame = pydicom.encaps.get_frame(pydicom.dcmread(io.BytesIO(data)).PixelData, 0, number_of_frames=1)
    assert pydicom_plugin.imagecodecs.jpegxl_decode(frame).tobytes() == samples.tobytes()


@pytest.mark.parametrize("colour", [False, True])
def test_rle_is_turned_into_jpeg_xl(tmp_path: Path, colour: bool) -> None:
    samples = smooth((2, 24, 75), "u1").reshape((2, 24, 25, 3) if colour else (2, 24, 75))
    made = dataset(samples, 8, "YBR_FULL" if colour else "MONOCHROME2")
    made.compress(RLELossless, generate_instance_uid=False)
    [(file, data)] = exported(tmp_path, {"IM1": stored(made)})
    assert file.changes[0].startswith(f"transfer syntax {RLELossless}")
    np.testing.assert_array_equal(pydicom.dcmread(io.BytesIO(data)).pixel_array, made.pixel_array)


def test_implicit_vr_becomes_explicit_and_group_lengths_are_left_out(tmp_path: Path) -> None:
    samples = smooth((1, 24, 25), "<u2")
    before = pydicom.dcmread(io.BytesIO(image(samples, IMPLICIT, texts={0x00280004: ("CS", "MONOCHROME2")})))
    before.BitsStored, before.HighBit, before.SOPClassUID, before.SOPInstanceUID = 16, 15, "1.2.840.10008.5.1.4.1.1.4", "1.2.3"
    before.add_new(0x00280106, "US", 7)
    buffer = io.BytesIO()
    before.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    place = whole.index(bytes.fromhex("0800 1600"))  # the first element of the data set
    whole = whole[:place] + bytes.fromhex("0800 0000 04000000 99000000") + whole[place:]
    [(file, data_)] = exported(tmp_path, {"IM1": whole})
    assert file.changes[1:] == ("group lengths left out",)
    after = pydicom.dcmread(io.BytesIO(data_))
    np.testing.assert_array_equal(after.pixel_array, before.pixel_array)
    assert after.SmallestImagePixelValue == 7


def test_what_jpeg_xl_is_not_for_stays_byte_for_byte(tmp_path: Path) -> None:
    def changed(made: pydicom.Dataset, **values: object) -> bytes:
        for keyword, value in values.items():
            setattr(made, keyword, value)
        return stored(made)

    plain = smooth((1, 24, 25), "<u2")
    no_image = dataset(plain, 16)
    del no_image.PixelData
    files = {
        "wide": stored(dataset(plain.astype("<u4"), 32)),
        "none": stored(no_image),
        "long": changed(dataset(plain, 16), PixelData=plain.tobytes() + bytes(100)),
        "big": image(plain, BIG, texts={0x00280004: ("CS", "MONOCHROME2")}),
        "text": b"no DICOM",
    }
    found = {file.name: (file, data) for file, data in exported(tmp_path, files)}
    assert set(found) == set(files) - {"text"}
    for name, (file, data) in found.items():
        assert data == files[name] and not file.changes and file.reason


def test_nothing_appears_where_the_proof_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"IM{z}": stored(dataset(smooth((1, 24, 25), "<u2", z), 16), z) for z in range(2)}
    encoded = pydicom_plugin.encoded
    monkeypatch.setattr(pydicom_plugin, "encoded", lambda words, *a, **k: encoded(words ^ (words > 30).astype("u2"), *a, **k))
    with pytest.raises(VerificationError):
        list(exported(tmp_path, files))
    assert contents(tmp_path / "pacs") == {}


def test_an_archive_without_dicom_is_refused(tmp_path: Path) -> None:
    [made] = medzip.compress(written(tmp_path, files_of("npy", smooth((3, 4, 5)))) / "scan.npy", preset="parametric")
    with pytest.raises(UsageError, match="DICOM"):
        medzip.export(made.archive, tmp_path / "pacs")
    with pytest.raises(UsageError, match="jxl"):
        medzip.export(made.archive, tmp_path / "pacs", transfer_syntax="j2k")


def test_the_command_says_what_it_did_and_overwrites_only_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"IM1": stored(dataset(smooth((1, 24, 25), "<u2"), 16), 1), "IM2": stored(dataset(smooth((1, 4, 5), "<u4"), 32), 2)}
    medzip.compress(written(tmp_path / "source", files), tmp_path / "archives", preset="parametric")
    call = ["export", str(tmp_path / "archives"), str(tmp_path / "pacs"), "--transfer-syntax", "jxl"]
    assert main(call) == 0
    out, err = capsys.readouterr()
    assert "2 files, 1 of them in JPEG XL" in out
    assert "SOP Instance UIDs are kept" in err and "IM2: written as it was" in err and "1.2.840.10008.1.2.4.110" in err
    assert main(call) == 1
    assert main([*call, "--overwrite", "--json"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {Path(file["file"]).name for file in record["files"]} == set(files)
    assert main(call[:-2]) == 1
