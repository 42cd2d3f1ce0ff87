"""Integers with few levels are coded as ranks that give them back; what uses most of its range is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pipeline_inputs import npy

import medzip
from medzip.chunks import ChunkCoder
from medzip.errors import ArchiveDamagedError
from medzip.levels import MAX_LEVELS, Levels, from_header, ranked
from medzip.presets import PRESETS

STRUCTURES = [0, 4, 14, 16, 24, 41, 1001, 2035]
DTYPES = ["u1", "i1", "<u2", ">i2", "<i4", "<u4", "<i8", "<u8"]


def labels(dtype: str = "<i4", seed: int = 0) -> NDArray[Any]:
    """Blocks of structures, (6, 40, 48)."""
    blocks = np.random.default_rng(seed).choice(STRUCTURES, (3, 8, 8))
    return blocks.repeat(2, 0).repeat(5, 1).repeat(6, 2).astype(dtype)


def noise(high: int = 255, shape: tuple[int, ...] = (6, 40, 48)) -> NDArray[Any]:
    return np.random.default_rng(1).integers(0, high + 1, shape, np.int32)


def through_a_header(samples: NDArray[Any]) -> tuple[Levels, NDArray[Any]]:
    """Levels and ranks of samples that have them, read back from what a header says."""
    found = ranked(samples)
    assert found is not None
    levels, ranks = found
    again, dtype = from_header(levels.header(ranks.dtype), samples.dtype)
    assert np.array_equal(again.numbers, levels.numbers) and dtype == ranks.dtype
    return again, ranks


@settings(deadline=None, max_examples=60)
@given(dtype=st.sampled_from(DTYPES), seed=st.integers(0, 999), data=st.data())
def test_levels_give_back_any_samples(dtype: str, seed: int, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    low = data.draw(st.integers(limits.min, limits.max))
    span = data.draw(st.integers(0, min(limits.max - low, 1 << 33)))
    count = data.draw(st.sampled_from([1, 2, 5, 300]))
    random = np.random.default_rng(seed)
    numbers = [low + int(n) for n in random.integers(0, span, count, endpoint=True)]
    samples = np.array([numbers[i] for i in random.integers(0, count, 2000)], dtype=np.dtype(dtype)).reshape(2, 20, 50)
    if ranked(samples) is not None:
        levels, ranks = through_a_header(samples)
        assert np.array_equal(levels.samples(ranks, samples.dtype), samples)
        assert np.array_equal(np.unique(ranks), np.arange(len(levels.numbers)))


@pytest.mark.parametrize("dtype", ["<u2", ">i2", "<i4", "<i8", "<u8"])
def test_label_maps_are_ranked_whatever_their_type(dtype: str) -> None:
    levels, ranks = through_a_header(labels(dtype))
    assert levels.numbers.tolist() == STRUCTURES and ranks.dtype == np.uint8


def test_a_comb_is_ranked_and_noise_without_gaps_is_not() -> None:
    assert ranked(noise()) is None
    levels, _ = through_a_header(noise() * 4 + 3)
    assert levels.numbers.tolist() == list(range(3, 1024, 4))


def test_rare_numbers_far_away_and_a_padding_value_are_no_reason() -> None:
    samples = noise(4095)
    samples[0, :2] = 60_000 + 7 * np.arange(48)
    samples[1:, :, :20] = -2000
    assert ranked(np.concatenate([samples, *(noise(4095, (60, 40, 48)),) * 2])) is None


def test_integers_of_64_bits_get_ranks_that_a_model_can_take() -> None:
    assert through_a_header(noise().astype("<i8"))[1].dtype == np.uint8


def test_floats_that_are_rescaled_labels_are_ranked_too(tmp_path: Path) -> None:
    samples = labels().astype("f4") * np.float32(0.5) - 3
    (tmp_path / "labels.npy").write_bytes(npy(samples))
    medzip.compress(tmp_path / "labels.npy", tmp_path / "a.mdz", preset="parametric")
    medzip.decompress(tmp_path / "a.mdz", tmp_path / "back")
    assert (tmp_path / "back" / "labels.npy").read_bytes() == (tmp_path / "labels.npy").read_bytes()


@pytest.mark.parametrize("dtype", ["<i4", ">u2", "<i8"])
def test_labels_take_fewer_bytes_by_rank(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    coder = ChunkCoder(PRESETS["parametric"], "open")
    by_rank = coder.encode(labels(dtype))
    assert "levels" in by_rank.header
    monkeypatch.setattr("medzip.levels.ranked", lambda _samples: None)
    assert by_rank.size < coder.encode(labels(dtype)).size


HEADER: dict[str, Any] = Levels(np.array([-3, 5, 900])).header(np.dtype("u1"))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "<i4"},
        {"first": 1.0},
        {"first": 1 << 40},
        {"first": 31_900},
        {"first": -32_769},
        {"steps": b""},
        {"steps": b"no frame"},
        {"steps": Levels(np.arange(0, 3 * MAX_LEVELS, 2)).header(np.dtype("u1"))["steps"]},
        {"steps": Levels(np.array([5, 5])).header(np.dtype("u1"))["steps"]},
    ],
    ids=str,
)
def test_levels_that_no_encoder_writes_are_damage(change: dict[str, Any]) -> None:
    assert from_header(HEADER, np.dtype("<i2"))[0].numbers.tolist() == [-3, 5, 900]
    with pytest.raises(ArchiveDamagedError, match="levels"):
        from_header(HEADER | change, np.dtype("<i2"))


def test_a_rank_beyond_the_levels_is_damage() -> None:
    with pytest.raises(ArchiveDamagedError, match="rank"):
        Levels(np.array([1, 5])).samples(np.array([0, 2], np.uint8), np.dtype("<i2"))
