"""medzip models: the weights that are installed."""

from __future__ import annotations

import argparse
import os

from medzip.cli.common import Commands, Console, Parser, add_command


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "models",
        run,
        summary="list or check the weights that are installed",
        description="List the weights of the learned models with their terms of use, or read every tensor of them back.",
        examples=("medzip models list", "medzip models verify        exit code 5 if a file is damaged"),
    )
    parser.add_argument("action", choices=["list", "verify"], metavar="list|verify", help="list them, or read them back in full")


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.weights import registry

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
