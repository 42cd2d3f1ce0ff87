"""The gateway's configuration: one TOML file, checked as a whole before anything starts.

An error names the file, the key, what was expected and what was found. Interfaces that others reach need TLS with certificates of
both sides (DICOM), that or a bearer token (DICOMweb), or an `insecure = true` that somebody wrote on purpose.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medzip import pipeline
from medzip.errors import StorageError, UsageError
from medzip.presets import PRESETS

AE_TITLE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?", re.ASCII)
UID = re.compile(r"[0-9.]{1,64}", re.ASCII)
TOKEN_CHARACTERS = 32
GIB = 1 << 30


@dataclass(frozen=True)
class Tls:
    """Files in PEM: our certificate and its key, and the authorities whose certificates the other side may show."""

    certificate: Path
    key: Path
    authorities: Path | None

    def server(self) -> ssl.SSLContext:
        """Of a server; with `authorities`, clients without a certificate of theirs are refused. Raises OSError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        if self.authorities:
            context.load_verify_locations(self.authorities)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self) -> ssl.SSLContext:
        """Of a client that shows its certificate. Raises OSError."""
        context = ssl.create_default_context(cafile=self.authorities)
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True)
class Peer:
    """An application entity that may call: from `addresses` only, where some are named.

    `host` and `port` are where instances are sent that it is named as the destination of; None where it is none.
    `transfer_syntaxes` are accepted in this order before all others that it proposes.
    """

    ae_title: str
    addresses: tuple[str, ...]
    host: str | None
    port: int | None
    tls: bool
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True)
class Archive:
    """Where instances go. A series is closed when none of it came for `quiet_seconds`."""

    store: Path
    spool: Path
    preset: str
    jobs: int
    key_file: Path | None
    quiet_seconds: float
    minimum_free_bytes: int
    cache_bytes: int
    worker_memory_bytes: int
    worker_silent_seconds: int
    show_names: bool


@dataclass(frozen=True)
class Dicom:
    """The DICOM listener; None in Config where there is none."""

    ae_title: str
    host: str
    port: int
    tls: Tls | None
    maximum_associations: int
    maximum_instance_bytes: int
    timeout_seconds: int
    peers: tuple[Peer, ...]

    def peer(self, ae_title: str) -> Peer | None:
        return next((peer for peer in self.peers if peer.ae_title == ae_title), None)


@dataclass(frozen=True)
class Web:
    """The DICOMweb listener; None in Config where there is none."""

    host: str
    port: int
    tls: Tls | None
    token: str | None
    maximum_request_bytes: int
    maximum_requests: int


@dataclass(frozen=True)
class Watch:
    """A folder whose files are taken once they have not changed for `stable_seconds`; what is no DICOM goes to `poison`."""

    folder: Path
    poison: Path
    stable_seconds: float


@dataclass(frozen=True)
class Config:
    archive: Archive
    dicom: Dicom | None
    web: Web | None
    watch: Watch | None


def load(path: Path) -> Config:
    """Reads and checks a configuration. Raises StorageError where the file cannot be read, UsageError for what is wrong in it."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: expected a configuration: {error.strerror}; check the path") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"{path}: expected a file in TOML, found another ({error})") from error
    top = _Table(path, "", values)
    archive = _archive(top.table("archive"))
    dicom = _dicom(top.table("dicom"), top.tables("peers")) if "dicom" in values else None
    if dicom is None and "peers" in values:
        raise top.wrong("peers", "a [dicom] section for the peers", "none")
    web = _web(top.table("web")) if "web" in values else None
    watch = _watch(top.table("watch"), archive) if "watch" in values else None
    top.end()
    if not (dicom or web or watch):
        raise UsageError(f"{path}: expected a section [dicom], [web] or [watch], found none of them: nothing would come in")
    return Config(archive, dicom, web, watch)


class _Table:
    """A table of the file, from which each key is taken once."""

    def __init__(self, file: Path, name: str, values: Mapping[str, Any]) -> None:
        self._file, self._name, self._left = file, name, dict(values)
        self._known: list[str] = []

    def wrong(self, key: str, expected: str, found: object) -> UsageError:
        where = f"[{self._name}] {key}" if self._name else key
        return UsageError(f"{self._file}: {where}: expected {expected}, found {found}")

    def take(self, key: str, kind: type, expected: str, default: Any = ...) -> Any:
        self._known.append(key)
        value = self._left.pop(key, default)
        if value is ...:
            raise self.wrong(key, expected, "nothing")
        if value is not default and (not isinstance(value, kind) or (kind is not bool and isinstance(value, bool))):
            raise self.wrong(key, expected, repr(value))
        return value

    def text(self, key: str, expected: str, pattern: re.Pattern[str], default: Any = ...) -> Any:
        value = self.take(key, str, expected, default)
        if value is not default and not pattern.fullmatch(value):
            raise self.wrong(key, expected, repr(value))
        return value

    def number(self, key: str, low: int, high: int, default: Any = ...) -> Any:
        expected = f"a whole number from {low} to {high}"
        value = self.take(key, int, expected, default)
        if value is not default and not low <= value <= high:
            raise self.wrong(key, expected, value)
        return value

    def seconds(self, key: str, default: float) -> float:
        expected = "seconds, a number from 0 to 86400"
        value = self.take(key, int | float, expected, default)  # type: ignore[arg-type]  # a union serves isinstance as well
        if not 0 <= value <= 86_400:
            raise self.wrong(key, expected, value)
        return float(value)

    def flag(self, key: str) -> bool:
        return bool(self.take(key, bool, "true or false", False))

    def path(self, key: str, default: Any = ...) -> Any:
        """An absolute path: what a relative one means depends on who starts the gateway where."""
        value = self.take(key, str, "an absolute path", default)
        if value is not default:
            if not Path(value).is_absolute():
                raise self.wrong(key, "an absolute path", repr(value))
            return Path(value)
        return value

    def file(self, key: str, default: Any = ...) -> Any:
        value = self.path(key, default)
        if isinstance(value, Path) and not value.is_file():
            raise self.wrong(key, "a file that can be read", f"none at {value}")
        return value

    def texts(self, key: str, expected: str, check: Any) -> tuple[str, ...]:
        values = self.take(key, list, expected, [])
        for value in values:
            if not isinstance(value, str) or not check(value):
                raise self.wrong(key, expected, repr(value))
        return tuple(values)

    def table(self, key: str) -> _Table:
        return _Table(self._file, key, self.take(key, dict, "a section"))

    def tables(self, key: str) -> list[_Table]:
        values = self.take(key, list, f"sections [[{key}]]", [])
        if not all(isinstance(value, dict) for value in values):
            raise self.wrong(key, f"sections [[{key}]]", "something else")
        return [_Table(self._file, f"{key} {number}", value) for number, value in enumerate(values, 1)]

    def end(self) -> None:
        """Raises UsageError where a key is left that nobody asked for."""
        for key in self._left:
            raise self.wrong(key, f"one of the keys {', '.join(sorted(self._known))}", f"the key {key!r}")


def _archive(table: _Table) -> Archive:
    expected = "a preset whose archives every machine decodes, as 'default'"
    preset = table.take("preset", str, expected, "default")
    if preset not in PRESETS or not pipeline.is_portable(preset):
        raise table.wrong("preset", expected, repr(preset))
    found = Archive(
        store=table.path("store"),
        spool=table.path("spool"),
        preset=preset,
        jobs=table.number("jobs", 1, 1024, 1),
        key_file=table.file("key_file", None),
        quiet_seconds=table.seconds("quiet_seconds", 60),
        minimum_free_bytes=table.number("minimum_free_bytes", 0, 1 << 60, 10 * GIB),
        cache_bytes=table.number("cache_bytes", 0, 1 << 60, 10 * GIB),
        worker_memory_bytes=table.number("worker_memory_bytes", GIB, 1 << 60, 16 * GIB),
        worker_silent_seconds=table.number("worker_silent_seconds", 10, 86_400, 900),
        show_names=table.flag("show_names"),
    )
    table.end()
    for one, other in ((found.store, found.spool), (found.spool, found.store)):
        if one.resolve().is_relative_to(other.resolve()):
            raise table.wrong("spool", "a folder apart from that of the store", "one inside the other")
    return found


def _dicom(table: _Table, peers: list[_Table]) -> Dicom:
    host, insecure = _host(table), table.flag("insecure")
    tls = _tls(table, authorities=True)
    found = Dicom(
        ae_title=table.text("ae_title", "an AE title of 1 to 16 characters", AE_TITLE, "MEDZIP"),
        host=host,
        port=table.number("port", 0, 65_535, 11_112),
        tls=tls,
        maximum_associations=table.number("maximum_associations", 1, 1000, 20),
        maximum_instance_bytes=table.number("maximum_instance_bytes", 1 << 20, 1 << 40, 8 * GIB),
        timeout_seconds=table.number("timeout_seconds", 1, 86_400, 60),
        peers=tuple(_peer(peer, tls) for peer in peers),
    )
    if not (is_loopback(host) or insecure):
        if tls is None:
            raise table.wrong(
                "host", "127.0.0.1, or tls_certificate, tls_key and tls_authorities, or insecure = true", f"{host} without them"
            )
        if not found.peers:
            raise table.wrong("host", "127.0.0.1, or [[peers]] that may call, or insecure = true", f"{host} and no peers")
    table.end()
    titles = [peer.ae_title for peer in found.peers]
    for title in titles:
        if titles.count(title) > 1:
            raise table.wrong("peers", "each AE title once", f"{title!r} more than once")
    return found


def _peer(table: _Table, tls: Tls | None) -> Peer:
    def is_network(text: str) -> bool:
        try:
            ipaddress.ip_network(text)
        except ValueError:
            return False
        return True

    found = Peer(
        ae_title=table.text("ae_title", "an AE title of 1 to 16 characters", AE_TITLE),
        addresses=table.texts("addresses", "IP addresses or networks, as in ['192.0.2.7', '198.51.100.0/24']", is_network),
        host=table.take("host", str, "a host name or an address", None),
        port=table.number("port", 1, 65_535, None),
        tls=table.flag("tls"),
        transfer_syntaxes=table.texts("transfer_syntaxes", "transfer syntax UIDs", UID.fullmatch),
    )
    table.end()
    if (found.host is None) != (found.port is None):
        raise table.wrong("host", "host and port, or neither", "one of them")
    if found.tls and tls is None:
        raise table.wrong("tls", "tls_certificate and tls_key in [dicom] for it", "none")
    return found


def _web(table: _Table) -> Web:
    token_file = table.file("token_file", None)
    token = None
    if token_file is not None:
        token = token_file.read_text("utf-8").strip()
        if len(token) < TOKEN_CHARACTERS or not token.isascii():
            raise table.wrong("token_file", f"a token of {TOKEN_CHARACTERS} ASCII characters or more in the file", "another")
    host = _host(table)
    found = Web(
        host=host,
        port=table.number("port", 0, 65_535, 8_042),
        tls=_tls(table, authorities=False),
        token=token,
        maximum_request_bytes=table.number("maximum_request_bytes", 1 << 20, 1 << 44, 16 * GIB),
        maximum_requests=table.number("maximum_requests", 1, 10_000, 32),
    )
    insecure = table.flag("insecure")
    proven = found.tls and (found.tls.authorities or token)
    if not (is_loopback(host) or proven or insecure):
        raise table.wrong(
            "host",
            "127.0.0.1, or tls_certificate and tls_key with tls_authorities or token_file, or insecure = true",
            f"{host} without them",
        )
    table.end()
    return found


def _watch(table: _Table, archive: Archive) -> Watch:
    found = Watch(table.path("folder"), table.path("poison"), table.seconds("stable_seconds", 10))
    table.end()
    folders = {"poison": found.poison, "store": archive.store, "spool": archive.spool}
    for key, other in folders.items():
        for one, two in ((found.folder, other), (other, found.folder)):
            if one.resolve().is_relative_to(two.resolve()):
                raise table.wrong("folder", f"a folder apart from that of {key}", "one inside the other")
    return found


def _host(table: _Table) -> str:
    """An address: a name could come to mean another interface without anybody noticing."""
    host = str(table.take("host", str, "an IP address of this machine", "127.0.0.1"))
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise table.wrong("host", "an IP address of this machine", repr(host)) from None
    return host


def is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback


def _tls(table: _Table, *, authorities: bool) -> Tls | None:
    """What the keys tls_... say; with `authorities` those belong to it."""
    certificate, key, trusted = (table.file(f"tls_{name}", None) for name in ("certificate", "key", "authorities"))
    given = [name for name, value in (("certificate", certificate), ("key", key), ("authorities", trusted)) if value]
    if not given:
        return None
    needed = ("certificate", "key", "authorities") if authorities else ("certificate", "key")
    for name in needed:
        if name not in given:
            raise table.wrong(f"tls_{name}", f"a file, as tls_{given[0]} is there", "nothing")
    tls = Tls(certificate, key, trusted)
    try:
        tls.server()
        if trusted:
            tls.client()
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror
        raise table.wrong("tls_certificate", "certificate, key and authorities in PEM that fit", f"others ({reason})") from error
    return tls
