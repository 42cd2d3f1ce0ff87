"""The symbol rule: what goes in comes out, in few more bits than the mixture's entropy, for 8 to 32 bits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip.coder.range_coder import Decoder, Encoder
from medzip.errors import ArchiveDamagedError
from medzip.exact.mixture import MEAN_MAX, SCALE_CODES, Mixture
from medzip.exact.symbols import code_length, decode_samples, encode_samples, frequencies_of
from medzip.exact.tables import Kind

KINDS: tuple[Kind, ...] = ("gaussian", "logistic")
RANGES = [
    (0, 255),
    (-128, 127),
    (0, 1),
    (7, 7),
    (0, 65535),
    (-32768, 32767),
    (-(1 << 31), (1 << 31) - 1),
    (0, (1 << 32) - 1),
    (1000, 1017),
    (1 - (1 << 33), (1 << 33) - 1),
]


def random_mixture(rng: np.random.Generator, n: int, components: int, low: int, high: int, kind: Kind) -> Mixture:
    """From sharp to flat, inside the range and far outside, with weights of zero."""
    weight = rng.integers(0, (1 << 15) // components, (n, components)) * rng.integers(0, 2, (n, components))
    weight[:, 0] = np.maximum(weight[:, 0], 1)
    mean = rng.integers(low, high + 1, (n, components)) << 12
    mean = np.where(rng.random((n, components)) < 0.1, rng.integers(-MEAN_MAX, MEAN_MAX + 1, (n, components)), mean)
    scale = rng.integers(0, SCALE_CODES, (n, components))
    scale = np.where(rng.random((n, components)) < 0.5, np.minimum(scale, 160), scale)
    return Mixture(weight, mean.astype(np.int64), scale, kind)


class CheckedEncoder(Encoder):
    """An Encoder that looks at every PMF on its way, and counts the symbols."""

    symbols = 0

    def encode(self, symbols: np.ndarray, frequencies: np.ndarray) -> None:
        assert frequencies.shape == (len(symbols), 16)
        assert (frequencies.sum(axis=1) == 1 << 16).all() and frequencies.min() >= 1
        self.symbols += len(symbols)
        super().encode(symbols, frequencies)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 40),
    components=st.integers(1, 5),
    bounds=st.sampled_from(RANGES),
    kind=st.sampled_from(KINDS),
    near=st.booleans(),
)
def test_samples_come_back(seed: int, n: int, components: int, bounds: tuple[int, int], kind: Kind, near: bool) -> None:
    low, high = bounds
    rng = np.random.default_rng(seed)
    mixture = random_mixture(rng, n, components, low, high, kind)
    samples = rng.integers(low, high + 1, n)
    if near:
        samples = np.clip((mixture.mean[:, 0] >> 12) + rng.integers(-20, 21, n), low, high)
    samples[rng.random(n) < 0.1] = low
    samples[rng.random(n) < 0.1] = high
    encoder = CheckedEncoder()
    encode_samples(samples, mixture, low, high, encoder)
    data = encoder.finish()
    assert (decode_samples(mixture, low, high, Decoder(data)) == samples).all()
    ideal = code_length(samples, mixture, low, high)
    assert abs(8 * len(data) - ideal) <= 0.001 * ideal + 64


def test_every_value_of_a_small_range_can_be_coded_wherever_the_mixture_is() -> None:
    low, high = -3, 60
    samples = np.arange(low, high + 1)
    n = len(samples)
    for mean in (-MEAN_MAX, -1, 0, 30 << 12, MEAN_MAX):
        for scale in (0, 100, SCALE_CODES - 1):
            mixture = Mixture(*(np.full((n, 1), value, np.int64) for value in (1, mean, scale)))
            encoder = Encoder()
            encode_samples(samples, mixture, low, high, encoder)
            assert (decode_samples(mixture, low, high, Decoder(encoder.finish())) == samples).all()


def test_a_constant_range_costs_no_symbol() -> None:
    mixture = random_mixture(np.random.default_rng(3), 50, 3, 5, 5, "logistic")
    encoder = CheckedEncoder()
    encode_samples(np.full(50, 5), mixture, 5, 5, encoder)
    assert encoder.symbols == 0
    assert decode_samples(mixture, 5, 5, Decoder(encoder.finish())).tolist() == [5] * 50


def test_more_samples_than_a_block_holds() -> None:
    rng = np.random.default_rng(4)
    mixture = random_mixture(rng, 5000, 2, 0, 4095, "gaussian")
    samples = np.clip((mixture.mean[:, 0] >> 12) + rng.integers(-300, 300, 5000), 0, 4095)
    encoder = Encoder()
    encode_samples(samples, mixture, 0, 4095, encoder)
    assert (decode_samples(mixture, 0, 4095, Decoder(encoder.finish())) == samples).all()


CASES = [
    ([1.0], [100.3], [0.3], 255),
    ([1.0], [100.3], [1.0], 255),
    ([1.0], [100.3], [6.0], 255),
    ([0.9, 0.1], [100.0, 101.0], [1.0, 16.0], 255),
    ([0.98, 0.02], [100.0, 104.0], [2.0, 30.0], 255),
    ([0.5, 0.5], [3.0, 8.0], [1.0, 6.0], 255),
    ([0.9, 0.1], [1000.2, 1002.0], [12.0, 60.0], 4095),
    ([0.9, 0.1], [30000.2, 30020.0], [300.0, 2000.0], 65535),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_symbols_cost_no_more_than_a_thousandth_over_the_entropy(
    kind: Kind, case: tuple[list[float], list[float], list[float], int]
) -> None:
    weights, means, sigmas, high = case
    scale = np.round(16 * (np.log2(sigmas) + 4)).astype(np.int64)
    weight = np.round(np.array(weights) * (1 << 14)).astype(np.int64)
    z = (np.arange(high + 2)[:, None] - 0.5 - np.array(means)) / 2.0 ** (scale / 16 - 4)
    z[0], z[-1] = -99, 99  # what lies outside the range counts as its ends
    cdf = np.vectorize(math.erf)(z / math.sqrt(2)) / 2 if kind == "gaussian" else np.tanh(z / 2) / 2
    pmf = np.maximum(np.diff(cdf @ (weight / weight.sum())), 1e-300)
    pmf /= pmf.sum()
    rng = np.random.default_rng(5)
    n = 4000
    samples = rng.choice(high + 1, n, p=pmf).astype(np.int64)
    mixture = Mixture(*(np.tile(a, (n, 1)) for a in (weight, np.round(np.array(means) * 4096).astype(np.int64), scale)), kind)
    assert code_length(samples, mixture, 0, high) < 1.001 * -np.log2(pmf[samples]).sum()


@pytest.mark.parametrize("sample", [-1, 256, 1 << 40])
def test_a_sample_outside_the_range_is_refused(sample: int) -> None:
    mixture = random_mixture(np.random.default_rng(6), 1, 2, 0, 255, "gaussian")
    with pytest.raises(ValueError):
        encode_samples(np.array([sample]), mixture, 0, 255, Encoder())


@pytest.mark.parametrize(("low", "high"), [(3, 2), (0, 1 << 33), (-(1 << 33), 0)])
def test_an_impossible_range_is_refused(low: int, high: int) -> None:
    mixture = random_mixture(np.random.default_rng(6), 1, 2, 0, 255, "gaussian")
    with pytest.raises(ValueError):
        decode_samples(mixture, low, high, Decoder(bytes(4)))


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), bounds=st.sampled_from(RANGES))
def test_garbage_gives_samples_in_range_or_a_typed_error(seed: int, bounds: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    mixture = random_mixture(rng, 30, 2, *bounds, "logistic")
    try:
        samples = decode_samples(mixture, *bounds, Decoder(rng.bytes(80)))
    except ArchiveDamagedError:
        return
    assert samples.min() >= bounds[0] and samples.max() <= bounds[1]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, (1 << 43) // 16), min_size=16, max_size=16))
def test_frequencies_follow_the_rule_exactly(masses: list[int]) -> None:
    found = frequencies_of(np.array([masses], np.int64).T)[0].tolist()
    if not sum(masses):
        assert found == [4096] * 16
        return
    expected = [1 + m * 65520 // sum(masses) for m in masses]
    expected[expected.index(max(expected))] += 65536 - sum(expected)
    assert found == expected
