"""medzip extract: some slices of an archive as an array or as pictures."""

from __future__ import annotations

import argparse
import os
import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medzip.cli.common import Commands, Console, Parser, add_command, add_overwrite, for_each
from medzip.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DESCRIPTION = """\
Write a range of slices as a numpy array (.npy) or as PNG, decoding only the chunks that hold them. The samples are the
stored integers, not rescaled. A PNG holds unsigned samples of 8 or 16 bits; several slices become X_0012.png, X_0013.png ..."""


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "extract",
        run,
        summary="write a few slices as .npy or .png",
        description=_DESCRIPTION,
        examples=(
            "medzip extract scan.nii.mdz --slices 10:20 -o part.npy    slices 10 to 19",
            "medzip extract scan.nii.mdz --slices 12 -o slice.png      one slice as a picture",
            "medzip extract study.mdz --slices 0: --volume 1 -o v.npy  all of the second volume",
        ),
    )
    parser.add_argument("archive", type=Path, metavar="ARC", help="archive")
    parser.add_argument(
        "--slices", type=slice_range, required=True, metavar="A:B", help="first slice, counted from 0, and the one after the last"
    )
    parser.add_argument("--volume", type=_index, default=0, metavar="I", help="which volume, counted from 0 (default: 0)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="X", help="file to write: X.npy or X.png")
    add_overwrite(parser)


def slice_range(text: str) -> tuple[int, int | None]:
    """An argparse type: 'a:b', 'a:', ':b' or 'a' as (first, end); end None means all that follow."""
    match = re.fullmatch(r"(\d*)(:?)(\d*)", text, re.ASCII)
    if match is None or not text:
        raise argparse.ArgumentTypeError(f"expected A:B in whole numbers from 0, found {text!r}")
    first = int(match[1] or 0)
    if not match[2]:
        return first, first + 1
    return first, int(match[3]) if match[3] else None


def run(arguments: argparse.Namespace, console: Console) -> int:
    import numpy as np

    output: Path = arguments.output
    if output.suffix not in (".npy", ".png"):
        raise UsageError(f"{output}: expected a name that ends in .npy or .png, found {output.suffix or 'no ending'}")

    def work(archive: Path) -> int:
        volume, first, end = select(archive, arguments.volume, arguments.slices)
        single = output.suffix == ".npy" or end - first == 1
        targets = [output] if single else _numbered(output, first, end)
        if not arguments.overwrite:
            _refuse_existing(targets)  # before minutes of decoding
        samples = np.asarray(volume[first:end])
        write_files(targets, encode(samples, output.suffix, archive), overwrite=arguments.overwrite)

        record = {
            "archive": str(archive),
            "volume": arguments.volume,
            "slices": [first, end],
            "shape": list(samples.shape),
            "dtype": str(samples.dtype),
            "files": [str(target) for target in targets],
        }
        names = str(output) if single else f"{targets[0]} ... {targets[-1].name}"
        shape = " x ".join(map(str, samples.shape))
        console.result(record, f"{archive} -> {names}  slices {first}:{end}, {shape}, {samples.dtype}")
        return 0

    return for_each([arguments.archive], work, console)


def select(path: Path, index: int, wanted: tuple[int, int | None]) -> tuple[Any, int, int]:
    """A volume of an archive (array-like, nothing decoded yet) and the slices first:end of it that are wanted.

    Raises UsageError where the archive does not have them all.
    """
    from medzip import pipeline

    volumes = pipeline.open(path).volumes
    if index >= len(volumes):
        raise UsageError(f"{path}: expected --volume below {len(volumes)}, the volumes it holds, found {index}")
    volume = volumes[index]
    count = volume.shape[0]
    first, end = wanted[0], count if wanted[1] is None else wanted[1]
    if not first < end <= count:
        raise UsageError(f"{path}: expected --slices A:B with A < B <= {count}, the slices of the volume, found {first}:{end}")
    return volume, first, end


def encode(samples: NDArray[np.generic], suffix: str, path: Path) -> list[bytes]:
    """One .npy, or one .png for each slice; raises UsageError where a PNG could not hold the samples as they are."""
    if suffix == ".npy":
        return [_npy(samples)]
    if samples.dtype.kind not in "ui" or samples.dtype.itemsize > 2:
        raise UsageError(f"{path}: PNG holds integers of 8 or 16 bits, found {samples.dtype}; write .npy instead")
    if samples.dtype.kind == "i" and samples.min() < 0:
        raise UsageError(f"{path}: PNG holds no negative samples, and these slices have some; write .npy instead")
    return [_png(image) for image in samples]


def write_files(targets: list[Path], contents: list[bytes], *, overwrite: bool) -> None:
    """Write all files, each under its name only when all are complete on disk."""
    temporary = [target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in targets]
    try:
        for path, data in zip(temporary, contents, strict=True):
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if not overwrite:
            _refuse_existing(targets)
        for path, target in zip(temporary, targets, strict=True):
            path.replace(target)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def _refuse_existing(targets: list[Path]) -> None:
    for target in targets:
        if target.exists():
            raise UsageError(f"{target}: exists; choose another name, or replace it with --overwrite")


def _numbered(output: Path, first: int, end: int) -> list[Path]:
    digits = max(4, len(str(end - 1)))
    return [output.with_name(f"{output.stem}_{index:0{digits}}{output.suffix}") for index in range(first, end)]


def _npy(samples: NDArray[np.generic]) -> bytes:
    import numpy as np

    buffer = BytesIO()
    np.save(buffer, samples, allow_pickle=False)
    return buffer.getvalue()


def _png(image: NDArray[np.generic]) -> bytes:
    import imagecodecs
    import numpy as np

    unsigned = np.dtype(f"u{image.dtype.itemsize}")
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(image, dtype=unsigned)))


def _index(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, found {text!r}")
    return int(text)
