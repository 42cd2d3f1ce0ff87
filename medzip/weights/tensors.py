"""Integer tensors of a .safetensors file, read with numpy alone: archives of integer models need no other library."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.errors import ModelMissingError

_DTYPES = {"I8": "<i1", "I32": "<i4"}


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """All tensors by name. Raises ModelMissingError where the file is cut, or holds other numbers than int8 and int32."""
    data = path.read_bytes()
    try:
        length = struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        tensors = {name: _tensor(data[8 + length :], **entry) for name, entry in header.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelMissingError(f"{path}: expected tensors of int8 and int32: {error}; install the package again") from error
    return tensors


def write_tensors(path: Path, tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """A .safetensors file of int8 and int32 tensors, the same bytes for the same tensors."""
    names = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    parts, at = [], 0
    # int32 first: every tensor then begins at a multiple of its own size.
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        part = tensor.tobytes()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + len(part)]}
        parts.append(part)
        at += len(part)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def _tensor(data: bytes, dtype: str, shape: list[int], data_offsets: list[int]) -> NDArray[Any]:
    start, end = data_offsets
    if not 0 <= start <= end <= len(data):
        raise ValueError("a tensor lies outside the file")
    return np.frombuffer(data[start:end], _DTYPES[dtype]).reshape(shape)
