"""medzip doctor: what this machine has, and whether every decoder computes what it must."""

from __future__ import annotations

import argparse

from medzip.cli.common import Commands, Console, Parser, add_command, render
from medzip.errors import ModelMismatchError


def register(commands: Commands[Parser]) -> None:
    add_command(
        commands,
        "doctor",
        run,
        summary="check this installation",
        description="Show versions, codecs and CPU features, and run the self-test of every model (exit code 5 if one fails).",
        examples=("medzip doctor", "medzip doctor --json > report.json      to send with a problem report"),
    )


def run(arguments: argparse.Namespace, console: Console) -> int:  # noqa: ARG001, every command is called with both
    from medzip import doctor

    report = doctor.report()
    console.answer(report, render(report, limit=None))
    for problem in report["problems"]:
        console.complain(problem)
    return ModelMismatchError.exit_code if report["problems"] else 0
