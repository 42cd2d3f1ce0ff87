"""One codec on one scan in a process of its own: JSON with time, size and peak memory. `benchmarks/curve.py` starts it.

    python -m benchmarks.one_codec encode|compress|decode CODEC SCAN.npy CODED [--threads 2] [--models open]

`compress` is medzip's encode with verification. CODED is written by encode and read by decode, which proves that SCAN comes back.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEDZIP = "medzip "
ZSTD = "zstd -19"
STARTED = "MEDZIP_BENCHMARK_STARTED"
RUNS, ENOUGH_SECONDS, LONG_SECONDS = 3, 2.0, 60.0
"""Warm runs: at most so many, no more after so many seconds, and none where the first one took that long."""


def peak_memory() -> int:
    """Bytes. Linux tells this program's own peak; ru_maxrss there begins with that of the process that started this one."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Cold: from when the caller started this process, which it tells in the variable STARTED, as seconds since 1970; warm: the
    best of some further runs, or the first where that took very long."""
    began = time.perf_counter()
    waited = time.time() - float(os.environ.get(STARTED, time.time()))
    work()
    first = time.perf_counter() - began
    warm = [first] if first > LONG_SECONDS else []
    while not warm or (len(warm) < RUNS and sum(warm) < ENOUGH_SECONDS):
        again = time.perf_counter()
        work()
        warm.append(time.perf_counter() - again)
    return {"cold": waited + first, "warm": min(warm)}


def by_medzip(operation: str, preset: str, scan: Path, coded: Path, threads: int, models: str) -> dict[str, Any]:
    """medzip on files, as its users run it: reading, writing and checksums count."""
    import medzip

    with tempfile.TemporaryDirectory() as folder:

        def encode() -> None:
            options: dict[str, Any] = {"preset": preset, "models": models, "jobs": threads, "overwrite": True}
            medzip.compress(scan, coded, verify=operation == "compress", **options)

        def decode() -> None:
            medzip.decompress(coded, folder, jobs=threads, overwrite=True)

        seconds = timed(decode if operation == "decode" else encode)
        result = {**seconds, "peak_memory": peak_memory(), "bytes": coded.stat().st_size}
        if operation == "decode" and Path(folder, scan.name).read_bytes() != scan.read_bytes():
            raise SystemExit(f"{scan}: expected medzip to give the scan back, found something else")
    return result


def by_peer(operation: str, name: str, scan: Path, coded: Path, threads: int) -> dict[str, Any]:
    """Another codec, from memory to memory."""
    import cbor2
    import numpy as np

    from medzip.bench.codecs import VoxelCodec, byte_codecs, to_unsigned, voxel_codecs

    codecs = {codec.name: codec for codec in voxel_codecs(threads)}
    zstd = next(codec for codec in byte_codecs() if codec.name == ZSTD)
    kind = np.load(scan, mmap_mode="r").dtype
    codecs[ZSTD] = VoxelCodec(
        ZSTD, lambda part: zstd.encode(part.tobytes()), lambda data: np.frombuffer(zstd.decode(data), kind), whole_volumes=True
    )
    codec = codecs[name]
    if operation == "encode":
        mapped = to_unsigned(np.load(scan))
        assert mapped is not None, f"{scan}: expected integers of at most 16 bits"
        parts: list[bytes] = []

        def encode() -> None:
            parts[:] = codec.encode(mapped.samples)

        seconds = timed(encode)
        memory = peak_memory()
        header = {"shape": list(mapped.samples.shape), "dtype": mapped.samples.dtype.str, "offset": int(mapped.offset)}
        coded.write_bytes(cbor2.dumps({**header, "parts": parts}))
        return {**seconds, "peak_memory": memory, "bytes": sum(map(len, parts))}

    stored = cbor2.loads(coded.read_bytes())
    decoded: list[Any] = []

    def decode() -> None:
        decoded[:] = [codec.decode(stored["parts"], tuple(stored["shape"]), np.dtype(stored["dtype"]))]

    seconds = timed(decode)
    memory = peak_memory()
    if not np.array_equal(decoded[0].astype(np.int64) + stored["offset"], np.load(scan)):
        raise SystemExit(f"{scan}: expected {name} to give the samples back, found something else")
    return {**seconds, "peak_memory": memory, "bytes": sum(map(len, stored["parts"]))}


def main() -> None:
    arguments = argparse.ArgumentParser(description="Time, size and peak memory of one codec on one scan.")
    arguments.add_argument("operation", choices=["encode", "compress", "decode"])
    arguments.add_argument("codec", help="as `medzip bench` names it; 'medzip PRESET'")
    arguments.add_argument("scan", type=Path)
    arguments.add_argument("coded", type=Path)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--models", choices=["open", "all"], default="open")
    given = arguments.parse_args()
    if given.codec.startswith(MEDZIP):
        preset = given.codec.removeprefix(MEDZIP)
        result = by_medzip(given.operation, preset, given.scan, given.coded, given.threads, given.models)
    else:
        result = by_peer(given.operation, given.codec, given.scan, given.coded, given.threads)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
