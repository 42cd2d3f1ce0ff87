"""Compiled features are those of the definition, from 8 to 32 bits and at every extreme; logarithms are exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel import reference
from medzip.entropy_model.pixel.features import FEATURES, POSITION_BITS, Look, look, scaled
from medzip.entropy_model.pixel.fitted import ALL_TAPS, IN_PLANE_TAPS, TAP_MAX
from medzip.exact.compiled import setup
from medzip.exact.tables import octave_code

needs_numba = pytest.mark.skipif(not setup.available(), reason="numba is not installed")

SHAPE = (3, 5, 6)
# The largest values of 1, 8, 16 and 32 bits, and those where arrays change from int32 to int64.
HIGHS = [1, 255, 65535, (1 << 20) - 1, 1 << 20, (1 << 32) - 1]
KINDS = ["random", "constant", "extreme", "small"]
SAMPLES = tuple(index.reshape(-1) for index in np.indices(SHAPE))


def known(high: int, kind: str, seed: int) -> reference._Known:
    """Positions in 0..top and errors within +-top, all that a chunk could ever hold."""
    random = np.random.default_rng(seed)
    top = high << POSITION_BITS
    result = reference._Known(SHAPE, top)
    size = result.arrays[0].size
    for array, low in zip(result.arrays, (0, -top, -top), strict=True):
        if kind == "random":
            array[:] = random.integers(low, top + 1, size)
        elif kind == "constant":
            array[:] = random.choice([low, 0, top])
        elif kind == "extreme":
            array[:] = random.choice([low, top], size)
        else:
            array[:] = np.clip(random.integers(-40, 41, size) + (top // 2 if low == 0 else 0), low, top)
    return result


def taps(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    if kind == "none":
        return np.zeros(ALL_TAPS, np.int64), np.zeros(IN_PLANE_TAPS, np.int64)
    if kind == "extreme":
        return random.choice([-TAP_MAX, TAP_MAX], ALL_TAPS), np.full(IN_PLANE_TAPS, random.choice([-TAP_MAX, TAP_MAX]))
    return random.integers(-99, 130, ALL_TAPS), random.integers(-99, 160, IN_PLANE_TAPS)


def predictions(seed: int, kind: str, top: int) -> np.ndarray:
    """All that `look` could be given."""
    random, n = np.random.default_rng(seed), SAMPLES[0].size
    if kind == "none":
        return np.clip(random.integers(-40, 41, n) + top // 2, 0, top)
    return random.choice([0, top], n) if kind == "extreme" else random.integers(0, top + 1, n)


def defined(seen: reference._Known, predicted: np.ndarray, coefficients: tuple[np.ndarray, np.ndarray], top: int) -> Look:
    return look(*seen.around(*SAMPLES), SAMPLES[0], predicted, coefficients, top)


def compiled(seen: reference._Known, predicted: np.ndarray, coefficients: tuple[np.ndarray, np.ndarray], top: int) -> Look:
    from medzip.entropy_model.pixel.compiled_features import chunk_constants
    from medzip.entropy_model.pixel.compiled_features import look as compiled_look

    n = SAMPLES[0].size
    # Behind the planes lies garbage that must not be seen.
    arrays = [np.concatenate([array, np.full(around.RUN, top, array.dtype)]) for array in seen.arrays]
    features = np.full((n, FEATURES + 4), 99, np.int8)
    fitted, scale = (np.zeros(n, np.int64) for _ in range(2))
    constants = chunk_constants(*SHAPE[1:], coefficients, top)
    compiled_look(*arrays, reference.place(*SAMPLES, SHAPE), SAMPLES[0], n, *constants, predicted, features, fitted, scale)
    assert (features[:, FEATURES:] == 99).all()
    return Look(fitted, scale, features[:, :FEATURES])


@needs_numba
@settings(deadline=None, max_examples=150)
@given(
    high=st.sampled_from(HIGHS),
    kind=st.sampled_from(KINDS),
    of_taps=st.sampled_from(["none", "ordinary", "extreme"]),
    of_predictions=st.sampled_from(["none", "ordinary", "extreme"]),
    seed=st.integers(0, 999),
)
def test_compiled_features_equal_the_definition(high: int, kind: str, of_taps: str, of_predictions: str, seed: int) -> None:
    seen, coefficients, top = known(high, kind, seed), taps(seed, of_taps), high << POSITION_BITS
    expected, found = (of(seen, predictions(seed, of_predictions, top), coefficients, top) for of in (defined, compiled))
    for part in ("fitted", "scale", "features"):
        assert np.array_equal(getattr(found, part), getattr(expected, part)), part


@pytest.mark.parametrize("high", HIGHS)
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_and_scales_stay_within_their_bounds(high: int, kind: str) -> None:
    top = high << POSITION_BITS
    seen = defined(known(high, kind, 1), predictions(1, "extreme", top), taps(1, "extreme"), top)
    assert seen.fitted.min() >= 0 and seen.fitted.max() <= top
    # Errors and differences are at most `top`, so no mean of them is larger: 16 log2 of top, in 1/16.
    assert seen.scale.min() >= 16 and seen.scale.max() <= 16 * (top + 80).bit_length()
    assert seen.features.min() >= -127


def test_neighbours_in_planes_that_do_not_exist_are_never_seen() -> None:
    """Neighbours before the first plane change nothing there; the second plane sees the plane before it twice."""
    coefficients, high = taps(3, "ordinary"), 4095
    top = high << POSITION_BITS
    clean, predicted = known(high, "random", 3), predictions(3, "ordinary", top)
    near, wrong, wrong_fitted = clean.around(*SAMPLES)
    first = SAMPLES[0] == 0
    other = near.copy()
    other[around.IN_PLANE :, first] = top - other[around.IN_PLANE :, first]
    seen, again = (look(n, wrong, wrong_fitted, SAMPLES[0], predicted, coefficients, top) for n in (near, other))
    assert np.array_equal(seen.features, again.features) and np.array_equal(seen.fitted, again.fitted)
    second = SAMPLES[0] == 1
    for i, (_, dy, dx) in enumerate(around.SECOND_BEFORE, around.IN_PLANE + len(around.BEFORE)):
        assert np.array_equal(near[i, second], near[around.NEIGHBOURS.index((-1, dy, dx)), second])


def test_flags_tell_which_planes_before_exist() -> None:
    top = 255 << POSITION_BITS
    seen = defined(known(255, "random", 4), predictions(4, "ordinary", top), taps(4, "ordinary"), top)
    assert np.array_equal(seen.features[:, -3] == 64, SAMPLES[0] > 0)
    assert np.array_equal(seen.features[:, -2] == 64, SAMPLES[0] > 1)


def test_the_same_picture_at_another_brightness_and_scale_looks_the_same() -> None:
    """Means relative to the prediction, differences relative to the local scale: the same features of neighbours."""
    random = np.random.default_rng(5)
    plane = np.full(1, 2)
    near, wrong = random.integers(20000, 30000, (ALL_TAPS, 1)), random.integers(-9000, 9000, (12, 1))
    predicted, coefficients = random.integers(20000, 30000, 1), taps(5, "none")

    def seen(factor: int, added: int) -> np.ndarray:
        arrays = (near * factor + added, wrong * factor, wrong[: around.ERRORS_IN_PLANE] * factor)
        found = look(*arrays, plane, predicted * factor + added, coefficients, (1 << 30) - 1)
        return found.features[0, : ALL_TAPS + 18].astype(int)

    assert np.array_equal(seen(1, 0), seen(1, 1 << 20))
    # What is rounded or added before the scale is taken differs by next to nothing.
    assert np.abs(seen(1, 0) - seen(256, 0)).max() <= 1


def amounts() -> np.ndarray:
    near_powers = [(1 << e) + d for e in range(1, 63) for d in (-2, -1, 0, 1, 2) if 1 <= (1 << e) + d <= 1 << 62]
    mantissas = [(m << e >> 8) + d for m in range(256, 512) for e in (9, 17, 30, 53) for d in (-1, 0, 1)]
    return np.array([*range(1, 5000), *near_powers, *mantissas], np.int64)


def exact_octave_code(amount: int) -> int:
    """2^k <= m^16 < 2^(k + 1) for k = floor(16 log2(m)), in integers; m are the first 9 bits."""
    octave = amount.bit_length() - 1
    mantissa = amount << 8 >> octave
    return 16 * (octave - 8) + (mantissa**16).bit_length() - 1


def test_octave_codes_are_exact_logarithms() -> None:
    assert octave_code(amounts()).tolist() == [exact_octave_code(int(amount)) for amount in amounts()]


@needs_numba
def test_compiled_octave_codes_are_the_same() -> None:
    from medzip.entropy_model.pixel.compiled_features import octave_code as compiled_octave_code

    assert [compiled_octave_code(amount) for amount in amounts()] == octave_code(amounts()).tolist()


def differences() -> np.ndarray:
    powers = [1 << e for e in range(41)]
    positive = [0, 3, 1000, *powers, *(p - 1 for p in powers), *(3 * p // 2 for p in powers)]
    return np.array(sorted({sign * d for d in positive for sign in (-1, 1)}), np.int64)


@pytest.mark.parametrize("code", [*range(16, 200), 255, 256, 384, 400, 499, 500])
def test_scaled_is_16_differences_over_the_scale(code: int) -> None:
    found = scaled(differences(), np.full(differences().size, code))
    exact = np.clip(16 * differences() * 2.0 ** (-code / 16), -127, 127)
    # Half for rounding, 1/16 and a little for the bits that are dropped before.
    assert np.abs(found - exact).max() <= 0.5 + 1 / 16 + 0.01


@needs_numba
def test_compiled_scaled_is_the_same() -> None:
    from medzip.entropy_model.pixel.compiled_features import scaled as compiled_scaled
    from medzip.entropy_model.pixel.compiled_features import steps_of

    for code in range(16, 501, 7):
        expected = scaled(differences(), np.full(differences().size, code))
        assert [compiled_scaled(d, steps_of(code)) for d in differences()] == expected.tolist(), code
