"""Archives that released versions made stay readable; tests/golden/README.md says how they came about."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from medzip import pipeline

GOLDEN = Path(__file__).parent / "golden"
CONTENTS: dict[str, Any] = json.loads((GOLDEN / "contents.json").read_text())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_golden_archive_is_there_and_none_was_made_again() -> None:
    assert {path.name: sha256(path) for path in GOLDEN.glob("*.mdz")} == {
        name: record["sha256"] for name, record in CONTENTS.items()
    }


@pytest.mark.parametrize("name", CONTENTS)
def test_a_golden_archive_gives_the_files_it_was_made_from(tmp_path: Path, name: str) -> None:
    pipeline.decompress(GOLDEN / name, tmp_path)
    assert {path.relative_to(tmp_path).as_posix(): sha256(path) for path in tmp_path.rglob("*")} == CONTENTS[name]["files"]
    assert pipeline.verify(GOLDEN / name).repaired == ()
    assert pipeline.info(GOLDEN / name)["chunks"] == CONTENTS[name]["chunks"]


def test_golden_archives_hold_every_kind_of_chunk_that_is_portable() -> None:
    from medzip.chunk_kinds import KINDS
    from medzip.chunks import MODEL

    assert {kind for record in CONTENTS.values() for kind in record["chunks"]} == {MODEL, *KINDS}
