"""Predictions by least squares: compiled as defined, from what is decoded alone, within 31 bits, and right where that is easy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_networks import image, integers

from medzip.entropy_model.pixel import chunk_samples, regression
from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.chunk_samples import ChunkSamples
from medzip.entropy_model.pixel.features import POSITION_BITS
from medzip.entropy_model.pixel.fitted import ALL_TAPS, IN_PLANE_TAPS
from medzip.entropy_model.pixel.reference import gathered, place
from medzip.entropy_model.pixel.regression import ALL, EQUATION_MAX, Regression, equation
from medzip.exact.compiled import setup

needs_numba = pytest.mark.skipif(not setup.available(), reason="numba is not installed")
both_ways = pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_numba)], ids=["defined", "compiled"])

Shape = tuple[int, int, int]

# One sample, row, column or plane; rows shorter than a segment, whole segments and some more; more rows than are kept.
SHAPES: list[Shape] = [
    (1, 1, 1),
    (1, 1, 30),
    (3, 30, 1),
    (4, 1, 9),
    (3, 4, 7),
    (2, 9, 8),
    (3, 12, 19),
    (1, 20, 33),
    (5, 3, 24),
]
# 20 bits are the last in int32.
BITS = [1, 8, 12, 16, 20, 21, 24, 32]


def predictions(samples: np.ndarray, high: int, compiled: bool) -> np.ndarray:
    """Of every sample, int64 (planes, rows, columns), out of whole planes."""
    top = high << POSITION_BITS
    positions = samples.astype(np.int32 if top < 1 << 24 else np.int64) << POSITION_BITS
    # Behind the planes lies garbage that must not be seen.
    garbage = np.full(around.RUN, top, positions.dtype)
    values = np.concatenate([around.with_margins(positions).reshape(-1), garbage])
    if compiled:
        from medzip.entropy_model.pixel import compiled_regression

        return compiled_regression.predictions(values, samples.shape, top).astype(np.int64)
    state, found = Regression(samples.shape, top), np.zeros(samples.shape, np.int64)
    for sample in around.steps(samples.shape):
        near, _, _ = gathered((values,) * 3, place(*sample, samples.shape), sample[0], samples.shape)
        found[sample] = state.predict(near, *sample)
        state.learn(positions[sample].astype(np.int64))
    return found


def chunk(kind: str, bits: int, shape: Shape, seed: int) -> np.ndarray:
    high, random = (1 << bits) - 1, np.random.default_rng(seed)
    if kind == "noise":
        return random.integers(0, high + 1, shape)
    if kind == "extremes":
        return random.choice([0, high], shape)
    if kind == "stripes":
        return np.indices(shape).sum(axis=0) // int(random.integers(1, 5)) % 2 * high
    if kind == "a few":
        return np.where(random.random(shape) < 0.05, high, 0)
    smooth = high // 2 + (np.indices(shape) * np.array([5, 3, 2]).reshape(3, 1, 1, 1)).sum(axis=0)
    return np.clip(smooth + random.integers(-2, 3, shape), 0, high)


@needs_numba
@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(["noise", "extremes", "stripes", "a few", "smooth"]),
    bits=st.sampled_from(BITS),
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 99),
)
def test_compiled_predictions_equal_the_definition_and_stay_within_the_range(
    kind: str, bits: int, shape: Shape, seed: int
) -> None:
    samples, high = chunk(kind, bits, shape, seed), (1 << bits) - 1
    expected, found = (predictions(samples, high, compiled) for compiled in (False, True))
    assert np.array_equal(found, expected)
    assert expected.min() >= 0 and expected.max() <= high << POSITION_BITS


@needs_numba
def test_compiled_predictions_equal_the_definition_where_steps_have_many_rows() -> None:
    """More than the solver takes at a time, and as the number of rows in a step changes."""
    samples = image(12, (3, 25, 90))
    assert np.array_equal(predictions(samples, 4095, True), predictions(samples, 4095, False))


@needs_numba
def test_compiled_predictions_equal_the_definition_where_planes_form_groups() -> None:
    samples = image(12, (9, 7, 600))
    assert around.planes_together(600) == 4
    assert np.array_equal(predictions(samples, 4095, True), predictions(samples, 4095, False))


def test_the_first_plane_of_a_group_sees_no_sums_of_the_plane_before() -> None:
    """Its first segment finds nothing to solve and predicts local means."""
    samples = image(12, (5, 7, 600))
    values = around.with_margins(samples << POSITION_BITS).reshape(-1)
    column = np.arange(around.SEGMENT)
    found = predictions(samples, 4095, False)
    as_means = []
    for plane in (np.full_like(column, number) for number in range(5)):
        at = place(plane, 0 * plane, column, samples.shape)
        near, _, _ = gathered((values,) * 3, at, plane, samples.shape)
        as_means.append(np.array_equal(found[plane, 0, column], around.local(near)))
    assert as_means == [True, False, False, False, True]


# Causality


def in_order(samples: np.ndarray, monkeypatch: pytest.MonkeyPatch, **constants: int) -> np.ndarray:
    """Predictions of the definition with other constants of the wavefront and of the sums that are kept."""
    with monkeypatch.context() as patched:
        for name, constant in constants.items():
            patched.setattr(regression if name == "ROWS_KEPT" else around, name, constant)
        return predictions(samples, 255, False)


NOISE = integers("noise", 0, 255, (3, 13, 21))
in_groups = pytest.mark.parametrize("together", [2, 9], ids=["two groups", "one group"])


def group(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(around, "planes_together", lambda _columns: together)


ROW_AFTER_ROW = {"STEP_OF_ROW": 24, "STEP_OF_PLANE": 13 * 24, "ROWS_KEPT": 16}


@in_groups
def test_all_sums_that_a_segment_looks_at_are_complete_and_still_there(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row after row, all that was said is complete, and the sums of a plane are kept until the next one has used them."""
    group(monkeypatch, together)
    assert np.array_equal(in_order(NOISE, monkeypatch), in_order(NOISE, monkeypatch, **ROW_AFTER_ROW))


@pytest.mark.parametrize(
    "constants",
    [
        {"STEP_OF_ROW": around.STEP_OF_ROW - 1},
        {"STEP_OF_PLANE": around.STEP_OF_PLANE - 1},
        {**ROW_AFTER_ROW, "ROWS_KEPT": around.SEGMENT},
    ],
    ids=str,
)
def test_incomplete_and_overwritten_sums_are_noticed(constants: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not np.array_equal(in_order(NOISE, monkeypatch, **constants), in_order(NOISE, monkeypatch))


TAPS = integers("taps", -80, 90, (ALL_TAPS,)), integers("taps in plane", -90, 110, (IN_PLANE_TAPS,))


def seen_until(step: int, samples: np.ndarray, compiled: bool) -> list[np.ndarray]:
    """All that the network is told of the samples of a chunk up to a step of the wavefront."""
    plane, row, column = np.indices(samples.shape)
    until = np.flatnonzero(column + around.STEP_OF_ROW * row + around.first_steps(samples.shape)[plane] <= step)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunk_samples, "available", lambda: compiled)
        batch = ChunkSamples(samples, 255, TAPS).batch(until)
    return [batch.predicted, batch.scale, batch.features]


def first_difference(step: int, compiled: bool) -> bool:
    """Whether two chunks that differ in all samples behind a step look different up to there."""
    plane, row, column = np.indices(NOISE.shape)
    behind = column + around.STEP_OF_ROW * row + around.first_steps(NOISE.shape)[plane] >= step
    other = np.where(behind, 255 - NOISE, NOISE)
    both = zip(seen_until(step, NOISE, compiled), seen_until(step, other, compiled), strict=True)
    return not all(np.array_equal(one, another) for one, another in both)


LAST = 2 * around.STEP_OF_PLANE + 12 * around.STEP_OF_ROW + 20


@both_ways
@in_groups
def test_nothing_changes_with_samples_of_the_same_step_or_later_ones(
    together: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    group(monkeypatch, together)
    for step in [0, 1, 7, 8, LAST, *np.random.default_rng(1).integers(0, LAST, 7 if compiled else 2).tolist()]:
        assert not first_difference(step, compiled)


@both_ways
@pytest.mark.parametrize("name, too_small", [("STEP_OF_ROW", 3), ("STEP_OF_PLANE", 8)])
def test_samples_of_the_same_step_are_noticed(name: str, too_small: int, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(around, name, too_small)
    assert any(first_difference(step, compiled) for step in (30, 47))


# Bounds


@pytest.mark.parametrize("signs", [np.ones(ALL + 1, int), (-1) ** np.arange(ALL + 1)], ids=["all equal", "both signs"])
def test_sums_of_the_largest_equations_fit_31_bits(signs: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of every sample at their bound, so that sums come as close as they can to what the decay lets them reach."""
    largest = [0]

    def bound(difference: np.ndarray, _code: np.ndarray) -> np.ndarray:
        sign = signs[: len(difference), None] if difference.ndim == 2 else signs[-1:]
        return np.broadcast_to(sign * EQUATION_MAX, difference.shape)

    def solved(products: np.ndarray) -> np.ndarray:
        largest.append(int(np.abs(products).max()))
        return np.zeros((ALL, products.shape[2]), np.int64)

    monkeypatch.setattr(regression, "equation", bound)
    monkeypatch.setattr(regression, "solved", solved)
    predictions(integers("bound", 0, 255, (2, 60, 25)), 255, False)
    # Nine times the sums that seven eighths of themselves and eight samples more leave as they are.
    reached = 9 * 64 * EQUATION_MAX**2
    assert 0.99 * reached < max(largest) < 1.01 * reached < 1 << 30


@given(difference=st.integers(-(1 << 40), 1 << 40), texture=st.integers(regression.SOFTENER, 1 << 42))
def test_an_equation_is_a_difference_in_units_of_the_texture(difference: int, texture: int) -> None:
    code = regression.octave_code(np.array([texture]))
    found = int(equation(np.array([difference]), code)[0])
    expected = max(min(1024 * difference / texture, EQUATION_MAX), -EQUATION_MAX)
    # A code is up to a sixteenth of an octave below; low bits are dropped, and the result is rounded.
    assert abs(found - expected) <= 0.05 * abs(expected) + 5


# What is easy to predict


def ramp() -> np.ndarray:
    z, y, x = np.indices((2, 30, 48))
    return 20 * z + 31 * y + 17 * x


def texture() -> np.ndarray:
    """Two waves: each sample follows from those before it by a linear rule, but for its rounding."""
    z, y, x = np.indices((2, 30, 48))
    waves = np.sin(0.9 * x + 0.5 * y + 0.3 * z) + np.sin(0.4 * x - 0.8 * y)
    return np.rint(16000 * (2 + waves)).astype(np.int64)


@both_ways
@pytest.mark.parametrize("made", [ramp, texture])
def test_what_follows_a_linear_rule_is_predicted_nearly_exactly(made: Callable[[], np.ndarray], compiled: bool) -> None:
    """Mean errors, where no margin is in sight, beside those of the better of two neighbours."""
    samples = made()
    found = np.abs(predictions(samples, int(samples.max()), compiled) / (1 << POSITION_BITS) - samples)
    beside = np.minimum(*(np.abs(np.roll(samples, 1, axis) - samples) for axis in (1, 2)))
    assert found[:, 8:, 16:-8].mean() < beside[:, 8:, 16:-8].mean() / 15
