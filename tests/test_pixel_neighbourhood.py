"""The wavefront visits every sample once, after all that it looks at, and margins are what a decoder has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pixel_networks import integers, random_network

from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel import reference
from medzip.entropy_model.pixel.features import POSITION_BITS
from medzip.entropy_model.pixel.fitted import ALL_TAPS, IN_PLANE_TAPS
from medzip.entropy_model.pixel.regression import ROWS_KEPT, Regression
from medzip.exact.compiled import setup
from medzip.exact.mixture import Mixture

needs_numba = pytest.mark.skipif(not setup.available(), reason="numba is not installed")

# One row, one column, one plane, planes smaller than the neighbourhood, and larger ones.
SHAPES = [
    (1, 1, 1),
    (3, 1, 1),
    (3, 1, 7),
    (3, 7, 1),
    (4, 2, 2),
    (3, 2, 3),
    (3, 3, 2),
    (3, 4, 3),
    (2, 6, 4),
    (1, 9, 11),
    (4, 6, 9),
]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)

NETWORK = random_network()
TOP = 255


def steps(shape: tuple[int, int, int]) -> list[tuple[Any, Any, Any]]:
    return list(around.steps(shape))


def step_of(shape: tuple[int, int, int]) -> np.ndarray:
    plane, row, column = np.indices(shape)
    return column + around.STEP_OF_ROW * row + around.first_steps(shape)[plane]


def taps() -> tuple[np.ndarray, np.ndarray]:
    """Every neighbour counts in the fitted prediction."""
    return integers("taps", -80, 90, (ALL_TAPS,)), integers("taps in plane", -90, 110, (IN_PLANE_TAPS,))


def never_written(shape: tuple[int, int, int]) -> np.ndarray:
    """Places that margins leave 0, flat."""
    return around.with_margins(np.ones(shape, np.int8)).reshape(-1) == 0


@every_shape
def test_every_sample_is_visited_once_in_order_of_steps(shape: tuple[int, int, int]) -> None:
    visited = [np.ravel_multi_index(sample, shape) for sample in steps(shape)]
    of_sample = step_of(shape).reshape(-1)
    assert np.array_equal(np.sort(np.concatenate(visited)), np.arange(np.prod(shape)))
    assert [set(of_sample[batch]) for batch in visited] == [{step} for step in np.unique(of_sample)]


@every_shape
def test_samples_of_a_step_are_sorted_by_the_beginning_of_their_row_then_by_plane(shape: tuple[int, int, int]) -> None:
    for plane, row, _ in steps(shape):
        keys = list(zip(around.first_steps(shape)[plane] + around.STEP_OF_ROW * row, plane, strict=True))
        assert keys == sorted(keys)


@every_shape
def test_all_that_a_sample_looks_at_has_an_earlier_step(shape: tuple[int, int, int]) -> None:
    """In planes with margins that hold step + 1, and 0 where nothing ever is."""
    known_after = around.with_margins(step_of(shape) + 1).reshape(-1)
    for plane, row, column in np.ndindex(shape):
        at = reference.place(*(np.array([i]) for i in (plane, row, column)), shape).item()
        own = [offset for offset in around.NEIGHBOURS + around.ERRORS if -offset[0] <= plane]
        # In the second plane, neighbours in the plane two before are read from the plane before.
        own += [(-1, dy, dx) for dz, dy, dx in around.NEIGHBOURS if dz == -2 and plane == 1]
        places = at + around.deltas(own, *shape[1:])
        assert places.min() >= 0
        assert (known_after[places] <= step_of(shape)[plane, row, column]).all()


def test_margins_repeat_samples_as_described() -> None:
    planes = integers("planes", 1, 1 << 20, (2, 3, 6))
    kept = around.with_margins(planes)[1]
    plane, left, top = planes[1], around.LEFT, around.TOP
    assert np.array_equal(kept[top : top + 3, left : left + 6], plane)
    assert (kept[top + 1 : top + 4, :left] == plane[:, :1]).all() and not kept[top, :left].any()
    assert (kept[top : top + 3, left + 6 :] == plane[:, -1:]).all()
    assert (kept[:top, left + 4 :] == plane[0, : 6 + around.RIGHT - 4]).all() and not kept[:top, : left + 4].any()
    assert (kept[top + 3 :, left : left + 6] == plane[2]).all() and (kept[top + 3 :, left + 6 :] == plane[2, -1]).all()


@every_shape
def test_what_is_kept_step_by_step_is_planes_with_margins(shape: tuple[int, int, int]) -> None:
    planes = integers("kept", 1, 1 << 20, shape)
    expected = around.with_margins(planes).reshape(-1)
    kept = np.zeros(expected.size, np.int64)
    for sample in steps(shape):
        reference.keep(kept, planes[sample], *sample, shape)
    assert np.array_equal(kept, expected)


@needs_numba
@every_shape
def test_compiled_code_keeps_the_same(shape: tuple[int, int, int]) -> None:
    from medzip.entropy_model.pixel.compiled_features import keep

    planes = integers("kept", 1, 1 << 20, shape)
    expected = around.with_margins(planes).reshape(-1)
    for dtype in (np.int32, np.int64):
        kept = np.zeros(expected.size, dtype)
        for sample in steps(shape):
            for plane, row, column, at in zip(*sample, reference.place(*sample, shape), strict=True):
                keep(kept, at, planes[plane, row, column], row, column, *shape[1:])
        assert np.array_equal(kept, expected)


def poisoned(seed: int, shape: tuple[int, int, int], arrays: tuple[np.ndarray, ...], top: int) -> None:
    """Garbage wherever something will be written; `seed` 0 leaves the zeros."""
    if not seed:
        return
    hidden = np.flatnonzero(~never_written(shape))
    for i, array in enumerate(arrays):
        array[hidden] = integers(f"{seed} {i}", -top if i else 0, top, (len(hidden),))


def poisoned_sums(seed: int, rows: int, *arrays: np.ndarray) -> None:
    """Garbage in the sums (planes, segments, ROWS_KEPT, ...) that segments write when they begin; `seed` 0 leaves the zeros.

    Those on both sides of a row and those of the two rows above the first are 0 to all who look at them.
    """
    for array in arrays if seed else ():
        hidden = array[:, 1:-1, : min(rows, ROWS_KEPT - 2)]
        hidden[:] = integers(f"sums {seed}", -(1 << 20), 1 << 20, hidden.shape)


class Visit:
    """All predictions, mixtures and arrays of one visit by `reference.visit`, whose arrays begin poisoned."""

    def __init__(self, samples: np.ndarray, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mixtures: list[Mixture] = []
        self.predicted: list[np.ndarray] = []
        visit = self

        class Known(reference._Known):
            def __init__(self, shape: tuple[int, int, int], top: int) -> None:
                super().__init__(shape, top)
                poisoned(seed, shape, self.arrays, top)
                visit.known = self

        class Poisoned(Regression):
            def __init__(self, shape: tuple[int, int, int], top: int) -> None:
                super().__init__(shape, top)
                poisoned_sums(seed, shape[1], self._sums)

            def predict(self, *arguments: np.ndarray) -> np.ndarray:
                visit.predicted.append(super().predict(*arguments))
                return visit.predicted[-1]

        def code(index: np.ndarray, mixture: Mixture) -> np.ndarray:
            self.mixtures.append(mixture)
            return samples.reshape(-1)[index]

        with monkeypatch.context() as patched:
            patched.setattr(reference, "_Known", Known)
            patched.setattr(reference, "Regression", Poisoned)
            reference.visit(samples.shape, TOP, taps(), NETWORK, code)

    def parameters(self) -> np.ndarray:
        return np.concatenate([np.hstack([m.weight, m.mean, m.scale]) for m in self.mixtures])


@every_shape
def test_mixtures_depend_on_nothing_that_is_not_decoded_yet(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    samples = integers("samples", 0, TOP, shape)
    clean, *others = (Visit(samples, seed, monkeypatch).parameters() for seed in range(3))
    assert all(np.array_equal(clean, other) for other in others)


@pytest.mark.parametrize("name, too_small", [("STEP_OF_ROW", 3), ("STEP_OF_PLANE", 18)])
def test_poison_is_noticed_where_a_later_sample_is_looked_at(name: str, too_small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(around, name, too_small)
    samples = integers("samples", 0, TOP, (2, 6, 19))
    first, second = (Visit(samples, seed, monkeypatch).parameters() for seed in (1, 2))
    assert not np.array_equal(first, second)


@every_shape
def test_complete_planes_with_margins_show_a_sample_what_the_decoder_sees(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a network may be trained on whole planes."""
    samples = integers("samples", 0, TOP, shape)
    visit = Visit(samples, 0, monkeypatch)
    assert np.array_equal(visit.known.arrays[0], around.with_margins(samples << POSITION_BITS).reshape(-1))
    for sample, predicted, mixture in zip(steps(shape), visit.predicted, visit.mixtures, strict=True):
        seen = reference.look(*visit.known.around(*sample), sample[0], predicted, taps(), TOP << POSITION_BITS)
        sums = [reference.kernels.fastest().layer(layer.linear) for layer in NETWORK.layers]
        again = NETWORK.mixture(seen, predicted, sums)
        assert all(np.array_equal(getattr(mixture, part), getattr(again, part)) for part in ("weight", "mean", "scale"))


@needs_numba
@every_shape
def test_compiled_words_depend_on_nothing_that_is_not_decoded_yet(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medzip.entropy_model.pixel import compiled

    samples, packed = integers("samples", 0, TOP, shape), compiled.Packed.of(NETWORK)
    clean = compiled.encode(samples, TOP, taps(), packed)
    loop = compiled._Loop
    for seed in (1, 2):

        class Poisoned(loop):
            def __init__(self, shape: tuple[int, int, int], *rest: Any) -> None:
                super().__init__(shape, *rest)
                poisoned(seed, shape, self._known, TOP << POSITION_BITS)  # noqa: B023, used before the next seed
                segments = -(-shape[2] // around.SEGMENT) + 2
                sums = self._regression.sums.reshape(-1, segments, ROWS_KEPT, compiled.regression._SUMS)
                poisoned_sums(seed, shape[1], sums)  # noqa: B023, as above

        monkeypatch.setattr(compiled, "_Loop", Poisoned)
        assert compiled.encode(samples, TOP, taps(), packed) == clean
        assert np.array_equal(compiled.decode(clean, shape, TOP, taps(), packed), samples)
