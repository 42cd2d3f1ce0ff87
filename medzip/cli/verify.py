"""medzip verify: does an archive still give its files back?"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from medzip.cli.common import Commands, Console, Parser, add_command, add_jobs, for_each, warn_of_repairs
from medzip.errors import UsageError

if TYPE_CHECKING:
    from medzip.prove import Verified

_DESCRIPTION = """\
Decode archives without writing anything, and compare every file with the SHA-256 that was taken when it was compressed.
Exit code 3: the archive is damaged; 4: it is intact, but does not give the original back."""


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "verify",
        run,
        summary="prove that archives give the original files back",
        description=_DESCRIPTION,
        examples=(
            "medzip verify scan.nii.mdz                       decodes everything",
            "medzip verify scan.nii.mdz --against scan.nii    compares with the original too",
            "medzip verify archive/ --fast                    structure and checksums only, to scrub many archives",
        ),
    )
    parser.add_argument("archives", nargs="+", type=Path, metavar="ARC", help="archive, or folder of archives")
    add_jobs(parser)
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--against", type=Path, metavar="SRC", help="compare with the original file or folder too (one ARC)")
    depth.add_argument("--fast", action="store_true", help="check structure and checksums only, decode nothing")


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip import pipeline

    archives: list[Path] = arguments.archives
    if arguments.against is not None and len(archives) > 1:
        raise UsageError(f"--against {arguments.against}: expected one archive to compare with it, found {len(archives)}")

    def work(archive: Path) -> int:
        console.detail(f"verifying {archive}")
        with console.progress(archive) as progress:
            verified = pipeline.verify(
                archive, against=arguments.against, fast=arguments.fast, jobs=arguments.jobs, progress=progress
            )
        console.result(asdict(verified), _line(verified, arguments.against))
        console.detail(f"{archive}: {verified.seconds:.1f} s")
        warn_of_repairs(archive, verified.repaired, console)
        return 0

    return for_each(archives, work, console)


def _line(verified: Verified, against: Path | None) -> str:
    files = "1 file" if verified.files == 1 else f"{verified.files:,} files"
    if verified.fast:
        return f"{verified.archive}: structure and checksums good, {files} (fast: nothing was decoded)"
    compared = "" if against is None else f", identical to {against}"
    return f"{verified.archive}: good, {files}, {verified.bytes:,} bytes decoded and right{compared}"
