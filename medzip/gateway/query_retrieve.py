"""C-FIND, C-MOVE and C-GET (PS3.4 annex C) in the patient root and study root information models."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.events import EventHandlerType
from pynetdicom.presentation import PresentationContext

from medzip.errors import MedzipError, UsageError
from medzip.gateway import config, matching
from medzip.gateway.decoders import UNCOMPRESSED
from medzip.gateway.index import Index, Instance
from medzip.gateway.metrics import Metrics
from medzip.gateway.retrieval import Retriever

LOG = logging.getLogger("medzip.gateway")
PENDING, CANCELLED, NOT_THE_MODEL, FAILED = 0xFF00, 0xFE00, 0xA900, 0xC000
NOTHING_SENT = 0xA700
FIND = ("1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.2.1")
MOVE = ("1.2.840.10008.5.1.4.1.2.1.2", "1.2.840.10008.5.1.4.1.2.2.2")
GET = ("1.2.840.10008.5.1.4.1.2.1.3", "1.2.840.10008.5.1.4.1.2.2.3")
PATIENT_ROOT = (FIND[0], MOVE[0], GET[0])
MOST_CONTEXTS = 128
"""Presentation contexts that an association can have (PS3.8 section 9.3.2.2)."""
SECONDS_BETWEEN_PENDING = 5.0
UNIQUE = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


class GivenUpError(MedzipError):
    """Whoever asked has cancelled, or is gone."""


class _Found(Dataset):
    """An instance to be sent, as pynetdicom's services count it: a data set with a SOP Instance UID."""

    def __init__(self, instance: Instance, path: Path | None) -> None:
        super().__init__()
        self.SOPInstanceUID = instance.uid
        self.__dict__ |= {"instance": instance, "path": path}


class QueryRetrieve:
    """Handlers of the three services, for `dimse.Listener`."""

    def __init__(self, options: config.Dicom, index: Index, retriever: Retriever, metrics: Metrics) -> None:
        self._options, self._index, self._retriever, self._metrics = options, index, retriever, metrics
        self.contexts = [*FIND, *MOVE, *GET]
        self.handlers: list[EventHandlerType] = [
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_MOVE, self._move),
            (evt.EVT_C_GET, self._get),
        ]

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self._metrics.add("queries_total")
        try:
            query, asked = _query(event)
        except Exception as error:  # pydicom raises whatever an identifier makes it run into
            LOG.warning("refused a query: %s", type(error).__name__)
            yield NOT_THE_MODEL, None
            return
        try:
            for values in matching.find(self._index, query):
                if event.is_cancelled:
                    yield CANCELLED, None
                    return
                yield PENDING, self._answer(query, asked, values)
        except MedzipError as error:
            LOG.error("a query failed: %s", type(error).__name__)
            yield FAILED, None

    def _answer(self, query: matching.Query, asked: Dataset, values: dict[str, str]) -> Dataset:
        """What is asked for, empty where it is not known; texts are in UTF-8 where ASCII does not do."""
        answer = Dataset()
        for element in asked:
            if element.tag.element == 0 or element.keyword == "SpecificCharacterSet":
                continue
            value = values.get(element.keyword, "") if element.keyword in query.known() else ""
            answer.add_new(element.tag, element.VR, [] if element.VR == "SQ" else _typed(element.VR, value))
        answer.add_new(0x00080052, "CS", query.level)
        answer.RetrieveAETitle, answer.InstanceAvailability = self._options.ae_title, "ONLINE"
        if UNIQUE[query.level] not in answer:
            setattr(answer, UNIQUE[query.level], values.get(UNIQUE[query.level], ""))
        if not all(value.isascii() for value in values.values()):
            answer.SpecificCharacterSet = "ISO_IR 192"
        return answer

    def _move(self, event: evt.Event) -> Iterator[Any]:
        peer = self._options.peer(str(event.move_destination).strip())
        if peer is None or peer.host is None:
            LOG.warning("refused to move: the destination is not configured")
            yield None, None
            return
        wanted = self._wanted(event)
        sending = _Sending(event, self._retriever, self._metrics, C_MOVE, len(wanted))
        tls = self._options.tls.client() if peer.tls and self._options.tls else None
        options = {
            "contexts": _contexts(wanted),
            "tls_args": (tls, peer.host) if tls else None,
            "evt_handlers": [(evt.EVT_ESTABLISHED, lambda established: sending.through(established.assoc))],
        }
        yield peer.host, peer.port, options
        yield len(wanted)
        yield from sending.instances(wanted)

    def _get(self, event: evt.Event) -> Iterator[Any]:
        wanted = self._wanted(event)
        sending = _Sending(event, self._retriever, self._metrics, C_GET, len(wanted))
        sending.through(event.assoc)
        yield len(wanted)
        yield from sending.instances(wanted)

    def _wanted(self, event: evt.Event) -> list[Instance]:
        """What the unique keys of an identifier name; other keys narrow it, as in a query. Raises UsageError, for 0xC511."""
        query, _ = _query(event)
        if not query.keys.get(UNIQUE[query.level], "").strip("*"):
            raise UsageError(f"expected {UNIQUE[query.level]} in the identifier, found none")
        level = "STUDY" if query.level == "PATIENT" else query.level
        columns = list(matching.UIDS)[: matching.ORDER.index(level)]
        where = " AND ".join(f"{matching.UIDS[keyword]} = ?" for keyword in columns)
        keys = {keyword: value for keyword, value in query.keys.items() if keyword in UNIQUE.values()}
        found: dict[tuple[str, str, str], Instance] = {}
        for values in matching.find(self._index, matching.Query(level, keys)):
            for one in self._index.instances(where, [values[keyword] for keyword in columns]):
                found[one.study, one.series, one.uid] = one
        return list(found.values())


class _Sending:
    """The C-STORE sub-operations of one C-MOVE or C-GET."""

    def __init__(
        self, event: evt.Event, retriever: Retriever, metrics: Metrics, primitive: type[C_MOVE] | type[C_GET], total: int
    ) -> None:
        self._event, self._retriever, self._metrics, self._primitive = event, retriever, metrics, primitive
        self._left, self._results = total, Counter[str]()
        self._said = time.monotonic()
        self._send: Callable[..., Dataset] | None = None
        self._contexts: list[PresentationContext] = []

    def through(self, association: Association) -> None:
        """From now on this association sends stored bytes: pynetdicom's services hand it data sets, which it would decode and
        encode again."""
        self._send = association.send_c_store
        self._contexts = [context for context in association.accepted_contexts if context.as_scu is not False]
        association.send_c_store = self._store  # type: ignore[method-assign, assignment]  # of this one association

    def instances(self, wanted: list[Instance]) -> Iterator[tuple[int, Dataset | None]]:
        try:
            for instance, path in self._retriever.files(wanted, self._idle):
                if self._event.is_cancelled:
                    raise GivenUpError
                yield PENDING, _Found(instance, path)
                self._said = time.monotonic()
        except GivenUpError:
            yield CANCELLED, None

    def _store(self, found: _Found, **message: Any) -> Dataset:
        """In place of Association.send_c_store; `message` are its other arguments."""
        status = Dataset()
        status.Status = NOTHING_SENT
        path: Path | None = found.__dict__["path"]
        if path is not None:
            try:
                status = self._sent(found.__dict__["instance"], path, message)
            except (MedzipError, ValueError, OSError, RuntimeError, AttributeError) as error:
                LOG.error("sending an instance: %s", type(error).__name__)
        good = status.get("Status", NOTHING_SENT) in (0x0000, 0xB000, 0xB006, 0xB007)
        self._metrics.add("instances_sent_total" if good else "instances_failed_total")
        if good and path is not None:
            self._metrics.add("bytes_sent_total", path.stat().st_size)
        self._left -= 1
        warned = good and status.Status != 0
        self._results["warning" if warned else "completed" if good else "failed"] += 1
        return status

    def _sent(self, instance: Instance, path: Path, message: dict[str, Any]) -> Dataset:
        assert self._send is not None
        if "originator_aet" in message:  # who asked for the move (PS3.7 section 9.1.1.1.6), where pynetdicom names us
            message = message | {"originator_aet": str(self._event.assoc.requestor.ae_title).strip()}
        accepted = [str(one.transfer_syntax[0]) for one in self._contexts if one.abstract_syntax == instance.sop_class]
        if instance.syntax in accepted:
            return self._send(path, **message)
        for syntax in UNCOMPRESSED:
            if syntax in accepted:
                converted = self._retriever.converted(path, syntax, self._idle)
                try:
                    return self._send(converted, **message)
                finally:
                    converted.unlink(missing_ok=True)
        raise MedzipError("expected a presentation context for the instance, found none that was accepted")

    def _idle(self) -> None:
        """While nothing comes: tells who asked that it goes on. Raises GivenUpError where nobody waits any more."""
        association = self._event.assoc
        if self._event.is_cancelled or not association.is_established or association.acse.is_aborted():
            raise GivenUpError
        if time.monotonic() - self._said < SECONDS_BETWEEN_PENDING:
            return
        self._said = time.monotonic()
        request: Any = self._event.request
        response = self._primitive()
        response.MessageIDBeingRespondedTo = request.MessageID
        response.AffectedSOPClassUID = request.AffectedSOPClassUID
        response.Status = PENDING
        response.NumberOfRemainingSuboperations = self._left
        response.NumberOfFailedSuboperations = self._results["failed"]
        response.NumberOfWarningSuboperations = self._results["warning"]
        response.NumberOfCompletedSuboperations = self._results["completed"]
        association.dimse.send_msg(response, self._event.context.context_id)


def _contexts(wanted: list[Instance]) -> list[PresentationContext]:
    """For each SOP class a context with each stored transfer syntax, the most frequent first, and one without compression."""
    counted = Counter((one.sop_class, one.syntax) for one in wanted)
    classes = list(dict.fromkeys(sop_class for (sop_class, _), _ in counted.most_common()))
    plain = [build_context(sop_class, list(map(UID, UNCOMPRESSED))) for sop_class in classes]
    stored = [build_context(sop_class, UID(syntax)) for (sop_class, syntax), _ in counted.most_common()]
    return [*stored[: MOST_CONTEXTS - min(len(plain), MOST_CONTEXTS // 2)], *plain[: MOST_CONTEXTS // 2]]


def _query(event: evt.Event) -> tuple[matching.Query, Dataset]:
    """What an identifier asks for. Raises UsageError, and whatever pydicom raises."""
    identifier = event.identifier
    level = str(identifier.get("QueryRetrieveLevel", "")).strip()
    if level not in matching.ORDER or (level == "PATIENT" and event.context.abstract_syntax not in PATIENT_ROOT):
        raise UsageError("expected a Query/Retrieve Level of the information model, found another")
    keys = {
        element.keyword: "\\".join(map(str, element.value)) if isinstance(element.value, MultiValue) else str(element.value or "")
        for element in identifier
        if element.keyword and element.VR != "SQ"
    }
    return matching.Query(level, keys), identifier


def typed(keyword: str, value: str) -> Any:
    """A value of an attribute for pydicom; nothing where a number is none."""
    return _typed(dictionary_VR(keyword), value)


def _typed(kind: str, value: str) -> Any:
    if kind in ("US", "UL", "SS", "SL"):
        return int(value) if value.lstrip("-").isdigit() else None
    if kind in ("FL", "FD"):
        return float(value) if value else None
    return value.split("\\") if "\\" in value else value or None
