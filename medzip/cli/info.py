"""medzip info: what an archive holds, without decoding it."""

from __future__ import annotations

import argparse
from pathlib import Path

from medzip.cli.common import Commands, Console, Parser, add_command, for_each, render


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "info",
        run,
        summary="show what archives hold",
        description="Show what an archive holds and what its decoder needs. Nothing is decoded, no header value is shown.",
        examples=(
            "medzip info scan.nii.mdz",
            "medzip info series.mdz -v             every file, however many",
            "medzip info *.mdz --json              one JSON object per archive",
        ),
    )
    parser.add_argument("archives", nargs="+", type=Path, metavar="ARC", help="archive")


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip import pipeline

    def work(archive: Path) -> int:
        record = {"archive": str(archive)} | pipeline.info(archive)
        console.answer(record, render(record, limit=None if console.verbosity > 0 else 8))
        return 0

    return for_each(arguments.archives, work, console)
