"""Least squares: every rounding is that of the format, in numpy and compiled, and no input leads out of the range of taps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip.exact.compiled import setup
from medzip.exact.least_squares import TAP_BITS, TAP_MAX, solved

needs_numba = pytest.mark.skipif(not setup.available(), reason="numba is not installed")

KINDS = ["random", "zero", "fewer than unknowns", "all the same", "one unknown at the bound", "bound", "tiny"]


def products_of(equations: np.ndarray) -> np.ndarray:
    """(n + 1, n + 1, count) of equations (many, n + 1, count)."""
    return np.einsum("eic,ejc->ijc", equations, equations)


def some_products(kind: str, n: int, count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    shape = (2 * n + 8, n + 1, count)
    if kind == "zero":
        return np.zeros((n + 1, n + 1, count), np.int64)
    if kind == "tiny":
        return products_of(random.integers(-1, 2, shape))
    equations = random.integers(-1023, 1024, shape)
    if kind == "fewer than unknowns":
        return products_of(equations[: max(n // 2, 1)])
    if kind == "all the same":
        return products_of(np.broadcast_to(equations[:, :1], shape))
    if kind == "one unknown at the bound":
        equations[:, : n - 1] = 0
        return products_of(equations) << 14
    if kind == "bound":
        # As the largest sums of `regression.py`, and up to 2^40.
        return products_of(random.choice([-1023, 1023], shape)) * int(random.choice([1, 9 * 64, 1 << 14]))
    return products_of(equations)


def by_the_book(products: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Taps, eliminated rows and inverse pivots in Python's floats, operation by operation; no number may be infinite."""
    n, count = len(products) - 1, products.shape[2]
    rows, inverse, taps = products.astype(np.float64), np.zeros((n, count)), np.zeros((n, count), np.int64)
    for system in range(count):
        d = [[float(product) for product in row] for row in products[:, :, system]]
        ridge = float((sum(int(products[k, k, system]) for k in range(n)) >> 15) + 64)
        for k in range(n):
            d[k][k] += ridge
        pivots = []
        for k in range(n):
            pivots.append(1.0 / d[k][k])
            for i in range(k + 1, n):
                factor = d[k][i] * pivots[k]
                for column in range(i, n + 1):
                    d[i][column] -= factor * d[k][column]
        right = [row[n] for row in d[:n]]
        for k in reversed(range(n)):
            right[k] *= pivots[k]
            for i in range(k):
                right[i] -= d[i][k] * right[k]
        rows[:, :, system], inverse[:, system] = d, pivots
        taps[:, system] = [math.floor(min(max(4096 * tap, -32768.0), 32768.0) + 32768.5) - 32768 for tap in right]
    return taps, rows, inverse


def compiled(products: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by the compiled solver, whose work begins with garbage wherever it is not told anything."""
    from medzip.exact.compiled.least_squares import BLOCK, SYSTEMS, eliminate, substitute, work_of

    n, count = len(products) - 1, products.shape[2]
    rows, inverse, taps = np.zeros(products.shape), np.zeros((n, count)), np.zeros((n, count), np.int64)
    for start in range(0, count, SYSTEMS):
        own = slice(start, min(start + SYSTEMS, count))
        here = own.stop - own.start
        work, solution = work_of(n), np.full(n * SYSTEMS, 99, np.int32)
        work[:] = np.random.default_rng(start).normal(0, 1e6, len(work))
        square = work[: n * (n + BLOCK) * SYSTEMS].reshape(n, n + BLOCK, SYSTEMS)
        for k in range(n):
            square[k, k : n + 1] = 0
            square[k, k : n + 1, :here] = products[k, k:, own]
        eliminate(work, n)
        substitute(work, n, solution)
        rows[:n, :, own] = square[:, : n + 1, :here]
        inverse[:, own] = work[n * (n + BLOCK) * SYSTEMS :].reshape(-1, SYSTEMS)[:n, :here]
        taps[:, own] = solution.reshape(n, SYSTEMS)[:, :here]
    return taps, rows, inverse


any_products = given(
    kind=st.sampled_from(KINDS),
    n=st.one_of(st.integers(1, 26), st.just(23)),
    count=st.one_of(st.integers(1, 10), st.sampled_from([8, 16])),
    seed=st.integers(0, 999),
)


@settings(deadline=None, max_examples=30)
@any_products
def test_taps_are_those_of_the_format_within_their_range(kind: str, n: int, count: int, seed: int) -> None:
    products = some_products(kind, n, count, seed)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        found = solved(products)
    taps, rows, inverse = by_the_book(products)
    assert np.array_equal(found, taps) and np.abs(found).max() <= TAP_MAX
    assert np.isfinite(rows).all() and (inverse > 0).all()


@needs_numba
@settings(deadline=None, max_examples=50)
@any_products
def test_compiled_numbers_are_those_of_the_format_bit_for_bit(kind: str, n: int, count: int, seed: int) -> None:
    products = some_products(kind, n, count, seed)
    taps, rows, inverse = by_the_book(products)
    compiled_taps, compiled_rows, compiled_inverse = compiled(products)
    above = np.triu(np.ones((n, n + 1), bool))
    assert compiled_rows[:n][above].tobytes() == rows[:n][above].tobytes()
    assert compiled_inverse.tobytes() == inverse.tobytes()
    assert np.array_equal(compiled_taps, taps)


def test_no_equations_give_no_taps() -> None:
    assert not solved(some_products("zero", 23, 3, 0)).any()


def test_a_linear_relation_is_found() -> None:
    """But for what the ridge draws to zero: 23 times 2^-15 of each tap."""
    random = np.random.default_rng(2)
    taps = random.integers(-2 << TAP_BITS, 2 << TAP_BITS, (23, 5))
    unknowns = random.integers(-1023, 1024, (400, 23, 5))
    right = np.rint((unknowns * taps).sum(axis=1, keepdims=True) / (1 << TAP_BITS)).astype(np.int64)
    found = solved(products_of(np.concatenate([unknowns, right], axis=1)))
    assert np.abs(found - taps).max() <= 16


@pytest.mark.parametrize("times", [20, -20])
def test_taps_end_at_eight(times: int) -> None:
    unknown = np.random.default_rng(3).integers(-50, 51, (40, 1, 2))
    assert (solved(products_of(np.concatenate([unknown, times * unknown], axis=1))) == np.sign(times) * TAP_MAX).all()


def test_only_products_on_and_above_the_diagonal_are_read() -> None:
    products = some_products("random", 7, 3, 4)
    below = products.copy()
    below[np.tril_indices(8, -1)] = 12345
    assert np.array_equal(solved(products), solved(below))
