"""The exact language model writes the same words on every way that a machine may compute it, each in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from llm_exact_networks import digests, extreme_network, random_network, write_network
from pixel_networks import image
from test_pixel_paths import AVX2, numpy_features

from medzip.exact.compiled import setup

needs_numba = pytest.mark.skipif(not setup.available(), reason="numba is not installed")
needs_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these are instructions of x86-64")

ROOT = Path(__file__).parents[1]
SHAPE = (5, 7, 10)

# SHA-256 of the payload for `image` of SHAPE. Where they change, the archives of yesterday cannot be read today: that needs a new
# version of the format, with the old way beside the new one.
GOLDEN = {
    "random": "0672f29f45c405587f5f28d48fc2e9ecc2110af83d8ac7bab41f26cd0d8364a1",
    "extreme": "e04bdcbe831254cd7906ab65cd1b6f69777802cf078d5daad3dd6cc9e796693d",
}

SCRIPT = """
import sys
from pathlib import Path
from llm_exact_networks import digests
from pixel_networks import image
for name in ("random", "extreme"):
    print(*digests(Path(sys.argv[1]) / f"{name}.safetensors", image(12, (5, 7, 10))))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("weights")
    write_network(place / "random.safetensors", random_network())
    write_network(place / "extreme.safetensors", extreme_network())
    return place


def computed(folder: Path, **environment: str) -> set[str]:
    """How a fresh process computed both golden digests, which it must."""
    dropped = ("NPY_", "OMP_", "OPENBLAS_", "PYTHON", "NUMBA_CPU", "NUMBA_DISABLE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        env=kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert [digest for digest, _ in found] == list(GOLDEN.values())
    return {way for _, way in found}


@pytest.mark.parametrize("name", GOLDEN)
def test_this_process_computes_the_golden_digests(folder: Path, name: str) -> None:
    assert digests(folder / f"{name}.safetensors", image(12, SHAPE))[0] == GOLDEN[name]


def test_two_threads_at_once_compute_the_golden_digests(folder: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        names = [*GOLDEN, *GOLDEN]
        found = threads.map(lambda name: digests(folder / f"{name}.safetensors", image(12, SHAPE))[0], names)
    assert list(found) == [GOLDEN[name] for name in names]


@pytest.mark.parametrize("threads", ["1", "2"])
def test_without_compiling(folder: Path, threads: str) -> None:
    features = numpy_features() if threads == "1" else ""
    numbers = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "NPY_DISABLE_CPU_FEATURES": features}
    assert computed(folder, NUMBA_DISABLE_JIT="1", **numbers) == {"numpy float32"}


@needs_numba
def test_compiled_code_kept_by_another_process(folder: Path) -> None:
    [way] = computed(folder, OMP_NUM_THREADS="2")
    assert not way.startswith("numpy")


@needs_numba
@needs_x86
@pytest.mark.parametrize(
    "cpu, features, variant", [("haswell", AVX2, "avx2"), ("x86-64", "+sse2,+cx8", "sse2")], ids=["AVX2", "SSE2"]
)
def test_lesser_cpus(folder: Path, cpu: str, features: str, variant: str) -> None:
    if not setup.cpu_features() >= {feature[1:] for feature in features.split(",")}:
        pytest.skip(f"this CPU has not all of {features}")
    assert computed(folder, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features) == {variant}
