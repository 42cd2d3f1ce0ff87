"""What all commands share: output for people and for scripts, progress, failures, and going on after one of them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from medzip.errors import MedzipError, StorageError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns
ProgressCallback = Callable[[str, int, int], None]

EXIT_INTERNAL = 70  # EX_SOFTWARE of BSD's sysexits.h: a bug in medzip
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_READER_GONE = 141  # 128 + SIGPIPE

# With several inputs the worst failure decides the exit code: bugs and wrong bytes before damage, damage before what only
# needs another machine, another disk or another call.
SEVERITY = (EXIT_INTERNAL, 4, 3, 6, 5, 2, 1, 0)

# Names in archives and folders may hold what terminals obey; lines and tabs are our own.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

_HOW_TO_REPORT = (
    "please report it with the output of `medzip doctor` and of the same call with -v"
    " (read that before you send it: it may quote the scan's header)"
)


class OutputError(Exception):
    """Standard output cannot be written; no command can tell its result any more, so the run ends."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"standard output: {cause.strerror or cause}")
        self.exit_code = EXIT_READER_GONE if isinstance(cause, BrokenPipeError) else StorageError.exit_code


class Parser(argparse.ArgumentParser):
    """argparse, with its errors in medzip's table of exit codes."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` explains the call")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """argparse's, with the same wide columns in every terminal, so that examples line up with the rest."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)
        self._action_max_length = 16  # argparse forgets that the list of commands is indented


class Console:
    """Where a command puts what it has to say: results on stdout, everything else on stderr.

    `verbosity` is -1 (errors only), 0, or 1 (details, and tracebacks of unexpected errors). With `json` stdout gets one JSON
    object per line and nothing else.
    """

    def __init__(self, *, json: bool = False, verbosity: int = 0) -> None:
        self.json = json
        self.verbosity = verbosity
        self._bar: Progress | None = None

    def result(self, record: Mapping[str, Any], line: str) -> None:
        """Report work that was done: `record` with --json, else one line unless --quiet."""
        if self.json or self.verbosity >= 0:
            self.answer(record, line)

    def answer(self, record: Mapping[str, Any], text: str) -> None:
        """Give what the user asked to see: `record` with --json, else `text`, whatever the verbosity."""
        self._print(json.dumps(record, default=str) if self.json else text)

    def warn(self, message: str) -> None:
        if self.verbosity >= 0:
            self._print(f"medzip: warning: {message}", to_stderr=True)

    def note(self, message: str) -> None:
        """Say what the user would not expect but need not worry about; nothing where there is no message."""
        if message and self.verbosity >= 0:
            self._print(f"medzip: {message}", to_stderr=True)

    def detail(self, message: str) -> None:
        if self.verbosity > 0:
            self._print(f"medzip: {message}", to_stderr=True)

    def complain(self, message: str) -> None:
        self._print(f"medzip: error: {message}", to_stderr=True)

    def failure(self, error: Exception, subject: Path | None = None) -> int:
        """Report a failure and return its exit code; only errors that medzip foresees show their own text."""
        name = "the command line" if subject is None else os.fspath(subject)
        if isinstance(error, OSError):
            place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else name
            reason = error.strerror or type(error).__name__
            error = StorageError(f"{place}: {reason}; check that it exists, that you may use it, and that the disk has space")
        if isinstance(error, MemoryError):
            error = StorageError(f"{name}: expected enough memory, found too little; use a machine with more, or fewer --jobs")
        if isinstance(error, MedzipError):
            code, message = error.exit_code, str(error)
        else:
            code, message = EXIT_INTERNAL, f"{name}: unexpected {type(error).__name__}, a bug in medzip; {_HOW_TO_REPORT}"
            if self.verbosity > 0:
                import traceback

                traceback.print_exception(error)
        self.complain(message)
        if self.json:
            record = {"error": message, "type": type(error).__name__, "exit_code": code}
            self._print(json.dumps(record if subject is None else record | {"input": os.fspath(subject)}))
        return code

    @contextmanager
    def progress(self, subject: Path, *, steady: bool = False) -> Iterator[ProgressCallback | None]:
        """A progress bar on stderr while the block runs, where stderr is a terminal; else None.

        Each phase starts a bar of its own; with `steady` they are one bar, whose text the phase is.
        """
        if self.verbosity < 0 or not (sys.stderr and sys.stderr.isatty()):
            yield None
            return
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        # stdout stays untouched: rich would send what is printed there to the terminal on stderr.
        bar = Progress(*columns, console=Terminal(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
        task = bar.add_task(subject.name, total=None)
        current = ""

        def update(phase: str, done: int, total: int) -> None:
            nonlocal current
            if phase != current:
                current = phase
                if not steady:
                    bar.reset(task)
                bar.update(task, description=f"{subject.name}: {phase}")
            bar.update(task, completed=done, total=total or None)

        self._bar = bar
        try:
            with bar:
                yield update
        finally:
            self._bar = None

    def _print(self, text: str, *, to_stderr: bool = False) -> None:
        """Print at once, with the progress bar out of the way."""
        stream: TextIO | None = sys.stderr if to_stderr else sys.stdout
        if stream is None:  # closed when Python started; print() would take stdout instead
            return
        bar = self._bar
        if bar is not None:
            bar.stop()
        try:
            print(text.translate(_CONTROLS), file=stream, flush=True)
        except OSError as error:
            if not to_stderr:
                raise OutputError(error) from error
        if bar is not None:
            bar.start()


def for_each(paths: Sequence[Path], work: Callable[[Path], int], console: Console) -> int:
    """Do `work` on every path, going on after failures; the most severe exit code is returned."""
    codes = [0]
    for path in paths:
        try:
            codes.append(work(path))
        except OutputError:
            raise
        except Exception as error:
            codes.append(console.failure(error, path))
    return min(codes, key=SEVERITY.index)


def warn_of_repairs(archive: Path, repaired: Sequence[str], console: Console) -> None:
    if repaired:
        console.warn(
            f"{archive}: damaged in {', '.join(repaired)}, which its parity could rebuild;"
            " replace it by a good copy, or decompress and compress again"
        )


def add_command(
    commands: Commands[Parser],
    name: str,
    run: Callable[[argparse.Namespace, Console], int],
    *,
    summary: str,
    description: str,
    examples: Sequence[str],
) -> Parser:
    """A command's parser, with the options that every command has."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    output = parser.add_argument_group("what is printed")
    output.add_argument("--json", action="store_true", help="print one JSON object per file on stdout and nothing else there")
    loudness = output.add_mutually_exclusive_group()
    loudness.add_argument(
        "-q", "--quiet", dest="verbosity", action="store_const", const=-1, default=0, help="print errors only, no progress bar"
    )
    loudness.add_argument("-v", "--verbose", dest="verbosity", action="store_const", const=1, help="print more on stderr")
    return parser


def add_overwrite(parser: Parser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist (default: refuse)")


def add_jobs(parser: Parser) -> None:
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="chunks to work on at the same time (default: 1)")


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def render(record: Any, *, indent: str = "", limit: int | None = 8) -> str:
    """JSON-able data as indented text; lists end after `limit` entries (None: never)."""
    if isinstance(record, Mapping):
        return "\n".join(_entry(str(key).replace("_", " "), value, indent, limit) for key, value in record.items())
    if _is_list(record):
        shown = record[:limit]
        lines = [_entry("-", value, indent, limit) for value in shown]
        if len(shown) < len(record):
            lines.append(f"{indent}... and {len(record) - len(shown)} more (-v shows all)")
        return "\n".join(lines)
    return indent + _scalar(record)


def _entry(label: str, value: Any, indent: str, limit: int | None) -> str:
    separator = " " if label == "-" else ": "
    if isinstance(value, Mapping) and label == "-":
        return f"{indent}- " + _inline(value)
    if not value and isinstance(value, Mapping | list | tuple):
        return f"{indent}{label}{separator}none"
    if isinstance(value, Mapping) or (_is_list(value) and any(isinstance(entry, Mapping | list | tuple) for entry in value)):
        return f"{indent}{label}:\n" + render(value, indent=indent + "  ", limit=limit)
    return f"{indent}{label}{separator}{_inline(value, label)}"


def _inline(value: Any, label: str = "") -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {_inline(entry, str(key))}" for key, entry in value.items()) or "none"
    if _is_list(value):
        return (" x " if label == "shape" else ", ").join(_inline(entry) for entry in value) or "none"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
