"""Counters and gauges in the text format of Prometheus (exposition format 0.0.4). Numbers only: no names, paths or UIDs."""

from __future__ import annotations

import threading
from collections.abc import Callable

PREFIX = "medzip_gateway_"
COUNTERS = {
    "instances_received_total": "Instances that were acknowledged",
    "instances_again_total": "Instances among them that had been received before",
    "instances_refused_total": "Instances that were not acknowledged",
    "instances_sent_total": "Instances that were given back",
    "instances_failed_total": "Instances that could not be given back",
    "bytes_received_total": "Bytes of acknowledged instances",
    "bytes_sent_total": "Bytes of instances that were given back",
    "associations_refused_total": "Associations of peers that may not call",
    "queries_total": "Queries that were answered",
    "archives_committed_total": "Archives that were committed",
    "archives_failed_total": "Archives that could not be made, each attempt",
    "originals_removed_total": "Spooled files that were removed after their archive was proved",
    "commitments_total": "Storage commitment results that were delivered",
    "watch_taken_total": "Files that were taken from the watch folder",
    "watch_poisoned_total": "Files of the watch folder that were put aside",
}


class Metrics:
    """All methods may be called from any thread."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self._counts[name] += count

    def value(self, name: str) -> int:
        with self._lock:
            return self._counts[name]

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A number that is looked up when it is asked for."""
        self._gauges[name] = meaning, read

    def text(self) -> str:
        with self._lock:
            lines = [
                f"# HELP {PREFIX}{name} {COUNTERS[name]}\n# TYPE {PREFIX}{name} counter\n{PREFIX}{name} {count}"
                for name, count in self._counts.items()
            ]
        for name, (meaning, read) in self._gauges.items():
            lines.append(f"# HELP {PREFIX}{name} {meaning}\n# TYPE {PREFIX}{name} gauge\n{PREFIX}{name} {read():g}")
        return "\n".join(lines) + "\n"
