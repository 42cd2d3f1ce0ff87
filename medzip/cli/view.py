"""medzip view: a page to look at an archive with."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from medzip.cli.common import Commands, Console, Parser, add_command
from medzip.errors import ModelMissingError

_DESCRIPTION = """\
Show an archive in the browser: slices with window and level, headers, and how each chunk was coded. Only what is looked at is
decoded. The page can be seen from this machine alone, by who knows its address, until Ctrl-C. What may tell of the patient stays
hidden in headers (what is burned into the image does not). Not a medical device, not for diagnosis."""
_MISSING = "install them with pip install 'medzip[view]'"


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "view",
        run,
        summary="look at an archive in the browser (not for diagnosis)",
        description=_DESCRIPTION,
        examples=(
            "medzip view scan.nii.mdz                  prints the address to open",
            "medzip view series.mdz --show-patient     with names, dates and private elements",
        ),
    )
    parser.add_argument("archive", type=Path, metavar="ARC", help="archive")
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="port to listen on (default: any that is free)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="H",
        help="address of this machine to listen on (default: 127.0.0.1; any other sends the scan unencrypted over the network)",
    )
    parser.add_argument("--show-patient", action="store_true", help="show all header elements and the names of files")


def run(arguments: argparse.Namespace, console: Console) -> int:
    try:
        import nibabel  # noqa: F401, its absence is to be told now, not by a page
        import pydicom  # noqa: F401, the same

        from medzip.view import server
        from medzip.view.scan import Scan
    except ImportError as error:
        raise ModelMissingError(f"expected what the page needs, found no module {error.name!r}; {_MISSING}") from error
    scan = Scan(arguments.archive, show_patient=arguments.show_patient)
    secret = secrets.token_urlsafe(16)
    with server.listening(arguments.host, arguments.port) as listener:
        if not server.is_loopback(listener):
            console.warn(
                f"{arguments.host}: who knows the address below can see the scan, and whoever listens on the network too"
            )
        address = server.url(listener, secret, arguments.host)
        console.answer({"archive": str(arguments.archive), "url": address}, f"{arguments.archive}: {address}  (Ctrl-C ends)")
        try:
            server.serve(server.application(scan, secret, arguments.host), listener)
        except KeyboardInterrupt:
            return 0
        finally:
            scan.close()
    return 0


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, found {text!r}")
    return int(text)
