"""The committed tables are what their generator computes, and no CDF made from them ever decreases."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from medzip.errors import ModelMissingError
from medzip.exact import tables


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "tools" / "make_tables.py"
    spec = importlib.util.spec_from_file_location("make_tables", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generator_gives_the_committed_values(generator: ModuleType) -> None:
    made = generator.tables(step=16)
    for kind in ("gaussian", "logistic"):
        assert tables.HALF_CDF[kind].values[::16].tolist() == made[kind]
    assert tables.OCTAVE.tolist() == made["octave"]
    assert tables.INVERSE_OCTAVE.tolist() == made["inverse_octave"]


@pytest.mark.parametrize("kind", ["gaussian", "logistic"])
def test_the_cdf_never_decreases_at_any_fixed_point_z(kind: tables.Kind) -> None:
    # Between two table entries the CDF is a line in integers: every one of its points is checked, one interval's bits at a time.
    half = tables.HALF_CDF[kind]
    points = np.arange((1 << half.bits) + 1, dtype=np.int64)
    assert half.values[0] == 0 and half.values[-1] == tables.CDF_ONE // 2
    for slope in np.unique(half.slopes):
        line = slope * points >> half.bits
        assert line[0] == 0 and line[-1] == slope and (np.diff(line) >= 0).all()
    assert half.slopes.min() == 0
    # The callable itself, at each entry and both its neighbours, and far beyond the last.
    z = np.unique(np.clip((np.arange(4200)[:, None] << half.bits) + [-1, 0, 1], 0, None)).astype(np.int64)
    assert (np.diff(half(z)) >= 0).all()
    assert half(np.array([1 << 40, 1 << 61], np.int64)).tolist() == [tables.CDF_ONE // 2] * 2


def test_a_changed_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (Path(tables.__file__).parent / "tables.bin").read_bytes()
    monkeypatch.setattr(Path, "read_bytes", lambda _: data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelMissingError):
        tables._load()
