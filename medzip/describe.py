"""What an archive says of itself, as JSON-able data."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from medzip.archive import Archive
from medzip.chunks import MODEL


def describe(path: Path) -> dict[str, Any]:
    """What `medzip.info` gives; no chunk is decoded. Raises what opening an archive raises."""
    with Archive(path) as archive:
        chunks, samples_by_model, weights = _chunks(archive)
        sections: dict[str, int] = {}
        for section in archive.reader.sections:
            sections[section.type] = sections.get(section.type, 0) + section.end - section.offset
        samples = sum(prod(volume.shape) for volume in archive.volumes)
        head = dict(archive.head)
        head.pop("weights", None)  # all that the encoder could have chosen; what the chunks need is told here
        volumes = head.pop("volumes", [])
        return {
            **head,
            "weights": sorted(digest.hex() for digest in weights),
            "archive_bytes": path.stat().st_size,
            "original_bytes": sum(record.get("original", record)["bytes"] for record in archive.files),
            "volumes": volumes,
            "samples": samples,
            "chunks": chunks,
            "model_share": samples_by_model / samples if samples else 0.0,
            "sections": sections,
            "repaired": list(archive.repaired),
            "files": [_with_hex(record) for record in archive.files],
        }


def _with_hex(record: dict[str, Any]) -> dict[str, Any]:
    """A record of the file table with its digests as text."""
    original = {"original": _with_hex(record["original"])} if "original" in record else {}
    return {**record, "sha256": record["sha256"].hex(), **original}


def _chunks(archive: Archive) -> tuple[dict[str, int], int, set[bytes]]:
    """How many chunks there are of each kind, how many samples an entropy model coded, and the weights that chunks need."""
    counts, samples, weights = dict[str, int](), 0, set[bytes]()
    for number, entry in enumerate(archive.reader.chunks):
        header = archive.header(number)
        kind = header["kind"]
        if "weights" in header:
            weights.add(header["weights"])
        counts[kind] = counts.get(kind, 0) + 1
        if kind == MODEL and entry.volume is not None and entry.count is not None:
            samples += entry.count * prod(archive.volumes[entry.volume].shape[1:3])
    return counts, samples, weights
