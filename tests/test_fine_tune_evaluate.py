"""Tables of trained rows: each row is trained once, measured, really coded, and what it is compared with is real."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("peft", reason="the train extra is not installed")
import yaml

from fine_tune.base_layers import Jpeg, named
from fine_tune.evaluate import __main__ as evaluate
from fine_tune.evaluate import rows
from fine_tune.options import configuration
from medzip.errors import UsageError

CONFIGS = Path(__file__).parents[1] / "fine_tune"
SMALL = ["network.patch=4", "patches=4", "warmup=1", "validation_share=0.4"]
NETWORK = {"hidden_size": 16, "num_hidden_layers": 1, "head_dim": 8, "intermediate_size": 24}


def scans(folder: Path) -> Path:
    generator = np.random.default_rng(5)
    folder.mkdir()
    for patient in range(4):
        noise = generator.normal(0, 5, (6, 16, 16)).cumsum(axis=1) + 300
        np.save(folder / f"sub-{patient}.npy", np.clip(noise, 0, 4095).astype(np.int16))
    return folder


@pytest.mark.parametrize("config", ["tiny.yaml", "tiny_paper.yaml"])
def test_a_table_is_trained_measured_coded_and_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    changes = [*SMALL, *(f"network.backbone.{key}={value}" for key, value in NETWORK.items())]
    changes += ["network.global_prompts=4"] if config == "tiny_paper.yaml" else []
    table = {"title": "Two rows", "config": str(CONFIGS / "configs" / config), "minutes": 0.002, "set": changes}
    table["rows"] = [{"name": "as it is"}, {"name": "K = 1", "set": ["network.components=1"]}]
    file, results = tmp_path / "table.yaml", tmp_path / "results"
    file.write_text(yaml.safe_dump(table))
    command = ["evaluate", "--table", str(file), "--data", str(scans(tmp_path / "data")), "--results", str(results)]
    monkeypatch.setattr("sys.argv", [*command, "--threads", "1"])
    evaluate.main()
    with (results / "table.csv").open() as told:
        first, second = csv.DictReader(told)
    assert (first["row"], second["row"]) == ("as it is", "K = 1")
    for row in (first, second):
        assert 0 < float(row["of it base"]) < float(row["bpsp"]) if config == "tiny_paper.yaml" else row["of it base"] == "0.000"
        # Cross-entropy leaves out what the coder adds: the lengths of few symbols, its last words.
        assert float(row["coded bpsp"]) == pytest.approx(float(row["bpsp"]), rel=0.2)
        assert int(row["steps"]) >= 1
    assert (results / "table.png").exists()
    monkeypatch.setattr(rows.llm, "fit", None)  # nothing is trained again
    evaluate.main()
    assert "| K = 1 |" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((CONFIGS / "tables").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_tables_of_the_repository_change_settings_that_exist(path: Path) -> None:
    table = yaml.safe_load(path.read_text())
    base = configuration(CONFIGS.parent / table["config"], [])
    for row in table["rows"]:
        config = configuration(CONFIGS.parent / table["config"], row.get("set", []))
        assert config.keys() <= base.keys() | {"base"}
        named(config.get("base"))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
@pytest.mark.parametrize("quality", [30, 70])
def test_jpeg_as_a_base_layer_is_near_the_stack_and_smaller(dtype: type, quality: int) -> None:
    grid = np.mgrid[0:3, 0:40, 0:48].sum(axis=0)
    stack = (grid * (2 if dtype == np.uint8 else 40) - (0 if dtype == np.uint8 else 900)).astype(dtype)
    payload, seen = Jpeg(quality).encode(stack)
    assert (seen.shape, seen.dtype) == (stack.shape, stack.dtype)
    assert len(payload) < stack.nbytes
    assert np.abs(seen.astype(int) - stack).mean() < 0.02 * np.ptp(stack)


def test_a_quality_for_a_layer_that_has_none_is_refused() -> None:
    with pytest.raises(UsageError, match="quality"):
        named({"layer": "none", "quality": 3})
