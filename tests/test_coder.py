"""The range coder's stream is the format's: golden words, a decoder in pure Python, and no silence about nonsense."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip.coder.range_coder import Decoder, Encoder
from medzip.errors import ArchiveDamagedError


def random_pmfs(rng: np.random.Generator, n: int) -> np.ndarray:
    """PMFs from almost uniform to almost certain; some symbols have frequency 0."""
    mass = rng.exponential(size=(n, 16)) ** rng.integers(1, 12, (n, 1))
    pmf = np.floor(mass / mass.sum(axis=1, keepdims=True) * (1 << 16)).astype(np.int64)
    pmf[np.arange(n), pmf.argmax(axis=1)] += (1 << 16) - pmf.sum(axis=1)
    return pmf


def random_symbols(rng: np.random.Generator, pmf: np.ndarray) -> np.ndarray:
    return (rng.integers(0, 1 << 16, (len(pmf), 1)) >= pmf.cumsum(axis=1)).sum(axis=1).astype(np.int32)


def decode_in_pure_python(data: bytes, pmfs: np.ndarray) -> Iterator[int]:
    """The decoder of FORMAT.md: 24-bit cumulative frequencies, 32-bit words, 64-bit state."""
    words = iter(int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4))
    lower, span = 0, (1 << 64) - 1
    point = next(words, 0) << 32 | next(words, 0)
    for pmf in pmfs:
        cumulative = [sum(map(int, pmf[:i])) for i in range(17)]
        cdf = [cumulative[i] * ((1 << 24) - 16) // (1 << 16) + i for i in range(16)] + [1 << 24]
        scale = span >> 24
        quantile = ((point - lower) % (1 << 64)) // scale
        symbol = max(i for i in range(16) if cdf[i] <= quantile)
        lower = (lower + scale * cdf[symbol]) % (1 << 64)
        span = scale * (cdf[symbol + 1] - cdf[symbol])
        if span < 1 << 32:
            lower, span = (lower << 32) % (1 << 64), span << 32
            point = ((point << 32) | next(words, 0)) % (1 << 64)
        yield symbol


def test_golden_words() -> None:
    pmf = np.array([[1 << i if i else 2 for i in range(16)]], np.int64).repeat(24, axis=0)
    encoder = Encoder()
    encoder.encode(np.arange(24, dtype=np.int32) % 16, pmf)
    assert encoder.finish().hex() == "040000008106100000841f683ff34173b41faef4afe97dc0193cad0cf5583ae1"


def test_pure_python_decoder_reads_the_stream() -> None:
    rng = np.random.default_rng(1)
    pmfs = random_pmfs(rng, 5000)
    symbols = random_symbols(rng, pmfs)
    encoder = Encoder()
    encoder.encode(symbols, pmfs)
    assert list(decode_in_pure_python(encoder.finish(), pmfs)) == symbols.tolist()


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 300), parts=st.integers(1, 6))
def test_symbols_come_back_however_the_calls_are_cut(seed: int, n: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    pmfs = random_pmfs(rng, n)
    symbols = random_symbols(rng, pmfs)
    encoder = Encoder()
    for part in np.array_split(np.arange(n), parts):
        encoder.encode(symbols[part], pmfs[part])
    data = encoder.finish()
    whole = Encoder()
    whole.encode(symbols, pmfs)
    assert data == whole.finish()
    decoder = Decoder(data)
    assert np.concatenate([decoder.decode(pmfs[part]) for part in np.array_split(np.arange(n), parts + 1)]).tolist() == list(
        symbols
    )
    assert decoder.done()


def test_words_left_over_are_noticed() -> None:
    rng = np.random.default_rng(2)
    pmfs = random_pmfs(rng, 400)
    encoder = Encoder()
    encoder.encode(random_symbols(rng, pmfs), pmfs)
    decoder = Decoder(encoder.finish())
    decoder.decode(pmfs[:200])
    assert not decoder.done()


def test_no_symbols_still_make_a_payload() -> None:
    encoder = Encoder()
    encoder.encode(np.zeros(0, np.int32), np.zeros((0, 16), np.int64))
    data = encoder.finish()
    assert data
    decoder = Decoder(data)
    assert decoder.decode(np.zeros((0, 16), np.int64)).shape == (0,)
    assert decoder.done()


@pytest.mark.parametrize("data", [b"", b"\x01", bytes(7)])
def test_a_payload_that_is_no_whole_number_of_words_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveDamagedError):
        Decoder(data)


def test_words_that_no_encoder_writes_are_a_typed_error() -> None:
    with pytest.raises(ArchiveDamagedError):
        Decoder(b"\xff" * 40).decode(np.full((8, 16), 4096, np.int64))


@pytest.mark.parametrize(
    ("symbols", "pmf"),
    [
        ([16], np.full((1, 16), 4096)),
        ([-1], np.full((1, 16), 4096)),
        ([0], np.full((1, 16), 4095)),
        ([0], np.full((2, 16), 4096)),
        ([0], np.full((1, 15), 4096)),
    ],
)
def test_an_encoder_refuses_what_breaks_the_contract(symbols: list[int], pmf: np.ndarray) -> None:
    with pytest.raises(ValueError):
        Encoder().encode(np.array(symbols, np.int32), pmf.astype(np.int64))
