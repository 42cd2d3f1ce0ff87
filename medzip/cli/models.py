"""medzip models: the weights that are installed, a user's own, and those that an archive needs."""

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
        summary="list, check, add or export weights",
        description="List the weights of the learned models with their terms of use, read every tensor of them back, add weights "
        "of your own (used where --model names them), or copy those that archives need into a folder, to be kept beside the "
        "archives. Folders that MEDZIP_WEIGHTS names are searched too. 'add smollm2' gets a pretrained language model to "
        "fine-tune (docs/fine_tune.md).",
        examples=(
            "medzip models list",
            "medzip models verify                     exit code 5 if a file is damaged",
            "medzip models add mine.safetensors       now `medzip compress --model mine` finds it",
            "medzip models add smollm2 --layers 4     SmolLM2-135M, its first 4 layers, by pip",
            "medzip models export KEPT scan.nii.mdz   copy what scan.nii.mdz needs into the folder KEPT",
        ),
    )
    actions = ["list", "verify", "add", "export"]
    parser.add_argument("action", choices=actions, metavar="|".join(actions), help="what to do")
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="of export: where the files go; of add: a file, or smollm2"
    )
    parser.add_argument(
        "archives", nargs="*", type=Path, metavar="ARCHIVE", help="of export: copy what these need (default: all)"
    )
    parser.add_argument("--layers", type=int, metavar="N", help="of add smollm2: keep the first N layers (default: all 30)")
    add_overwrite(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.weights import registry

    if arguments.layers is not None and (arguments.action != "add" or arguments.folder is None):
        raise UsageError(f"medzip models {arguments.action}: --layers expected with 'add smollm2' only")
    if arguments.action == "export":
        return _export(arguments, console)
    if arguments.action == "add":
        return _add(arguments, console)
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


def _add(arguments: argparse.Namespace, console: Console) -> int:
    """A weights file, or a pretrained language model to train from."""
    from medzip.weights import pretrained, registry

    if arguments.folder is None or arguments.archives:
        raise UsageError("medzip models add: expected one weights file, or 'smollm2'; see `medzip models --help`")
    if os.fspath(arguments.folder) in pretrained.PACKAGED:
        folder = pretrained.add(os.fspath(arguments.folder), arguments.layers)
        console.result({"name": folder.name, "path": os.fspath(folder)}, f"{folder.name} -> {folder}")
        return 0
    if arguments.layers is not None:
        raise UsageError("medzip models add: --layers expected with 'smollm2' only")
    weights = registry.add(arguments.folder)
    record = {"name": weights.name, "sha256": weights.sha256, "path": os.fspath(weights.path)}
    console.result(record, f"{weights.name} -> {weights.path}  sha256 {weights.sha256}")
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
