"""Where what is made from several inputs goes, so that no output is written over another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from medzip.errors import UsageError

SUFFIX = ".mdz"


def destinations(sources: Sequence[Path], out: Path | None) -> list[Path | None]:
    """The `out` for each of several sources: folders lie side by side in it, each under its name.

    Raises UsageError where `out` is one archive, or two sources would become the same.
    """
    if out is None or len(sources) < 2:
        return [out] * len(sources)
    if out.suffix == SUFFIX:
        raise UsageError(f"{out}: expected a folder for {len(sources)} sources, found the name of one archive")
    refuse_same_names(sources)
    return [out / source.absolute().name if source.is_dir() else out for source in sources]


def refuse_same_names(paths: Sequence[Path]) -> None:
    """Raise UsageError where two inputs would end under one name in one output folder."""
    seen: dict[str, Path] = {}
    for path in paths:
        name = os.path.normcase(path.absolute().name)
        if name in seen:
            raise UsageError(
                f"{seen[name]} and {path} would both become {path.absolute().name} in the output folder; use one call for each"
            )
        seen[name] = path
