"""Every kind of chunk gives back every sample of every dtype it accepts, bit for bit, or a typed error."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip.chunk_kinds import KINDS, ChunkKind
from medzip.errors import ArchiveDamagedError

DTYPES = [np.dtype(d) for d in ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "c16", "?", "g"]]
PAIRS = [(kind, dtype) for kind, dtype in itertools.product(KINDS.values(), DTYPES) if kind.accepts(dtype)]
SHAPES = [(1, 1, 1), (1, 5, 3), (3, 1, 4), (4, 6, 1), (3, 6, 3), (7, 9, 4), (2, 2, 2)]


def random_bits(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> np.ndarray:
    """Every pattern of bits: for floats -0, infinities, subnormals and NaNs of both kinds with any payload."""
    rng = np.random.default_rng(seed)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(dtype)
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


@pytest.mark.parametrize(("kind", "dtype"), PAIRS, ids=lambda p: getattr(p, "name", str(p)))
def test_random_bits_come_back(kind: ChunkKind, dtype: np.dtype) -> None:
    for seed, shape in enumerate(SHAPES):
        samples = random_bits(shape, dtype, seed)
        found = kind.decode(kind.encode(samples), shape, dtype)
        assert found.dtype == dtype and found.shape == shape and found.tobytes() == samples.tobytes()


@pytest.mark.parametrize(("kind", "dtype"), PAIRS, ids=lambda p: getattr(p, "name", str(p)))
def test_a_slice_of_an_array_is_coded_like_its_copy(kind: ChunkKind, dtype: np.dtype) -> None:
    samples = random_bits((6, 8, 8), dtype, 1)[::2, 1:, ::-2]
    assert kind.decode(kind.encode(samples), samples.shape, dtype).tobytes() == samples.tobytes()


@settings(deadline=None, max_examples=40)
@given(
    kind_and_dtype=st.sampled_from(PAIRS),
    cut=st.floats(0, 1, exclude_max=True),
    flips=st.lists(st.integers(0, 1 << 20), max_size=3),
)
def test_damage_is_a_typed_error_or_samples_of_the_right_shape(
    kind_and_dtype: tuple[ChunkKind, np.dtype], cut: float, flips: list[int]
) -> None:
    kind, dtype = kind_and_dtype
    payload = bytearray(kind.encode(random_bits((3, 8, 8), dtype, 2)))
    for flip in flips:
        payload[flip % len(payload)] ^= 1 << flip % 8
    for data in (bytes(payload[: int(cut * len(payload))]), bytes(payload)):
        try:
            found = kind.decode(data, (3, 8, 8), dtype)
        except ArchiveDamagedError:
            continue
        assert found.shape == (3, 8, 8) and found.dtype == dtype


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_payload_of_another_size_is_refused(kind: ChunkKind) -> None:
    dtype = next(d for d in DTYPES if kind.accepts(d))
    payload = kind.encode(random_bits((3, 8, 8), dtype, 3))
    for shape in ((3, 8, 9), (2, 8, 8), (3, 7, 8), (1 << 12, 1 << 8, 1)):
        with pytest.raises(ArchiveDamagedError):
            kind.decode(payload, shape, dtype)
    for data in (b"", payload[:-1]):
        with pytest.raises(ArchiveDamagedError):
            kind.decode(data, (3, 8, 8), dtype)


def test_floats_of_a_scaled_grid_keep_their_odd_ones() -> None:
    # Multiples of 0.1 make pcodec code integers times a constant: NaN payloads and -0 must survive that, too.
    samples = (np.arange(3 * 40 * 40) % 977 * np.float32(0.1)).astype(np.float32).reshape(3, 40, 40)
    bits = samples.view(np.uint32)
    bits[0, 0, :5] = [0x80000000, 0x7FA00001, 0xFFC12345, 0x7F800000, 0x00000001]
    numeric = KINDS["numeric"]
    payload = numeric.encode(samples)
    assert len(payload) < samples.nbytes // 2
    assert (numeric.decode(payload, samples.shape, samples.dtype).view(np.uint32) == bits).all()


def test_stored_and_zstd_take_everything_that_is_no_python_object() -> None:
    for name in ("stored", "zstd"):
        assert all(KINDS[name].accepts(dtype) for dtype in DTYPES)
        assert not KINDS[name].accepts(np.dtype(object))
        empty = np.zeros((1, 1, 0), np.uint8)
        assert KINDS[name].decode(KINDS[name].encode(empty), (1, 1, 0), empty.dtype).shape == (1, 1, 0)


def test_smooth_integers_get_smaller() -> None:
    x = np.arange(64)
    planes = np.stack([(x[:, None] * 3 + x * 5 + z) for z in range(3)]).astype(np.int16)
    sizes = {name: len(kind.encode(planes)) for name, kind in KINDS.items() if kind.accepts(planes.dtype)}
    assert sizes["jpeg_xl"] < sizes["zstd"] < sizes["stored"] == planes.nbytes
