"""The table of unusual files says what became of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import awkward

ROWS = "path\tkind\nsub/a.npy\tan array\nsub/b.txt\tno | image\n"


def test_each_file_is_a_line_with_its_volumes_and_whether_it_had_to_be_stored(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub" / "a.npy", np.zeros((2, 3, 4), "c8"))
    (tmp_path / "sub" / "b.txt").write_text("text")
    (tmp_path / "MANIFEST.tsv").write_text(ROWS)
    (folder, array), (_, text) = awkward.lines(tmp_path, "parametric")
    assert folder == "sub"
    assert str(array).startswith("| a.npy | an array | 2 of 2x3x4 float32 | 2 ")
    assert str(array).endswith("| yes |") and "| no / image | none | none | 4 |" in str(text)
    assert (array.stored, text.stored) == (False, True)


def test_a_file_that_does_not_come_back_ends_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4), "i2"))
    monkeypatch.setattr(awkward.medzip, "decompress", lambda _, out: (out.mkdir(), (out / "a.npy").write_bytes(b"other")))
    with pytest.raises(ValueError, match="own bytes"):
        awkward.line_of(tmp_path / "a.npy", "an array", "parametric")
