"""WADO-RS (PS3.18 section 10.4): instances, their headers and their frames."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from medzip.errors import MedzipError
from medzip.gateway.decoders import HTJ2K, JPEG, JPEG_2000, JPEG_LOSSLESS, JPEG_LS
from medzip.gateway.headers import EXPLICIT, UID
from medzip.gateway.index import Index, Instance
from medzip.gateway.metrics import Metrics
from medzip.gateway.multipart import parameters
from medzip.gateway.retrieval import Retriever

BLOCK = 1 << 20
DICOM, OCTETS, RELATED = "application/dicom", "application/octet-stream", "multipart/related"
FRAMES = re.compile(r"[1-9][0-9]{0,6}(,[1-9][0-9]{0,6})*", re.ASCII)
HEADERS_AT_ONCE = 500
MEDIA_TYPES = {
    **dict.fromkeys(JPEG | JPEG_LOSSLESS, "image/jpeg"),
    **dict.fromkeys(JPEG_LS, "image/jls"),
    **dict.fromkeys(JPEG_2000, "image/jp2"),
    **dict.fromkeys(HTJ2K, "image/jphc"),
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.110": "image/jxl",
    "1.2.840.10008.1.2.4.111": "image/jxl",
    "1.2.840.10008.1.2.4.112": "image/jxl",
}
"""Of frames as they are stored (PS3.18 table 8.7.3-5)."""
ANY_SYNTAX = "*"


class Wado:
    """Request handlers, for `web.Web`."""

    def __init__(self, index: Index, retriever: Retriever, metrics: Metrics) -> None:
        self._index, self._retriever, self._metrics = index, retriever, metrics

    def instances(self, request: Request) -> Response:
        """A study, a series or an instance: explicit VR little endian, or as stored with transfer-syntax=*."""
        wanted = self._wanted(request)
        kind, syntax = _accepted(request, DICOM)
        if kind == DICOM and len(wanted) > 1:
            raise HTTPException(406, f'expected {RELATED}; type="{DICOM}" for several instances')
        files = self._files(wanted, syntax)
        first = next(files)  # an error that comes now can still be told
        if kind == DICOM:
            return StreamingResponse(chain.from_iterable((first, *files)), media_type=DICOM)
        return _multipart(((DICOM, one) for one in chain((first,), files)), DICOM)

    def metadata(self, request: Request) -> Response:
        """Headers of a study, a series or an instance, without pixel data."""
        wanted = self._wanted(request)

        def pieces() -> Iterator[str]:
            separator = "["
            for begin in range(0, len(wanted), HEADERS_AT_ONCE):
                for header in self._retriever.headers(wanted[begin : begin + HEADERS_AT_ONCE]):
                    if header is None:
                        raise MedzipError("expected a header that can be read")  # ends the answer before its end
                    yield separator + json.dumps(json.loads(header))
                    separator = ","
            yield "]"

        answer = pieces()
        first = next(answer)
        return StreamingResponse(chain((first,), answer), media_type="application/dicom+json")

    def frames(self, request: Request) -> Response:
        """Frames of an instance: little endian samples, or as stored with transfer-syntax=*."""
        if not FRAMES.fullmatch(request.path_params["frames"]):
            raise HTTPException(400, "expected numbers of frames, from 1, with commas between them")
        numbers = tuple(map(int, request.path_params["frames"].split(",")))
        [instance] = self._wanted(request)
        kind, syntax = _accepted(request, OCTETS)
        as_stored = MEDIA_TYPES.get(instance.syntax, OCTETS)
        if syntax not in (EXPLICIT, ANY_SYNTAX, instance.syntax) or kind not in (RELATED, as_stored):
            raise HTTPException(406, "expected transfer-syntax=* or that of explicit VR little endian")
        stored = syntax != EXPLICIT
        media = as_stored if stored else OCTETS
        files = self._retriever.files([instance], lambda: None)
        path = next(files)[1]
        if path is None:
            raise MedzipError("expected an instance that can be restored")
        try:
            frames = list(self._retriever.frames(path, numbers, stored=stored))
        except MedzipError as error:
            if "UsageError" in str(error):
                raise HTTPException(404, "expected frames that the instance has") from None
            raise HTTPException(406, "expected pixel data that can be decoded; ask for transfer-syntax=*") from None
        finally:
            files.close()
        self._metrics.add("bytes_sent_total", sum(map(len, frames)))
        return _multipart(((media, iter([frame])) for frame in frames), media)

    def _wanted(self, request: Request) -> list[Instance]:
        columns = {"study": "study", "series": "series", "instance": "uid"}
        uids = {columns[part]: request.path_params[part] for part in columns if part in request.path_params}
        if not all(UID.fullmatch(uid) for uid in uids.values()):
            raise HTTPException(400, "expected UIDs in the path")
        found = self._index.instances(" AND ".join(f"{column} = ?" for column in uids), uids.values())
        if not found:
            raise HTTPException(404, "expected what is archived here, found nothing of these UIDs")
        return found

    def _files(self, wanted: list[Instance], syntax: str) -> Iterator[Iterator[bytes]]:
        """The bytes of each instance. Raises MedzipError at the first that cannot be given, HTTPException where that is the way
        it is asked for: an answer that ends early is seen to be broken, one that leaves something out is not."""
        for instance, path in self._retriever.files(wanted, lambda: None):
            if path is None:
                self._metrics.add("instances_failed_total")
                raise MedzipError("expected an instance that can be restored")
            if syntax in (ANY_SYNTAX, instance.syntax):
                yield self._bytes(path)
                continue
            if syntax != EXPLICIT:
                raise HTTPException(406, "expected transfer-syntax=* or that of explicit VR little endian")
            try:
                converted = self._retriever.converted(path, syntax, lambda: None)
            except MedzipError:
                raise HTTPException(406, "expected pixel data that can be decoded; ask for transfer-syntax=*") from None
            try:
                yield self._bytes(converted)
            finally:
                converted.unlink(missing_ok=True)

    def _bytes(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                self._metrics.add("bytes_sent_total", len(block))
                yield block
        self._metrics.add("instances_sent_total")


def _accepted(request: Request, default: str) -> tuple[str, str]:
    """What kind of answer is accepted, `default` alone or in RELATED, and in which transfer syntax. Raises HTTPException."""
    text = request.query_params.get("accept") or request.headers.get("accept") or "*/*"
    for one in text.split(","):
        media, options = parameters(one.strip())
        syntax = options.get("transfer-syntax", EXPLICIT)
        inner = options.get("type", default).lower()
        if media in ("*/*", RELATED) and inner in (default, "*/*"):
            return RELATED, syntax
        if media == RELATED and default == OCTETS and inner in MEDIA_TYPES.values():
            return inner, ANY_SYNTAX
        if media == DICOM and default == DICOM:
            return DICOM, syntax
        if media == OCTETS and default == OCTETS:
            return RELATED, syntax
    raise HTTPException(406, f'expected to give {RELATED}; type="{default}", found that it is not accepted')


def _multipart(parts: Iterator[tuple[str, Iterator[bytes]]], media: str) -> Response:
    boundary = secrets.token_hex(16)

    def body() -> Iterator[bytes]:
        for kind, pieces in parts:
            yield f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode()
            yield from pieces
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return StreamingResponse(body(), media_type=f'{RELATED}; type="{media}"; boundary={boundary}')
