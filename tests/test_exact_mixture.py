"""Masses are integers that add up, agree with the real mixture, and never overflow."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip.exact.mixture import MEAN_MAX, SCALE_CODES, VALUE_MAX, Columns, Mixture, mass
from medzip.exact.tables import CDF_ONE, HALF_CDF, Kind

KINDS: tuple[Kind, ...] = ("gaussian", "logistic")


def one(weight: list[int], mean: list[int], scale: list[int], kind: Kind = "gaussian") -> Mixture:
    return Mixture(*(np.array([a], np.int64) for a in (weight, mean, scale)), kind)


def mass_in_python(mixture: Mixture, edges: list[int]) -> list[int]:
    """FORMAT.md's formula for one row, in Python's unbounded integers."""
    half = HALF_CDF[mixture.kind]
    octave = [round(2 ** (15 - i / 16)) for i in range(16)]

    def cumulative(edge: int) -> int:
        total = 0
        for weight, mean, scale in zip(*(a[0].tolist() for a in (mixture.weight, mixture.mean, mixture.scale)), strict=True):
            distance = edge * 4096 - 2048 - mean
            z = abs(distance) * octave[scale % 16] >> (1 + scale // 16)
            at = min(z >> half.bits, 4096)
            rest = z & ((1 << half.bits) - 1)
            g = int(half.values[at]) + (int(half.slopes[at]) * rest >> half.bits)
            total += weight * (g if distance >= 0 else -g)
        return total

    return [cumulative(b) - cumulative(a) for a, b in itertools.pairwise(edges)]


@settings(deadline=None, max_examples=200)
@given(data=st.data(), kind=st.sampled_from(KINDS), components=st.integers(1, 6))
def test_int64_never_overflows(data: st.DataObject, kind: Kind, components: int) -> None:
    def several(low: int, high: int) -> list[int]:
        value = st.one_of(st.sampled_from([low, high]), st.integers(low, high))
        return data.draw(st.lists(value, min_size=components, max_size=components))

    weight = several(0, (1 << 15) // components)
    weight[0] = max(weight[0], 1)
    mixture = one(weight, several(-MEAN_MAX, MEAN_MAX), several(0, SCALE_CODES - 1), kind)
    extreme = st.one_of(st.sampled_from([-VALUE_MAX, VALUE_MAX, 0]), st.integers(-VALUE_MAX, VALUE_MAX))
    edges = sorted(data.draw(st.lists(extreme, min_size=2, max_size=6)))
    found = mass(mixture, np.array([edges], np.int64))[0].tolist()
    assert found == mass_in_python(mixture, edges)
    assert all(m >= 0 for m in found) and sum(found) <= CDF_ONE << 15
    assert (CDF_ONE << 15) * ((1 << 16) - 16) < 1 << 59
    middle = sum(w * m for w, m in zip(mixture.weight[0].tolist(), mixture.mean[0].tolist(), strict=True)) // sum(weight)
    columns = Columns.of(mixture)
    assert columns.centre().tolist() == [(middle + 2048) >> 12]
    assert 0 <= columns.deviation(columns.centre())[0] <= 1 << 46


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [0.25, 1.0, 7.3, 300.0])
def test_masses_agree_with_the_real_distribution(kind: Kind, sigma: float) -> None:
    code = round(16 * (math.log2(sigma) + 4))
    sigma = 2 ** (code / 16 - 4)
    mean = 100 + 1229 / 4096
    edges = np.unique((mean + sigma * np.linspace(-9, 9, 200)).astype(np.int64))
    found = mass(one([1 << 15], [round(mean * 4096)], [code], kind), edges[None])[0] / (CDF_ONE << 15)
    z = (edges - 0.5 - mean) / sigma
    cdf = [0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z] if kind == "gaussian" else 1 / (1 + np.exp(-z))
    assert np.abs(found - np.diff(cdf)).max() < 2e-5


def test_mass_is_symmetric_around_the_mean() -> None:
    # Edge v stands for v - 1/2: mean 1/2 mirrors edge v to 2 - v.
    for kind in KINDS:
        edges = np.arange(-40, 43, dtype=np.int64)[None]
        found = mass(one([77], [2048], [90], kind), edges)[0]
        assert (found == found[::-1]).all()


@pytest.mark.parametrize(
    ("weight", "mean", "scale"),
    [
        ([0, 0], [0, 0], [5, 5]),
        ([-1, 5], [0, 0], [5, 5]),
        ([1 << 15, 1], [0, 0], [5, 5]),
        ([1 << 62, 1 << 62], [0, 0], [5, 5]),
        ([1, 1], [MEAN_MAX + 1, 0], [5, 5]),
        ([1, 1], [0, 0], [SCALE_CODES, 5]),
        ([1, 1], [0, 0], [5, -1]),
        ([1, 1], [0], [5, 5]),
    ],
)
def test_a_mixture_out_of_bounds_is_refused(weight: list[int], mean: list[int], scale: list[int]) -> None:
    with pytest.raises(ValueError):
        one(weight, mean, scale)


def test_an_unknown_kind_or_dtype_is_refused() -> None:
    with pytest.raises(ValueError):
        one([1], [0], [5], "cauchy")  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ValueError):
        Mixture(*(np.array([[1]], np.int32) for _ in range(3)))  # type: ignore[arg-type]  # that is the test


def test_rows_selects() -> None:
    mixture = Mixture(*(np.arange(1, 13, dtype=np.int64).reshape(4, 3) for _ in range(3)), "gaussian")
    assert mixture.rows(np.array([3, 1])).mean.tolist() == [[10, 11, 12], [4, 5, 6]]
    assert mixture.rows(slice(1, 2)).kind == "gaussian"
