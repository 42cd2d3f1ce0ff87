"""The bench table is fair: every codec gives the samples back or the table says so, and every byte counts."""

from __future__ import annotations

import gzip
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medzip.bench import measure, table
from medzip.bench.codecs import TOMOZ, VoxelCodec, byte_codecs, to_unsigned, voxel_codecs
from medzip.errors import ModelMissingError, UnsupportedInputError, VerificationError

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "sample_data"
SHAPES = [(1, 1, 1), (2, 1, 7), (3, 5, 1), (2, 9, 11), (2, 6, 5, 3)]
CODECS = voxel_codecs()

every_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


def save(path: Path, samples: np.ndarray) -> Path:
    np.save(path, samples)
    return path


@every_codec
@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_samples_come_back(codec: VoxelCodec, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16]))
    samples = data.draw(arrays(dtype, st.sampled_from(SHAPES)))
    decoded = codec.decode(codec.encode(samples), samples.shape, samples.dtype)
    assert decoded.dtype == samples.dtype
    assert np.array_equal(decoded, samples)


@every_codec
def test_noise_never_grows_and_is_counted_as_stored(codec: VoxelCodec) -> None:
    noise = np.random.default_rng(1).integers(0, 65536, (3, 32, 32)).astype(np.uint16)
    coded = codec.encode(noise)
    assert sum(map(len, coded)) <= noise.nbytes
    assert codec.stored_share(coded, noise) == 1
    assert np.array_equal(codec.decode(coded, noise.shape, noise.dtype), noise)


@given(
    samples=st.sampled_from(["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i2"]).flatmap(
        lambda dtype: arrays(dtype, (2, 3, 4))
    )
)
@settings(deadline=None, max_examples=200)
def test_mapping_to_unsigned_is_exact(samples: np.ndarray) -> None:
    mapped = to_unsigned(samples)
    if mapped is None:
        assert int(samples.max()) - int(samples.min()) > 65535
        return
    assert mapped.samples.dtype in (np.uint8, np.uint16)
    assert np.array_equal(mapped.original(mapped.samples), samples)
    order = np.argsort(samples, axis=None, kind="stable")
    assert (np.diff(mapped.samples.ravel()[order].astype(int)) >= 0).all(), "neighbouring values must stay neighbours"


def test_floats_are_not_mapped() -> None:
    assert to_unsigned(np.zeros((1, 2, 2), np.float32)) is None


def test_a_codec_that_decodes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    good = CODECS[0]
    broken = replace(good, decode_part=lambda data: good.decode_part(data) ^ 1)
    monkeypatch.setattr(table, "voxel_codecs", lambda: [broken])
    with pytest.raises(VerificationError, match=good.name):
        table.bench(SAMPLES / "ct_small.dcm", presets=())


def test_rivals_pay_for_the_skeleton_and_ratios_are_to_jpeg_xl() -> None:
    rows = {row.codec: row for row in table.bench(SAMPLES / "ct_small.dcm", presets=())}
    [scan] = measure.read_scans(SAMPLES / "ct_small.dcm")
    [volume] = scan.volumes
    mapped = to_unsigned(volume.samples)
    assert mapped is not None
    assert scan.skeleton_bytes > 1000
    for codec in CODECS:
        row, voxels = rows[codec.name], sum(map(len, codec.encode(mapped.samples)))
        assert row.bytes == voxels + scan.skeleton_bytes
        assert row.bpsp == 8 * row.bytes / volume.samples.size
        assert row.ratio_to_jpeg_xl == row.bytes / rows["JPEG XL e7"].bytes
    assert rows["original"].bytes == (SAMPLES / "ct_small.dcm").stat().st_size
    assert rows["original"].encode_mb_s is None


def test_what_image_codecs_do_not_take_is_stored_and_the_row_says_so(tmp_path: Path) -> None:
    rows = table.bench(save(tmp_path / "float.npy", np.linspace(0, 1, 120, dtype=np.float32).reshape(2, 6, 10)), presets=())
    row = next(row for row in rows if row.codec == "JPEG-LS")
    assert row.note == "100% of the voxels stored"
    assert row.encode_mb_s is None


def test_gzip_layer_is_measured_by_what_is_inside() -> None:
    [original, *_] = table.bench(SAMPLES / "mr_head_nifti2.nii.gz", presets=())
    assert original.bytes == len(gzip.decompress((SAMPLES / "mr_head_nifti2.nii.gz").read_bytes()))


def test_a_folder_is_one_row_a_codec_and_files_without_voxels_count_nowhere(tmp_path: Path) -> None:
    samples = np.arange(240, dtype=np.uint16).reshape(4, 6, 10)
    save(tmp_path / "a.npy", samples)
    [alone, *_] = table.bench(tmp_path, presets=())
    save(tmp_path / "b.npy", samples)
    (tmp_path / "notes.txt").write_text("no scan")
    [both, *_] = rows = table.bench(tmp_path, presets=())
    assert both.bytes == 2 * alone.bytes
    assert len({row.codec for row in rows}) == len(rows)


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no scan")
    with pytest.raises(UnsupportedInputError, match="voxels"):
        table.bench(tmp_path)


def test_what_is_missing_gets_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_weights(*_: object) -> measure.Measured:
        raise ModelMissingError("no weights here")

    monkeypatch.setattr(table, "voxel_codecs", lambda: [codec for codec in CODECS if codec.name != TOMOZ])
    monkeypatch.setattr(table, "by_medzip", no_weights)
    rows = {row.codec: row for row in table.bench(SAMPLES / "mr_small.dcm", presets=("llm",))}
    assert "not installed" in rows[TOMOZ].note
    assert rows["medzip llm"].note == "no weights here"
    assert rows["medzip llm"].bytes is None


def test_medzip_is_measured_by_its_whole_archive() -> None:
    path = SAMPLES / "ct_heart_series"
    row = next(row for row in table.bench(path, presets=("default",)) if row.codec == "medzip default")
    [scan] = measure.read_scans(path)
    assert row.bytes is not None
    assert row.bytes > scan.skeleton_bytes
    assert row.encode_mb_s is not None
    assert row.decode_mb_s is not None
    assert "by the model" in row.note


def test_table_is_aligned_and_markdown_has_the_same_cells() -> None:
    rows = [table.Row("original", 1234567, 16.0, 2.5), table.Row("medzip llm", 99, 1.5, 0.9, 0.012, 123.4, "all good")]
    text, markdown = table.render(rows), table.render(rows, markdown=True)
    heading, first, second = text.splitlines()
    assert first.index("1,234,567") + len("1,234,567") == second.index("99") + 2 == heading.index("bytes") + 5
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    assert [line[0] for line in cells] == ["codec", "-" * 10, "original", "medzip llm"]
    assert cells[3][1:] == ["99", "1.500", "0.900", "0.012", "123", "all good"]
    assert cells[2][4:] == ["-", "-", ""]
    assert asdict(rows[1])["decode_mb_s"] == 123.4


def test_byte_codecs_give_the_bytes_back() -> None:
    data = bytes(range(256)) * 20
    for codec in byte_codecs():
        assert codec.decode(codec.encode(data)) == data
        assert len(codec.encode(data)) < len(data)
