"""medzip scrub: are the archives still what was committed?"""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict

from medzip.cli.archive import add_store
from medzip.cli.common import SEVERITY, Commands, Console, Parser, add_command

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DESCRIPTION = """\
Compare archives with the SHA-256 they were committed with, those first that were proved longest ago, and remember when. Call it
every night with --max-duration, and the whole of DST comes round. Weights, format and decoder in DST/_medzip/ are compared too.
What has parity beside it (`medzip archive --parity`) is repaired. Exit code 3: something is damaged or missing."""


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "scrub",
        run,
        summary="prove archived trees again, the longest unproved first",
        description=_DESCRIPTION,
        examples=(
            "medzip scrub ARCHIVE --max-duration 6h    every night; the next night goes on",
            "medzip scrub ARCHIVE --max-age 30d        only what was not proved for 30 days",
            "medzip scrub ARCHIVE --decode             decode everything too: days, for millions of series",
        ),
    )
    add_store(parser)
    parser.add_argument("--max-duration", type=duration, metavar="TIME", help="end after 90m, 6h, 2d ... (default: no end)")
    parser.add_argument("--max-age", type=duration, metavar="TIME", help="leave out what was proved within 30d, 6w ...")
    parser.add_argument("--decode", action="store_true", help="decode every archive and compare its files, too")


def duration(text: str) -> float:
    """An argparse type: a number and one of s, m, h, d, w, in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a number and one of s, m, h, d, w, like 6h, found {text!r}")
    return float(match[1]) * _UNITS[match[2]]


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.archiving.scrub import Limits, scrub
    from medzip.archiving.store import open_store
    from medzip.errors import MedzipError

    codes = [0]

    def complain(name: str, error: MedzipError) -> None:
        codes.append(error.exit_code)
        console.complain(f"{name}: {type(error).__name__}; restore it from a copy, and call scrub again")
        if console.json:
            console.result({"error": type(error).__name__, "archive": name, "exit_code": error.exit_code}, "")

    limits = Limits(arguments.max_duration, arguments.max_age, arguments.decode)
    with console.progress(arguments.destination) as progress:
        scrubbed = scrub(open_store(arguments.destination), limits, progress or (lambda *_: None), complain)
    left = f", {scrubbed.left:,} left for the next time" if scrubbed.left else ""
    damaged = f", {scrubbed.damaged:,} damaged" if scrubbed.damaged else ""
    oldest = scrubbed.oldest or "never, for some"
    if scrubbed.repaired or scrubbed.parity:
        console.warn(
            f"{scrubbed.repaired:,} archives were damaged and came back by their parity, parity of {scrubbed.parity:,} was made"
            " again; look after the disk"
        )
    line = f"{scrubbed.archives:,} archives good, {scrubbed.bytes:,} bytes{damaged}{left}; longest ago proved: {oldest}"
    console.result(asdict(scrubbed) | {"summary": "scrub"}, line)
    return min(codes, key=SEVERITY.index)
