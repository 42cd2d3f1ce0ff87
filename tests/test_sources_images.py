"""Formats whose header tells where samples lie: every byte comes back, and samples and places are those of other readers."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.externals.netcdf import netcdf_file
from numpy.typing import NDArray

from medzip.errors import UnsupportedInputError
from medzip.sources import SOURCES, groups, image, read
from medzip.sources.contract import HEAD_BYTES
from medzip.volume import Literal, Volume, join

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def taken_apart(path: Path, source: str) -> list[Volume]:
    """The volumes of a file (and its partner), after proving that join gives the same bytes."""
    [group] = groups(path)
    assert group.source == source
    skeleton, volumes = read(group)
    for file in skeleton.files:
        assert b"".join(join(file, volumes)) == (path.parent / file.name).read_bytes()
    return volumes


def noise(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Samples of every value that a dtype has, floats finite."""
    kind = np.dtype(dtype)
    words = np.frombuffer(np.random.default_rng(3).bytes(int(np.prod(shape)) * kind.itemsize), kind)
    return (np.where(np.isfinite(words), words, 1) if kind.kind == "f" else words).reshape(shape).astype(dtype)


def itk_affine(image: SimpleITK.Image) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


ITK_TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("dtype", ITK_TYPES)
def test_itk_and_medzip_see_the_same_samples_in_the_same_place(suffix: str, dtype: str, tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(noise((4, 5, 6), dtype))
    image.SetSpacing((0.5, 0.75, 3))
    image.SetOrigin((-10, 20, 30))
    image.SetDirection(tuple(np.ravel(nibabel.eulerangles.euler2mat(0.3, -0.5, 2.9))))
    SimpleITK.WriteImage(image, tmp_path / f"scan{suffix}")
    [volume] = taken_apart(tmp_path / f"scan{suffix}", "metaimage" if suffix.startswith(".m") else "nrrd")
    assert volume.samples.dtype == np.dtype(dtype)
    assert volume.samples.tobytes() == SimpleITK.GetArrayFromImage(image).tobytes()
    np.testing.assert_allclose(volume.affine, itk_affine(image), atol=1e-9)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("channels", [2, 3, 4, 7])
@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_components_of_a_pixel_are_colours_or_volumes(suffix: str, channels: int, dtype: str, tmp_path: Path) -> None:
    array = noise((4, 5, 6, channels), dtype)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=True), tmp_path / f"scan{suffix}")
    volumes = taken_apart(tmp_path / f"scan{suffix}", "metaimage" if suffix == ".mha" else "nrrd")
    parts = [volume.samples if volume.samples.ndim == 4 else volume.samples[..., None] for volume in volumes]
    assert np.concatenate(parts, axis=3).tobytes() == array.tobytes()
    assert len(volumes) == {2: 2, 3: 1, 4: 2 if dtype == "u1" else 4, 7: 7}[channels]


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_compressed_samples_are_kept_whole(suffix: str, tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), "i2")), tmp_path / f"scan{suffix}", True)
    assert taken_apart(tmp_path / f"scan{suffix}", "metaimage" if suffix == ".mha" else "nrrd") == []


def metaimage(*lines: str, data: bytes = b"") -> bytes:
    fields = ("ObjectType = Image", "NDims = 3", "BinaryData = True", "DimSize = 2 3 4", *lines)
    return "\n".join(fields).encode() + b"\n" + data


@pytest.mark.parametrize(("size", "before"), [("-1", 7), ("7", 7), ("0", 0)])
def test_metaimage_samples_begin_where_itk_finds_them(size: str, before: int, tmp_path: Path) -> None:
    array = np.arange(24, dtype=">i2")
    header = metaimage("ElementType = MET_SHORT", "ElementByteOrderMSB = True", f"HeaderSize = {size}", "ElementDataFile = a.raw")
    (tmp_path / "a.mhd").write_bytes(header)
    (tmp_path / "a.raw").write_bytes(bytes(before) + array.tobytes() + (b"after" if size != "-1" else b""))
    [volume] = taken_apart(tmp_path / "a.mhd", "metaimage")
    read_by_itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / "a.mhd"))
    assert (volume.samples == array.reshape(4, 3, 2)).all() and (volume.samples == read_by_itk).all()


@pytest.mark.parametrize("fields", [{"byte skip": -1}, {"byte skip": 7}, {"line skip": 2}, {"endian": "big"}, {}])
def test_nrrd_samples_begin_where_pynrrd_finds_them(fields: dict[str, Any], tmp_path: Path) -> None:
    array = np.arange(24, dtype="i2").reshape(2, 3, 4, order="F")
    lines = {"type": "short", "dimension": 3, "sizes": "2 3 4", "endian": "little", "encoding": "raw"} | fields
    text = "".join(f"{key}: {value}\n" for key, value in lines.items())
    before = b"between" if "byte skip" in fields else b"one\ntwo\n" if "line skip" in fields else b""
    data = array.astype(">i2" if "endian" in fields else "<i2").tobytes(order="F")
    (tmp_path / "a.nrrd").write_bytes(f"NRRD0004\n# comment\n{text}key:=value\n\n".encode() + before + data)
    [volume] = taken_apart(tmp_path / "a.nrrd", "nrrd")
    assert (volume.samples == nrrd.read(str(tmp_path / "a.nrrd"))[0].transpose()).all()
    assert (volume.samples == array.transpose()).all()


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 2), (1, 9, 1)])
def test_mgh_is_what_nibabel_reads(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    affine = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.3, -0.5, 2.9) @ np.diag([0.5, 0.75, 3]), [1, 2, 3])
    nibabel.MGHImage(noise(shape, dtype), affine).to_filename(tmp_path / "a.mgh")
    image = nibabel.load(tmp_path / "a.mgh")
    [volume] = taken_apart(tmp_path / "a.mgh", "mgh")
    samples = np.asanyarray(image.dataobj)
    assert volume.samples.dtype == samples.dtype.newbyteorder("=")
    assert volume.samples.astype(samples.dtype).tobytes() == samples.tobytes(order="F")
    if shape[0] > 1:
        np.testing.assert_allclose(volume.affine, image.affine, atol=1e-4)


AFNI = """
type = integer-attribute
name = DATASET_RANK
count = 2
 3 2

type = integer-attribute
name = DATASET_DIMENSIONS
count = 3
 5 6 7

type = integer-attribute
name = BRICK_TYPES
count = 2
 1 {second}

type = string-attribute
name = BYTEORDER_STRING
count = 10
'{order}~
"""


@pytest.mark.parametrize(("order", "name"), [("<", "LSB_FIRST"), (">", "MSB_FIRST")])
def test_afni_is_what_its_header_says(order: str, name: str, tmp_path: Path) -> None:
    array = noise((2, 7, 6, 5), f"{order}i2")
    (tmp_path / "a+orig.HEAD").write_text(AFNI.format(second=1, order=name))
    (tmp_path / "a+orig.BRIK").write_bytes(array.tobytes())
    [volume] = taken_apart(tmp_path / "a+orig.BRIK", "afni")
    assert (volume.samples == array.reshape(14, 6, 5)).all()


def test_afni_sub_bricks_of_several_types_are_several_volumes(tmp_path: Path) -> None:
    first, second = noise((7, 6, 5), "<i2"), noise((7, 6, 5), "<f4")
    (tmp_path / "a+orig.HEAD").write_text(AFNI.format(second=3, order="LSB_FIRST"))
    (tmp_path / "a+orig.BRIK").write_bytes(first.tobytes() + second.tobytes())
    volumes = taken_apart(tmp_path / "a+orig.HEAD", "afni")
    assert [volume.samples.tobytes() for volume in volumes] == [first.tobytes(), second.tobytes()]


def par(bits: int, places: list[int]) -> str:
    rows = (f" {place + 1} 1 1 1 0 2 {place} {bits} 62 5 6 0.0 1.29 4.2e-003" for place in places)
    head = ["# === DATA DESCRIPTION FILE ===", "# Research image export tool     V4.2", ".    Patient name : x", ""]
    return "\n".join([*head, *rows, "", "# end", ""])


@pytest.mark.parametrize("bits", [8, 16])
def test_par_rec_slices_come_in_the_order_of_the_file(bits: int, tmp_path: Path) -> None:
    array = noise((3, 6, 5), f"<u{bits // 8}")
    (tmp_path / "a.PAR").write_text(par(bits, [2, 0, 1]))
    (tmp_path / "a.REC").write_bytes(array.tobytes())
    [volume] = taken_apart(tmp_path / "a.PAR", "par_rec")
    assert (volume.samples == array).all()


@pytest.mark.parametrize(("signtype", "expected"), [("unsigned", "u1"), ("signed__", "i1"), (None, "u1")])
def test_minc_1_is_what_netcdf_says(signtype: str | None, expected: str, tmp_path: Path) -> None:
    array = noise((4, 5, 6), "i1")
    with netcdf_file(str(tmp_path / "a.mnc"), "w") as file:
        for name, length in zip(("zspace", "yspace", "xspace"), array.shape, strict=True):
            file.createDimension(name, length)
        file.createVariable("zspace", "i4", ())
        image = file.createVariable("image", "b", ("zspace", "yspace", "xspace"))
        image[:] = array
        if signtype:
            image.signtype = signtype
    [volume] = taken_apart(tmp_path / "a.mnc", "minc")
    assert volume.samples.dtype == np.dtype(expected)
    assert volume.samples.tobytes() == array.tobytes()


def minc2(path: Path, dtype: str, **storage: Any) -> NDArray[Any]:
    array = noise((4, 5, 6), dtype)
    with h5py.File(path, "w") as file:
        file.create_group("minc-2.0/image/0").create_dataset("image", data=array, **storage)
    return array


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", ">f4"])
def test_minc_2_in_one_piece_is_what_hdf5_says(dtype: str, tmp_path: Path) -> None:
    array = minc2(tmp_path / "a.mnc", dtype)
    [volume] = taken_apart(tmp_path / "a.mnc", "minc2")
    assert (volume.samples == array).all()


@pytest.mark.parametrize("without", ["chunks", "library"])
def test_minc_2_in_chunks_or_without_its_library_is_kept_whole(
    without: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minc2(tmp_path / "a.mnc", "i2", **({"compression": "gzip"} if without == "chunks" else {}))
    if without == "library":
        monkeypatch.setitem(sys.modules, "h5py", None)
    assert taken_apart(tmp_path / "a.mnc", "minc2") == []


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"rowsperstrip": 2}, {"imagej": True}])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_pages_of_a_tiff_are_slices(options: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    array = noise((4, 5, 6), dtype)
    photometric = None if "imagej" in options else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric, **options)
    [volume] = taken_apart(tmp_path / "a.tif", "tiff")
    assert volume.samples.tobytes() == tifffile.imread(tmp_path / "a.tif").astype(dtype).tobytes()


def test_components_apart_are_slices(tmp_path: Path) -> None:
    array = noise((2, 4, 5, 6), "u2")
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig="separate", extrasamples=["unassalpha"])
    [volume] = taken_apart(tmp_path / "a.tif", "tiff")
    assert volume.samples.tobytes() == array.tobytes()


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_tiffs_have_channels_last(planar: str, tmp_path: Path) -> None:
    array = noise((4, 5, 6, 3), "u1")
    stored = array if planar == "contig" else np.moveaxis(array, -1, 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    [volume] = taken_apart(tmp_path / "a.tif", "tiff")
    assert (volume.samples == array).all()


def test_tiles_of_a_tiff_are_slices(tmp_path: Path) -> None:
    array = noise((2, 32, 48), "u2")
    tifffile.imwrite(tmp_path / "a.tif", array, tile=(16, 16), photometric="minisblack")
    [volume] = taken_apart(tmp_path / "a.tif", "tiff")
    tiles = array.reshape(2, 2, 16, 3, 16).transpose(0, 1, 3, 2, 4).reshape(12, 16, 16)
    assert (volume.samples == tiles).all()


def test_compressed_pages_stay_literal_among_others(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for compression in (None, "zlib", None):
            writer.write(noise((5, 6), "u1"), compression=compression, contiguous=False)
    [volume] = taken_apart(tmp_path / "a.tif", "tiff")
    assert volume.samples.shape == (2, 5, 6)


def test_stored_members_of_npz_are_volumes(tmp_path: Path) -> None:
    arrays = {"a": noise((4, 5, 6), "i2"), "b": noise((7, 8), "f4"), "c": np.array(["text"])}
    np.savez(tmp_path / "a.npz", **arrays)
    first, second = taken_apart(tmp_path / "a.npz", "npz")
    assert (first.samples == arrays["a"]).all() and (second.samples == arrays["b"]).all()


@pytest.mark.parametrize("limit", ["LARGEST_PLANE", "MAX_VOLUMES"])
def test_what_no_decoder_could_hold_is_kept_whole(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", noise((4, 5, 6), "i2"), noise((4, 5, 6), "i2"))
    assert len(taken_apart(tmp_path / "a.npz", "npz")) == 2
    monkeypatch.setattr(image, limit, {"LARGEST_PLANE": 59, "MAX_VOLUMES": 1}[limit])
    assert taken_apart(tmp_path / "a.npz", "npz") == []


def small_files(folder: Path) -> dict[str, bytes]:
    """A small file of each format whose samples lie in its own file."""
    image = SimpleITK.GetImageFromArray(noise((2, 3, 4), "i2"))
    for name in ("a.mha", "a.nrrd"):
        SimpleITK.WriteImage(image, folder / name)
    nibabel.MGHImage(noise((2, 3, 4), "i2"), np.eye(4)).to_filename(folder / "a.mgh")
    tifffile.imwrite(folder / "a.tif", noise((2, 3, 4), "u2"), photometric="minisblack")
    np.savez(folder / "a.npz", noise((2, 3, 4), "i2"))
    with netcdf_file(str(folder / "a.mnc"), "w") as file:
        for name, length in zip("zyx", (2, 3, 4), strict=True):
            file.createDimension(name, length)
        file.createVariable("image", "h", tuple("zyx"))[:] = noise((2, 3, 4), "i2")
    return {
        {".mha": "metaimage", ".tif": "tiff", ".mnc": "minc"}.get(p.suffix, p.suffix[1:]): p.read_bytes()
        for p in folder.iterdir()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return small_files(tmp_path_factory.mktemp("small"))


def split(source: str, data: bytes) -> None:
    """Takes a file apart, which must give it back or a typed error."""
    chosen = SOURCES[source]
    if chosen.detect(data[:HEAD_BYTES]):
        try:
            chosen.archive_name(io.BytesIO(data), len(data), "a")
            skeleton, volumes = chosen.split([("a", data)])
        except UnsupportedInputError as error:
            assert str(error).startswith("a: expected")
            return
        assert b"".join(join(skeleton.files[0], volumes)) == data


@settings(deadline=None, max_examples=40)
@given(source=st.sampled_from(["metaimage", "nrrd", "mgh", "tiff", "npz", "minc"]), data=st.data())
def test_changed_and_cut_files_are_refused_or_restored(source: str, data: st.DataObject, small: dict[str, bytes]) -> None:
    changed = bytearray(small[source])
    for _ in range(data.draw(st.integers(0, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    split(source, bytes(changed[: data.draw(st.integers(0, len(changed)))]))
    split(source, bytes(changed))


LIES: dict[str, Callable[[], bytes]] = {
    "metaimage": lambda: metaimage("ElementType = MET_SHORT", "ElementDataFile = LOCAL").replace(
        b"2 3 4", b"9999999 9999999 9999999"
    ),
    "nrrd": lambda: b"NRRD0004\ntype: short\nsizes: 9999999 9999999 9999999\nendian: little\nencoding: raw\n\n" + bytes(99),
    "mgh": lambda: np.array([1, 1 << 20, 1 << 20, 1 << 20, 1, 4, 0], ">i4").tobytes() + bytes(999),
}


@pytest.mark.parametrize("source", LIES)
def test_headers_that_claim_10_to_the_18_voxels_are_refused_at_once(source: str) -> None:
    with pytest.raises(UnsupportedInputError, match="bytes of samples"):
        SOURCES[source].split([("a", LIES[source]())])


@pytest.mark.parametrize("name", ["../b.raw", "/etc/passwd", "sub/b.raw", "..", "C:\\b.raw"])
def test_names_in_headers_are_never_followed_out_of_the_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for place in (tmp_path / "b.raw", tmp_path / "sub" / "b.raw"):
        place.write_bytes(bytes(48))
    header = metaimage("ElementType = MET_SHORT", f"ElementDataFile = {name}")
    (tmp_path / "sub" / "a.mhd").write_bytes(header)
    with pytest.raises(UnsupportedInputError, match="elsewhere"):
        groups(tmp_path / "sub" / "a.mhd")
    [rest] = groups(tmp_path)
    assert rest.source == "stored" and len(rest.files) == 3


def test_pairs_in_a_folder_are_found_in_each_of_its_folders_and_restored(tmp_path: Path) -> None:
    header = metaimage("ElementType = MET_SHORT", "ElementDataFile = ./b.raw")
    for folder in ("one", "two/deep"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.mhd").write_bytes(header)
        (tmp_path / folder / "b.raw").write_bytes(noise((4, 3, 2), "i2").tobytes())
    (tmp_path / "two" / "deep" / "again.mhd").write_bytes(header)
    (tmp_path / "alone.mhd").write_bytes(header)
    found = {group.name: (group.source, [name for name, _ in group.files]) for group in groups(tmp_path)}
    assert found == {
        "one/a.mhd.mdz": ("metaimage", ["one/a.mhd", "one/b.raw"]),
        "two/deep/a.mhd.mdz": ("metaimage", ["two/deep/a.mhd", "two/deep/b.raw"]),
        "rest.mdz": ("stored", ["alone.mhd", "two/deep/again.mhd"]),
    }
    assert [len(read(group)[1]) for group in groups(tmp_path)] == [1, 0, 1]


def test_a_header_without_its_samples_is_refused_unless_it_is_to_be_stored(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_bytes(metaimage("ElementType = MET_SHORT", "ElementDataFile = gone.raw"))
    with pytest.raises(UnsupportedInputError, match=r"gone\.raw, beside it.*--store"):
        groups(tmp_path / "a.mhd")
    [group] = groups(tmp_path / "a.mhd", store=True)
    skeleton, volumes = read(group)
    assert volumes == [] and skeleton.files[0].segments == (Literal((tmp_path / "a.mhd").read_bytes()),)
