"""Every file of the awkward folder by itself, compressed and brought back: the per-file table of docs/formats.md.

    python -m benchmarks.awkward DATA/awkward --preset default > table.md

A line for each archive (the files of a pair share one): what its manifest calls the file, the volumes found, the kinds of chunks,
and the bytes before and after. Ends with an error if a file does not come back byte for byte.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import medzip
from medzip.errors import UnsupportedInputError
from medzip.pipeline import Compressed
from medzip.presets import PRESETS

HEAD = """\
| file | what it is | volumes | chunks | bytes | archive | alone |
| --- | --- | --- | --- | ---: | ---: | --- |"""


@dataclass(frozen=True)
class Line:
    """One archive: its files, volumes and chunks as text, bytes before and after, and whether it took --store."""

    files: tuple[str, ...]
    what: str
    volumes: str
    chunks: str
    original: int
    archive: int
    stored: bool

    def __str__(self) -> str:
        names, alone = "<br>".join(self.files), "`--store`" if self.stored else "yes"
        return f"| {names} | {self.what} | {self.volumes} | {self.chunks} | {self.original:,} | {self.archive:,} | {alone} |"


def described(volumes: list[tuple[tuple[int, ...], str]]) -> str:
    """Shapes and dtypes, equal ones counted."""
    texts = [f"{'x'.join(map(str, shape))} {dtype}" for shape, dtype in volumes]
    return (
        ", ".join(f"{texts.count(text)} of {text}" if texts.count(text) > 1 else text for text in dict.fromkeys(texts)) or "none"
    )


def compressed(path: Path, folder: Path, preset: str) -> tuple[Compressed, bool]:
    """The archive of a file, and whether it was refused before it was to be stored."""
    try:
        [made] = medzip.compress(path, folder, preset=preset, overwrite=True, verify=False)
        return made, False
    except UnsupportedInputError:
        [made] = medzip.compress(path, folder, preset=preset, overwrite=True, verify=False, store=True)
        return made, True


def line_of(path: Path, what: str, preset: str) -> Line:
    """What became of a file; raises ValueError where it does not come back."""
    with tempfile.TemporaryDirectory() as folder:
        made, stored = compressed(path, Path(folder), preset)
        with medzip.open(made.archive) as archive:
            volumes = [(volume.shape, volume.dtype.name) for volume in archive.volumes]
        medzip.decompress(made.archive, Path(folder) / "out")
        for source in map(Path, made.sources):
            if (Path(folder) / "out" / source.name).read_bytes() != source.read_bytes():
                raise ValueError(f"{source}: expected its own bytes back, found others")
    chunks = ", ".join(f"{count} {kind}" for kind, count in sorted(made.chunks.items())) or "none"
    names = tuple(Path(source).name for source in made.sources)
    return Line(names, what, described(volumes), chunks, made.original_bytes, made.archive_bytes, stored)


def lines(folder: Path, preset: str) -> Iterator[tuple[str, Line]]:
    """(subfolder, line) of each file of the manifest, pairs once."""
    seen: set[Path] = set()
    with (folder / "MANIFEST.tsv").open(newline="") as table:
        for row in csv.DictReader(table, delimiter="\t"):
            path = folder / row["path"]
            if path not in seen:
                line = line_of(path, row["kind"].replace("|", "/"), preset)
                seen |= {path.parent / name for name in line.files}
                yield str(Path(row["path"]).parent), line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", choices=list(PRESETS), default="default")
    arguments = parser.parse_args()
    print(HEAD)
    for subfolder, line in lines(arguments.folder, arguments.preset):
        print(line)
        print(subfolder, ", ".join(line.files), file=sys.stderr)


if __name__ == "__main__":
    main()
