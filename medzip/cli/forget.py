"""medzip forget: erases a series from an archived tree."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from medzip.cli.archive import add_store
from medzip.cli.common import Commands, Console, Parser, add_command

_DESCRIPTION = """\
Remove all archives of a series, for legal reasons, and what the ledger knows of it. A tombstone (a keyed digest, nothing else)
stays, so that `medzip archive` does not take the series again. Sources, backups and snapshots are not touched: see to them."""


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "forget",
        run,
        summary="erase a series from an archived tree, for good",
        description=_DESCRIPTION,
        examples=("medzip forget ARCHIVE --series 1.2.840.113619.2.55",),
    )
    add_store(parser, key=True)
    parser.add_argument("--series", required=True, metavar="UID", help="its SeriesInstanceUID")


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.archiving.forget import forget
    from medzip.archiving.store import open_store

    done = forget(open_store(arguments.destination, arguments.key_file), arguments.series)
    line = f"{done.archives:,} archives with {done.files:,} files removed; tombstone {done.tombstone}"
    console.result(asdict(done), line)
    return 0
