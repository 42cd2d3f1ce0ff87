"""`medzip gateway` with DCMTK's tools as peers."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="the gateway's extra is not installed")

from gateways import archived, configuration, data_set, encoded, instance, running, wait

from medzip.gateway.service import Gateway

TOOLS = ("echoscu", "storescu", "findscu", "getscu", "movescu")
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason=f"expected DCMTK's {', '.join(TOOLS)} (Debian: dcmtk), found not all of them"
)
SENT = [instance(number) for number in range(5)]
STUDY = ("-k", "StudyInstanceUID=1.2.3")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Gateway]:
    """A gateway that archived what storescu sent."""
    folder = tmp_path_factory.mktemp("dcmtk")
    (folder / "sent").mkdir()
    for number, one in enumerate(SENT):
        one.save_as(folder / "sent" / f"{number}.dcm", enforce_file_format=True)
    peers = ("[dicom]", "port = 0", "[[peers]]", "ae_title = 'TOOLS'", "host = '127.0.0.1'", f"port = {port}")
    with running(configuration(folder, *peers)) as started:
        called(started, "storescu", "+sd", folder / "sent")
        wait(archived(started))
        yield started


def called(gateway: Gateway, tool: str, *options: str | Path, folder: Path | None = None) -> str:
    assert gateway.listener is not None
    place = ("-aet", "TOOLS", "-aec", "MEDZIP", "127.0.0.1", str(gateway.listener.port))
    done = subprocess.run([tool, *place, *map(str, options)], capture_output=True, text=True, timeout=60, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_echoscu_is_answered(gateway: Gateway) -> None:
    called(gateway, "echoscu")


def test_findscu_finds(gateway: Gateway) -> None:
    said = called(
        gateway, "findscu", "-S", "-k", "QueryRetrieveLevel=SERIES", *STUDY, "-k", "SeriesInstanceUID", "-k", "Modality=C*"
    )
    assert said.count("1.2.3.4") == 1
    assert "1.2.3.4" not in called(gateway, "findscu", "-S", "-k", "QueryRetrieveLevel=STUDY", *STUDY, "-k", "PatientName=Nobody")


def test_getscu_gets_every_data_set_as_it_was_sent(gateway: Gateway, tmp_path: Path) -> None:
    called(gateway, "getscu", "+B", "-od", tmp_path, "-S", "-k", "QueryRetrieveLevel=STUDY", *STUDY)
    assert sorted(data_set(path.read_bytes()) for path in tmp_path.iterdir()) == sorted(map(encoded, SENT))


def test_movescu_gets_every_data_set_as_it_was_sent(gateway: Gateway, port: int, tmp_path: Path) -> None:
    wanted = ("-k", "QueryRetrieveLevel=STUDY", *STUDY)
    called(gateway, "movescu", "+P", str(port), "-aem", "TOOLS", "+B", "-S", *wanted, folder=tmp_path)  # with +B it ignores -od
    assert sorted(data_set(path.read_bytes()) for path in tmp_path.iterdir()) == sorted(map(encoded, SENT))


def test_a_caller_that_is_not_configured_is_refused(gateway: Gateway) -> None:
    assert gateway.listener is not None
    place = ("-aet", "STRANGER", "-aec", "MEDZIP", "127.0.0.1", str(gateway.listener.port))
    done = subprocess.run(["echoscu", *place], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "Calling AE Title Not Recognized" in done.stdout + done.stderr
