"""medzip archive: a whole tree of studies into a folder of archives."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medzip.cli.common import SEVERITY, Commands, Console, Parser, ProgressCallback, add_command, positive
from medzip.errors import StorageError, UsageError

if TYPE_CHECKING:
    from medzip.archiving.jobs import Result
    from medzip.archiving.ledger import Row
    from medzip.archiving.pool import Failure
    from medzip.archiving.run import Summary

_DESCRIPTION = """\
Archive a tree of studies: one archive for each DICOM series, for each other scan, and for what else lies in a folder. The same
call again goes on after whatever stopped it, and takes what is new. Archives have keyed names that tell nothing of a patient;
DST/_medzip/ keeps a ledger, an audit trail and what is needed to read the archives in decades (docs/archive.md). Output names
neither files nor UIDs unless --show-paths. DST must be on a local disk: network file systems break the ledger (SQLite)."""


def register(commands: Commands[Parser]) -> None:
    from medzip.presets import PRESETS

    parser = add_command(
        commands,
        "archive",
        run,
        summary="archive a tree of studies, with a ledger; resumable",
        description=_DESCRIPTION,
        examples=(
            "medzip archive studies/ ARCHIVE --jobs 8         and again after a crash, or when studies came",
            "medzip archive studies/ ARCHIVE --rm             remove what a second process found in its archive",
            "medzip restore ARCHIVE back/                     diff -r studies back: silent",
        ),
    )
    parser.add_argument("source", type=Path, metavar="SRC_TREE", help="folder of studies")
    add_store(parser, key=True)
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="default",
        help="how to code the samples; only portable ones (default: default)",
    )
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="only the series of shard I of N, each with a DST of its own on a local disk and the same --key-file;"
        " `medzip ledger merge` makes one of them",
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="worker processes (default: 1)")
    parser.add_argument(
        "--remote",
        metavar="URL",
        help="put the archives there (s3://bucket/folder or what else fsspec knows); DST keeps ledger, audit trail and key, and"
        " is named alone from then on",
    )
    parser.add_argument(
        "--parity",
        action="store_true",
        help="lay parity beside every archive, x.mdz.par, by which `medzip scrub` repairs it (6.7 %% more)",
    )
    parser.add_argument(
        "--rm",
        dest="remove",
        action="store_true",
        help="remove each source once a process that never encoded has decoded its archive from its place and compared both",
    )
    add_show_paths(parser)


def add_store(parser: Parser, *, key: bool = False) -> None:
    parser.add_argument("destination", type=Path, metavar="DST", help="folder of archives")
    if key:
        parser.add_argument(
            "--key-file",
            type=Path,
            metavar="FILE",
            help="site key of the names, 64 hexadecimal digits or more (default: DST/_medzip/site.key, made when missing)",
        )


def add_show_paths(parser: Parser) -> None:
    parser.add_argument("--show-paths", action="store_true", help="name files in what is printed; ledger and audit never do")


def shard(text: str) -> tuple[int, int]:
    """An argparse type: I/N with 1 <= I <= N."""
    which, mark, count = text.partition("/")
    if not mark or not 1 <= positive(which) <= positive(count):
        raise argparse.ArgumentTypeError(f"expected which shard of how many, like 2/8, found {text!r}")
    return int(which), int(count)


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.archiving.run import Options, archive

    if arguments.shard[1] > 1 and arguments.key_file is None:
        raise UsageError("--shard: expected --key-file with the one site key of all shards, found none")
    options = Options(
        arguments.jobs,
        arguments.preset,
        parity=arguments.parity,
        remove=arguments.remove,
        key_file=arguments.key_file,
        remote=arguments.remote,
        shard=arguments.shard,
    )
    with console.progress(arguments.destination, steady=True) as progress:
        told = _Told(console, progress, arguments.show_paths)
        try:
            summary = archive(arguments.source, arguments.destination, options, told)
        except OSError as error:
            if arguments.show_paths:
                raise
            raise StorageError(f"{arguments.destination}: {error.strerror}; --show-paths tells which file") from None
    code = min([0, *summary.exit_codes], key=SEVERITY.index)
    record = asdict(summary) | {"summary": "archive", "failed": dict(summary.failed), "exit_codes": sorted(summary.exit_codes)}
    console.result(record, _text(summary))
    return code


class _Told:
    """What happens while archiving, as the console tells it."""

    def __init__(self, console: Console, progress: ProgressCallback | None, show_paths: bool) -> None:
        self._console, self._progress, self._show_paths = console, progress, show_paths

    def progress(self, phase: str, done: int, total: int) -> None:
        if self._progress:
            self._progress(phase, done, total)

    def committed(self, row: Row, result: Result) -> None:
        record: dict[str, Any] = {
            "archive": row.name,
            "files": len(result.files),
            "original_bytes": result.original_bytes,
            "archive_bytes": result.archive_bytes,
            "sha256": result.sha256,
            "weights": result.weights,
        }
        if self._show_paths:
            record["paths"] = [file.path for file in result.files]
        if self._console.json:
            self._console.result(record, "")
        self._console.detail(
            f"{row.name}: {len(result.files)} files, {result.original_bytes:,} -> {result.archive_bytes:,} bytes"
        )

    def failed(self, name: str, failure: Failure, attempts: int) -> None:
        from medzip.archiving.records import nameless

        told = nameless(failure) + (f" ({failure.text})" if self._show_paths else "; --show-paths tells which")
        self._console.complain(f"{name}: {told}")
        if self._console.json:
            record = {"error": told, "type": failure.type, "exit_code": failure.exit_code, "archive": name, "attempts": attempts}
            self._console.result(record, "")


def _text(summary: Summary) -> str:
    lines = [f"{summary.files:,} files looked at in {summary.seconds:,.0f} s"]
    now = f"archived now: {summary.archives:,} archives"
    if summary.archive_bytes:
        now += f", {_sizes(summary.original_bytes, summary.archive_bytes)}, all verified"
    lines.append(now)
    if summary.total_archive_bytes:
        sizes = _sizes(summary.total_original_bytes, summary.total_archive_bytes)
        lines.append(f"archived in all: {summary.total_archives:,} archives, {sizes}")
    if summary.protected:
        lines.append(f"got parity: {summary.protected:,} archives")
    if summary.sources_removed or summary.sources_kept:
        kept = f"; {summary.sources_kept:,} kept: they have changed since" if summary.sources_kept else ""
        lines.append(f"sources removed: {summary.sources_removed:,} files{kept}")
    if summary.failed:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(summary.failed.items()))
        lines.append(f"not archived: {kinds}; the same call tries them again")
    if summary.workers_died:
        lines.append(f"worker processes that died: {summary.workers_died:,}")
    if summary.special:
        lines.append(f"left out: {summary.special:,} devices, sockets or pipes")
    if summary.elsewhere:
        lines.append(f"left to other shards: {summary.elsewhere:,} files")
    if summary.forgotten:
        lines.append(f"left out: {summary.forgotten:,} files of series that were forgotten")
    lines.append(f"audit head: {summary.audit_head}")
    return "\n".join(lines)


def _sizes(original: int, archived: int) -> str:
    return f"{original:,} -> {archived:,} bytes ({original / archived:.2f}x)"
