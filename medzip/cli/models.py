"""medzip models: the weights that are installed, and those that an archive needs."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from medzip.cli.common import Commands, Console, Parser, add_command, add_overwrite
from medzip.errors import StorageError, UsageError


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "models",
        run,
        summary="list, check or export the weights that are installed",
        description="List the weights of the learned models with their terms of use, read every tensor of them back, or copy "
        "those that archives need into a folder, to be kept beside the archives. A folder of weights that MEDZIP_WEIGHTS names "
        "is searched too.",
        examples=(
            "medzip models list",
            "medzip models verify                     exit code 5 if a file is damaged",
            "medzip models export KEPT scan.nii.mdz   copy what scan.nii.mdz needs into the folder KEPT",
        ),
    )
    parser.add_argument("action", choices=["list", "verify", "export"], metavar="list|verify|export", help="what to do")
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="of export: where the files go")
    parser.add_argument(
        "archives", nargs="*", type=Path, metavar="ARCHIVE", help="of export: copy what these need (default: all)"
    )
    add_overwrite(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.weights import registry

    if arguments.action == "export":
        return _export(arguments, console)
    if arguments.folder is not None:
        raise UsageError(f"medzip models {arguments.action}: expected nothing more, found {os.fspath(arguments.folder)!r}")
    if arguments.action == "verify":
        registry.verify()
    for entry in registry.entries():
        record = {
            "name": entry.name,
            "kind": entry.kind,
            "licence_class": entry.licence_class,
            "sha256": entry.sha256,
            "path": os.fspath(entry.path),
        }
        if arguments.action == "verify":
            console.result(record | {"good": True}, f"{entry.name}: good")
        else:
            console.answer(record, f"{entry.name}  {entry.kind}, {entry.licence_class}, sha256 {entry.sha256}")
    return 0


def _export(arguments: argparse.Namespace, console: Console) -> int:
    """Copies weights, each with its card."""
    import medzip
    from medzip.weights import registry

    if arguments.folder is None:
        raise UsageError("medzip models export: expected a folder to copy to, found none")
    if arguments.archives:
        needed = {digest for archive in arguments.archives for digest in medzip.info(archive)["weights"]}
        chosen = [registry.by_digest(digest) for digest in sorted(needed)]
    else:
        chosen = list(registry.entries())
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for weights in chosen:
            target = arguments.folder / f"{weights.name}.safetensors"
            if target.exists() and not arguments.overwrite and registry.read_weights(target).sha256 != weights.sha256:
                raise StorageError(f"{target}: expected no other file of this name, found one; use --overwrite or another folder")
            shutil.copyfile(weights.path, target)
            card = weights.path.with_suffix(".md")
            if card.exists():
                shutil.copyfile(card, target.with_suffix(".md"))
            record = {"name": weights.name, "sha256": weights.sha256, "path": os.fspath(target)}
            console.result(record, f"{weights.name} -> {target}  sha256 {weights.sha256}")
    except OSError as error:
        raise StorageError(f"{error.filename or arguments.folder}: {error.strerror}; expected a folder to copy to") from error
    return 0
