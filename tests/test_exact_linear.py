import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip.exact.linear import SHIFT_MAX, SUM_BOUND, Linear, accumulate, hidden


def layer(outputs: int, inputs: int, seed: int) -> Linear:
    random = np.random.default_rng(seed)
    weight = random.integers(-127, 128, (outputs, inputs)).astype(np.int8)
    return Linear(weight, random.integers(-(10**6), 10**6, outputs).astype(np.int32))


def int8(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int8)


@settings(deadline=None, max_examples=20)
@given(outputs=st.integers(1, 9), inputs=st.integers(1, 20), n=st.integers(0, 5), seed=st.integers(0, 99))
def test_sums_are_those_of_python_integers(outputs: int, inputs: int, n: int, seed: int) -> None:
    linear = layer(outputs, inputs, seed)
    x = np.random.default_rng(seed).choice(np.array([-128, -127, 0, 127], np.int8), (n, inputs))
    expected = [
        [
            sum(int(w) * int(v) for w, v in zip(line, row, strict=True)) + int(b)
            for line, b in zip(linear.weight, linear.bias, strict=True)
        ]
        for row in x
    ]
    found = accumulate(linear, x)
    assert found.dtype == np.int32
    assert found.tolist() == expected


def test_the_bound_holds_for_partial_sums_in_any_order_and_is_reached() -> None:
    linear = layer(5, 200, 1)
    worst = np.where(linear.weight[0] > 0, -128, 127).astype(np.int64)
    products = np.concatenate([linear.weight[0] * worst, [linear.bias[0]]])
    for seed in range(10):
        partial = np.cumsum(np.random.default_rng(seed).permutation(products))
        assert np.abs(partial).max() <= linear.largest_sum
    one = Linear(int8([-127, 127]), np.array([-5], np.int32))
    assert one.largest_sum == 2 * 127 * 128 + 5


def test_a_sum_that_could_reach_2_to_30_is_refused() -> None:
    weight = int8([127], [-127])
    room = SUM_BOUND - 127 * 128
    Linear(weight, np.array([room - 1, 1 - room], np.int32))
    for bias in ([room, 0], [0, -room], [0, -(1 << 31)]):
        with pytest.raises(ValueError, match=r"below 2\^30"):
            Linear(weight, np.array(bias, np.int32))


def test_float32_is_trusted_below_2_to_24_only() -> None:
    room = (1 << 24) - 127 * 128
    assert Linear(int8([127]), np.array([room - 1], np.int32)).fits_float32
    assert not Linear(int8([127]), np.array([-room], np.int32)).fits_float32


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (int8([-128]), np.zeros(1, np.int32)),
        (np.zeros((1, 1), np.int16), np.zeros(1, np.int32)),
        (np.zeros(1, np.int8), np.zeros(1, np.int32)),
        (np.zeros((1, 0), np.int8), np.zeros(1, np.int32)),
        (int8([1]), np.zeros(1, np.int64)),
        (int8([1]), np.zeros(2, np.int32)),
    ],
)
def test_other_ranges_types_and_shapes_are_refused(weight: np.ndarray, bias: np.ndarray) -> None:
    with pytest.raises(ValueError):
        Linear(weight, bias)


@settings(deadline=None, max_examples=200)
@given(
    total=st.one_of(st.integers(-(2**30) + 1, 2**30 - 1), st.integers(-300, 300)),
    shift=st.integers(0, SHIFT_MAX),
    residual=st.one_of(st.none(), st.integers(-128, 127)),
)
def test_the_activation_rounds_half_up_leaks_a_sixteenth_and_clips(total: int, shift: int, residual: int | None) -> None:
    leaky = total if total >= 0 else total // 16
    # floor(leaky / 2^shift + 1/2) without fractions.
    expected = (2 * leaky + 2**shift) // 2 ** (shift + 1) + (residual or 0)
    added = None if residual is None else int8([residual])
    found = hidden(np.array([[total]], np.int32), np.array([shift], np.int32), added)
    assert found.dtype == np.int8
    assert found.item() == max(-127, min(127, expected))


def test_each_output_has_its_own_shift_and_residual() -> None:
    sums = np.array([[100, 100, -1600, 1 << 29], [3, 3, -8, -1]], np.int32)
    shift = np.array([0, 1, 3, 30], np.int32)
    assert hidden(sums, shift).tolist() == [[100, 50, -12, 1], [3, 2, 0, 0]]
    assert hidden(sums, shift, int8([100, -100, 1, 0], [0, 0, 0, 0])).tolist() == [[127, -50, -11, 1], [3, 2, 0, 0]]


@pytest.mark.parametrize("shift", [-1, SHIFT_MAX + 1])
def test_a_shift_out_of_range_is_refused(shift: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.30"):
        hidden(np.zeros((1, 1), np.int32), np.array([shift], np.int32))
