"""What all trainings take from the command line: a YAML file, with single settings changed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from medzip.errors import MedzipError, UsageError


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments that trainings share."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--config", type=Path, required=True)
    arguments.add_argument("--data", type=Path, required=True, help="a folder with MANIFEST.tsv, MRNet's folders, or any scans")
    arguments.add_argument("--run", type=Path, required=True, help="folder of this training: checkpoint and result")
    arguments.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change: network.patch=24")
    arguments.add_argument("--steps", type=int, help="end at this step instead of the configuration's")
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    return arguments


def configuration(path: Path, changes: list[str]) -> dict[str, Any]:
    """The YAML file with `changes` ('a.b=3', values in YAML) made. Raises UsageError for a key whose parent is not there."""
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    for change in changes:
        key, separator, value = change.partition("=")
        *parents, last = key.split(".")
        place = config
        for parent in parents:
            place = place.get(parent)  # type: ignore[assignment]  # what is no mapping is refused in the next line
            if not isinstance(place, dict):
                raise UsageError(f"--set {change}: expected a setting of {path}, found no {parent!r}")
        if not separator:
            raise UsageError(f"--set {change}: expected KEY=VALUE")
        place[last] = yaml.safe_load(value)
    return config


def told(main: Callable[[], None]) -> None:
    """Runs a script; what medzip foresees is told in a line, with medzip's exit code."""
    try:
        main()
    except MedzipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
