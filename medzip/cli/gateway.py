"""medzip gateway: DICOM over the network into a folder of archives, and back."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from medzip.cli.common import Commands, Console, Parser, add_command
from medzip.errors import ModelMissingError

_DESCRIPTION = """\
Stand beside a PACS: take DICOM instances by C-STORE, STOW-RS or from a folder, acknowledge them when they are on the disk,
archive each series when it is complete, and give all of it back by C-FIND, C-MOVE, C-GET and DICOMweb. One TOML file configures
it (docs/gateway.md). Runs until SIGTERM or Ctrl-C; what it acknowledged survives any end. Not a medical device, not for
diagnosis."""


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "gateway",
        run,
        summary="DICOM over the network into archives, and back (not for diagnosis)",
        description=_DESCRIPTION,
        examples=(
            "medzip gateway gateway.toml --check    only check the configuration",
            "medzip gateway gateway.toml            until SIGTERM or Ctrl-C",
        ),
    )
    parser.add_argument("configuration", type=Path, metavar="TOML", help="configuration")
    parser.add_argument("--check", action="store_true", help="check the configuration and end")


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.gateway import config

    options = config.load(arguments.configuration)
    if arguments.check:
        console.result({"configuration": str(arguments.configuration), "good": True}, f"{arguments.configuration}: good")
        return 0
    try:
        from medzip.gateway.service import Gateway
    except ImportError as error:
        raise ModelMissingError(
            f"expected what the gateway needs, found no module {error.name!r}; install it with pip install 'medzip[gateway]'"
        ) from error
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("medzip.gateway").setLevel(logging.WARNING if console.verbosity < 0 else logging.INFO)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    gateway = Gateway(options)
    gateway.start()
    console.answer({"ready": True, **gateway.addresses()}, f"ready: {_told(gateway.addresses())}")
    ended.wait()
    gateway.end()
    return 0


def _told(addresses: dict[str, str]) -> str:
    return ", ".join(f"{service} at {address}" for service, address in addresses.items())
