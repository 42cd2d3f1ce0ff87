"""The web server of the page. It answers only who knows the secret in its address, asks for this machine by name, and only reads.

Loopback is no protection by itself: every user of the machine reaches it, and so does every page in the user's browser, by
DNS rebinding even with answers. Hence the secret (as Jupyter has one) and the check of the Host header; the Content Security
Policy is for texts of archives that are markup.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medzip.errors import MedzipError, UsageError
from medzip.view.scan import Scan

PAGE = {"": ("index.html", "text/html"), "view.css": ("view.css", "text/css"), "view.js": ("view.js", "text/javascript")}
"""File and kind of what is served at each name."""
LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
INDEX = re.compile(r"[0-9]{1,9}", re.ASCII)
AT_ONCE = 32


class _Reading:
    """Refuses all but GET, and gives every answer the headers that keep other pages out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            return
        allowed = scope["method"] == "GET"
        app = self._app if allowed else PlainTextResponse("expected GET", status_code=405, headers={"Allow": "GET"})
        await app(scope, receive, send_with_headers)


def application(scan: Scan, secret: str, host: str) -> ASGIApp:
    """The pages of `scan` below /`secret`/, for requests to this machine itself or to `host`."""

    def summary(_request: Request) -> Response:
        return JSONResponse(scan.summary())

    def of_slice(give: Callable[[int, int], bytes | dict[str, Any]]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            found = give(*_slice_of(request, scan))
            return Response(found, media_type="application/octet-stream") if isinstance(found, bytes) else JSONResponse(found)

        return answer

    below = "/volumes/{volume}/slices/{slice}"
    routes = [
        *(Route(f"/{name}", _page(*file)) for name, file in PAGE.items()),
        Route("/archive", summary),
        Route(f"{below}/samples", of_slice(scan.samples)),
        Route(f"{below}/bits", of_slice(scan.bits)),
        Route(f"{below}/header", of_slice(scan.header)),
    ]
    app = Starlette(
        routes=[Mount(f"/{secret}", routes=routes)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, _in_address(host)], www_redirect=False)],
        exception_handlers={HTTPException: _refused, MedzipError: _failed, Exception: _failed},
    )
    return _Reading(app)


def _page(name: str, kind: str) -> Callable[[Request], Response]:
    def answer(_request: Request) -> Response:
        return Response(resources.files("medzip.view").joinpath("page", name).read_bytes(), media_type=kind)

    return answer


def _slice_of(request: Request, scan: Scan) -> tuple[int, int]:
    """(volume, slice) that a request names, both of which are there."""
    texts = request.path_params["volume"], request.path_params["slice"]
    if not all(INDEX.fullmatch(text) for text in texts):
        raise HTTPException(422, "expected a volume and a slice as numbers from 0")
    volume, index = map(int, texts)
    if volume >= len(scan.volumes) or index >= len(scan.volumes[volume]):
        raise HTTPException(404, "expected a volume and a slice that the archive holds")
    return volume, index


def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


def _failed(_request: Request, error: Exception) -> Response:
    foreseen = isinstance(error, MedzipError)
    text = str(error) if foreseen else f"unexpected {type(error).__name__}; `medzip verify` tells whether the archive is good"
    return JSONResponse({"error": text}, status_code=500)


def listening(host: str, port: int) -> socket.socket:
    """A socket at one address of this machine. Raises UsageError for all addresses at once, OSError where there is none."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if ipaddress.ip_address(address[0]).is_unspecified:
        raise UsageError(f"--host {host}: expected one address of this machine, found all of them; name one")
    return socket.create_server((str(address[0]), port), family=family)


def is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url(listener: socket.socket, secret: str, host: str) -> str:
    return f"http://{_in_address(host)}:{listener.getsockname()[1]}/{secret}/"


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answers until it is interrupted: then raises KeyboardInterrupt."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=AT_ONCE,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _in_address(host: str) -> str:
    """IPv6 addresses stand in brackets in addresses of pages."""
    return f"[{host}]" if ":" in host else host.lower()
