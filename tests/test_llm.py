"""The language model codec: what it sees is decoded, what it codes comes back, and another machine never gets it wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the llm extra is not installed")
import torch
from llm_networks import write_weights

from fine_tune.datasets.patches import collate, patch_of
from medzip.coder.range_coder import Decoder, Encoder
from medzip.entropy_model.contract import Chunk, ChunkHeader
from medzip.entropy_model.llm import layouts
from medzip.entropy_model.llm.model import LanguageModel
from medzip.entropy_model.llm.offsets import NEIGHBOURS, REACH
from medzip.entropy_model.llm.schedule import lockstep, staggered
from medzip.errors import UnsupportedInputError
from medzip.weights.registry import read_weights

PATCH = 8
SHAPES = [(1, 1, 1), (3, 8, 8), (4, 9, 17), (7, 5, 20), (2, 19, 3)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    folder = tmp_path_factory.mktemp("weights")
    files = {kind: write_weights(folder, kind, patch=PATCH) for kind in ("llm", "paper")}
    files["unprompted"] = write_weights(folder, "paper", patch=PATCH, name="bare", prompted=False)
    return {kind: LanguageModel(read_weights(path), threads=1) for kind, path in files.items()}


def smooth(shape: tuple[int, ...], dtype: Any, top: int, seed: int = 0) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(seed)
    steps = generator.normal(0, top / 60, shape).cumsum(axis=1).cumsum(axis=2)
    lowest = np.iinfo(dtype).min // 2
    return (lowest + np.clip(top / 2 + steps, 0, top)).astype(dtype)


def base_for(kind: str, samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    return None if kind == "llm" else (samples // 5 * 5).astype(samples.dtype)


@pytest.mark.parametrize("kind", ["llm", "paper", "unprompted"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_comes_back(models: dict[str, LanguageModel], kind: str, shape: tuple[int, int, int]) -> None:
    samples = smooth(shape, np.uint8, 255)
    base = base_for(kind, samples)
    coder = Encoder()
    side = models[kind].encode(Chunk(samples, base), coder)
    back = models[kind].decode(ChunkHeader(shape, samples.dtype.str, side, base), Decoder(coder.finish()))
    assert back.dtype == samples.dtype
    np.testing.assert_array_equal(back, samples)


@pytest.mark.parametrize("kind", ["llm", "paper"])
@pytest.mark.parametrize(("dtype", "top"), [(np.int16, 4095), (np.uint16, 65535), (np.int8, 100), (np.int32, 1 << 20)])
def test_signed_and_deep_values_come_back(models: dict[str, LanguageModel], kind: str, dtype: Any, top: int) -> None:
    samples = smooth((3, 10, 9), dtype, top)
    samples[0, 0, :3] = [samples.min(), samples.max(), samples.min()]
    base = base_for(kind, samples)
    coder = Encoder()
    side = models[kind].encode(Chunk(samples, base), coder)
    back = models[kind].decode(ChunkHeader((3, 10, 9), samples.dtype.str, side, base), Decoder(coder.finish()))
    np.testing.assert_array_equal(back, samples)


def test_a_range_that_float32_cannot_count_is_refused(models: dict[str, LanguageModel]) -> None:
    samples = np.array([[[0, 1 << 30]]], np.int64)
    with pytest.raises(UnsupportedInputError):
        models["llm"].encode(Chunk(samples), Encoder())


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 3), (33, 40, 3), (17, 50, 2), (5, 5, 1)])
def test_staggered_patches_find_every_causal_neighbour_decoded(height: int, width: int, channels: int) -> None:
    """A neighbour is due if it comes before in raster order in its slice, or lies in a slice before, within the image."""
    schedule = staggered((height, width), PATCH, channels * PATCH * PATCH)
    due = np.full((channels, height, width), -1)
    for index in range(len(schedule.start)):
        for place in range(channels * PATCH * PATCH):
            channel, within = divmod(place, PATCH * PATCH)
            row = int(schedule.rows[index]) * PATCH + within // PATCH
            column = int(schedule.columns[index]) * PATCH + within % PATCH
            if row < height and column < width:
                due[channel, row, column] = schedule.start[index] + place
    assert due.min() >= 0
    for dz, dy, dx in NEIGHBOURS:
        for channel in range(-dz, channels):
            rows = np.arange(max(0, -dy), height - max(0, dy))
            columns = np.arange(max(0, -dx), width - max(0, dx))
            if len(rows) and len(columns):
                here = due[channel][np.ix_(rows, columns)]
                there = due[channel + dz][np.ix_(rows + dy, columns + dx)]
                assert (there < here).all(), (dz, dy, dx)


def test_a_slot_holds_one_patch_at_a_time() -> None:
    for schedule, length in ((staggered((50, 41), PATCH, 192), 192), (lockstep((50, 41), PATCH, 192, 5), 192)):
        for slot in range(schedule.slots):
            starts = np.sort(schedule.start[schedule.slot == slot])
            assert (np.diff(starts) >= length).all()
        assert schedule.steps == schedule.start.max() + length


def test_training_and_coding_see_the_same(models: dict[str, LanguageModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """The features of every voxel while coding are those that `fine_tune` trains on, though coding starts from nothing."""
    samples = smooth((3, 19, 22), np.uint8, 255)
    seen: dict[tuple[int, int, int], np.ndarray[Any, Any]] = {}
    original = layouts.NeighbourLayout.tokens

    def spy(self: layouts.NeighbourLayout, due: Any) -> torch.Tensor:
        result = original(self, due)
        for slot, place in enumerate(zip(due.channel.tolist(), due.row.tolist(), due.column.tolist(), strict=True)):
            seen[place] = self._described[2][slot].numpy()  # a slot without a patch repeats voxel 0, which comes first
        return result

    monkeypatch.setattr(layouts.NeighbourLayout, "tokens", spy)
    models["llm"].encode(Chunk(samples), Encoder())
    values = samples.astype(np.int32) - int(samples.min())
    padded = np.pad(values, ((0, 0), (REACH, REACH + PATCH), (REACH, REACH + PATCH)))
    for y in range(0, 19, PATCH):
        for x in range(0, 22, PATCH):
            batch = collate([patch_of(padded, (19, 22), y, x, PATCH, int(values.max()))])
            for place in range(3 * PATCH * PATCH):
                channel, within = divmod(place, PATCH * PATCH)
                row, column = y + within // PATCH, x + within % PATCH
                if row < 19 and column < 22 and (channel, row, column) != (0, 0, 0):
                    np.testing.assert_array_equal(seen[channel, row, column], batch.features[0, place].numpy())


CHILD = """
import sys
from pathlib import Path
import numpy as np
from medzip.errors import MedzipError
from medzip import pipeline
try:
    restored = pipeline.decompress(sys.argv[1], sys.argv[2])
    print("restored")
except MedzipError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("kind", ["llm", "paper"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ATEN_CPU_CAPABILITY": "default"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
        {"OMP_NUM_THREADS": "1"},
    ],
    ids=["same", "plain", "avx2", "one-thread"],
)
def test_another_process_gives_the_same_voxels_or_says_mismatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, settings: dict[str, str]
) -> None:
    from medzip import chunk_kinds, pipeline
    from medzip.entropy_model.registry import entropy_model
    from medzip.weights import registry

    weights = tmp_path / "weights"
    weights.mkdir()
    write_weights(weights, kind)
    monkeypatch.setenv("MEDZIP_WEIGHTS", str(weights))
    registry.entries.cache_clear()
    entropy_model.cache_clear()
    source = tmp_path / "scan.npy"
    np.save(source, smooth((3, 17, 20), np.int16, 900))
    monkeypatch.setattr(chunk_kinds, "KINDS", {})  # random weights lose against every other codec
    [made] = pipeline.compress(source, preset=kind, weights=f"tiny-{kind}", verify=False)
    assert (made.model_share, made.portable) == (1.0, False)
    back = tmp_path / "back"
    environment = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", CHILD, made.archive, str(back)], env=environment, capture_output=True, text=True, check=True
    )
    outcome = result.stdout.strip()
    if outcome == "restored":
        assert (back / "scan.npy").read_bytes() == source.read_bytes()
    else:
        assert outcome == "ModelMismatchError", result.stderr
        assert not back.exists() or not list(back.iterdir())
    if not settings:
        assert outcome == "restored"
    registry.entries.cache_clear()
    entropy_model.cache_clear()
