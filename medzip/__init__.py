"""medzip keeps medical scans, smaller, without losing a bit.

medzip.compress("scan.nii")                      # scan.nii.mdz, verified
medzip.decompress("scan.nii.mdz", "restored")    # restored/scan.nii, byte for byte
medzip.open("scan.nii.mdz")[10:20]               # an array; decodes only the chunks touched
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from medzip import errors
    from medzip.archive import Archive
    from medzip.dicom_export import Exported, export
    from medzip.pipeline import Compressed, compress, decompress, info, open, verify
    from medzip.prove import Verified
    from medzip.restore import Restored
    from medzip.scan import Scan

__all__ = [
    "Archive",
    "Compressed",
    "Exported",
    "Restored",
    "Scan",
    "Verified",
    "__version__",
    "compress",
    "decompress",
    "errors",
    "export",
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
    rooms = {"Archive": "medzip.archive", "Restored": "medzip.restore", "Scan": "medzip.scan", "Verified": "medzip.prove"}
    rooms |= dict.fromkeys(("Exported", "export"), "medzip.dicom_export")
    return getattr(import_module(rooms.get(name, "medzip.pipeline")), name)
