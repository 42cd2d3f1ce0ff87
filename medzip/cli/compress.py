"""medzip compress: scans into archives."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from medzip.cli.common import Commands, Console, Parser, add_command, add_jobs, add_overwrite, for_each
from medzip.outputs import destinations

if TYPE_CHECKING:
    from medzip.pipeline import Compressed

_DESCRIPTION = """\
Compress scans (DICOM files and folders, .nii, .nii.gz, .hdr and .img, .mha, .nrrd, .mgh, .tif, .npy ...; docs/formats.md) into
.mdz archives that give the same bytes back. Of a header and its samples in two files, name one: both go into one archive.
Each archive is decoded and compared before it gets its name; the originals are kept unless you ask for --rm."""


def register(commands: Commands[Parser]) -> None:
    from medzip.presets import PRESETS

    parser = add_command(
        commands,
        "compress",
        run,
        summary="make archives that give the same bytes back",
        description=_DESCRIPTION,
        examples=(
            "medzip compress scan.nii                     writes scan.nii.mdz beside it",
            "medzip compress study/ -o archive            mirrors the folder study/ as archives in archive/",
            "medzip compress patients/* -o archive        mirrors each folder of patients/ in archive/ under its name",
            "medzip compress scan.nii -o kept/a.mdz       writes exactly that file",
            "medzip compress *.nii --json                 one JSON object per archive, for scripts",
            "medzip compress scan.nii.gz --guarantee content",
            "medzip compress scan.hdr                     takes scan.img with it, and restores both",
            "medzip compress report.pdf --store           any file, kept whole",
        ),
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="SRC", help="scan, or folder of scans")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="where to write: a file if OUT ends in .mdz, else a folder, made if need be (default: beside SRC)",
    )
    presets = "; ".join(f"{name}: {preset.description}" for name, preset in PRESETS.items())
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="default", help=f"how to code the samples; {presets}".replace("%", "%%")
    )
    parser.add_argument(
        "--models",
        choices=["open", "all"],
        default="open",
        help="which weights may be used; open: those for any use, all: research-only weights too (default: open)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="weights to use, whatever their terms; `medzip models list` names them (default: the best)",
    )
    parser.add_argument(
        "--guarantee",
        choices=["file", "content"],
        default="file",
        help="what comes back identical; file: every file, content: what a .gz holds, not its gzip wrapper (default: file)",
    )
    parser.add_argument("--store", action="store_true", help="take files that medzip does not read, too, and keep them whole")
    parser.add_argument(
        "--encapsulated",
        choices=["keep", "voxels"],
        default="keep",
        help="DICOM in JPEG 2000, HTJ2K or JPEG XL; keep: byte for byte, voxels: smaller, restored without compression"
        " (default: keep)",
    )
    add_jobs(parser)
    add_overwrite(parser)
    removal = parser.add_mutually_exclusive_group()
    removal.add_argument("--no-verify", dest="verify", action="store_false", help="do not decode the archive before it is kept")
    removal.add_argument(
        "--rm", dest="remove", action="store_true", help="remove SRC once a fresh process has read the whole archive back"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip import pipeline

    targets = dict(zip(arguments.sources, destinations(arguments.sources, arguments.output), strict=True))

    done: set[str] = set()

    def work(source: Path) -> int:
        if str(source) in done:
            return 0
        console.detail(f"compressing {source}")
        with console.progress(source) as progress:
            for archive in pipeline.compress_each(
                source,
                targets[source],
                preset=arguments.preset,
                models=arguments.models,
                weights=arguments.model,
                guarantee=arguments.guarantee,
                encapsulated=arguments.encapsulated,
                jobs=arguments.jobs,
                overwrite=arguments.overwrite,
                verify=arguments.verify,
                remove=arguments.remove,
                store=arguments.store,
                progress=progress,
            ):
                report(archive, console)
                if not source.is_dir():
                    done.update(archive.sources)
                    console.note(_partners(source, archive.sources))
        return 0

    return for_each(arguments.sources, work, console)


def report(archive: Compressed, console: Console) -> None:
    """Print one archive, and on stderr what its owner should know about it."""
    ratio = archive.original_bytes / archive.archive_bytes
    sizes = f"{archive.original_bytes:,} -> {archive.archive_bytes:,} bytes ({ratio:.2f}x)"
    state = "verified" if archive.verified else "not verified"
    line = f"{_name(archive.sources)} -> {archive.archive}  {sizes}, {state}" + (", original removed" if archive.removed else "")
    console.result(asdict(archive), line)

    chunks = ", ".join(f"{count} {kind}" for kind, count in sorted(archive.chunks.items())) or "none"
    speed = archive.original_bytes / 1e6 / archive.seconds if archive.seconds > 0 else 0.0
    console.detail(f"{archive.archive}: preset {archive.preset}, chunks: {chunks}, {archive.seconds:.1f} s, {speed:.2f} MB/s")
    for warning in warnings(archive):
        console.warn(f"{archive.archive}: {warning}")


def warnings(archive: Compressed) -> list[str]:
    """What was given up, or could be had, in sentences."""
    found = []
    if not archive.portable:
        found.append(
            "not portable: only a machine that computes the same floating-point numbers (same weights, same torch, same kind of"
            " CPU; see `medzip info`) can decode it; keep the original, or use --preset default"
        )
    if not archive.verified:
        found.append(
            "not verified: nothing has shown yet that it gives the same bytes back; while the original exists,"
            " `medzip verify --against` can"
        )
    if archive.content_saving is not None:
        found.append(
            f"the .gz file is kept whole; --guarantee content would save {archive.content_saving:,} bytes more"
            " (what it holds comes back identical, its gzip wrapper does not)"
        )
    if archive.guarantee == "voxels":
        found.append(
            "not byte for byte: files in JPEG 2000, HTJ2K or JPEG XL come back without that compression, with the same voxels;"
            " `medzip info` names them"
        )
    if archive.contradicting:
        first, *others = archive.contradicting
        found.append(
            f"{first}{f' and {len(others)} more' if others else ''}: expected a SOP Instance UID of its own, found that of a file"
            " with other bytes; all of them are kept"
        )
    if archive.samples and archive.model_share < 1:
        found.append(
            f"{1 - archive.model_share:.1%} of the samples are not coded by the entropy model: they came out smaller without"
            " it, or it does not take them"
        )
    return found


def _partners(source: Path, taken: tuple[str, ...]) -> str:
    """What was archived besides the file that was named, in a sentence; nothing for a file by itself."""
    others = [name for name in taken if Path(name).name != source.name]
    return f"{source}: {' and '.join(others)} belongs to it, and is in the same archive" if others else ""


def _name(sources: tuple[str, ...]) -> str:
    if len(sources) == 1:
        return sources[0]
    return f"{os.path.commonpath(sources) or '.'} ({len(sources)} files)" if sources else "(no files)"
