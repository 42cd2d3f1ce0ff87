"""Slices, frames, planes and stacks go there and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip import stacks


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 8), rows=st.integers(1, 4), columns=st.integers(1, 4), colours=st.booleans())
def test_samples_come_back_from_padded_stacks(n: int, rows: int, columns: int, colours: bool) -> None:
    shape = (n, rows, columns, 3) if colours else (n, rows, columns)
    samples = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    planes = stacks.planes(samples)
    assert planes.shape == (n * (3 if colours else 1), rows, columns)
    stacked = stacks.stacks(planes)
    assert stacked.shape == (-(-len(planes) // 3), 3, rows, columns)
    assert (stacks.unstack(stacked, len(planes)) == planes).all()
    assert (stacks.samples(planes, colours) == samples).all()


def test_a_frame_is_a_stack_of_its_colours() -> None:
    frames = np.arange(2 * 4 * 5 * 3).reshape(2, 4, 5, 3)
    assert (stacks.stacks(stacks.planes(frames))[1, 2] == frames[1, :, :, 2]).all()


def test_the_last_plane_fills_the_last_stack() -> None:
    planes = np.arange(4 * 2 * 2).reshape(4, 2, 2)
    assert (stacks.stacks(planes)[1] == planes[3]).all()


@settings(deadline=None, max_examples=100)
@given(n_planes=st.integers(0, 200), planes_per_chunk=st.integers(1, 70))
def test_chunks_cover_every_plane_once_and_cut_no_stack(n_planes: int, planes_per_chunk: int) -> None:
    chunks = stacks.chunks(n_planes, planes_per_chunk)
    assert [plane for first, count in chunks for plane in range(first, first + count)] == list(range(n_planes))
    assert all(first % 3 == 0 and 1 <= count <= max(planes_per_chunk, 3) for first, count in chunks)


@pytest.mark.parametrize("planes_per_chunk", [1, 2, 3, 5])
def test_a_chunk_holds_one_stack_at_least(planes_per_chunk: int) -> None:
    assert stacks.chunks(7, planes_per_chunk) == [(0, 3), (3, 3), (6, 1)]
