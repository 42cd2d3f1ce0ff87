"""medzip index: the ledger again, from the archives alone."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from medzip.cli.archive import add_store
from medzip.cli.common import Commands, Console, Parser, add_command
from medzip.errors import ArchiveDamagedError

_DESCRIPTION = """\
Make DST/_medzip/ledger.sqlite again from the archives themselves, after it was lost or damaged. Every archive is read once.
Exit code 3: archives are damaged, or missing though SHA256SUMS names them."""


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "index",
        run,
        summary="rebuild the ledger of an archived tree from its archives",
        description=_DESCRIPTION,
        examples=("medzip index rebuild ARCHIVE",),
    )
    parser.add_argument("action", choices=["rebuild"], metavar="rebuild", help="what to do")
    add_store(parser)
    parser.add_argument(
        "--remote", metavar="URL", help="where the archives lie, if DST is lost too: a new DST is made (without the site key)"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.archiving.rebuild import rebuild
    from medzip.archiving.store import adopt, open_store

    if arguments.remote:
        adopt(arguments.destination, arguments.remote)

    def complain(name: str, what: str) -> None:
        console.complain(f"{name}: {what}")

    with console.progress(arguments.destination) as progress:
        rebuilt = rebuild(open_store(arguments.destination), progress or (lambda *_: None), complain)
    line = f"{arguments.destination}: ledger made again, {rebuilt.archives:,} archives with {rebuilt.files:,} files"
    console.result(asdict(rebuilt), line)
    return ArchiveDamagedError.exit_code if rebuilt.damaged or rebuilt.unreadable or rebuilt.lost or rebuilt.forgotten else 0
