"""medzip restore: what `medzip archive` took, back."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from medzip.cli.archive import add_show_paths, add_store
from medzip.cli.common import SEVERITY, Commands, Console, Parser, add_command, add_jobs, add_overwrite

_DESCRIPTION = """\
Bring back what `medzip archive` took: all of it, a study, a series, or files by their paths. A file gets its name only once its
SHA-256 is right. The same call again goes on after whatever stopped it. Of a path with several versions the newest comes."""


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "restore",
        run,
        summary="bring back a study, a series or all of an archived tree",
        description=_DESCRIPTION,
        examples=(
            "medzip restore ARCHIVE back                            diff -r studies back: silent",
            "medzip restore ARCHIVE back --study 1.2.840.113619.2   by StudyInstanceUID",
            "medzip restore ARCHIVE back --path 'ward7/*'           by path below the tree; * matches / too",
        ),
    )
    add_store(parser)
    parser.add_argument("folder", type=Path, metavar="OUT", help="folder to write into, made if need be")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--study", metavar="UID", help="only the study of this StudyInstanceUID")
    chosen.add_argument("--series", metavar="UID", help="only the series of this SeriesInstanceUID")
    chosen.add_argument("--path", metavar="PATTERN", help="only files, or what lies in folders, that this pattern fits")
    add_jobs(parser)
    add_overwrite(parser)
    add_show_paths(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.archiving.giving_back import Wanted, give_back
    from medzip.archiving.ledger import Row
    from medzip.archiving.pool import Failure
    from medzip.archiving.records import nameless
    from medzip.archiving.store import open_store
    from medzip.errors import MedzipError

    codes = [0]

    def failed(row: Row, error: MedzipError) -> None:
        codes.append(error.exit_code)
        told = f" ({error})" if arguments.show_paths else ""
        console.complain(f"{row.name}: {nameless(Failure(type(error).__name__, error.exit_code, ''))}{told}")

    store = open_store(arguments.destination)
    with console.progress(arguments.destination, steady=True) as progress:
        returned = give_back(
            store,
            arguments.folder,
            Wanted(arguments.study, arguments.series, arguments.path),
            jobs=arguments.jobs,
            overwrite=arguments.overwrite,
            progress=progress or (lambda *_: None),
            failed=failed,
        )
    record = asdict(returned) | {"summary": "restore", "failed": len(codes) - 1}
    there = f", {returned.there:,} were there already" if returned.there else ""
    line = f"{arguments.folder}: {returned.files:,} files, {returned.bytes:,} bytes, right by SHA-256{there}"
    console.result(record, line)
    if returned.older:
        console.note(f"{returned.older:,} older versions of files stay in the archives; --series brings a series' own")
    if not returned.audited:
        console.warn("the audit trail could not be written: it does not tell of this restore")
    return min(codes, key=SEVERITY.index)
