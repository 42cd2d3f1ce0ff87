"""Arrays outside archives: every bit comes back, in Zarr and alone; and through dask and xarray, volumes of archives."""

from __future__ import annotations

import pickle
import struct
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_inputs import files_of, flipped, smooth, written

import medzip
from medzip import array_bytes
from medzip.container.checksum import crc32c
from medzip.errors import (
    ArchiveDamagedError,
    MedzipError,
    UnsupportedArchiveError,
    UnsupportedInputError,
    UsageError,
    VerificationError,
)

ROOT = Path(__file__).resolve().parents[1]
DTYPES = [*("?", "u1", "i1", "<u2", ">i2", "<i4", ">u8", "<f2", "<f4", ">f8"), *("c8", "S5", "<U3", "M8[s]", "<f16", "i2,f4")]
SHAPES = [(), (1,), (0,), (7,), (3, 0, 2), (5, 4), (3, 5, 4), (2, 1, 5, 4, 3), (40, 2, 3), (2, 3, 4, 5, 1), (4, 5, 3)]


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.sampled_from(SHAPES),
    fortran=st.booleans(),
    noise=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_bit_comes_back(dtype: str, shape: tuple[int, ...], fortran: bool, noise: bool, seed: int) -> None:
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    data = np.random.default_rng(seed).bytes(size) if noise else bytes(range(60, 60 + kind.itemsize)) * int(np.prod(shape))
    if kind.kind in "U?":
        data = b"\1\0\0\0" * (size // 4 + 1) if kind.kind == "U" else bytes(b & 1 for b in data)
    array = np.frombuffer(data, kind, int(np.prod(shape))).reshape(shape)
    array = np.asfortranarray(array) if fortran and shape else array
    found = array_bytes.decode(array_bytes.encode(array, "parametric"))
    same(found, array)
    assert found.flags.f_contiguous == array.flags.f_contiguous or kind.str[1:] not in array_bytes.CODED


def test_samples_are_coded_by_the_model_and_noise_does_not_grow() -> None:
    samples = smooth((12, 40, 40), "<i2")
    data = array_bytes.encode(samples, "fast")
    assert len(data) < samples.nbytes / 2
    same(array_bytes.decode(data), samples)
    noise = np.random.default_rng(1).integers(0, 1 << 16, (12, 40, 40), np.uint16)
    assert len(array_bytes.encode(noise, "fast")) < noise.nbytes + 200


def test_objects_and_presets_that_other_machines_cannot_decode_are_refused() -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        array_bytes.encode(np.array([{}]), "parametric")
    for preset in ("llm", "paper", "nothing"):
        with pytest.raises(UsageError):
            array_bytes.encode(np.zeros(3, np.uint8), preset)


@settings(deadline=None, max_examples=25)
@given(bit=st.integers(0, 1 << 30), sealed=st.booleans(), complex_=st.booleans())
def test_damage_is_an_error_or_harmless(bit: int, sealed: bool, complex_: bool) -> None:
    array = smooth((3, 5, 6), "<i2").astype("c8" if complex_ else "<i2")
    good = array_bytes.encode(array, "parametric")
    bad = flipped(good, bit % (8 * len(good)))
    if sealed:  # by somebody who means harm
        bad = bad[:-4] + struct.pack("<I", crc32c(bad[:-4]))
    try:
        array_bytes.decode(bad)
    except MedzipError:
        return
    assert sealed


@pytest.mark.parametrize("shape", [[10**12, 5, 6], [10**6, 10**6, 6], [0, 5, 6], [-3, 5, 6], "x"])
def test_a_shape_that_lies_is_an_error(shape: Any) -> None:
    header, chunks = array_bytes._opened(array_bytes.encode(smooth((3, 5, 6)), "parametric"))
    for counts in (None, 10**12):
        entries = [{**one, "count": counts or one["count"]} for one, _ in chunks]
        encoded = array_bytes.cbor.encode({**header, "shape": shape, "chunks": entries})
        data = array_bytes.MAGIC + struct.pack("<I", len(encoded)) + encoded + b"".join(payload for _, payload in chunks)
        with pytest.raises((ArchiveDamagedError, UnsupportedArchiveError)):
            array_bytes.decode(data + struct.pack("<I", crc32c(data)))


def test_an_array_that_could_not_be_decoded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedInputError):
        array_bytes.encode(np.broadcast_to(np.uint8(0), (1 << 31,)), "parametric")
    encode_bytes = array_bytes.ChunkCoder.encode_bytes
    monkeypatch.setattr(array_bytes.ChunkCoder, "encode_bytes", lambda self, data: encode_bytes(self, data ^ (data == 98)))
    with pytest.raises(VerificationError):
        array_bytes.encode(np.array(["abc"], "S3"), "parametric")


def test_a_newer_version_is_told_from_damage() -> None:
    data = bytearray(array_bytes.encode(smooth((3, 5, 6)), "parametric"))
    data[7] = 2
    with pytest.raises(UnsupportedArchiveError):
        array_bytes.decode(bytes(data))
    with pytest.raises(ArchiveDamagedError):
        array_bytes.decode(b"")


# Zarr


@pytest.mark.parametrize("dtype", ["<i2", "<f4", "?", "<c8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_zarr_format_2_through_numcodecs(dtype: str, order: str) -> None:
    import numcodecs
    import zarr

    from medzip.numcodecs_codec import Medzip

    numcodecs.register_codec(Medzip)
    samples = smooth((7, 20, 30)).astype(dtype)
    store: dict[str, Any] = {}
    options = {"shape": samples.shape, "chunks": (3, 20, 16), "dtype": dtype, "zarr_format": 2, "order": order}
    array = zarr.create_array(store, compressors=Medzip("parametric"), filters=None, **options)
    array[:] = samples
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[:], samples)
    codec = numcodecs.get_codec({"id": "medzip", "preset": "fast"})
    assert codec == Medzip("fast") and pickle.loads(pickle.dumps(codec)) == codec
    assert bytes(codec.decode(codec.encode(b"any bytes"))) == b"any bytes"
    target = np.empty_like(samples)
    codec.decode(codec.encode(samples), out=target)
    np.testing.assert_array_equal(target, samples)


@pytest.mark.parametrize("dtype", ["<i2", ">u2", "<f4", "?", "<c8", "<i8"])
def test_zarr_format_3(dtype: str) -> None:
    import zarr

    from medzip.zarr_codec import Medzip

    zarr.registry.register_codec("medzip", Medzip)
    samples = smooth((7, 20, 30)).astype(dtype)
    store: dict[str, Any] = {}
    codec = Medzip(preset="parametric")
    array = zarr.create_array(store, shape=samples.shape, chunks=(3, 20, 16), dtype=dtype, serializer=codec, compressors=None)
    array[:] = samples
    found = zarr.open_array(store, mode="r")
    np.testing.assert_array_equal(found[:], samples)
    assert found.metadata.codecs == (codec,)
    np.testing.assert_array_equal(found[4, 3:5], samples[4, 3:5])


def test_zarr_refuses_a_chunk_of_another_array() -> None:
    import zarr

    from medzip.zarr_codec import Medzip

    zarr.registry.register_codec("medzip", Medzip)
    store: dict[str, Any] = {}
    options: dict[str, Any] = {"serializer": Medzip(preset="parametric"), "compressors": None, "chunks": (3, 4)}
    zarr.create_array(store, name="a", shape=(3, 4), dtype="i2", **options)[:] = 1
    zarr.create_array(store, name="b", shape=(3, 4), dtype="i4", **options)[:] = 1
    store["a/c/0/0"] = store["b/c/0/0"]
    with pytest.raises(ArchiveDamagedError):
        zarr.open_array(store, path="a", mode="r")[:]


# dask and xarray


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    samples = np.random.default_rng(1).integers(0, 1 << 16, (70, 6, 5), np.uint16)
    folder = tmp_path_factory.mktemp("archive")
    [made] = medzip.compress(written(folder, files_of("npy", samples)) / "scan.npy", preset="parametric")
    return Path(made.archive), samples


def test_dask_has_one_block_for_each_chunk(archive: tuple[Path, np.ndarray]) -> None:
    path, samples = archive
    with medzip.open(path) as scan:
        array = scan.to_dask()
        assert array.chunks == scan.chunks and array.numblocks == (3, 1, 1) and array.dtype == samples.dtype
        assert array.name == medzip.open(path).to_dask().name
        np.testing.assert_array_equal(array[20:50].max(axis=0).compute(), samples[20:50].max(axis=0))
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(array))[69].compute(), samples[69])


def test_xarray_opens_archives_lazily(archive: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    import xarray

    from medzip.xarray_backend import MedzipBackend

    path, samples = archive
    with xarray.open_dataset(path, engine=MedzipBackend) as dataset:
        assert dataset.volume.dims == ("slice", "row", "column") and "affine" not in dataset.volume.attrs
        np.testing.assert_array_equal(dataset.volume[5:60:7, ::-1, [0, 3]], samples[5:60:7, ::-1][:, :, [0, 3]])
        np.testing.assert_array_equal(dataset.volume.isel(slice=[3, 1]), samples[[3, 1]])
    with xarray.open_dataset(path, engine=MedzipBackend, chunks={}) as dataset:
        assert len(dataset.volume.chunks[0]) == 3
        np.testing.assert_array_equal(dataset.volume, samples)
    assert MedzipBackend().guess_can_open(str(path)) and not MedzipBackend().guess_can_open("scan.nii")
    source = written(tmp_path, files_of("nii", smooth((3, 4, 5)))) / "scan.nii"
    [made] = medzip.compress(source, preset="parametric")
    with xarray.open_dataset(made.archive, engine=MedzipBackend) as dataset, medzip.open(made.archive) as scan:
        affine = None if scan.affine is None else scan.affine.ravel().tolist()
        assert dataset.volume.attrs.get("affine") == affine


def test_entry_points_name_what_is_there() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(groups) == {"numcodecs.codecs", "zarr.codecs", "xarray.backends"}
    for entries in groups.values():
        assert set(entries) == {"medzip"}
        module, name = entries["medzip"].split(":")
        assert isinstance(getattr(import_module(module), name), type)
