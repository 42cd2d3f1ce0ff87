"""The exact language model: its integers, compiled code beside its definition, and what comes of damage."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_exact_networks import digests, extreme_network, mixtures_of, random_network, without_numba, write_network
from pixel_networks import image, integers

from medzip import pipeline
from medzip.coder.range_coder import Decoder, Encoder
from medzip.entropy_model.contract import Chunk, ChunkHeader
from medzip.entropy_model.llm_exact import arithmetic, stacks
from medzip.entropy_model.llm_exact.model import ExactLanguageModel
from medzip.entropy_model.llm_exact.network import read_network, tensors_of
from medzip.errors import ArchiveDamagedError, MedzipError, ModelMissingError, UnsupportedInputError
from medzip.exact.compiled import setup
from medzip.weights.tensors import write_tensors

needs_numba = pytest.mark.skipif(not setup.available(), reason="numba is not installed")
NETWORKS = {"random": random_network, "extreme": extreme_network}
ROWS = st.lists(st.integers(-arithmetic.LIMIT, arithmetic.LIMIT), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExactLanguageModel]:
    folder = tmp_path_factory.mktemp("weights")
    return {name: ExactLanguageModel(write_network(folder / f"{name}.safetensors", make())) for name, make in NETWORKS.items()}


# The definition


@given(ROWS)
@settings(deadline=None)
def test_rows_become_bytes_with_the_smallest_exponent(row: list[int]) -> None:
    rows = np.array([row], np.int64)
    made, [exponent] = arithmetic.in_bytes(rows)
    assert np.array_equal(made, arithmetic.rounded(rows, int(exponent)).astype(np.int8))
    assert np.abs(made.astype(int)).max() <= 127
    if exponent:
        assert (
            np.abs(arithmetic.rounded(rows, int(exponent) - 1)).max() > 127
            or arithmetic.rounded(np.abs(rows), exponent - 1).max() > 127
        )


@given(st.lists(st.integers(-127, 127), min_size=1, max_size=60))
@settings(deadline=None)
def test_the_inverse_norm_is_the_root_rounded_down(row: list[int]) -> None:
    [found] = arithmetic.inverse_norm(np.array([row], np.int8))
    squares = sum(value * value for value in row)
    assert found == (min(math.isqrt((len(row) << 40) // squares), 1 << 20) if squares else 0)


def test_powers_fall_and_follow_the_power_of_two() -> None:
    octaves = np.arange(0, 40 << arithmetic.OCTAVE_BITS)
    found = arithmetic.powers(octaves)
    assert (np.diff(found) <= 0).all() and found[0] == 1 << 15 and found[-1] == 0
    assert np.abs(found - 2.0**15 * 2.0 ** (-octaves / 1024)).max() < 80


def test_angles_stay_on_the_circle() -> None:
    table = arithmetic.angles(random_network().rotor, 3072) / 2.0**14
    turned = np.arange(3072)[:, None] * np.array([1, 0.1, 0.01, 0.001])
    assert np.abs(table - np.stack([np.cos(turned), np.sin(turned)], axis=2)).max() < 1e-4


def test_gates_are_silu() -> None:
    gate = np.arange(-40 << 12, 40 << 12, 37)
    found = arithmetic.gated(gate, np.full_like(gate, 1 << 10), 10)
    real = gate / 4096
    assert np.abs(found / 4096 - real / (1 + np.exp(-real))).max() < 0.02


@pytest.mark.parametrize("name", NETWORKS)
def test_what_comes_later_changes_no_mixture(name: str) -> None:
    """The first half of the samples that are coded have the same mixtures whatever the others are."""
    samples = image(10, (3, 9, 11)) + 1
    samples[0, 0, :2] = 0, 5000
    before = mixtures_of(NETWORKS[name](), samples)
    order = list(before)
    later = np.array(order[len(order) // 2 :])
    poisoned = samples.copy()
    poisoned.reshape(-1)[later] = integers("poison", 0, 5000, (len(later),))
    poisoned[0, 0, :2] = 0, 5000
    after = mixtures_of(NETWORKS[name](), poisoned)
    assert list(after) == order
    assert all(after[place] == before[place] for place in order[: len(order) // 2])
    assert len(set(before.values())) > len(before) // 4


# Coding


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 4), (4, 9, 13), (7, 3, 17)])
@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.int16, 4000), (np.int32, 1 << 31)])
def test_any_shape_and_depth_comes_back(models: dict[str, ExactLanguageModel], shape: Any, dtype: Any, top: int) -> None:
    values = integers(f"{shape}", 0, top - 1, shape) // 7 * (np.indices(shape).sum(axis=0) % 5 + 1) // 2 % top
    samples = (values + np.iinfo(dtype).min).astype(dtype)
    coder = Encoder()
    side = models["random"].encode(Chunk(samples), coder)
    back = models["random"].decode(ChunkHeader(shape, samples.dtype.str, side), Decoder(coder.finish()))
    assert back.dtype == samples.dtype
    np.testing.assert_array_equal(back, samples)


def test_the_whole_range_of_32_bits_comes_back(models: dict[str, ExactLanguageModel]) -> None:
    samples = integers("all", 0, (1 << 32) - 1, (2, 5, 6)).astype(np.uint32)
    samples[0, 0, :2] = 0, (1 << 32) - 1
    for model in models.values():
        coder = Encoder()
        side = model.encode(Chunk(samples), coder)
        np.testing.assert_array_equal(model.decode(ChunkHeader((2, 5, 6), "<u4", side), Decoder(coder.finish())), samples)


@needs_numba
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_compiled_code_writes_the_words_of_the_definition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, bits: int
) -> None:
    write_network(tmp_path / "network.safetensors", NETWORKS[name]())
    samples = image(bits, (5, 7, 10))
    compiled, way = digests(tmp_path / "network.safetensors", samples)
    without_numba(monkeypatch)
    assert digests(tmp_path / "network.safetensors", samples)[0] == compiled
    assert not way.startswith("numpy")


@needs_numba
def test_what_one_way_wrote_the_other_reads(models: dict[str, ExactLanguageModel], monkeypatch: pytest.MonkeyPatch) -> None:
    samples = image(12, (4, 6, 9)).astype(np.uint16)
    coder = Encoder()
    side = models["random"].encode(Chunk(samples), coder)
    without_numba(monkeypatch)
    header = ChunkHeader(samples.shape, "<u2", side)
    np.testing.assert_array_equal(models["random"].decode(header, Decoder(coder.finish())), samples)


def test_more_words_than_expected_are_no_trouble(models: dict[str, ExactLanguageModel]) -> None:
    """Noise of 32 bits takes more words than the encoder begins with."""
    samples = integers("noise", 0, (1 << 32) - 1, (3, 40, 40)).astype(np.uint32)
    coder = Encoder()
    side = models["random"].encode(Chunk(samples), coder)
    header = ChunkHeader(samples.shape, "<u4", side)
    np.testing.assert_array_equal(models["random"].decode(header, Decoder(coder.finish())), samples)


# Hostile archives and damaged files


@pytest.mark.parametrize(
    "change",
    [
        *({key: value} for key in ("low", "high", "together") for value in (None, -1, 1 << 40, 1.5, True, "1", [])),
        {"together": 0},
        {"together": 65},
        {"low": 9, "high": 8},
    ],
)
def test_hostile_headers_are_damage(models: dict[str, ExactLanguageModel], change: dict[str, Any]) -> None:
    samples = image(8, (2, 5, 6)).astype(np.uint8)
    coder = Encoder()
    side = models["random"].encode(Chunk(samples), coder)
    with pytest.raises(ArchiveDamagedError):
        models["random"].decode(ChunkHeader(samples.shape, "|u1", side | change), Decoder(coder.finish()))


@pytest.mark.parametrize("shape", [(3, 64, 1 << 20), (192, 300, 300), (3, 1 << 14, 1 << 14)])
def test_a_header_cannot_ask_for_more_memory_than_samples_take(
    models: dict[str, ExactLanguageModel], monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    """Neither by the image nor by the stacks side by side: it is refused before keys and values have a place."""

    def fail(*_: object) -> None:
        raise AssertionError("work has started")

    monkeypatch.setattr("medzip.entropy_model.llm_exact.reference._Group", fail)
    without_numba(monkeypatch)
    header = ChunkHeader(shape, "|u1", {"low": 0, "high": 9, "together": 64})
    with pytest.raises(ArchiveDamagedError):
        models["random"].decode(header, Decoder(bytes(8)))


def test_images_of_too_many_patches_are_left_to_other_kinds() -> None:
    with pytest.raises(UnsupportedInputError):
        stacks.together((1 << 14, 1 << 14), 16)


@pytest.mark.parametrize("seed", range(12))
def test_damaged_words_give_samples_or_a_typed_error(models: dict[str, ExactLanguageModel], seed: int) -> None:
    samples = image(12, (2, 9, 9)).astype(np.uint16)
    coder = Encoder()
    side = models["random"].encode(Chunk(samples), coder)
    words = bytearray(coder.finish())
    at = int(integers(f"at {seed}", 0, len(words) - 1, (1,))[0])
    words[at] ^= 1 << seed % 8
    damaged = [bytes(words), bytes(words[: at // 4 * 4]), bytes(words[:at])][seed % 3]
    try:
        found = models["random"].decode(ChunkHeader(samples.shape, "<u2", side), Decoder(damaged))
    except MedzipError:
        return
    assert found.shape == samples.shape and found.max() <= samples.max()


@pytest.mark.parametrize("name", ["embed.weight", "layers.0.qkv.weight", "layers.1.shifts", "rotor", "head.multiplier", "row"])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "network.safetensors"
    for change in (lambda a: a[:-1], lambda a: a[..., None], lambda a: np.full_like(a, np.iinfo(a.dtype).min)):
        tensors = tensors_of(random_network())
        tensors[name] = np.ascontiguousarray(change(tensors[name]))
        write_tensors(path, tensors, {"kind": "llm_exact", "licence_class": "open"})
        with pytest.raises(ModelMissingError):
            read_network(path)
    tensors = tensors_of(random_network())
    del tensors[name]
    write_tensors(path, tensors, {"kind": "llm_exact", "licence_class": "open"})
    with pytest.raises(ModelMissingError):
        read_network(path)


def test_weights_come_back_from_their_file(tmp_path: Path) -> None:
    network = random_network()
    write_network(tmp_path / "network.safetensors", network)
    for name, tensor in tensors_of(read_network(tmp_path / "network.safetensors")).items():
        np.testing.assert_array_equal(tensor, tensors_of(network)[name])


def test_archives_say_that_any_machine_decodes_them() -> None:
    said = pipeline.info(Path(__file__).parent / "golden" / "v1_0_llm.mdz")
    assert (said["preset"], said["portable"], said["chunks"]) == ("llm", True, {"model": 1})
    assert "platform" not in said or not said["platform"]
    assert pipeline.is_portable("llm")
