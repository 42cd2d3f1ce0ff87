"""medzip keeps medical scans, smaller, without losing a bit.

medzip.compress("scan.nii")                      # scan.nii.mdz, verified
medzip.decompress("scan.nii.mdz", "restored")    # restored/scan.nii, byte for byte
medzip.open("scan.nii.mdz").volumes[0][10:20]    # decodes only the chunks touched
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from medzip import errors
    from medzip.archive import Archive
    from medzip.pipeline import Compressed, compress, decompress, info, open, verify
    from medzip.prove import Verified
    from medzip.restore import Restored

__all__ = [
    "Archive",
    "Compressed",
    "Restored",
    "Verified",
    "__version__",
    "compress",
    "decompress",
    "errors",
    "info",
    "open",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'medzip' has no attribute {name!r}")
    from importlib import import_module

    if name == "errors":
        return import_module("medzip.errors")
    rooms = {"Archive": "medzip.archive", "Restored": "medzip.restore", "Verified": "medzip.prove"}
    return getattr(import_module(rooms.get(name, "medzip.pipeline")), name)
