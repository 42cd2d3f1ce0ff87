"""The table of headers counts what a series costs beside its voxels."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pipeline_inputs import smooth, written
from pydicom.dataset import FileMetaDataset
from test_skeleton_columns import slice_file

from benchmarks import headers


@pytest.fixture
def series(tmp_path: Path) -> Path:
    folder = written(tmp_path / "data" / "series", {f"{n}.dcm": slice_file(n) for n in range(5)})
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        dataset.save_as(path)
    return folder


def test_a_series_is_a_line_and_a_long_one_made_of_it_another(series: Path) -> None:
    line, long = headers.lines(series.parent, "parametric", 40)
    assert line.slices == 5 and long.slices == 40
    assert line.headers == sum(path.stat().st_size for path in series.iterdir()) - 5 * smooth((1, 4, 5)).nbytes
    assert set(line.sections) == {"HEAD", "FILE", "SKEL", "PARI"} and min(line.sections.values()) > 100
    assert long.further is not None and 50 < long.further < 130
    assert str(long).count("|") == headers.HEAD.splitlines()[0].count("|")
