"""The same words and the same mixtures on every way that a machine may compute them, each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pixel_networks import digests, extreme_network, image, random_network, write_network

from medzip.exact.compiled import setup

needs_numba = pytest.mark.skipif(not setup.available(), reason="numba is not installed")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
needs_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these are instructions of x86-64")

# Enough samples in few steps for fitted taps; a few for the network whose sums reach every limit.
SHAPES = {"random": (5, 14, 59), "extreme": (3, 7, 9)}

# SHA-256 of the payload and of the mixtures for `image` of SHAPES. Where they change, the archives of yesterday cannot
# be read today: that needs a new version of the format, with the old way beside the new one. Only what an encoder is free to
# choose, the fitted taps, may change them without; a decoder then still gives these mixtures for the old taps.
GOLDEN = {
    "random": (
        "0acefd7fc85ab13bbd5f6a8c61ec42b6d25b0d7617c47d91dd6c3f109e8433b6",
        "03b63438e79445e2a3327c9a756b722b568cd5dcf9fd9ce3265a4630ccf57fb2",
    ),
    "extreme": (
        "d04248066418e17b280a904d4f534730a6e3a5e5667da007ee7b581d7d96f9aa",
        "1252162872d8f27f228a04f703dc270308f69769f25c33535b1bc6b667ce31e9",
    ),
}
GOLDEN_32_BITS = (
    "a8f95969d24bc89ca787050a3674db40780af695a586602c1aa635b75ffe01ad",
    "cb46abfcad4ad74c2b3b2a2763c2f7e291e2c1b9acd1a858cd7fb4cad2b67869",
)

SCRIPT = """
import sys
{first}
from pathlib import Path
from pixel_networks import digests, image
from medzip.exact.compiled import setup
for name, shape in {shapes}.items():
    print(*digests(Path(sys.argv[1]) / f"{{name}}.safetensors", image(12, shape)), sep="\\t")
print(*({{"torch", "numba"}} & sys.modules.keys()), setup.available() and setup.cache_folder())
"""
WITHOUT_NUMBA = "sys.modules['numba'] = None"
WITH_TORCH = "import torch"
ROOT = Path(__file__).parents[1]
NOWHERE = "/dev/null/nowhere"
AVX2 = "+sse2,+cx8,+sse3,+sse4.2,+ssse3,+sse4.1,+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt,+popcnt,+f16c,+movbe,+cmov"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """medzip, the weights and a script beside it, as a package that nobody may write to."""
    place = Path(tempfile.mkdtemp(prefix="medzip-read-only-"))
    shutil.copytree(ROOT / "medzip", place / "medzip", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "tests" / "pixel_networks.py", place)
    write_network(place / "random.safetensors", random_network())
    write_network(place / "extreme.safetensors", extreme_network())
    for path in (place, *place.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield place
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(place)


def computed(
    folder: Path, first: str = "", place: Path = ROOT / "tests", user: int | None = None, **environment: str
) -> tuple[list[str], str]:
    """How a fresh process computed both golden digests, which it must, and what it says of modules and its cache folder.

    `place` is where it finds `pixel_networks` and, before it looks into the repository, medzip.
    """
    dropped = ("ONEDNN_", "ATEN_", "NPY_", "OMP_", "OPENBLAS_", "PYTHON", "NUMBA_CPU", "NUMBA_DISABLE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(first=first, shapes=SHAPES), str(folder)],
        env=kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        cwd=place,
        capture_output=True,
        text=True,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    assert done.returncode == 0, done.stderr
    *lines, modules = done.stdout.split("\n")[:-1]
    found = [line.split("\t") for line in lines]
    assert [tuple(line[:2]) for line in found] == list(GOLDEN.values())
    return [line[2] for line in found], modules


def golden(folder: Path, name: str) -> tuple[str, str]:
    return digests(folder / f"{name}.safetensors", image(12, SHAPES[name]))[:2]


@pytest.mark.parametrize("name", GOLDEN)
def test_this_process_computes_the_golden_digests(folder: Path, name: str) -> None:
    assert golden(folder, name) == GOLDEN[name]


def test_this_process_computes_the_golden_digests_of_32_bits(folder: Path) -> None:
    assert digests(folder / "random.safetensors", image(32))[:2] == GOLDEN_32_BITS


def test_two_threads_at_once_compute_the_golden_digests(folder: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(lambda name: golden(folder, name), [*GOLDEN, *GOLDEN])
    assert list(found) == [*GOLDEN.values(), *GOLDEN.values()]


def numpy_features() -> str:
    """Those of this CPU that numpy uses where it finds them."""
    from numpy._core import _multiarray_umath as numpy_core

    return " ".join(name for name in numpy_core.__cpu_dispatch__ if numpy_core.__cpu_features__[name])


def test_without_numba(folder: Path) -> None:
    ways, modules = computed(folder, WITHOUT_NUMBA, OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2")
    assert ways == ["numpy float32"] * 2 and "torch" not in modules


def test_without_compiling_and_without_the_instructions_that_numpy_finds_at_run_time(folder: Path) -> None:
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ways, _ = computed(folder, NUMBA_DISABLE_JIT="1", NPY_DISABLE_CPU_FEATURES=numpy_features(), **threads)
    assert ways == ["numpy float32"] * 2


@needs_torch
@needs_x86
@pytest.mark.parametrize("isa", ["SSE41", "AVX2", "AVX512_CORE", None])
def test_torch_instead_of_numba(folder: Path, isa: str | None) -> None:
    """Where its int8 products saturate, it is left aside."""
    environment = {"ATEN_CPU_CAPABILITY": "default"} if isa is None else {"ONEDNN_MAX_CPU_ISA": isa}
    threads = "2" if isa in (None, "AVX2") else "1"
    ways, modules = computed(folder, WITH_TORCH, NUMBA_DISABLE_JIT="1", OMP_NUM_THREADS=threads, **environment)
    assert set(ways) <= {"torch int8", "numpy float32"} and "torch" in modules


@needs_numba
@pytest.mark.parametrize("threads", ["1", "2"])
def test_compiled_code_kept_by_another_process(folder: Path, threads: str) -> None:
    features = numpy_features() if threads == "1" else ""
    ways, modules = computed(folder, OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads, NPY_DISABLE_CPU_FEATURES=features)
    assert len(set(ways)) == 1 and ways[0] != "numpy float32" and "numba" in modules


def other_user() -> int | None:
    """One who may write nowhere, if this process may become that user and Python runs as such."""
    if getattr(os, "geteuid", lambda: 1)() != 0:
        return None
    try:
        subprocess.run([sys.executable, "-c", "import numba"], user=65534, group=65534, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return 65534


@needs_numba
@needs_x86
@pytest.mark.parametrize(
    "cpu, features, variant", [("haswell", AVX2, "avx2"), ("x86-64", "+sse2,+cx8", "sse2")], ids=["AVX2", "SSE2"]
)
def test_lesser_cpus_and_a_read_only_install_without_a_home(folder: Path, cpu: str, features: str, variant: str) -> None:
    if not setup.cpu_features() >= {feature[1:] for feature in features.split(",")}:
        pytest.skip(f"this CPU has not all of {features}")
    before = sorted(folder.rglob("*"))
    environment = {"HOME": NOWHERE, "XDG_CACHE_HOME": NOWHERE, "NUMBA_CACHE_DIR": ""}
    ways, modules = computed(folder, "", folder, other_user(), NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features, **environment)
    assert ways == [variant] * 2 and modules == "numba None"
    assert sorted(folder.rglob("*")) == before
