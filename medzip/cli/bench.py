"""medzip bench: medzip beside other lossless codecs, on the user's own scans."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from medzip.cli.common import Commands, Console, Parser, add_command, for_each

_DESCRIPTION = """\
Code scans with medzip and with the other lossless codecs that are installed, decode them again, and print size, bits per
sample, ratio to lossless JPEG XL (effort 7) and speed of each. Nothing is written; SRC is not changed."""


def register(commands: Commands[Parser]) -> None:
    from medzip.presets import PRESETS

    parser = add_command(
        commands,
        "bench",
        run,
        summary="compare medzip with other codecs on your scans",
        description=_DESCRIPTION,
        examples=("medzip bench scan.nii", "medzip bench scan.nii series/ --preset default --preset llm"),
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="SRC", help="scan, or folder of scans")
    parser.add_argument(
        "--preset",
        dest="presets",
        action="append",
        choices=list(PRESETS),
        help="preset to measure, may be repeated (default: default)",
    )
    parser.add_argument(
        "--models", choices=["open", "all"], default="open", help="which weights may be used, as in `medzip compress`"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.bench import table

    def work(source: Path) -> int:
        rows = table.bench(source, arguments.presets or ["default"], arguments.models)
        console.answer({"source": str(source), "rows": [asdict(row) for row in rows]}, f"{source}\n{table.render(rows)}")
        return 0

    return for_each(arguments.sources, work, console)
