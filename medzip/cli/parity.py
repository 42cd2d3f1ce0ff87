"""medzip parity: Reed-Solomon parity beside archives, and repair by it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from medzip.cli.common import Commands, Console, Parser, add_command, for_each
from medzip.errors import ArchiveDamagedError, UsageError

_DESCRIPTION = """\
Lay parity beside archives (x.mdz.par, 6.7 % of the archive, at least 8 KiB), and repair them by it: any 16 of 255 sectors of
4 KiB may be lost, and so may a run of 6.7 % of the archive. `repair` writes the archive anew, compares its SHA-256, and only
then puts it in the place of the damaged one. Exit code 3: something is damaged (check), or more than parity can repair."""


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "parity",
        run,
        summary="make parity beside archives, check it, repair by it",
        description=_DESCRIPTION,
        examples=(
            "medzip parity make scan.nii.mdz       scan.nii.mdz.par",
            "medzip parity make ARCHIVE            beside every archive in the folder that has none",
            "medzip parity check ARCHIVE           reads both; is there damage, and can it be repaired?",
            "medzip parity repair scan.nii.mdz",
        ),
    )
    parser.add_argument("action", choices=["make", "check", "repair"], metavar="make|check|repair", help="what to do")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="archive, or folder of archives")


def run(arguments: argparse.Namespace, console: Console) -> int:
    work = {"make": _make, "check": _check, "repair": _repair}[arguments.action]
    archives = [archive for path in arguments.paths for archive in _archives(path, arguments.action)]
    return for_each(archives, lambda archive: work(archive, console), console)


def _archives(path: Path, action: str) -> list[Path]:
    """The archive that was named, or those in a folder that have parity, or for `make` have none."""
    from medzip.container.sidecar import beside
    from medzip.outputs import SUFFIX

    if not path.is_dir():
        return [path]
    found = sorted(entry for entry in path.rglob("*" + SUFFIX) if entry.is_file() and not entry.name.startswith("."))
    if not found:
        raise UsageError(f"{path}: expected archives ({SUFFIX}) in this folder, found none; check the path")
    return [archive for archive in found if beside(archive).exists() != (action == "make")]


def _make(archive: Path, console: Console) -> int:
    """Of an archive that is damaged already, parity would keep the damage."""
    from medzip.archive import Archive
    from medzip.container.sidecar import beside, make

    with Archive(archive) as opened:
        opened.reader.check()
        if opened.repaired:
            raise opened.damaged(f"no damage in {', '.join(opened.repaired)}")
    layout = make(archive)
    record = {"archive": str(archive), "parity": str(beside(archive)), "bytes": layout.size}
    console.result(record, f"{beside(archive)}: {layout.size:,} bytes")
    return 0


def _check(archive: Path, console: Console) -> int:
    from medzip.container.sidecar import Sidecar

    with Sidecar(archive) as opened:
        damage = opened.damage()
    if not damage.archive + damage.sidecar:
        console.result({"archive": str(archive), **asdict(damage)}, f"{archive}: good, and its parity")
        return 0
    what = "can be repaired" if damage.repairable else "more than parity can repair"
    told = f"{archive}: damaged in {damage.archive} sectors, its parity in {damage.sidecar}; {what}"
    console.result({"archive": str(archive), **asdict(damage)}, told)
    return ArchiveDamagedError.exit_code


def _repair(archive: Path, console: Console) -> int:
    from medzip.container.sidecar import Sidecar, make

    with Sidecar(archive) as opened:
        damage = opened.damage()
        sectors = opened.repair() if damage.archive else 0
        expected = opened.layout.sha256.hex()
    if damage.sidecar:
        make(archive, expected)
    told = f"{sectors} sectors repaired" if damage.archive else "good"
    console.result(
        {"archive": str(archive), "repaired": sectors, "parity_made_again": bool(damage.sidecar)},
        f"{archive}: {told}" + (", its parity made again" if damage.sidecar else ""),
    )
    return 0
