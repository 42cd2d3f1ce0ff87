"""Which weights are here: shipped ones beside this file, a user's own where `medzip models add` puts them and in the folders of
MEDZIP_WEIGHTS.

A weights file is a .safetensors whose metadata say what it is. Archives name weights by the SHA-256 of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medzip.errors import ModelMissingError, StorageError, UsageError

SHIPPED = Path(__file__).parent
LONGEST_HEADER = 1 << 24


@dataclass(frozen=True)
class Weights:
    """`name` is the file's name without suffix, what presets ask for ('pixel', 'fast', 'llm_exact', 'llm',
    'paper'),
    `licence_class` 'open' or 'research', `sha256` that of the file, in hex, `self_test`
    what they make of a known image: the SHA-256 of the bytes, or for a float model their number."""

    name: str
    kind: str
    licence_class: str
    path: Path
    sha256: str
    self_test: str | None = None


@cache
def entries() -> tuple[Weights, ...]:
    """All weights found, by name. Raises ModelMissingError where a file is no safetensors file of medzip."""
    named = (Path(folder) for folder in os.environ.get("MEDZIP_WEIGHTS", "").split(os.pathsep) if folder)
    folders = [SHIPPED, own_folder() / "weights", *named]
    found = [read_weights(path) for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    return tuple(sorted(found, key=lambda weights: weights.name))


def own_folder() -> Path:
    """Where what a user adds is kept: under XDG_DATA_HOME (XDG Base Directory Specification), or LOCALAPPDATA on Windows."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "medzip"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "medzip"


def add(source: Path) -> Weights:
    """Copies a weights file, and its card if there is one, to where all medzip of this user finds it.

    Raises ModelMissingError where it is no weights file, UsageError where its name is taken by other bytes, StorageError.
    """
    try:
        weights = read_weights(source)
        if not _complete(source):
            raise ModelMissingError(f"{source}: expected all tensors of the file, found less; copy it again")
        for other in entries():
            if other.name == weights.name and other.sha256 != weights.sha256:
                raise UsageError(f"{source}: expected a name that is free, found {other.path}; rename the file")
        folder = own_folder() / "weights"
        folder.mkdir(parents=True, exist_ok=True)
        for path in (source, source.with_suffix(".md")):
            if path.exists():
                temporary = folder / f".{path.name}.tmp"
                shutil.copyfile(path, temporary)
                temporary.replace(folder / path.name)
    except OSError as error:
        raise StorageError(f"{error.filename or source}: {error.strerror}; check the path and the disk") from error
    entries.cache_clear()
    return read_weights(folder / source.name)


def read_weights(path: Path) -> Weights:
    """What a weights file says of itself. Raises ModelMissingError where it is none."""
    data = path.read_bytes()
    metadata = _metadata(data, path)
    return Weights(
        name=path.stem,
        kind=str(metadata["kind"]),
        licence_class=str(metadata["licence_class"]),
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        self_test=metadata.get("self_test"),
    )


def _metadata(data: bytes, path: Path) -> dict[str, Any]:
    """The __metadata__ of a safetensors file (8 bytes of length, then JSON), read without the safetensors library."""
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else LONGEST_HEADER + 1
    if length <= min(LONGEST_HEADER, len(data) - 8):
        try:
            metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        except (ValueError, AttributeError, RecursionError):
            metadata = {}
        if "kind" in metadata and "licence_class" in metadata:
            return dict(metadata)
    raise ModelMissingError(f"{path}: expected a weights file of medzip, found something else; install the package again")


def select(kind: str, models: str, name: str | None = None) -> tuple[Weights, ...]:
    """The weights to encode with, research-only ones first: those called `name`, which is asking for them whatever their licence
    class; else all shipped ones that `models` allows, 'open' (open licences only) or 'all'. Nobody's archives need weights that
    are nowhere else unless asked.

    Raises ModelMissingError where there are none, UsageError where `name` is for another kind of model.
    """
    if models not in ("open", "all"):
        raise UsageError(f"--models: expected 'open' or 'all', found {models!r}")
    if name is not None:
        named = [weights for weights in entries() if weights.name == name]
        if not named or named[0].kind != kind:
            found = f"weights of kind {named[0].kind!r}" if named else "no such weights"
            raise UsageError(f"--model {name}: expected weights of kind {kind!r}, found {found}; see `medzip models list`")
        return (named[0],)
    shipped = (weights for weights in entries() if weights.kind == kind and weights.path.parent == SHIPPED)
    fitting = [weights for weights in shipped if models == "all" or weights.licence_class == "open"]
    if not fitting:
        raise ModelMissingError(f"no weights of kind {kind!r} with --models {models}; see `medzip models list`")
    return tuple(sorted(fitting, key=lambda weights: (weights.licence_class == "open", weights.name)))


def by_digest(sha256: str) -> Weights:
    """The weights that an archive names. Raises ModelMissingError where they are not here."""
    for weights in entries():
        if weights.sha256 == sha256:
            return weights
    raise ModelMissingError(
        f"the archive needs the weights with SHA-256 {sha256}, which are not here; "
        "`medzip models add FILE` makes a file known, MEDZIP_WEIGHTS a folder"
    )


def verify() -> list[str]:
    """Names of all weights, after every tensor was read back. Raises ModelMissingError where one cannot be."""
    for weights in entries():
        if hashlib.sha256(weights.path.read_bytes()).hexdigest() != weights.sha256 or not _complete(weights.path):
            raise ModelMissingError(f"{weights.path}: expected all tensors of the file, found less; install the package again")
    return [weights.name for weights in entries()]


def _complete(path: Path) -> bool:
    """Whether the tensors that a safetensors file announces fill it exactly."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return bool(8 + length + max(ends, default=0) == len(data))
