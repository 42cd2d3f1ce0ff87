"""What the side information of a .gz costs, by writer and level, as a Markdown table.

    python -m benchmarks.gzip_writers scan.nii.gz [bytes]

compresses so many bytes from the middle of a scan (default: 2,000,000) with every writer that this machine has: Python's zlib,
gzip and pigz from the command line, and the packages zlib-ng, deflate (libdeflate), isal and miniz from PyPI. For each level it
takes the stream apart and rebuilds it. The last column is MB of content rebuilt a second of CPU time at level 6, one core.
"""

from __future__ import annotations

import ctypes
import gzip
import importlib
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from medzip.sources.wrappers import deflate

Compress = Callable[[bytes, int], bytes]
LEVELS = range(1, 10)
HIGHEST = {"ISA-L": 3}
BYTES = 2_000_000


def command(name: str, *options: str) -> Compress | None:
    """A program that reads from stdin and writes to stdout."""
    if shutil.which(name) is None:
        return None

    def compress(data: bytes, level: int) -> bytes:
        return subprocess.run([name, f"-{level}", *options, "-c"], input=data, capture_output=True, check=True).stdout

    return compress


def package(module: str, function: str) -> Compress | None:
    """A function of a package that takes data and level."""
    try:
        compress: Compress = getattr(importlib.import_module(module), function)
    except ImportError:
        return None
    return compress


def miniz() -> Compress | None:
    try:
        library = importlib.import_module("miniz.miniz").library
    except ImportError:
        return None

    def compress(data: bytes, level: int) -> bytes:
        size = ctypes.c_ulong(2 * len(data) + 1024)
        out = ctypes.create_string_buffer(size.value)
        if library.mz_compress2(out, ctypes.byref(size), data, len(data), level):
            raise RuntimeError("miniz could not compress")
        return out.raw[: size.value]

    return compress


WRITERS: dict[str, Compress | None] = {
    f"zlib {zlib.ZLIB_RUNTIME_VERSION}": zlib.compress,
    "gzip": command("gzip"),
    "pigz": command("pigz"),
    "pigz -i": command("pigz", "-i"),
    "zlib-ng": package("zlib_ng.zlib_ng", "compress"),
    "libdeflate": package("deflate", "gzip_compress"),
    "miniz": miniz(),
    "ISA-L": package("isal.igzip", "compress"),
}


def row(name: str, compress: Compress, content: bytes) -> str:
    """Shares of the side information at all levels, and how fast level 6 (or the writer's last) was rebuilt."""
    cells, speed = [], 0.0
    for level in LEVELS:
        if level > HIGHEST.get(name, level):
            cells.append("")
            continue
        data = compress(content, level)
        apart = deflate.taken_apart(data)
        if apart is None:
            cells.append("kept")
            continue
        cells.append(f"{100 * len(apart[1]) / len(data):.2f} %")
        began = time.thread_time()
        if deflate.rebuilt(*apart) != data:
            raise AssertionError(f"{name} -{level} was not rebuilt")
        if level <= 6:
            speed = len(content) / 1e6 / (time.thread_time() - began)
    return f"| {name} | {' | '.join(cells)} | {speed:.0f} |"


def main() -> None:
    path, size = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else BYTES
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        data = file.read()
    content = data[max(len(data) - size, 0) // 2 :][:size]
    deflate.taken_apart(gzip.compress(content[:10000]))  # compiles
    print(f"| writer | {' | '.join(map(str, LEVELS))} | MB/s |\n|{' --- |' * (len(LEVELS) + 2)}")
    for name, compress in WRITERS.items():
        if compress is not None:
            print(row(name, compress, content), flush=True)


if __name__ == "__main__":
    main()
