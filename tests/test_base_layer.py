"""Base layers: what the encoder says a decoder will see is what it sees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip.base_layer import base_layer
from medzip.base_layer.jxl_decimated import JxlDecimated
from medzip.base_layer.jxl_lossy import JxlLossy, distance
from medzip.errors import ArchiveDamagedError, UnsupportedArchiveError, UnsupportedInputError

NAMES = ["none", "jxl_lossy", "jxl_decimated"]
DTYPES = ["u1", "i1", "u2", "i2"]


def smooth_stack(rows: int, columns: int, dtype: str, span: int, low: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x, z = np.arange(rows)[:, None], np.arange(columns), np.arange(3)[:, None, None]
    wave = np.sin(x / 9 + z / 5) + np.cos(y / 7) + rng.normal(0, 0.02, (3, rows, columns))
    return (low + (wave + 2.5) / 5 * span).astype(dtype)


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(NAMES),
    dtype=st.sampled_from(DTYPES),
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    seed=st.integers(0, 1000),
    span=st.sampled_from([1, 2, 100, 1 << 16]),
)
def test_the_decoder_sees_what_the_encoder_promised(name: str, dtype: str, rows: int, columns: int, seed: int, span: int) -> None:
    info = np.iinfo(dtype)
    stack = (
        np.random.default_rng(seed).integers(info.min, min(info.min + span, int(info.max) + 1), (3, rows, columns)).astype(dtype)
    )
    layer = base_layer(name)
    payload, seen = layer.encode(stack)
    assert seen.shape == stack.shape and seen.dtype == stack.dtype
    assert (layer.decode(payload, stack.shape, stack.dtype) == seen).all()


@pytest.mark.parametrize("step", [2, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_decimated_base_is_exact_where_it_was_kept_and_nearest_elsewhere(step: int, dtype: str) -> None:
    info = np.iinfo(dtype)
    stack = np.random.default_rng(7).integers(info.min, info.max, (3, 13, 10), endpoint=True).astype(dtype)
    _, seen = JxlDecimated(step).encode(stack)
    assert (seen[:, ::step, ::step] == stack[:, ::step, ::step]).all()
    for y in range(13):
        for x in range(10):
            rows = [r for r in range(0, 13, step) if abs(r - y) == min(abs(q - y) for q in range(0, 13, step))]
            columns = [c for c in range(0, 10, step) if abs(c - x) == min(abs(q - x) for q in range(0, 10, step))]
            assert (seen[:, y, x] == stack[:, max(rows), max(columns)]).all()


@pytest.mark.parametrize(
    ("dtype", "span", "low"), [("u1", 250, 0), ("u2", 4095, 0), ("i2", 4095, -1024), ("i2", 65000, -32768), ("i1", 250, -128)]
)
def test_the_lossy_base_is_near(dtype: str, span: int, low: int) -> None:
    stack = smooth_stack(64, 48, dtype, span, low)
    payload, seen = JxlLossy().encode(stack)
    assert len(payload) < stack.nbytes / 4
    assert np.abs(seen.astype(np.int64) - stack).mean() < span / 40


def test_twelve_bits_in_sixteen_are_scaled_before_coding() -> None:
    # The same picture at 12 and at 16 bits must cost the same and be as near in units of its span.
    narrow, wide = smooth_stack(64, 64, "u2", 4095, 0), smooth_stack(64, 64, "u2", 65535, 0)
    (narrow_payload, narrow_seen), (wide_payload, wide_seen) = JxlLossy().encode(narrow), JxlLossy().encode(wide)
    assert abs(len(narrow_payload) - len(wide_payload)) < 0.1 * len(wide_payload)
    errors = [
        np.abs(seen.astype(np.int64) - s).mean() / span
        for seen, s, span in ((narrow_seen, narrow, 4095), (wide_seen, wide, 65535))
    ]
    assert errors[0] < 1.2 * errors[1]


def test_quality_maps_to_distance_as_in_libjxl() -> None:
    assert distance(90) == pytest.approx(1.0) and distance(68) == pytest.approx(2.98) and distance(0) == 25
    assert distance(30) == pytest.approx(6.4) and distance(29.999) == pytest.approx(6.4, abs=0.01)


def test_better_quality_costs_more_and_is_nearer() -> None:
    stack = smooth_stack(64, 64, "u1", 250, 0)
    results = [JxlLossy(quality).encode(stack) for quality in (20, 68, 95)]
    sizes = [len(payload) for payload, _ in results]
    errors = [np.abs(seen.astype(int) - stack).mean() for _, seen in results]
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("name", ["jxl_lossy", "jxl_decimated"])
@pytest.mark.parametrize("dtype", ["i4", "u4", "f4", "i8"])
def test_other_dtypes_are_refused(name: str, dtype: str) -> None:
    with pytest.raises(UnsupportedInputError):
        base_layer(name).encode(np.zeros((3, 4, 4), dtype))  # type: ignore[arg-type]  # that is the test


@settings(deadline=None, max_examples=40)
@given(name=st.sampled_from(NAMES), cut=st.floats(0, 1, exclude_max=True), flips=st.lists(st.integers(0, 1 << 20), max_size=3))
def test_damage_is_a_typed_error_or_a_base_of_the_right_shape(name: str, cut: float, flips: list[int]) -> None:
    layer = base_layer(name)
    payload, _ = layer.encode(smooth_stack(12, 12, "i2", 900, -300))
    data = bytearray(payload or b"\0")
    for flip in flips:
        data[flip % len(data)] ^= 1 << flip % 8
    for damaged in (bytes(data[: int(cut * len(data))]), bytes(data)):
        try:
            seen = layer.decode(damaged, (3, 12, 12), np.dtype("i2"))
        except ArchiveDamagedError:
            continue
        assert seen.shape == (3, 12, 12) and seen.dtype == np.int16


@pytest.mark.parametrize("name", ["jxl_lossy", "jxl_decimated"])
def test_a_payload_of_another_shape_or_depth_is_refused(name: str) -> None:
    layer = base_layer(name)
    payload, _ = layer.encode(smooth_stack(12, 12, "u1", 200, 0))
    for shape, dtype in (((3, 12, 20), "u1"), ((3, 20, 12), "u1"), ((3, 12, 12), "u2")):
        with pytest.raises(ArchiveDamagedError):
            layer.decode(payload, shape, np.dtype(dtype))


def test_an_unknown_base_layer_is_a_typed_error() -> None:
    with pytest.raises(UnsupportedArchiveError):
        base_layer("jpeg")


def test_only_the_lossy_layer_is_not_portable() -> None:
    assert [base_layer(name).portable for name in NAMES] == [True, False, True]
