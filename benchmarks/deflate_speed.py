"""How fast deflate streams are taken apart and rebuilt, in CPU time of one core.

    python -m benchmarks.deflate_speed A.nii.gz [B.nii.gz ...]

A line for each gzip file: bytes of it, of its content and of the side information, seconds, and megabytes of the file a second.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

from medzip.sources.wrappers import deflate


def row(path: Path) -> str:
    """The line of a gzip file."""
    data = path.read_bytes()
    began = time.process_time()
    apart = deflate.taken_apart(data)
    taken = time.process_time() - began
    speed = f"{taken:.2f} s, {len(data) / taken / 1e6:.1f} MB/s"
    if apart is None:
        return f"| {path.name} | {len(data):,} | | kept whole | {speed} | |"
    content, side = apart
    began = time.process_time()
    deflate.rebuilt(content, side)
    rebuilt = time.process_time() - began
    again = f"{rebuilt:.2f} s, {len(data) / rebuilt / 1e6:.1f} MB/s"
    return f"| {path.name} | {len(data):,} | {len(content):,} | {len(side):,} | {speed} | {again} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    deflate.taken_apart(gzip.compress(bytes(range(256)) * 99))  # compiles all loops
    print("| file | bytes | content | side information | taken apart | rebuilt |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for path in arguments.files:
        print(row(path), flush=True)


if __name__ == "__main__":
    main()
