"""Adapters change a pixel network in integers; what they cost and what they bring decide whether a chunk has one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_networks import extreme_network, image, integers, random_network

from medzip.entropy_model.pixel import adaptation, adaptation_fit, chunk_samples, reference
from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.adaptation import NUMBER_MAX, RANK_MAX, Change, changed, merged, read_adapter, write_adapter
from medzip.entropy_model.pixel.chunk_samples import ChunkSamples
from medzip.entropy_model.pixel.features import POSITION_BITS, Look
from medzip.entropy_model.pixel.fitted import fit
from medzip.entropy_model.pixel.network import Network
from medzip.errors import ArchiveDamagedError
from medzip.exact.compiled import setup
from medzip.exact.linear import WEIGHT_MAX, accumulate
from medzip.exact.symbols import code_length

NETWORK = random_network()


def some_changes(network: Network = NETWORK, rank: int = 2, largest: int = 4, seed: str = "changes") -> list[Change]:
    def numbers(name: str, *shape: int) -> np.ndarray:
        return integers(f"{seed} {name}", -largest, largest, shape)

    return [
        Change(
            numbers(f"bias {i}", layer.linear.outputs),
            numbers(f"left {i}", layer.linear.outputs, rank),
            numbers(f"right {i}", rank, layer.linear.inputs),
        )
        for i, layer in enumerate(network.layers)
    ]


def same(a: list[Change], b: list[Change]) -> bool:
    return all(
        x.dtype == np.int64 and np.array_equal(x, y)
        for one, other in zip(a, b, strict=True)
        for x, y in ((one.bias, other.bias), (one.left, other.left), (one.right, other.right))
    )


@settings(deadline=None, max_examples=20)
@given(rank=st.integers(0, RANK_MAX), largest=st.sampled_from([0, 1, 4, 30, NUMBER_MAX]), seed=st.integers(0, 99))
def test_an_adapter_is_read_as_it_was_written(rank: int, largest: int, seed: int) -> None:
    changes = some_changes(rank=rank, largest=largest, seed=str(seed))
    assert same(read_adapter(NETWORK, write_adapter(changes)), changes)


def test_no_adapter_changes_nothing_and_so_do_numbers_of_zero() -> None:
    assert merged(NETWORK, b"") is NETWORK
    unchanged = merged(NETWORK, write_adapter(some_changes(largest=0)))
    for layer, before in zip(unchanged.layers, NETWORK.layers, strict=True):
        assert np.array_equal(layer.linear.weight, before.linear.weight)
        assert np.array_equal(layer.linear.bias, before.linear.bias)


def test_merging_is_the_formula_in_python_integers() -> None:
    changes = some_changes(largest=9)
    for layer, before, change in zip(changed(NETWORK, changes).layers, NETWORK.layers, changes, strict=True):
        outputs, inputs = before.linear.weight.shape
        for i in range(outputs):
            bias = int(before.linear.bias[i]) + (int(change.bias[i]) * 2 ** int(before.shift[i])) // 4
            assert layer.linear.bias[i] == bias
            for j in range(inputs):
                product = sum(int(change.left[i, r]) * int(change.right[r, j]) for r in range(2))
                dither = ((i * inputs + j) * 2654435761 % 2**32) // 2**29
                weight = int(before.linear.weight[i, j]) + (product + dither) // 8
                assert layer.linear.weight[i, j] == max(-WEIGHT_MAX, min(WEIGHT_MAX, weight))


def test_a_small_change_moves_its_share_of_the_weights() -> None:
    assert np.abs(np.bincount(adaptation.dither(192, 96).ravel()) / (192 * 96) - 1 / 8).max() < 0.001
    rows, columns = (np.bincount(d, minlength=8) for d in (adaptation.dither(192, 96)[5], adaptation.dither(192, 96)[:, 5]))
    assert rows.min() >= 6
    assert columns.min() >= 12


def test_a_change_that_breaks_the_bound_of_sums_is_damage() -> None:
    with pytest.raises(ArchiveDamagedError, match="no network of integers"):
        merged(extreme_network(), write_adapter(some_changes(largest=NUMBER_MAX)))


def test_cut_lengthened_and_impossible_adapters_are_damage() -> None:
    good = write_adapter(some_changes())
    bad = [good[:n] for n in range(1, len(good))] + [
        good + b"\0",
        b"\0",
        bytes([RANK_MAX + 1]) + good[1:],
        bytes([255]) + good[1:],
    ]
    bad += [good[:1] + b"\xff" * 2000, good + bytes(1 << 16), bytes([2]) + b"\xe0" + b"\xff" * 600]
    for adapter in bad:
        with pytest.raises(ArchiveDamagedError):
            merged(NETWORK, adapter)


@settings(deadline=None, max_examples=30)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_damage_or_another_network_within_the_bounds(at: int, bit: int) -> None:
    adapter = bytearray(write_adapter(some_changes()))
    adapter[at % len(adapter)] ^= 1 << bit
    try:
        network = merged(NETWORK, bytes(adapter))
    except ArchiveDamagedError:
        return
    assert write_adapter(read_adapter(NETWORK, bytes(adapter)))
    assert all(np.abs(layer.linear.weight.astype(int)).max() <= WEIGHT_MAX for layer in network.layers)


@pytest.mark.parametrize("shape", [(1, 20, 21), (4, 13, 11)])
@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.skipif(not setup.available(), reason="no numba"))]
)
@pytest.mark.parametrize("bits", [8, 24])
def test_samples_of_a_chunk_look_as_they_do_to_the_decoder(
    shape: tuple[int, int, int], compiled: bool, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = image(bits, shape)
    high = int(samples.max())
    taps = fit(around.with_margins(samples << POSITION_BITS).reshape(-1), shape)
    looks = {}
    look = reference.look

    def remembering(*arguments: object) -> object:
        looks["now"], looks["predicted"] = look(*arguments), arguments[4]  # type: ignore[arg-type]  # a starred call
        return looks["now"]

    monkeypatch.setattr(reference, "look", remembering)
    monkeypatch.setattr(chunk_samples, "available", lambda: compiled)
    chunk = ChunkSamples(samples, high, taps)
    flat = samples.reshape(-1)

    def code(index: np.ndarray, _mixture: object) -> np.ndarray:
        seen, batch = looks["now"], chunk.batch(index)
        assert np.array_equal(batch.features, seen.features)
        assert np.array_equal(batch.predicted, looks["predicted"])
        assert np.array_equal(batch.scale, seen.scale)
        assert np.array_equal(batch.position, flat[index] << POSITION_BITS)
        return flat[index]

    reference.visit(shape, high, taps, NETWORK, code)


def chunk_of(samples: np.ndarray) -> tuple[ChunkSamples, int, tuple[np.ndarray, np.ndarray]]:
    high = int(samples.max())
    taps = fit(around.with_margins(samples << POSITION_BITS).reshape(-1), samples.shape)
    return ChunkSamples(samples, high, taps), high, taps


def test_float_layers_compute_what_the_integer_network_does() -> None:
    chunk, _, _ = chunk_of(image())
    batch = chunk.batch(np.arange(chunk.size))
    states, _ = adaptation_fit._Layers.of(NETWORK).forward(batch.features)
    expected = NETWORK.outputs(batch.features, [lambda x, linear=layer.linear: accumulate(linear, x) for layer in NETWORK.layers])
    assert np.abs(states[-1] * np.exp2(NETWORK.out.shift) - expected).max() < 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation_fit, "SAMPLES_MIN", 1)
    monkeypatch.setattr(adaptation_fit, "RANKS", (0, 2))
    monkeypatch.setattr(adaptation_fit, "STEPS", 60)
    monkeypatch.setattr(adaptation_fit, "BATCH", 512)
    monkeypatch.setattr(adaptation_fit, "_RATE", 1.0)


@pytest.mark.usefixtures("small")
def test_an_adapter_pays_for_itself_on_a_network_that_does_not_fit_and_is_the_same_again() -> None:
    samples = image(12, (6, 48, 48))
    chunk, high, taps = chunk_of(samples)
    adapter = adaptation_fit.fitted_adapter(NETWORK, samples, high, taps)
    assert adapter == adaptation_fit.fitted_adapter(NETWORK, samples, high, taps)
    before, after = (exact_bits(network, chunk, high) for network in (NETWORK, merged(NETWORK, adapter)))
    assert 0 < after + 8 * len(adapter) < 0.98 * before


@pytest.mark.usefixtures("small")
def test_a_chunk_that_an_adapter_cannot_make_smaller_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = image(8, (2, 8, 8))
    _, high, taps = chunk_of(samples)
    assert adaptation_fit.fitted_adapter(NETWORK, samples, high, taps) == b""
    monkeypatch.setattr(adaptation_fit, "SAMPLES_MIN", samples.size + 1)
    monkeypatch.setattr(adaptation_fit, "ChunkSamples", None)
    assert adaptation_fit.fitted_adapter(NETWORK, samples, high, taps) == b""


@pytest.mark.usefixtures("small")
def test_a_network_that_takes_no_changes_gets_none() -> None:
    samples = image(12, (2, 40, 40))
    _, high, taps = chunk_of(samples)
    assert adaptation_fit.fitted_adapter(extreme_network(), samples, high, taps) == b""


def exact_bits(network: Network, chunk: ChunkSamples, high: int) -> float:
    batch = chunk.batch(np.arange(chunk.size))
    sums = [lambda x, linear=layer.linear: accumulate(linear, x) for layer in network.layers]
    mixture = network.mixture(Look(batch.predicted, batch.scale, batch.features), batch.predicted, sums)
    return code_length(batch.position >> POSITION_BITS, mixture, 0, high)


def test_estimated_bits_are_those_of_the_coder() -> None:
    chunk, high, _ = chunk_of(image(12, (3, 40, 40)))
    for seed in ("random", "other"):
        network = random_network(seed)
        assert adaptation_fit._bits(network, chunk) == pytest.approx(exact_bits(network, chunk, high), rel=0.01)


def test_the_gradient_of_the_bits_is_that_of_finite_differences() -> None:
    chunk, _, _ = chunk_of(image(12, (3, 40, 40)))
    batch = chunk.batch(np.arange(0, chunk.size, 97))
    outputs = np.random.default_rng(1).normal(0, 16, (len(batch.scale), 12)).astype(np.float32)
    _, gradient = adaptation_fit._cost(outputs, batch, chunk.top)
    for j in range(12):
        higher, lower = outputs.copy(), outputs.copy()
        higher[:, j] += 0.125
        lower[:, j] -= 0.125
        costs = (adaptation_fit._cost(moved, batch, chunk.top)[0] for moved in (higher, lower))
        expected = (next(costs) - next(costs)) / 0.25 / len(outputs)
        assert np.abs(gradient[:, j] - expected).max() < 1e-3 * np.abs(gradient).max()
