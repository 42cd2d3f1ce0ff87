"""Base layers by the name that the archive holds. A new one is a new file and a line here."""

from __future__ import annotations

from collections.abc import Callable

from medzip.base_layer.contract import BaseLayer
from medzip.base_layer.jxl_decimated import JxlDecimated
from medzip.base_layer.jxl_lossy import JxlLossy
from medzip.base_layer.none import NoBaseLayer
from medzip.errors import UnsupportedArchiveError

_LAYERS: dict[str, Callable[[], BaseLayer]] = {"none": NoBaseLayer, "jxl_lossy": JxlLossy, "jxl_decimated": JxlDecimated}


def base_layer(name: str) -> BaseLayer:
    """The base layer of this name with its default settings; payloads say what a decoder needs to know beyond that.

    Raises UnsupportedArchiveError for a name that this medzip does not know.
    """
    if name not in _LAYERS:
        raise UnsupportedArchiveError(f"base layer: expected one of {', '.join(_LAYERS)}, found {name!r}; install a newer medzip")
    return _LAYERS[name]()


__all__ = ["BaseLayer", "base_layer"]
