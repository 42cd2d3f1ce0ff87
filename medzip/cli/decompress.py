"""medzip decompress: archives back into files."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from medzip.cli.common import Commands, Console, Parser, add_command, add_jobs, add_overwrite, for_each, warn_of_repairs
from medzip.errors import ArchiveDamagedError
from medzip.outputs import refuse_same_names

_DESCRIPTION = """\
Bring the original files back, under their original names. A file gets its name only once its SHA-256 is right.
A folder that `medzip compress` made comes back as the folder it was made from."""


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "decompress",
        run,
        summary="bring the original files back",
        description=_DESCRIPTION,
        examples=(
            "medzip decompress scan.nii.mdz              writes scan.nii beside the archive",
            "medzip decompress scan.nii.mdz -o back      writes back/scan.nii",
            "medzip decompress archive/ -o study         a whole folder of archives",
            "medzip decompress broken.mdz --salvage      what is intact of a damaged archive (exit code 3)",
        ),
    )
    parser.add_argument("archives", nargs="+", type=Path, metavar="ARC", help="archive, or folder of archives")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="folder to write into, made if need be (default: beside ARC)"
    )
    parser.add_argument(
        "--salvage", action="store_true", help="bring back what is intact of a damaged archive and list what is lost"
    )
    add_jobs(parser)
    add_overwrite(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip import pipeline

    archives: list[Path] = arguments.archives
    if arguments.output is not None:
        refuse_same_names(archives)

    def work(archive: Path) -> int:
        console.detail(f"decompressing {archive}")
        with console.progress(archive) as progress:
            restored = pipeline.decompress(
                archive,
                arguments.output,
                jobs=arguments.jobs,
                overwrite=arguments.overwrite,
                salvage=arguments.salvage,
                progress=progress,
            )
        console.result(asdict(restored), f"{archive} -> {_name(restored.files)}  {restored.bytes:,} bytes")
        console.detail(f"{archive}: {restored.seconds:.1f} s; files: {', '.join(restored.files)}")
        warn_of_repairs(archive, restored.repaired, console)
        for lost in restored.lost:
            console.complain(f"{archive}: lost: {lost}")
        return ArchiveDamagedError.exit_code if restored.lost else 0

    return for_each(archives, work, console)


def _name(files: tuple[str, ...]) -> str:
    if len(files) == 1:
        return files[0]
    return f"{len(files)} files in {os.path.commonpath(files) or '.'}" if files else "no files"
