"""Reading without unpacking: arrays that are numpy's, images that are the other libraries' own, and few bytes read for them."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813, its own name
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_inputs import Samples, files_of, smooth, written
from test_sources_dicom import image

import medzip
from medzip import archive as archives
from medzip.archived_file import opened
from medzip.errors import ArchiveDamagedError, LibraryMissingError, StorageError, UnsupportedInputError, UsageError

SHAPE = (70, 6, 5)  # three chunks


def archived(folder: Path, files: dict[str, bytes], **options: Any) -> Path:
    """The archive of one file, or of one series."""
    source = written(folder / "source", files)
    only = source / next(iter(files)) if len(files) == 1 else source
    [made] = medzip.compress(only, folder / "scan.mdz", preset="parametric", **options)
    return Path(made.archive)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return np.random.default_rng(1).integers(-(1 << 15), 1 << 15, SHAPE, np.int16)  # quickly decoded


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, samples: Samples) -> Path:
    return archived(tmp_path_factory.mktemp("npy"), files_of("npy", samples))


def chunks_touched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    touched: list[int] = []
    decode = archives.decode_chunk
    monkeypatch.setattr(archives, "decode_chunk", lambda *all_: touched.append(all_[3][0]) or decode(*all_))
    return touched


axis = st.one_of(
    st.integers(-70, 69),
    st.slices(70),
    st.lists(st.integers(-70, 69), max_size=5),
    st.just(Ellipsis),
    st.none(),
    st.lists(st.integers(-70, 69), min_size=1, max_size=4).map(np.array),
    st.sampled_from([np.arange(70) % 3 == 0, np.int64(3)]),
)
second = st.one_of(st.integers(-6, 5), st.slices(6))


@settings(deadline=None, max_examples=80)
@given(key=st.one_of(axis, st.tuples(axis), st.tuples(axis, second), st.tuples(st.slices(70), second, st.slices(5))))
def test_indexing_gives_what_numpy_gives(path: Path, samples: Samples, key: Any) -> None:
    with medzip.open(path) as scan:
        found, expected = scan[key], samples[key]
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("key", [70, -71, [3, 70], (slice(None), 6), (0, 0, 0, 0), "a", 1.5, (1 << 64) - 1, 1 << 80, -(1 << 63)])
def test_indices_that_numpy_refuses_are_refused(path: Path, samples: Samples, key: Any) -> None:
    with pytest.raises((IndexError, OverflowError)):
        samples[key]
    with medzip.open(path) as scan, pytest.raises((IndexError, OverflowError)):
        scan[key]


@pytest.mark.parametrize(
    ("key", "chunks"), [(3, 1), (slice(0, 5), 1), ([0, 69], 2), (slice(None, None, 69), 2), (slice(60, 50, -3), 1), ([], 0)]
)
def test_only_chunks_that_are_touched_are_decoded(path: Path, key: Any, chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    touched = chunks_touched(monkeypatch)
    with medzip.open(path) as scan:
        assert len(scan.chunks[0]) == 3 and sum(scan.chunks[0]) == len(scan) == 70
        scan[key]
    assert len(touched) == chunks


def test_it_is_an_array(path: Path, samples: Samples) -> None:
    with medzip.open(path) as scan:
        assert (scan.shape, scan.dtype, scan.ndim, len(scan), scan.affine) == (SHAPE, samples.dtype, 3, 70, None)
        np.testing.assert_array_equal(np.asarray(scan), samples)
        np.testing.assert_array_equal(np.asarray(scan.volumes[0], np.float32), samples.astype(np.float32))
        assert np.mean(scan) == samples.mean()
        with pytest.raises(ValueError, match="copy"):
            np.array(scan, copy=False)
        scan[0][:] = 0  # the caller's own
        np.testing.assert_array_equal(scan[0], samples[0])


def test_a_pickle_is_the_same_array_and_notices_another_archive(path: Path, samples: Samples, tmp_path: Path) -> None:
    moved = tmp_path / "moved.mdz"
    moved.write_bytes(path.read_bytes())
    pickles = [pickle.dumps(medzip.open(moved)), pickle.dumps(medzip.open(moved).volumes[0])]
    for data in pickles:
        np.testing.assert_array_equal(pickle.loads(data)[5:9], samples[5:9])
    moved.write_bytes(archived(tmp_path, files_of("npy", samples + 1)).read_bytes())
    for data in pickles:
        with pytest.raises(ArchiveDamagedError):
            pickle.loads(data)


def test_several_volumes_have_to_be_told_apart(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=smooth((3, 4, 5)), b=smooth((2, 4, 5)))
    with medzip.open(archived(tmp_path, {"two.npz": buffer.getvalue()})) as scan:
        assert scan and len(scan.volumes) == 2
        for refused in (len, np.asarray, medzip.Scan.to_dask):
            with pytest.raises(UsageError, match=r"volumes\[0\]"):
                refused(scan)


def test_a_file_of_several_volumes_is_one_image(tmp_path: Path) -> None:
    samples = smooth((4, 5, 6)).T + 1j * smooth((4, 5, 6), seed=6).T
    nibabel.save(nibabel.Nifti1Image(samples.astype(np.complex64), np.eye(4)), tmp_path / "scan.nii")
    with medzip.open(archived(tmp_path, {"scan.nii": (tmp_path / "scan.nii").read_bytes()})) as scan:
        assert len(scan.volumes) == 2
        np.testing.assert_array_equal(np.asarray(scan.to_nibabel().dataobj), samples)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(scan.to_sitk()), samples.T)


@settings(deadline=None, max_examples=40)
@given(begin=st.integers(0, 5000), length=st.integers(0, 3000))
def test_a_source_file_is_a_stream(path: Path, samples: Samples, begin: int, length: int) -> None:
    [(_, data)] = files_of("npy", samples).items()
    with medzip.open(path) as scan, opened(scan, scan.skeleton().files[0]) as stream:
        assert stream.seek(begin) == begin
        assert stream.read(length) == data[begin : begin + length]
        assert stream.seek(0, 2) == len(data)


# nibabel


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_to_nibabel_is_what_nibabel_loads_and_decodes_what_it_is_asked_for(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = smooth((5, 6, 7, 30), "i2").transpose(3, 1, 2, 0)
    original = nibabel.Nifti1Image(np.asfortranarray(volume), np.diag([2.0, 3, 4, 1]))
    original.header.set_slope_inter(0.5, -3)
    source = tmp_path / f"scan{ending}"
    nibabel.save(original, source)
    archive = archived(tmp_path, {source.name: source.read_bytes()}, guarantee="content")
    touched = chunks_touched(monkeypatch)
    with medzip.open(archive) as scan:
        found, expected = scan.to_nibabel(), nibabel.load(source)
        assert type(found) is type(expected) and found.header == expected.header and not touched
        np.testing.assert_array_equal(found.affine, expected.affine)
        np.testing.assert_array_equal(found.dataobj[..., 4], expected.dataobj[..., 4])
        assert touched == [3] or len(touched) < len(scan.chunks[0])
        np.testing.assert_array_equal(found.get_fdata(), expected.get_fdata())


@pytest.mark.parametrize("kind", ["pair", "analyze", "mgh"])
def test_to_nibabel_of_pairs_and_mgh(tmp_path: Path, kind: str) -> None:
    volume = np.asfortranarray(smooth((5, 6, 7), "i2").T)
    classes = {"pair": nibabel.Nifti1Pair, "analyze": nibabel.AnalyzeImage, "mgh": nibabel.MGHImage}
    source = tmp_path / "source" / ("scan.mgh" if kind == "mgh" else "scan.img")
    source.parent.mkdir()
    nibabel.save(classes[kind](volume, np.diag([2.0, 3, 4, 1])), source)
    [made] = medzip.compress(source, tmp_path / "scan.mdz", preset="parametric")
    with medzip.open(made.archive) as scan:
        found, expected = scan.to_nibabel(), nibabel.load(source)
        assert type(found) is type(expected) and found.header == expected.header
        np.testing.assert_array_equal(found.get_fdata(), expected.get_fdata())
        np.testing.assert_array_equal(found.affine, expected.affine)


def placed_image(number: int, samples: Samples, slope: str = "1") -> bytes:
    texts = {
        0x0020000E: ("UI", "1.2.3"),
        0x00200013: ("IS", str(number)),
        0x00200032: ("DS", f"10\\20\\{2.5 * number}"),
        0x00200037: ("DS", "1\\0\\0\\0\\1\\0"),
        0x00280004: ("CS", "MONOCHROME2"),
        0x00280030: ("DS", "0.5\\0.25"),
        0x00281052: ("DS", "-1024"),
        0x00281053: ("DS", slope),
    }
    data = pydicom.dcmread(io.BytesIO(image(samples, texts=texts)))
    data.BitsStored, data.HighBit = 12, 11
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number}"
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    return saved(data)


def saved(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def series(slope: str = "1") -> tuple[dict[str, bytes], Samples]:
    """Files whose names are in another order than their slices, and the samples; unused bits hold something."""
    samples = smooth((7, 8, 9), "<i2")
    files = {f"{9 - z}.dcm": placed_image(z, (samples[z : z + 1] - 40) ^ (z << 12), slope) for z in range(7)}
    return files, samples - 40


def test_pixel_array_is_pydicoms_in_the_order_of_slices(tmp_path: Path) -> None:
    files, samples = series()
    expected = np.stack([pydicom.dcmread(io.BytesIO(files[f"{9 - z}.dcm"])).pixel_array for z in range(7)])
    with medzip.open(archived(tmp_path, files)) as scan:
        found = scan.pixel_array
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(found, samples)
        assert (np.asarray(scan) != found).any()  # the words as they are stored


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("frames", [1, 3])
def test_pixel_array_of_one_file(tmp_path: Path, frames: int, channels: int) -> None:
    samples = smooth((frames, 8, 9 * channels), "u1").reshape(frames, 8, 9, channels).squeeze(3 if channels == 1 else ())
    photometric = {0x00280004: ("CS", "YBR_FULL" if channels == 3 else "MONOCHROME2")}
    dataset = pydicom.dcmread(io.BytesIO(image(samples, channels=channels, texts=photometric, vr="OB")))
    dataset.BitsStored, dataset.HighBit = 8, 7
    dataset.SOPInstanceUID = "1.2.3"
    for syntax in ("native", "rle"):
        if syntax == "rle":
            dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        source = io.BytesIO()
        dataset.save_as(source)
        expected = pydicom.dcmread(io.BytesIO(source.getvalue())).pixel_array
        (tmp_path / syntax).mkdir()
        with medzip.open(archived(tmp_path / syntax, {"one.dcm": source.getvalue()})) as scan:
            np.testing.assert_array_equal(scan.pixel_array, expected.reshape(scan.shape))
    with medzip.open(archived(tmp_path, files_of("npy", samples))) as scan, pytest.raises(UnsupportedInputError):
        _ = scan.pixel_array


@pytest.mark.parametrize("slope", ["1", "0.5"])
def test_a_dicom_series_is_one_image_in_the_units_of_the_modality(tmp_path: Path, slope: str) -> None:
    files, samples = series(slope)
    expected = samples * float(slope) - 1024
    archive = archived(tmp_path, files)
    with medzip.open(archive) as scan:
        image, volume = scan.to_nibabel(), scan.to_sitk()
    np.testing.assert_array_equal(image.get_fdata(), expected.transpose(2, 1, 0))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume), expected)
    corner = np.array([8, 7, 6])
    left_back_up = volume.TransformIndexToPhysicalPoint(corner.tolist())
    np.testing.assert_allclose((image.affine @ [*corner, 1])[:3], np.multiply(left_back_up, [-1, -1, 1]))
    np.testing.assert_allclose(left_back_up, [10 + 8 * 0.25, 20 + 7 * 0.5, 6 * 2.5])


def test_units_that_no_slope_gives_are_refused_and_empty_ones_are_none(tmp_path: Path) -> None:
    files, samples = series()
    for name, data in files.items():
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.RescaleSlope = dataset.RescaleIntercept = None
        files[name] = saved(dataset)
    with medzip.open(archived(tmp_path / "empty", files)) as scan:
        np.testing.assert_array_equal(scan.to_nibabel().get_fdata(), samples.transpose(2, 1, 0))
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [2, 0, 16], "US", bytes(4)
    for name, data in files.items():
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.ModalityLUTSequence = [table]
        files[name] = saved(dataset)
    with medzip.open(archived(tmp_path / "table", files)) as scan, pytest.raises(UnsupportedInputError, match="slope"):
        scan.to_nibabel()


@pytest.mark.parametrize("name", ["scan.nii", "scan.nrrd", "scan.mha", "scan.mhd"])
def test_to_sitk_is_what_simpleitk_reads(tmp_path: Path, name: str) -> None:
    source = sitk.GetImageFromArray(smooth((4, 5, 6)))
    source.SetSpacing([0.5, 0.75, 3])
    source.SetOrigin([1, -2, 3])
    (tmp_path / "source").mkdir()
    sitk.WriteImage(source, str(tmp_path / "source" / name))
    [made] = medzip.compress(tmp_path / "source" / name, tmp_path / "scan.mdz", preset="parametric")
    with medzip.open(made.archive) as scan:
        found = scan.to_sitk()
    expected = sitk.ReadImage(str(tmp_path / "source" / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    assert (found.GetSpacing(), found.GetOrigin()) == (expected.GetSpacing(), expected.GetOrigin())


def test_what_a_library_has_no_image_for_is_refused(path: Path) -> None:
    with medzip.open(path) as scan:
        for convert in (scan.to_nibabel, scan.to_sitk):
            with pytest.raises(UnsupportedInputError):
                convert()


@pytest.mark.parametrize(
    ("module", "call"),
    [("nibabel", "to_nibabel"), ("SimpleITK", "to_sitk"), ("dask.array", "to_dask"), ("pydicom", "pixel_array")],
)
def test_a_missing_library_is_named(path: Path, module: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with medzip.open(path) as scan, pytest.raises(LibraryMissingError, match=r"pip install 'medzip\["):
        getattr(scan, call)() if call.startswith("to") else getattr(scan, call)


# URLs


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    total = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        Counted.total += len(data)
        return data


@pytest.fixture
def url(path: Path) -> str:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/scans/scan.mdz", path.read_bytes())
    return "memory://scans/scan.mdz"


def test_a_url_gives_the_same_and_can_be_pickled(url: str, samples: Samples) -> None:
    with medzip.open(url) as scan:
        np.testing.assert_array_equal(scan, samples)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(scan))[7], samples[7])


def test_a_slice_at_a_url_costs_its_chunk_and_not_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    noise = np.random.default_rng(1).normal(size=(330, 16, 32)).astype(np.float32)
    data = archived(tmp_path, files_of("npy", noise)).read_bytes()
    monkeypatch.setattr(type(memory), "_open", lambda *_, **__: Counted(data))
    monkeypatch.setattr(Counted, "total", 0)
    with medzip.open("memory://scan.mdz") as scan:
        opening = Counted.total
        assert opening < 4096
        np.testing.assert_array_equal(scan[100], noise[100])
        assert len(data) / 10 < Counted.total - opening < len(data) / 8


def test_a_url_that_is_not_there_is_an_error_of_storage() -> None:
    with pytest.raises(StorageError):
        medzip.open("memory://nothing/here.mdz")


def test_a_url_without_fsspec_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(LibraryMissingError, match="remote"):
        medzip.open("https://example.org/scan.mdz")
