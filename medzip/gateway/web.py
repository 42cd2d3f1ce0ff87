"""DICOMweb (PS3.18): STOW-RS, QIDO-RS and WADO-RS below /dicom-web; /metrics, /healthz and /readyz beside it."""

from __future__ import annotations

import hmac
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from medzip.errors import MedzipError, UnsupportedInputError
from medzip.gateway import config, matching
from medzip.gateway.dimse import status_of
from medzip.gateway.headers import LEVELS, Header
from medzip.gateway.index import Index
from medzip.gateway.metrics import Metrics
from medzip.gateway.multipart import BrokenBodyError, Parts, parameters
from medzip.gateway.receiving import Receiver
from medzip.gateway.retrieval import Retriever
from medzip.gateway.wado import Wado

LOG = logging.getLogger("medzip.gateway")
ROOT = "/dicom-web"
OPEN = ("/healthz", "/readyz")
"""What answers without a token: it tells nothing but that."""
JSON = "application/dicom+json"
MOST_RESULTS = 10_000
ALWAYS = {
    "STUDY": ("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", matching.MODALITIES),
    "SERIES": ("NumberOfSeriesRelatedInstances",),
    "IMAGE": (),
}


class Web:
    """The DICOMweb listener. `health` and `ready` are asked for each look at /healthz and /readyz."""

    def __init__(
        self,
        options: config.Web,
        receiver: Receiver,
        index: Index,
        retriever: Retriever,
        metrics: Metrics,
        health: Callable[[], bool],
        ready: Callable[[], bool],
    ) -> None:
        self.options, self._receiver, self._index, self._metrics = options, receiver, index, metrics
        self._wado = Wado(index, retriever, metrics)
        self._health, self._ready = health, ready
        self._server: uvicorn.Server | None = None
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Raises OSError where the address cannot be had."""
        family = socket.AF_INET6 if ":" in self.options.host else socket.AF_INET
        self._socket = socket.create_server((self.options.host, self.options.port), family=family)
        tls = self.options.tls
        settings: dict[str, Any] = {}
        if tls:
            context = tls.server()
            settings = {"ssl_context_factory": lambda _config, _default: context}
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.application(),
                lifespan="off",
                ws="none",
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=self.options.maximum_requests,
                timeout_graceful_shutdown=5,
                **settings,
            )
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="web", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)

    @property
    def port(self) -> int:
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    def end(self) -> None:
        if self._server and self._thread:
            self._server.should_exit = True
            self._thread.join()
        if self._socket:
            self._socket.close()

    def application(self) -> ASGIApp:
        series, instance = "/studies/{study}/series/{series}", "/studies/{study}/series/{series}/instances/{instance}"
        dicom = [
            Route("/studies", self._stow, methods=["POST"]),
            Route("/studies/{study}", self._stow, methods=["POST"]),
            *(Route(path, self._query("STUDY")) for path in ("/studies",)),
            *(Route(path, self._query("SERIES")) for path in ("/series", "/studies/{study}/series")),
            *(Route(path, self._query("IMAGE")) for path in ("/instances", "/studies/{study}/instances", f"{series}/instances")),
            *(Route(path, self._wado.instances) for path in ("/studies/{study}", series, instance)),
            *(Route(f"{path}/metadata", self._wado.metadata) for path in ("/studies/{study}", series, instance)),
            Route(f"{instance}/frames/{{frames}}", self._wado.frames),
        ]
        routes = [
            Mount(ROOT, routes=dicom),
            Route("/metrics", lambda _request: PlainTextResponse(self._metrics.text(), media_type="text/plain; version=0.0.4")),
            Route("/healthz", lambda _request: _told(self._health())),
            Route("/readyz", lambda _request: _told(self._ready())),
        ]
        middleware = []
        if config.is_loopback(self.options.host):  # a page in a browser of this machine must not get in by a name of its own
            hosts = ["127.0.0.1", "localhost", "[::1]"]
            middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False))
        app = Starlette(
            routes=routes,
            middleware=middleware,
            exception_handlers={HTTPException: _refused, MedzipError: _failed, Exception: _failed},
        )
        return _Authorized(app, self.options.token)

    def _query(self, level: str) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            self._metrics.add("queries_total")
            keys, limit, offset = _asked(request, level)
            found = matching.find(self._index, matching.Query(level, keys))
            base = f"{request.url.scheme}://{request.url.netloc}{ROOT}"
            results, more = [], False
            for number, values in enumerate(found):
                if number >= offset + limit:
                    more = True
                    break
                if number >= offset:
                    results.append(_result(level, values, base))
            headers = {"Warning": '299 medzip "there are more results; narrow the query or use offset"'} if more else {}
            return JSONResponse(results, media_type=JSON, headers=headers)

        return answer

    async def _stow(self, request: Request) -> Response:
        media, options = parameters(request.headers.get("content-type", ""))
        if media != "multipart/related" or options.get("type", "application/dicom").lower() != "application/dicom":
            raise HTTPException(415, 'expected multipart/related; type="application/dicom"')
        parts = None
        try:
            parts = Parts(options.get("boundary", ""), self._receiver.spool.partial_path)
            size = 0
            async for data in request.stream():
                size += len(data)
                if size > self.options.maximum_request_bytes:
                    raise HTTPException(413, f"expected at most {self.options.maximum_request_bytes} bytes")
                await run_in_threadpool(self._feed, parts, data)
            parts.end()
            return await run_in_threadpool(self._stored, parts, request)
        except BrokenBodyError as error:
            raise HTTPException(400, str(error)) from None
        finally:
            if parts:
                await run_in_threadpool(parts.close)

    def _feed(self, parts: Parts, data: bytes) -> None:
        self._receiver.spool.check_space(len(data))
        parts.feed(data)

    def _stored(self, parts: Parts, request: Request) -> Response:
        study = request.path_params.get("study")
        stored: list[Header] = []
        failed: list[int] = []
        for part in parts.parts:
            try:
                if part.content_type not in ("application/dicom", ""):
                    raise UnsupportedInputError("expected application/dicom")
                stored.append(self._receiver.take(part.path, study=study))
            except (MedzipError, OSError) as error:
                self._metrics.add("instances_refused_total")
                failed.append(status_of(error))
                LOG.warning("refused an instance with %04X: %s", failed[-1], type(error).__name__)
        base = f"{request.url.scheme}://{request.url.netloc}{ROOT}"
        code = 200 if not failed else 202 if stored else 409
        return JSONResponse(_stow_answer(stored, failed, base), code, media_type=JSON)


class _Authorized:
    """Refuses who does not show the token, where there is one."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and self._token and scope["path"] not in OPEN:
            shown = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(shown, b"Bearer " + self._token.encode()):
                app = PlainTextResponse("expected a bearer token", 401, {"WWW-Authenticate": "Bearer"})
        if scope["type"] == "http":
            await app(scope, receive, send)


def _asked(request: Request, level: str) -> tuple[dict[str, str], int, int]:
    """Keys of a query, how many results at most, and how many to leave out. Raises HTTPException."""
    from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

    known = matching.Query(level, {}).known()
    keys = dict.fromkeys(ALWAYS[level], "")
    limit, offset = MOST_RESULTS, 0
    for name, value in request.query_params.multi_items():
        if name in ("limit", "offset"):
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise HTTPException(400, f"expected a number as {name}")
            limit, offset = (min(int(value), limit), offset) if name == "limit" else (limit, int(value))
            continue
        if name in ("includefield", "fuzzymatching"):  # all that is known comes anyway; names fit as in C-FIND
            continue
        keyword = keyword_for_tag(int(name, 16)) if len(name) == 8 and tag_for_keyword(name) is None and _is_hex(name) else name
        if keyword not in known:
            raise HTTPException(400, "expected attributes that this level is queried by, found another")
        keys[keyword] = value.replace(",", "\\") if keyword in matching.UIDS or dictionary_VR(keyword) == "UI" else value
    for part, keyword in (("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID")):
        if part in request.path_params:
            keys[keyword] = request.path_params[part]
    return keys, limit, offset


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdefABCDEF" for character in text)


def _result(level: str, values: dict[str, str], base: str) -> dict[str, Any]:
    """An item of a QIDO-RS answer, with all that is known of its level and those above."""
    from pydicom.dataset import Dataset

    from medzip.gateway.query_retrieve import typed

    found = Dataset()
    for keyword, value in values.items():
        if keyword in (*ALWAYS[level], *(known for one in LEVELS.values() for known in one)):
            setattr(found, keyword, typed(keyword, value))
    url = f"{base}/studies/{values['StudyInstanceUID']}"
    url += f"/series/{values['SeriesInstanceUID']}" if level != "STUDY" else ""
    url += f"/instances/{values['SOPInstanceUID']}" if level == "IMAGE" else ""
    found.RetrieveURL, found.InstanceAvailability = url, "ONLINE"
    return dict(found.to_json_dict(suppress_invalid_tags=True))


def _stow_answer(stored: list[Header], failed: list[int], base: str) -> dict[str, Any]:
    """PS3.18 section 10.5.3; of an instance that failed nothing is repeated but the reason."""

    def reference(header: Header) -> dict[str, Any]:
        url = f"{base}/studies/{header.study}/series/{header.series}/instances/{header.instance}"
        return {
            "00081150": {"vr": "UI", "Value": [header.sop_class]},
            "00081155": {"vr": "UI", "Value": [header.instance]},
            "00081190": {"vr": "UR", "Value": [url]},
        }

    answer: dict[str, Any] = {}
    if stored:
        answer["00081199"] = {"vr": "SQ", "Value": [reference(header) for header in stored]}
    if failed:
        answer["00081198"] = {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}} for reason in failed]}
    return answer


def _told(good: bool) -> Response:
    return PlainTextResponse("yes\n" if good else "no\n", 200 if good else 503)


def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _failed(_request: Request, error: Exception) -> Response:
    LOG.error("a request failed: %s", type(error).__name__)
    full = status_of(error) == 0xA700
    return JSONResponse({"error": type(error).__name__}, 507 if full else 500)
