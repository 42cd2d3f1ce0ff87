"""`medzip gateway`: the configuration is checked as a whole, and nothing is open to others by accident."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="the gateway's extra is not installed")

from gateways import CLASS, configuration, running
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from medzip import pipeline
from medzip.cli import main
from medzip.errors import MedzipError
from medzip.gateway import config

DICOM, WEB = ("[dicom]", "port = 0"), ("[web]", "port = 0")
OUTSIDE = "host = '192.0.2.1'"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((*DICOM, "portt = 1"), r"\[dicom\] portt: expected one of the keys .*port.*, found the key 'portt'"),
        (("[dicom]", "port = 'x'"), r"\[dicom\] port: expected a whole number from 0 to 65535, found 'x'"),
        (("[dicom]", "port = true"), r"\[dicom\] port: expected a whole number .*, found True"),
        (("[dicom]", "port = 70000"), r"\[dicom\] port: expected a whole number .*, found 70000"),
        (("[dicom]", "ae_title = '12345678901234567'"), r"\[dicom\] ae_title: expected an AE title of 1 to 16 characters"),
        (("[dicom]", "host = 'localhost'"), r"\[dicom\] host: expected an IP address"),
        (
            (*DICOM, "[[peers]]", "ae_title = 'A'", "addresses = ['x']"),
            r"\[peers 1\] addresses: expected IP addresses or networks",
        ),
        ((*DICOM, "[[peers]]", "ae_title = 'A'", "host = 'pacs'"), r"\[peers 1\] host: expected host and port, or neither"),
        ((*DICOM, "[[peers]]", "ae_title = 'A'", "[[peers]]", "ae_title = 'A'"), "each AE title once"),
        ((*DICOM, "[[peers]]", "ae_title = 'A'", "tls = true"), r"\[peers 1\] tls: expected tls_certificate and tls_key"),
        ((*DICOM, OUTSIDE), r"\[dicom\] host: expected 127.0.0.1, or tls_certificate, .*, or insecure = true, found 192.0.2.1"),
        (("[dicom]", "host = '0.0.0.0'"), r"\[dicom\] host: expected 127.0.0.1, or tls_"),
        ((*WEB, OUTSIDE), r"\[web\] host: expected 127.0.0.1, or tls_certificate and tls_key with tls_authorities or token_file"),
        ((*WEB, "token_file = '{folder}/token'", OUTSIDE), r"\[web\] host: expected 127.0.0.1, or tls_"),
        ((*WEB, "token_file = '{folder}/short'"), r"\[web\] token_file: expected a token of 32 ASCII characters"),
        ((*WEB, "tls_key = '/nowhere'"), r"\[web\] tls_key: expected a file that can be read, found none at /nowhere"),
        ((*WEB, "tls_key = '{folder}/token'"), r"\[web\] tls_certificate: expected a file, as tls_key is there, found nothing"),
        (("[peers]",), "peers: expected"),
        (
            ("[watch]", "folder = '{folder}/spool/in'", "poison = '/p'"),
            r"\[watch\] folder: expected a folder apart from that of spool",
        ),
        (("[watch]", "folder = 'in'", "poison = '/p'"), r"\[watch\] folder: expected an absolute path, found 'in'"),
        (("[nothing]",), r"expected one of the keys|expected a section"),
        (("x = 1",), r"\[archive\] x: expected one of the keys"),
        (("= 1",), "expected a file in TOML"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    (tmp_path / "token").write_text("t" * 40)
    (tmp_path / "short").write_text("t" * 8)
    with pytest.raises(MedzipError, match=said) as error:
        configuration(tmp_path, *(line.replace("{folder}", str(tmp_path)) for line in lines))
    assert str(tmp_path / "gateway.toml") in str(error.value)


def test_secrets_of_a_configuration_are_not_told(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("sesame")
    with pytest.raises(MedzipError) as error:
        configuration(tmp_path, *WEB, f"token_file = '{tmp_path}/short'")
    assert "sesame" not in str(error.value)


@pytest.mark.parametrize("lines", [(*DICOM, OUTSIDE, "insecure = true"), (*WEB, OUTSIDE, "insecure = true")])
def test_insecure_has_to_be_said(tmp_path: Path, lines: tuple[str, ...]) -> None:
    configuration(tmp_path, *lines)


def test_archives_that_not_every_machine_decodes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "is_portable", lambda preset: preset != "llm")  # llm's own answer takes torch
    for preset in ("llm", "nothing"):
        with pytest.raises(MedzipError, match="preset: expected a preset whose archives every machine decodes"):
            configuration(tmp_path, *DICOM, preset=preset)


def test_the_check_tells_good_from_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration(tmp_path)
    assert main(["gateway", str(tmp_path / "gateway.toml"), "--check"]) == 0
    (tmp_path / "gateway.toml").write_text("[archive]")
    assert main(["gateway", str(tmp_path / "gateway.toml"), "--check"]) == 1
    assert "[archive] store: expected an absolute path, found nothing" in capsys.readouterr().err


def test_the_example_is_good_and_every_key_is_documented() -> None:
    docs = Path(__file__).resolve().parents[1] / "docs"
    options = config.load(docs / "gateway" / "gateway.toml")
    assert options.dicom is not None and options.dicom.peers[0].ae_title == "ORTHANC" and options.web is not None
    told = set(re.findall("`([a-z_]+)`", (docs / "gateway.md").read_text()))
    known = [
        field.name for kind in (config.Archive, config.Dicom, config.Web, config.Watch, config.Peer) for field in fields(kind)
    ]
    assert set(known) - told == {"peers", "token"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-signed certificates of two parties for 127.0.0.1, and of a stranger."""
    if not shutil.which("openssl"):
        pytest.skip("expected openssl to make certificates with, found none")
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("gateway", "peer", "stranger"):
        call = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        call += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"]
        subprocess.run(call, check=True, capture_output=True)
    return folder


def own_tls(folder: Path) -> tuple[str, ...]:
    files = {"certificate": "gateway.pem", "key": "gateway.key", "authorities": "peer.pem"}
    return tuple(f"tls_{name} = '{folder}/{file}'" for name, file in files.items())


@pytest.mark.parametrize(("caller", "good"), [("peer", True), ("stranger", False), (None, False)])
def test_only_certificates_that_are_trusted_get_in(tmp_path: Path, certificates: Path, caller: str | None, good: bool) -> None:
    options = configuration(tmp_path, *DICOM, *own_tls(certificates), "timeout_seconds = 5", *WEB, *own_tls(certificates))
    with running(options) as gateway:
        assert gateway.listener is not None and gateway.web is not None
        context = ssl.create_default_context(cafile=certificates / "gateway.pem")
        if caller:
            context.load_cert_chain(certificates / f"{caller}.pem", certificates / f"{caller}.key")
        entity = AE("TESTER")
        entity.add_requested_context(Verification)
        entity.add_requested_context(CLASS)
        peer = entity.associate("127.0.0.1", gateway.listener.port, tls_args=(context, "127.0.0.1"))
        assert peer.is_established == good
        if good:
            assert peer.send_c_echo().Status == 0
            peer.release()
        import urllib.request

        address = f"https://127.0.0.1:{gateway.web.port}/healthz"
        if good:
            with urllib.request.urlopen(address, context=context, timeout=10) as answer:
                assert answer.read() == b"yes\n"
        else:
            with pytest.raises(OSError):
                urllib.request.urlopen(address, context=context, timeout=10)


def test_who_says_nothing_does_not_keep_others_from_getting_in(tmp_path: Path, certificates: Path) -> None:
    import socket

    with running(configuration(tmp_path, *DICOM, *own_tls(certificates), "timeout_seconds = 5")) as gateway:
        assert gateway.listener is not None
        with socket.create_connection(("127.0.0.1", gateway.listener.port)):
            context = ssl.create_default_context(cafile=certificates / "gateway.pem")
            context.load_cert_chain(certificates / "peer.pem", certificates / "peer.key")
            entity = AE("TESTER")
            entity.add_requested_context(Verification)
            peer = entity.associate("127.0.0.1", gateway.listener.port, tls_args=(context, "127.0.0.1"))
            assert peer.is_established
            peer.release()


def test_a_peer_gets_in_from_its_addresses_alone(tmp_path: Path) -> None:
    peers = (
        "[[peers]]",
        "ae_title = 'NEAR'",
        "addresses = ['127.0.0.0/8']",
        "[[peers]]",
        "ae_title = 'FAR'",
        "addresses = ['192.0.2.0/24']",
    )
    with running(configuration(tmp_path, *DICOM, *peers)) as gateway:
        assert gateway.listener is not None
        for title, good in (("NEAR", True), ("FAR", False), ("OTHER", False)):
            entity = AE(title)
            entity.add_requested_context(Verification)
            peer = entity.associate("127.0.0.1", gateway.listener.port)
            assert (peer.is_established, peer.is_rejected) == (good, not good)
            if good:
                peer.release()
        assert gateway.metrics.value("associations_refused_total") == 2


def test_a_peer_s_own_order_of_transfer_syntaxes_counts(tmp_path: Path) -> None:
    peers = ("[[peers]]", "ae_title = 'A'", "transfer_syntaxes = ['1.2.840.10008.1.2.4.70']", "[[peers]]", "ae_title = 'B'")
    proposed = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"]
    with running(configuration(tmp_path, *DICOM, *peers)) as gateway:
        assert gateway.listener is not None
        for title, taken in (("A", proposed[1]), ("B", proposed[0])):
            entity = AE(title)
            entity.add_requested_context(CLASS, proposed)
            peer = entity.associate("127.0.0.1", gateway.listener.port)
            assert [str(one.transfer_syntax[0]) for one in peer.accepted_contexts] == [taken]
            peer.release()
