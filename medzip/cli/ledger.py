"""medzip ledger: the stores of an array job's shards as one."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from medzip.cli.archive import add_store
from medzip.cli.common import SEVERITY, Commands, Console, Parser, add_command
from medzip.errors import MedzipError

_DESCRIPTION = """\
Take over what the shards of an array job archived (`medzip archive --shard I/N`, each with a DST of its own and the same site
key): archives by hard links or copied and compared, and their rows. Shards stay as they are; the same call again takes what
came since."""


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "ledger",
        run,
        summary="merge the stores of an array job's shards into one",
        description=_DESCRIPTION,
        examples=("medzip ledger merge ARCHIVE scratch/shard-* --key-file site.key",),
    )
    parser.add_argument("action", choices=["merge"], metavar="merge", help="what to do")
    add_store(parser, key=True)
    parser.add_argument("shards", nargs="+", type=Path, metavar="SHARD", help="DST of a shard")


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.archiving.merge import merge
    from medzip.archiving.store import create, open_store

    codes = [0]

    def complain(name: str, error: MedzipError) -> None:
        codes.append(error.exit_code)
        console.complain(f"{name}: {type(error).__name__}: it stays in its shard")

    shards = [open_store(path, arguments.key_file) for path in arguments.shards]
    merged = merge(create(arguments.destination, arguments.key_file, shards[0].url), shards, complain)
    line = f"{arguments.destination}: {merged.archives:,} archives came, {merged.there:,} were there already"
    if merged.unfinished:
        console.warn(f"{merged.unfinished:,} archives are not finished in their shards; end them, and call this again")
    console.result(asdict(merged), line)
    return min(codes, key=SEVERITY.index)
