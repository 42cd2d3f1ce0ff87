"""SOP instances that a call has seen: which DICOM files claim to be one object and are not (PS3.3 C.12.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from medzip.sources.dicom_fields import sop_instance
from medzip.volume import Literal, Skeleton


class Instances:
    """The SHA-256 of the first file with each SOP Instance UID."""

    def __init__(self) -> None:
        self._digests: dict[bytes, bytes] = {}

    def contradicting(self, files: Skeleton, table: Sequence[dict[str, Any]]) -> tuple[str, ...]:
        """Names of the files whose SOP Instance UID a file before has too, with other bytes; `table` is the file table."""
        digests = {record["name"]: record["sha256"] for record in table}
        found = []
        for file in files.files:
            match file.segments[:1]:
                case (Literal(data),) if uid := sop_instance(data):
                    # Not the UID itself: it is of a patient.
                    key = hashlib.sha256(uid).digest()
                    if self._digests.setdefault(key, digests[file.name]) != digests[file.name]:
                        found.append(file.name)
        return tuple(sorted(found))
