"""Rescaled floats become integers that give every bit back; what was never rescaled is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pipeline_inputs import npy, rewritten, smooth

import medzip
from medzip.errors import ArchiveDamagedError
from medzip.scaled import Scaling, from_header, scaled

SPECIAL = [-0.0, np.nan, -np.nan, np.inf, -np.inf]


def integers(seed: int = 0, low: int = -500, high: int = 3000) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(low, high, (12, 40, 40))


def found_in(samples: NDArray[Any]) -> tuple[Scaling, NDArray[Any]]:
    """The scaling of samples that have one, after a way through its header, and the integers, which give back every bit."""
    result = scaled(samples)
    assert result is not None
    scaling, numbers = result
    again, dtype = from_header(scaling.header(numbers.dtype), samples.dtype)
    assert again == scaling and dtype == numbers.dtype.newbyteorder("<")
    assert again.floats(numbers, samples.dtype).tobytes() == samples.tobytes()
    return scaling, numbers


@settings(deadline=None, max_examples=30)
@given(
    slope=st.floats(1e-6, 1e4) | st.sampled_from([0.1, 0.25, 1.0, 1.29035, 3.0, 1 / 3]),
    offset=st.sampled_from([0.0, -1024.0, 0.7, 3100.76]) | st.floats(-100, 100).map(lambda offset: round(offset, 3)),
    dtype=st.sampled_from(["f4", "f8"]),
    rounded=st.booleans(),
    special=st.sampled_from([None, *SPECIAL]),
)
def test_what_was_rescaled_is_integers(slope: float, offset: float, dtype: str, rounded: bool, special: float | None) -> None:
    if rounded:
        slope, offset = float(np.float32(slope)), float(np.float32(offset))
    with np.errstate(over="ignore"):
        samples = (integers() * slope + offset).astype(dtype)
    if special is not None:
        samples[0, :3] = special
    result = scaled(samples)
    step = np.abs(samples[np.isfinite(samples)]).max() * np.finfo(dtype).eps
    exact = offset == 0 or dtype == "f4"  # else corrections are needed, for which these are too few samples
    if slope > 100 * step and exact:  # else neighbouring integers may become one float, or their distances tell nothing
        _, numbers = found_in(samples)
        assert numbers.dtype.itemsize <= 2
    assert result is None or result[0].floats(result[1], samples.dtype).tobytes() == samples.tobytes()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_whole_numbers_keep_their_values(dtype: str) -> None:
    samples = integers(low=-100, high=900).astype(dtype)
    scaling, numbers = found_in(samples)
    assert (scaling.slope, scaling.offset) == (1, 0)
    assert (numbers == samples).all()


def test_arithmetic_in_32_bits_needs_corrections_of_the_last_bits() -> None:
    samples = integers().astype("f4") * np.float32(0.392157) + np.float32(50.1961)
    scaling, numbers = found_in(np.tile(samples, (1, 4, 4)))
    assert np.median(np.abs(np.frombuffer(scaling.corrections, "<i4"))) <= 1
    assert len(np.unique(np.tile(integers(), (1, 4, 4)) - numbers)) == 1


def test_each_kind_of_nan_keeps_its_bits() -> None:
    samples = integers().astype("f4")
    samples.view("u4")[0, 0, :4] = [0x7FC00000, 0x7FC00001, 0xFFC00000, 0x7F800001]
    scaling, _ = found_in(samples)
    assert {bits for _, bits in scaling.others} == {0x7FC00000, 0x7FC00001, 0xFFC00000, 0x7F800001}


@pytest.mark.parametrize("kind", ["noise", "all nan", "huge", "many kinds of nan"])
def test_other_floats_are_left_alone(kind: str) -> None:
    samples = np.random.default_rng(0).normal(size=(4, 40, 40)).astype("f4")
    if kind == "all nan":
        samples[:] = np.nan
    elif kind == "huge":
        samples = np.array([[[1e300, -1e300, 5.5]]])
    elif kind == "many kinds of nan":
        samples.view("u4")[:] = 0x7FC00000 + np.arange(samples.size).reshape(samples.shape) % 40
    assert scaled(samples) is None


GOOD: dict[str, Any] = {"dtype": "<i2", "slope": 0.5, "offset": 1.0, "others": [[-9, 0x7FC00000]]}
WRONG = {
    "no map": 5,
    "no slope": {"dtype": "<i2", "offset": 1.0},
    "a dtype of floats": GOOD | {"dtype": "<f4"},
    "big endian": GOOD | {"dtype": ">i2"},
    "bits of more than the float has": GOOD | {"others": [[1, 1 << 32]]},
    "negative bits": GOOD | {"others": [[1, -1]]},
    "others that are no pairs": GOOD | {"others": [[1, 2, 3]]},
    "corrections that are no zstd": GOOD | {"corrections": b"x"},
    "a first that is no integer": GOOD | {"first": 1.5, "corrections": b""},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_header_that_lies_is_damage(wrong: str) -> None:
    assert from_header(GOOD, np.dtype("f4"))[0].slope == 0.5
    with pytest.raises(ArchiveDamagedError):
        from_header(WRONG[wrong], np.dtype("f4"))
    with pytest.raises(ArchiveDamagedError):
        from_header(GOOD, np.dtype("i4"))


def test_archives_of_rescaled_floats_are_as_small_as_those_of_integers(tmp_path: Path) -> None:
    counts = smooth((6, 48, 48))
    (tmp_path / "floats.npy").write_bytes(npy((counts * np.float64(0.0123) - 7).astype(">f4")))
    (tmp_path / "counts.npy").write_bytes(npy(counts))
    floats, plain = medzip.compress([tmp_path / "floats.npy", tmp_path / "counts.npy"], preset="parametric")
    assert floats.archive_bytes < plain.archive_bytes + 200
    assert floats.model_share == 1
    with medzip.open(floats.archive) as archive:
        assert archive.volumes[0].dtype == np.dtype("f4")
        assert (archive.volumes[0][2:4] == np.load(tmp_path / "floats.npy")[2:4]).all()
    medzip.decompress(floats.archive, tmp_path / "out")
    assert (tmp_path / "out" / "floats.npy").read_bytes() == (tmp_path / "floats.npy").read_bytes()


def test_a_slope_that_was_changed_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy((smooth((3, 20, 20)) * 0.5).astype("f4")))
    [made] = medzip.compress(tmp_path / "a.npy", preset="parametric")
    for change in ({"slope": 0.25}, {"dtype": "<u4"}):
        bad = rewritten(Path(made.archive), tmp_path / "bad.mdz", header=lambda h, c=change: h | {"floats": h["floats"] | c})
        with pytest.raises(ArchiveDamagedError):
            medzip.verify(bad)


def test_complex_and_rgba_images_come_back_from_an_archive(tmp_path: Path) -> None:
    complex_image = (smooth((5, 6, 7)) + 1j * smooth((5, 6, 7), seed=9)).astype("c8")
    nibabel.Nifti1Image(complex_image, np.eye(4)).to_filename(tmp_path / "a.nii")
    rgba = np.zeros((5, 6, 7), [(name, "u1") for name in "RGBA"])
    rgba["G"], rgba["A"] = smooth((5, 6, 7)), 255
    nibabel.Nifti1Image(rgba, np.eye(4)).to_filename(tmp_path / "b.nii")
    for name, shapes in (("a.nii", [(7, 6, 5), (7, 6, 5)]), ("b.nii", [(7, 6, 5, 3), (7, 6, 5)])):
        [made] = medzip.compress(tmp_path / name, preset="parametric")
        with medzip.open(made.archive) as archive:
            assert [volume.shape for volume in archive.volumes] == shapes
        medzip.decompress(made.archive, tmp_path / "out")
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()
