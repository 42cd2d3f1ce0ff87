"""Training as a researcher does it: any folder of scans, divided by patient, two stages, a kill, weights that archive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("peft", reason="the train extra is not installed")
from fine_tune import backbones, llm
from fine_tune.datasets import catalogue
from fine_tune.options import configuration
from medzip import chunk_kinds, pipeline
from medzip.entropy_model.registry import entropy_model
from medzip.errors import ModelMissingError, UsageError
from medzip.weights import pretrained, registry

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "fine_tune" / "configs" / "tiny.yaml"
SMALL = ["network.patch=4", "patches=2", "warmup=1", "validation_patches=16", "validation_share=0.3"]
TINY = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "vocab_size": 7,
}


def scans(folder: Path, patients: int = 5) -> Path:
    """An MRNet-like folder of made-up exams, each with two planes."""
    generator = np.random.default_rng(3)
    for plane in ("axial", "coronal"):
        (folder / "train" / plane).mkdir(parents=True)
        for patient in range(patients):
            noise = generator.normal(0, 4, (4, 16, 20)).cumsum(axis=1) + 100
            np.save(folder / "train" / plane / f"{patient:04}.npy", np.clip(noise, 0, 255).astype(np.uint8))
    return folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one's own, with a pretrained model called words that has three layers."""
    from transformers import AutoConfig, AutoModel

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    registry.entries.cache_clear()
    settings = {key: value for key, value in TINY.items() if key != "model_type"}
    AutoModel.from_config(AutoConfig.for_model("llama", **settings)).save_pretrained(
        registry.own_folder() / "backbones" / "words"
    )
    yield tmp_path
    registry.entries.cache_clear()
    entropy_model.cache_clear()


def train(data: Path, run: Path, *changes: str, steps: int = 3, **arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fine_tune.llm", "--config", str(CONFIG), "--data", str(data), "--run", str(run)]
    command += ["--threads", "1", "--set", f"steps={steps}", *SMALL, *changes]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **arguments)  # type: ignore[call-overload]


def finished(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def test_two_stages_of_a_pretrained_model_make_weights_that_archive_a_scan(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, words = scans(own / "data"), "network.backbone={pretrained: words, layers: 2}"
    said = finished(train(data, own / "one", words, "freeze=true", "muon_rate=0"))
    assert "8 volumes, 2 held out" in said or "6 volumes, 4 held out" in said
    finished(train(data, own / "two", words, "lora={rank: 2}", f"start={own}/one/weights.safetensors"))
    told = json.loads((own / "two" / "adapter" / "medzip_model.json").read_text())
    assert told["network"]["backbone"]["num_hidden_layers"] == 2
    assert (own / "two" / "adapter" / "adapter_model.safetensors").exists()
    card = (own / "two" / "weights.md").read_text()
    assert "train/axial/0001.npy" in card and "Privacy" in card

    mine = own / "mine.safetensors"
    (own / "two" / "weights.safetensors").rename(mine)
    registry.add(mine)
    monkeypatch.setattr(chunk_kinds, "KINDS", {})  # no other codec competes: three steps teach little
    scan = data / "train" / "axial" / "0000.npy"
    [made] = pipeline.compress(scan, own / "scan.mdz", preset="llm", weights="mine")
    assert pipeline.info(made.archive)["weights"] == [registry.read_weights(mine).sha256]
    pipeline.decompress(made.archive, own / "back")
    assert (own / "back" / "0000.npy").read_bytes() == scan.read_bytes()


def test_the_first_stage_changes_nothing_of_the_backbone(own: Path) -> None:
    config = configuration(CONFIG, [*SMALL, "network.backbone={pretrained: words}", "freeze=true"])
    network, *_ = llm.setup(config, scans(own / "data"))
    learning = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert learning and not any(name.startswith("backbone.") for name in learning)


def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    data, run = scans(tmp_path / "data"), tmp_path / "run"
    finished(train(data, run, steps=2))
    process = train(data, run, steps=100_000, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "step 4 " in finished(train(data, run, steps=4))


def test_two_processes_train_together(tmp_path: Path) -> None:
    script = tmp_path / "together.py"  # torchrun would take --run for an option of its own
    arguments = ["--config", str(CONFIG), "--data", str(scans(tmp_path / "data")), f"--run={tmp_path / 'run'}", "--threads=1"]
    code = f"import runpy, sys; sys.argv[1:] = {[*arguments, '--set', 'steps=2', 'device=cpu', 'accumulate=2', *SMALL]!r}; "
    script.write_text(f"{code}runpy.run_module('fine_tune.llm', run_name='__main__')\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weights.safetensors").exists()
    assert len((tmp_path / "run" / "curve.csv").read_text().splitlines()) == 2


@pytest.mark.usefixtures("own")
def test_a_backbone_without_the_weights_of_a_layer_is_refused() -> None:
    folder = registry.own_folder() / "backbones" / "words"
    config = json.loads((folder / "config.json").read_text()) | {"attention_bias": True}
    (folder / "config.json").write_text(json.dumps(config))
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layers.1" not in k}, folder / "model.safetensors", {"format": "pt"})
    asked = {"pretrained": "words"}
    network = llm.layout_of(llm.NetworkConfig("neighbours", backbones.described(asked), 4)).network()
    with pytest.raises(UsageError, match="layers"):
        backbones.load_into(network, asked)


def test_a_missing_backbone_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ModelMissingError, match="medzip models add"):
        pretrained.folder_of(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("path", "patient"),
    [
        ("mrnet/train/0007_axial.jxl", "0007"),
        ("train/coronal/0007.npy", "0007"),
        ("sub-01/ses-2/anat/sub-01_T1w.nii.gz", "sub-01"),
        ("smith/one/t1.nii", "smith"),
        ("t1.nii", "t1.nii"),
    ],
)
def test_the_patient_is_told_by_the_path(path: str, patient: str) -> None:
    assert catalogue._by_name(path) == patient


def test_dicom_tells_the_patient_and_no_name_is_kept(tmp_path: Path) -> None:
    import pydicom.data

    for name in ("CT_small.dcm", "MR_small.dcm"):
        (tmp_path / name).write_bytes(Path(str(pydicom.data.get_testdata_file(name))).read_bytes())
    found = catalogue.rows(tmp_path)
    assert len({row["patient"] for row in found}) == 2
    assert not any("CompressedSamples" in row["patient"] for row in found)


@given(st.lists(st.integers(0, 30), min_size=2, max_size=60), st.floats(0.01, 0.9), st.integers(0, 9))
def test_no_patient_is_on_both_sides(patients: list[int], share: float, seed: int) -> None:
    found = [{"path": f"{i}", "patient": str(patient)} for i, patient in enumerate(patients)]
    training, held_out = catalogue.divided(found, share, seed)
    assert len(training) + len(held_out) == len(found)
    assert held_out
    assert not {row["patient"] for row in training} & {row["patient"] for row in held_out}


def test_settings_change_by_name_and_wrong_names_are_told() -> None:
    assert configuration(CONFIG, ["network.patch=24", "lora={rank: 4}"])["lora"] == {"rank": 4}
    with pytest.raises(UsageError, match="netwrok"):
        configuration(CONFIG, ["netwrok.patch=24"])


def test_added_weights_are_used_only_when_they_are_named(own: Path) -> None:
    shipped = next(weights for weights in registry.entries() if weights.name == "open-pixel-1")
    copy = own / "aaa.safetensors"
    copy.write_bytes(shipped.path.read_bytes())
    registry.add(copy)
    assert [weights.name for weights in registry.select("pixel", "open")] == ["open-pixel-1"]
    assert registry.select("pixel", "open", "aaa")[0].path.parent == registry.own_folder() / "weights"


def test_a_name_that_is_taken_by_other_weights_is_refused(own: Path) -> None:
    other = next(weights for weights in registry.entries() if weights.name == "open-fast-1")
    copy = own / "open-pixel-1.safetensors"
    copy.write_bytes(other.path.read_bytes())
    with pytest.raises(UsageError, match="rename"):
        registry.add(copy)
