"""What each step of the compiled decode loop takes, and what the loop makes of lesser machines.

    python -m benchmarks.decode_profile [--preset default]

Prints two Markdown tables. CPU time of each step in nanoseconds a voxel, on the arrays of one real step of the wavefront, in the
middle of a chunk of a phantom, again and again (so memory is warmer than in the loop: the last row says what the whole loop
takes). And, each in a fresh process: how long the first chunk takes without and with compiled code in the cache, and the speed
with all of the CPU's instructions, with AVX2 only, with SSE2 only, and in numpy alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import phantoms
from medzip.coder.range_coder import Decoder, Encoder
from medzip.entropy_model.contract import Chunk, ChunkHeader
from medzip.entropy_model.registry import digests_for, entropy_model
from medzip.presets import PRESETS

ROOT = Path(__file__).parents[1]
PHANTOM = phantoms.Phantom("rician", 20.0, 12)
CHUNK, SMALL, TINY = (33, 256, 256), (3, 64, 64), (3, 24, 24)
AVX2 = "+sse2,+cx8,+sse3,+sse4.2,+ssse3,+sse4.1,+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt,+popcnt,+f16c,+movbe,+cmov"
MACHINES = {
    "all instructions": {},
    "AVX2, no VNNI": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2},
    "SSE2": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2,+cx8"},
    "numpy alone, 3x64x64": {"NUMBA_DISABLE_JIT": "1"},
}


def samples(shape: tuple[int, int, int]) -> NDArray[Any]:
    """A chunk of the phantom."""
    return np.concatenate([drawn for drawn, _ in phantoms.slabs(PHANTOM, shape)])


def seconds(work: Callable[[], Any], runs: int = 5) -> float:
    """The best of some runs."""
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def model_of(preset: str) -> Any:
    """The entropy model of a preset with the open weights."""
    chosen = PRESETS[preset]
    return entropy_model(chosen.model, digests_for(chosen.model, chosen.weights, "open", None)[0])


def speed(preset: str, shape: tuple[int, int, int]) -> dict[str, float]:
    """Seconds until this process has coded and decoded its first chunk, and then voxels a second of a chunk of `shape`."""
    began = time.perf_counter()
    model = model_of(preset)
    _coded(model, samples(TINY))()
    first = time.perf_counter() - began
    chunk = samples(shape)
    decode = _coded(model, chunk)
    return {"first": first, "decode": chunk.size / seconds(decode, 3)}


def _coded(model: Any, chunk: NDArray[Any]) -> Callable[[], NDArray[Any]]:
    """What decodes the chunk."""
    coder = Encoder()
    side = model.encode(Chunk(chunk), coder)
    payload, header = coder.finish(), ChunkHeader(chunk.shape, chunk.dtype.str, side)

    def decode() -> NDArray[Any]:
        decoded: NDArray[Any] = model.decode(header, Decoder(payload))
        return decoded

    assert np.array_equal(decode(), chunk)
    return decode


def machines(preset: str) -> str:
    """The second table."""
    lines = ["| machine | first chunk, compiling | first chunk, from the cache | decode Mvoxel/s, one thread |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for name, environment in MACHINES.items():
        with tempfile.TemporaryDirectory() as cache:
            shape = SMALL if "NUMBA_DISABLE_JIT" in environment else CHUNK
            cold, cached = (_in_fresh_process(preset, shape, {**environment, "NUMBA_CACHE_DIR": cache}) for _ in range(2))
        lines.append(f"| {name} | {cold['first']:.1f} s | {cached['first']:.1f} s | {cached['decode'] / 1e6:.3g} |")
    return "\n".join(lines)


def _in_fresh_process(preset: str, shape: tuple[int, int, int], environment: dict[str, str]) -> dict[str, float]:
    code = f"import json\nfrom benchmarks import decode_profile as p\nprint(json.dumps(p.speed({preset!r}, {shape!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    arguments = argparse.ArgumentParser(description="Nanoseconds of each step of the decode loop.")
    arguments.add_argument("--preset", default="default")
    given = arguments.parse_args()
    from benchmarks.decode_steps import steps_table

    print(steps_table(model_of(given.preset), samples(CHUNK)), flush=True)
    print(f"\n{machines(given.preset)}")


if __name__ == "__main__":
    main()
