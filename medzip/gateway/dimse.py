"""DICOM over the network (PS3.7, PS3.8): who may call, C-ECHO, and C-STORE of every SOP class, private ones included."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import socketserver
import ssl
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # pynetdicom makes these names at run time
from pynetdicom.transport import ThreadedAssociationServer

import medzip
from medzip.errors import MedzipError, UnsupportedInputError
from medzip.gateway import config
from medzip.gateway.metrics import Metrics
from medzip.gateway.receiving import ForgottenError, OtherInstanceError, Receiver
from medzip.gateway.spool import NoSpaceError

LOG = logging.getLogger("medzip.gateway")
SUCCESS, NO_SPACE, NOT_THE_CLASS, NOT_UNDERSTOOD, NOT_AUTHORIZED, FAILED = 0x0000, 0xA700, 0xA900, 0xC000, 0x0124, 0x0110
CALLING_AE_NOT_RECOGNIZED = (0x01, 0x01, 0x03)
IMPLEMENTATION_CLASS_UID = "2.25.147690646272341890388337738950345286104"
BYTES_BETWEEN_CHECKS = 1 << 26


class Listener:
    """The DICOM listener. `handlers` and `contexts` are those of the services besides C-ECHO and C-STORE."""

    def __init__(
        self, options: config.Dicom, receiver: Receiver, metrics: Metrics, handlers: list[EventHandlerType], contexts: list[str]
    ) -> None:
        self.options, self._receiver, self._metrics = options, receiver, metrics
        self._growth: dict[Association, list[int]] = {}
        self._handlers: list[EventHandlerType] = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_PDU_RECV, self._grows),
            (evt.EVT_DIMSE_RECV, self._complete),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_C_ECHO, lambda _event: SUCCESS),
            (evt.EVT_C_STORE, self._store),
            *handlers,
        ]
        self.entity = entity(options)
        for context in (Verification, *contexts):
            self.entity.add_supported_context(context)
        self._server: _Server | None = None

    def start(self) -> None:
        """Raises OSError where the address cannot be had."""
        # Of the process, as pynetdicom has it: all that is no known service is storage; what comes goes to the spool's disk,
        # not into memory.
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        _config.STORE_RECV_CHUNKED_DATASET = _config.STORE_SEND_CHUNKED_DATASET = True
        _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
        tempfile.tempdir = str(self._receiver.spool.partial)
        tls = self.options.tls.server() if self.options.tls else None
        place = self.options.host, self.options.port
        contexts = self.entity.supported_contexts
        self._server = _Server(self.entity, place, self.entity.ae_title, contexts, tls, evt_handlers=self._handlers)
        self._server.allows = self._allows
        threading.Thread(target=self._server.serve_forever, args=(0.2,), name="dicom", daemon=True).start()

    @property
    def port(self) -> int:
        assert self._server is not None and self._server.socket is not None
        return int(self._server.socket.getsockname()[1])

    def end(self) -> None:
        """Ends the listener; associations that are open are aborted, what they had not acknowledged is dropped."""
        if self._server:
            self._server.shutdown()
        self.entity.shutdown()
        tempfile.tempdir = None

    def _allows(self, address: str) -> bool:
        """Whether a connection from an address is let in at all."""
        peers = self.options.peers
        return not peers or any(_from(peer, address) for peer in peers)

    def _requested(self, event: evt.Event) -> None:
        """Refuses who may not call under its name from its address; puts the transfer syntaxes that are wanted first."""
        request = event.assoc.requestor.primitive
        assert request is not None
        peer = self.options.peer(request.calling_ae_title.strip())
        if self.options.peers and (peer is None or not _from(peer, event.assoc.requestor.address)):
            self._metrics.add("associations_refused_total")
            LOG.warning("refused an association: the peer is not configured, or not at that address")
            event.assoc.acse.send_reject(*CALLING_AE_NOT_RECOGNIZED)
            event.assoc.kill()
            return
        if peer and peer.transfer_syntaxes:
            order = {syntax: place for place, syntax in enumerate(peer.transfer_syntaxes)}
            for context in request.presentation_context_definition_list:
                context.transfer_syntax = sorted(context.transfer_syntax, key=lambda syntax: order.get(str(syntax), len(order)))

    def _grows(self, event: evt.Event) -> None:
        """Aborts an association whose message is too large, or fills the disk."""
        growth = self._growth.setdefault(event.assoc, [0, 0])
        growth[0] += getattr(event.pdu, "pdu_length", 0)
        try:
            if growth[0] - growth[1] >= BYTES_BETWEEN_CHECKS:
                growth[1] = growth[0]
                self._receiver.spool.check_space()
            if growth[0] > self.options.maximum_instance_bytes:
                raise NoSpaceError("too large")
        except MedzipError:
            self._metrics.add("instances_refused_total")
            LOG.warning("aborted an association: an instance is larger than allowed, or would fill the disk")
            event.assoc.abort()

    def _complete(self, event: evt.Event) -> None:
        self._growth.pop(event.assoc, None)

    def _closed(self, event: evt.Event) -> None:
        """Drops what was received of a message that did not end."""
        self._growth.pop(event.assoc, None)
        message = event.assoc.dimse.message
        file = getattr(message, "_data_set_file", None)
        if file is not None:
            file.close()
            Path(file.name).unlink(missing_ok=True)

    def _store(self, event: evt.Event) -> int:
        request: Any = event.request
        path = event.dataset_path
        try:
            if request._dataset_file:
                request._dataset_file.close()
            self._receiver.take(path, sop_class=request.AffectedSOPClassUID, instance=request.AffectedSOPInstanceUID)
            return SUCCESS
        except Exception as error:  # no way but success may acknowledge, and none may end the listener
            self._metrics.add("instances_refused_total")
            status = status_of(error)
            LOG.warning("refused an instance with %04X: %s", status, type(error).__name__)
            return status
        finally:
            path.unlink(missing_ok=True)


def entity(options: config.Dicom) -> AE:
    """An application entity with the configured title and limits, as a server or, for C-MOVE, as a client."""
    made = AE(options.ae_title)
    made.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    made.implementation_version_name = f"MEDZIP {medzip.__version__}"[:16]
    made.maximum_associations = options.maximum_associations
    made.maximum_pdu_size = 1 << 17
    made.acse_timeout = made.dimse_timeout = made.network_timeout = options.timeout_seconds
    return made


def status_of(error: Exception) -> int:
    """The status of a C-STORE that failed (PS3.4 table B.2-1)."""
    match error:
        case NoSpaceError():
            return NO_SPACE
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return NO_SPACE
        case ForgottenError():
            return NOT_AUTHORIZED
        case OtherInstanceError():
            return NOT_THE_CLASS
        case UnsupportedInputError():
            return NOT_UNDERSTOOD
        case MedzipError(exit_code=6):
            return NO_SPACE
    return FAILED


def _from(peer: config.Peer, address: str) -> bool:
    if not peer.addresses:
        return True
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in ipaddress.ip_network(network) for network in peer.addresses)


class _Server(ThreadedAssociationServer):
    """pynetdicom's, which lets in some addresses only, and does not wait for a handshake before it answers the next."""

    allows: Callable[[str], bool]

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002, socketserver's names
        return self.allows(str(client_address[0]))

    def shutdown(self) -> None:
        """As socketserver has it; pynetdicom's looks for itself among servers that the entity started."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        assert self.socket is not None
        connection, address = self.socket.accept()
        if self.ssl_context:
            connection.settimeout(self.ae.network_timeout)
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In a thread of the connection: its handshake, and then the association."""
        if isinstance(request, ssl.SSLSocket):
            try:
                request.do_handshake()
            except OSError:
                self.shutdown_request(request)
                return
        super().process_request_thread(request, client_address)
