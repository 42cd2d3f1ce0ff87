"""The fuzzer finds what it is there to find, and what it found once stays away."""

from __future__ import annotations

import faulthandler
import os
import sys
from pathlib import Path
from random import Random

import pytest

if sys.platform != "linux":
    pytest.skip("the fuzzer limits and forks processes as Linux does", allow_module_level=True)

from benchmarks.fuzz.__main__ import TARGETS
from benchmarks.fuzz.mutations import changed_value, mutated
from benchmarks.fuzz.runner import Limits, fuzz
from medzip.errors import MedzipError

LIMITS = Limits(memory=1 << 26, seconds=1)


class Broken:
    """A target that breaks each promise in turn."""

    seeds = (b"seed",)

    def __init__(self, *ways: bytes) -> None:
        self._ways = ways

    def mutated(self, random: Random) -> bytes:
        return random.choice(self._ways)

    def run(self, data: bytes) -> bool:
        if data == b"hang":
            while True:
                pass
        if data == b"memory":
            bytearray(1 << 28)
        if data == b"crash":
            faulthandler.disable()  # pytest's would fill the screen
            os.abort()
        if data == b"error":
            raise KeyError(data)
        if data == b"refused":
            raise MedzipError
        return True


@pytest.mark.parametrize(
    ("way", "kind"), [(b"hang", "t-hang-"), (b"memory", "t-MemoryError-"), (b"crash", "t-crash-"), (b"error", "t-KeyError-")]
)
def test_each_broken_promise_is_found_and_kept(tmp_path: Path, way: bytes, kind: str) -> None:
    fuzz(Broken(way, b"refused", b"taken"), "t", 0.5, 1, LIMITS, tmp_path)
    [found] = tmp_path.glob("*.bin")
    assert found.name.startswith(kind) and found.read_bytes() == way and found.with_suffix(".txt").read_text()


def test_what_is_refused_or_taken_is_no_find(tmp_path: Path) -> None:
    result = fuzz(Broken(b"refused", b"taken"), "t", 0.3, 1, LIMITS, tmp_path)
    assert list(tmp_path.iterdir()) == [] and 0 < result.taken < result.executions


@pytest.mark.parametrize("name", ["columns", "deflate"])
def test_targets_take_their_seeds_and_mutations_repeat(name: str) -> None:
    target = TARGETS[name](None)
    assert all(target.run(seed) for seed in target.seeds)
    once, again = ([target.mutated(random) for _ in range(50)] for random in (Random(3), Random(3)))
    assert once == again and len(set(once)) > 40


def test_mutations_of_nothing_are_no_error() -> None:
    random = Random(1)
    for value in (b"", {}, [], "", 0, None):
        for _ in range(50):
            changed_value(value, random)
    for _ in range(200):
        mutated(b"", random, [])
