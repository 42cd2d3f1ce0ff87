"""Compiled symbols are the reference's, word for word, and damage is a typed error."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="compiled code needs numba")

from medzip.coder.range_coder import TOTAL, Decoder, Encoder
from medzip.errors import ArchiveDamagedError
from medzip.exact.compiled import range_coder, symbols
from medzip.exact.compiled.symbols import WORDS_PER_SAMPLE, SymbolDecoder, SymbolEncoder
from medzip.exact.mixture import MEAN_MAX, SCALE_CODES, Mixture
from medzip.exact.symbols import decode_samples, encode_samples
from medzip.exact.tables import Kind

KINDS: tuple[Kind, ...] = ("logistic", "gaussian")
RANGES = [
    (0, 255),
    (-128, 127),
    (0, 1),
    (7, 7),
    (0, 4095),
    (1000, 1017),
    (-32768, 32767),
    (0, 65535),
    (-(1 << 31), (1 << 31) - 1),
    (0, (1 << 32) - 1),
    (1 - (1 << 33), (1 << 33) - 1),
]


def random_mixture(rng: np.random.Generator, n: int, components: int, low: int, high: int, kind: Kind) -> Mixture:
    """From sharp to flat, inside the range and far outside, with weights of zero and all parameters at their extremes."""
    weight = rng.integers(0, (1 << 15) // components, (n, components)) * rng.integers(0, 2, (n, components))
    weight[:, 0] = np.maximum(weight[:, 0], 1)
    mean = (rng.integers(low, high + 1, (n, 1)) << 12) + rng.integers(-(1 << 14), 1 << 14, (n, components))
    mean = np.where(rng.random((n, components)) < 0.1, rng.integers(-MEAN_MAX, MEAN_MAX + 1, (n, components)), mean)
    mean = np.where(rng.random((n, components)) < 0.02, MEAN_MAX * rng.choice([-1, 1], (n, components)), mean)
    scale = rng.integers(0, SCALE_CODES, (n, components))
    scale = np.where(rng.random((n, components)) < 0.7, rng.integers(0, 160, (n, components)), scale)
    scale = np.where(rng.random((n, components)) < 0.05, rng.choice([0, SCALE_CODES - 1], (n, components)), scale)
    return Mixture(weight, np.clip(mean, -MEAN_MAX, MEAN_MAX), scale, kind)


def random_samples(rng: np.random.Generator, mixture: Mixture, low: int, high: int) -> np.ndarray:
    """Near the means, in their tails, anywhere, at both ends."""
    n = len(mixture)
    reach = rng.integers(0, 1 << rng.integers(1, 12), n)
    samples = (mixture.mean[:, 0] >> 12) + rng.integers(-reach, reach + 1)
    samples = np.where(rng.random(n) < 0.1, rng.integers(low, high + 1, n), np.clip(samples, low, high))
    samples[rng.random(n) < 0.05] = low
    samples[rng.random(n) < 0.05] = high
    return samples


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(st.integers(0, 90), min_size=1, max_size=4),
    components=st.integers(1, 8),
    bounds=st.sampled_from(RANGES),
    kind=st.sampled_from(KINDS),
)
def test_words_and_samples_are_those_of_the_reference(
    seed: int, steps: list[int], components: int, bounds: tuple[int, int], kind: Kind
) -> None:
    rng = np.random.default_rng(seed)
    mixtures = [random_mixture(rng, n, components, *bounds, kind) for n in steps]
    samples = [random_samples(rng, mixture, *bounds) for mixture in mixtures]
    reference, compiled = Encoder(), SymbolEncoder()
    for mixture, values in zip(mixtures, samples, strict=True):
        encode_samples(values, mixture, *bounds, reference)
        compiled.encode(values, mixture, *bounds)
    data = reference.finish()
    assert compiled.finish() == data
    decoder, reader = SymbolDecoder(data), Decoder(data)
    for mixture, values in zip(mixtures, samples, strict=True):
        assert decoder.decode(mixture, *bounds).tolist() == values.tolist()
        assert decode_samples(mixture, *bounds, reader).tolist() == values.tolist()
        assert decoder.done() == reader.done()
    assert decoder.done()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bounds", RANGES)
def test_many_samples_in_one_step(bounds: tuple[int, int], kind: Kind) -> None:
    rng = np.random.default_rng(1)
    mixture = random_mixture(rng, 3000, 4, *bounds, kind)
    samples = random_samples(rng, mixture, *bounds)
    reference, compiled = Encoder(), SymbolEncoder()
    encode_samples(samples, mixture, *bounds, reference)
    compiled.encode(samples, mixture, *bounds)
    data = reference.finish()
    assert compiled.finish() == data
    assert (SymbolDecoder(data).decode(mixture, *bounds) == samples).all()


def test_every_value_of_a_small_range_wherever_the_mixture_is() -> None:
    low, high = -3, 60
    samples = np.arange(low, high + 1)
    for mean in (-MEAN_MAX, -1, 0, 30 << 12, MEAN_MAX):
        for scale in (0, 100, 31 * 16 - 1, 31 * 16, SCALE_CODES - 1):
            mixture = Mixture(*(np.full((len(samples), 1), value, np.int64) for value in (1, mean, scale)))
            reference, compiled = Encoder(), SymbolEncoder()
            encode_samples(samples, mixture, low, high, reference)
            compiled.encode(samples, mixture, low, high)
            assert compiled.finish() == reference.finish()
            assert (SymbolDecoder(compiled.finish()).decode(mixture, low, high) == samples).all()


@pytest.mark.parametrize("length", [0, 1, 5, 40, 400])
def test_the_range_encoder_carries_and_seals_as_constriction(length: int) -> None:
    """Symbols around the place where a carry is decided bring long runs of held words, that end with a carry or without."""
    longest = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        masses = rng.integers(1, 1 << 12, (length, 16)) ** int(rng.integers(1, 4))
        pmfs = 1 + masses * (TOTAL - 16) // masses.sum(axis=1, keepdims=True)
        pmfs[:, 0] += TOTAL - pmfs.sum(axis=1)
        cumulative = np.concatenate([np.zeros((length, 1), np.int64), pmfs.cumsum(axis=1)], axis=1)
        bounds = (cumulative * (TOTAL * 256 - 16) // TOTAL + np.arange(17)).astype(np.uint64)
        words, coder, chosen = np.zeros(length + 1, np.uint32), range_coder.new_encoder(), np.zeros(length, np.int32)
        for i, row in enumerate(bounds):
            lower, span = int(coder[range_coder.LOWER]), int(coder[range_coder.SPAN])
            undecided = sum(lower + (span >> 24) * int(bound) < 1 << 64 for bound in row[:16]) - 1
            chosen[i] = undecided if rng.random() < 0.98 else rng.integers(16)
            coder[:] = range_coder.write(words, *coder, row[chosen[i]], row[chosen[i] + 1])
            longest = max(longest, int(coder[range_coder.HELD]))
        reference = Encoder()
        reference.encode(chosen, pmfs)
        assert range_coder.finished(coder, words) == reference.finish()
    assert longest > 3 or length < 400


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), bounds=st.sampled_from(RANGES), whole=st.booleans())
def test_damaged_words_give_samples_in_range_or_a_typed_error_as_the_reference(
    seed: int, bounds: tuple[int, int], whole: bool
) -> None:
    rng = np.random.default_rng(seed)
    mixture = random_mixture(rng, 60, 3, *bounds, "logistic")
    encoder = SymbolEncoder()
    encoder.encode(random_samples(rng, mixture, *bounds), mixture, *bounds)
    data = bytearray(rng.bytes(80) if whole else encoder.finish())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    data = data[: 4 * int(rng.integers(1, len(data) // 4 + 1))]

    def outcome(decode: Callable[[], Any]) -> Any:
        try:
            return decode().tolist()
        except ArchiveDamagedError:
            return None

    found = outcome(lambda: SymbolDecoder(bytes(data)).decode(mixture, *bounds))
    assert found == outcome(lambda: decode_samples(mixture, *bounds, Decoder(bytes(data))))
    assert found is None or (min(found) >= bounds[0] and max(found) <= bounds[1])


def test_words_that_no_encoder_writes_are_a_typed_error() -> None:
    mixture = random_mixture(np.random.default_rng(2), 8, 2, 0, 255, "logistic")
    with pytest.raises(ArchiveDamagedError):
        SymbolDecoder(b"\xff" * 40).decode(mixture, 0, 255)


@pytest.mark.parametrize("data", [b"", b"\x01", bytes(7)])
def test_a_payload_that_is_no_whole_number_of_words_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveDamagedError):
        SymbolDecoder(data)


def test_without_place_for_the_worst_case_nothing_is_written() -> None:
    mixture = random_mixture(np.random.default_rng(3), 20, 2, 0, 255, "logistic")
    arrays = (mixture.weight, mixture.mean, mixture.scale)
    coder, samples = range_coder.new_encoder(), np.full(20, 100)
    before = coder.copy()
    for room, code in ((20 * WORDS_PER_SAMPLE - 1, symbols.FULL), (20 * WORDS_PER_SAMPLE, symbols.GOOD)):
        assert (coder == before).all()
        words = np.zeros(room, np.uint32)
        assert symbols.code_batch(True, samples, *arrays, 20, 0, 255, symbols.curve_of("logistic"), words, coder) == code


@pytest.mark.parametrize("sample", [-1, 256, 1 << 40])
def test_a_sample_outside_the_range_is_refused(sample: int) -> None:
    mixture = random_mixture(np.random.default_rng(6), 1, 2, 0, 255, "gaussian")
    with pytest.raises(ValueError):
        SymbolEncoder().encode(np.array([sample]), mixture, 0, 255)
