"""The command line: `medzip COMMAND ...`, one file per command. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from medzip import interrupts
from medzip.cli import (
    archive,
    audit,
    bench,
    completion,
    compress,
    decompress,
    doctor,
    export,
    extract,
    forget,
    gateway,
    index,
    info,
    ledger,
    models,
    parity,
    restore,
    scrub,
    verify,
    view,
)
from medzip.cli.common import EXIT_INTERRUPTED, EXIT_READER_GONE, Console, HelpFormatter, OutputError, Parser

COMMANDS = (
    *(compress, decompress, verify, info, extract, export, view),
    *(archive, restore, scrub, parity, forget, index, ledger, audit, gateway),
    *(bench, doctor, models, completion),
)

_DESCRIPTION = "Keep medical scans, smaller: lossless archives that give the same bytes back."
_EPILOG = """\
examples:
  medzip compress scan.nii                  scan.nii.mdz, verified; scan.nii is kept
  medzip decompress scan.nii.mdz -o back    back/scan.nii, byte for byte
  medzip COMMAND --help                     options and examples of a command

exit codes:
  0 good; 1 usage; 2 input unsupported; 3 archive damaged; 4 verification failed; 5 model missing or
  mismatched; 6 input/output; 70 a bug in medzip; 130 interrupted; 141 stdout was closed by its reader.
  With several inputs the worst one counts, in the order 70, 4, 3, 6, 5, 2, 1.
"""


def build_parser() -> Parser:
    """The parser of the whole command line; shell completion is made from it too."""
    import medzip

    parser = Parser(
        prog="medzip",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"medzip {medzip.__version__}", help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (`argv` without the program's name; default: sys.argv) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        interrupts.remember()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text in the terminal's encoding
    try:
        return _run(words)
    except KeyboardInterrupt:
        Console().complain("interrupted; nothing unfinished was kept")
        return EXIT_INTERRUPTED
    except OutputError as error:
        if error.exit_code != EXIT_READER_GONE:
            Console().complain(str(error))
        # What is still buffered cannot be written; without this Python complains about it while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error.exit_code


def _run(words: list[str]) -> int:
    console = Console(json="--json" in words)
    try:
        try:
            arguments = build_parser().parse_args(words)
        except SystemExit:  # after --help and --version; errors raise UsageError
            return 0
        console = Console(json=arguments.json, verbosity=arguments.verbosity)
        code: int = arguments.run(arguments, console)
        return code
    except OutputError:
        raise
    except Exception as error:
        return console.failure(error)
