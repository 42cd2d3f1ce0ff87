"""medzip audit: is the audit trail of an archived tree whole?"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from medzip.cli.archive import add_store
from medzip.cli.common import Commands, Console, Parser, add_command

_DESCRIPTION = """\
Follow the chain of DST/_medzip/audit.jsonl: every line names the SHA-256 of the one before. A changed or removed line shows by
itself; an end that was cut off shows only beside a head that was noted elsewhere (every run of `medzip archive` prints it).
Exit code 4: the trail was changed."""


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "audit",
        run,
        summary="check the audit trail of an archived tree",
        description=_DESCRIPTION,
        examples=(
            "medzip audit verify ARCHIVE                  prints the head: note it on another machine",
            "medzip audit verify ARCHIVE --expect HEAD    a head noted before is in the chain",
        ),
    )
    parser.add_argument("action", choices=["verify"], metavar="verify", help="what to do")
    add_store(parser)
    parser.add_argument("--expect", metavar="HEAD", help="a head noted before, 64 hexadecimal digits")


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.archiving import audit
    from medzip.archiving.store import open_store

    store = open_store(arguments.destination)
    checked = audit.verify(store.audit, arguments.expect and arguments.expect.lower())
    expected = ", the expected head is in it" if arguments.expect else ""
    console.result(asdict(checked), f"{store.audit}: whole, {checked.entries:,} lines{expected}; head {checked.head}")
    return 0
