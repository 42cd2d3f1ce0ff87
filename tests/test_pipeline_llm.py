"""The language-model presets through the pipeline and the command line, with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the llm extra is not installed")
from llm_networks import write_weights
from pipeline_inputs import contents, files_of, npy, rewritten, smooth, written

from medzip import chunk_kinds, chunks, pipeline
from medzip.cli import main
from medzip.container.reader import ArchiveReader
from medzip.entropy_model.llm.model import LanguageModel
from medzip.entropy_model.registry import entropy_model
from medzip.errors import MedzipError, ModelMismatchError, ModelMissingError, UsageError, VerificationError
from medzip.weights import registry

SAMPLES = smooth((4, 5, 6))


def forget_weights() -> None:
    registry.entries.cache_clear()
    entropy_model.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with random weights called tiny-llm and tiny-paper, research use only, that medzip finds."""
    folder = tmp_path_factory.mktemp("weights")
    for kind in ("llm", "paper"):
        write_weights(folder, kind, patch=4, licence_class="research")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDZIP_WEIGHTS", str(folder))
        forget_weights()
        yield folder
    forget_weights()


def only_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other codec competes, as if the weights were good."""
    monkeypatch.setattr(chunk_kinds, "KINDS", {})


@pytest.fixture(scope="module", params=["llm", "paper"])
def coded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """An archive of two chunks that the language model coded, and what it restores."""
    files = files_of("npy", SAMPLES)
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        only_the_model(patch)
        patch.setattr(chunks, "CHUNK_SAMPLES", 1)  # a chunk for each stack
        [made] = pipeline.compress(written(folder, files) / "scan.npy", preset=request.param, weights=f"tiny-{request.param}")
    assert (made.model_share, made.chunks, made.portable) == (1.0, {"model": 2}, False)
    return Path(made.archive), files


def test_what_the_model_coded_comes_back(coded: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    archive, files = coded
    pipeline.decompress(archive, tmp_path / "back")
    assert contents(tmp_path / "back") == files
    said = pipeline.info(archive)
    assert (said["portable"], said["licence_class"], said["model_share"]) == (False, "research", 1.0)
    assert {"torch", "threads", "instructions"} <= set(said["platform"])
    with pipeline.open(archive) as opened:
        np.testing.assert_array_equal(opened.volumes[0][3:], SAMPLES[3:])


def test_two_chunks_at_a_time_give_the_same_voxels(coded: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    archive, files = coded
    pipeline.decompress(archive, tmp_path / "back", jobs=2)
    assert contents(tmp_path / "back") == files


def test_missing_weights_are_named_and_nothing_is_written(
    coded: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    monkeypatch.setenv("MEDZIP_WEIGHTS", str(tmp_path))
    forget_weights()
    for salvage in (False, True):
        with pytest.raises(ModelMissingError, match=pipeline.info(coded[0])["weights"][0]):
            pipeline.decompress(coded[0], tmp_path / "back", salvage=salvage)
    assert contents(tmp_path) in ({}, {"back": None})
    monkeypatch.undo()
    monkeypatch.setenv("MEDZIP_WEIGHTS", str(weights))
    forget_weights()


def test_a_machine_that_computes_other_numbers_is_a_mismatch(
    coded: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = LanguageModel.decode
    monkeypatch.setattr(LanguageModel, "decode", lambda *arguments: decode(*arguments) + 1)
    with pytest.raises(ModelMismatchError, match=r"scan\.npy\.mdz"):
        pipeline.verify(coded[0])
    for salvage in (False, True):
        with pytest.raises(ModelMismatchError):
            pipeline.decompress(coded[0], tmp_path / "back", salvage=salvage)
    assert contents(tmp_path) in ({}, {"back": None})


def test_a_model_that_does_not_repeat_itself_makes_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_the_model(monkeypatch)
    decode = LanguageModel.decode
    monkeypatch.setattr(LanguageModel, "decode", lambda *arguments: decode(*arguments) + 1)
    files = files_of("npy", smooth((1, 9, 9)))
    with pytest.raises(VerificationError):
        pipeline.compress(written(tmp_path, files) / "scan.npy", preset="llm", weights="tiny-llm")
    assert contents(tmp_path) == files


HOSTILE: list[Any] = [None, -1, 0, 1.5, 1 << 40, True, "x", b"", [], {}]


def test_hostile_headers_are_refused(coded: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    archive, files = coded
    with ArchiveReader(archive) as reader:
        headers = [chunk.header for chunk in reader.chunks]
    inner = {key: value for key, value in headers[0].items() if isinstance(value, dict)}
    for key, value in {**dict.fromkeys(("model", "weights", "side", "base"), headers[0]), **inner}.items():
        for name in value if key in inner else [key]:
            for new in HOSTILE:
                change = {key: {**value, name: new}} if key in inner else {key: new}
                hostile = rewritten(
                    archive,
                    tmp_path / "hostile.mdz",
                    header=lambda found, change=change: found | change if found == headers[0] else found,
                )
                try:
                    pipeline.decompress(hostile, tmp_path / "back", overwrite=True)
                except MedzipError:
                    continue
                assert contents(tmp_path / "back") == files, (key, name, new)


# Fallback, and what is asked for by name


def test_random_weights_lose_and_the_chunk_falls_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = smooth((4, 24, 24))
    source = written(tmp_path, {"scan.npy": npy(samples)}) / "scan.npy"
    assert main(["compress", str(source), "--preset", "llm", "--model", "tiny-llm", "--json"]) == 0
    said = capsys.readouterr()
    made = json.loads(said.out)
    assert (made["model_share"], made["chunks"], made["portable"]) == (0.0, {"jpeg_xl": 1}, False)
    assert "not portable" in said.err
    assert "100.0% of the samples are not coded by the entropy model" in said.err
    assert main(["info", made["archive"]]) == 0
    assert "model share: 0\n" in capsys.readouterr().out
    assert main(["verify", made["archive"], "--against", str(source)]) == 0
    assert main(["decompress", made["archive"], "-o", str(tmp_path / "back")]) == 0
    assert (tmp_path / "back" / "scan.npy").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("kind", ["llm", "paper"])
@pytest.mark.parametrize("dtype", ["u4", "i8", "f4", "i1"])
def test_dtypes_that_the_model_or_its_base_layer_does_not_take_fall_back(tmp_path: Path, kind: str, dtype: str) -> None:
    samples = (smooth((3, 5, 6)).astype("i8") * (1 << 26 if dtype in ("u4", "i8") else 1)).astype(dtype)
    files = {"scan.npy": npy(samples)}
    [made] = pipeline.compress(written(tmp_path, files) / "scan.npy", preset=kind, weights=f"tiny-{kind}")
    pipeline.decompress(made.archive, tmp_path / "back")
    assert contents(tmp_path / "back") == files


def test_removal_is_refused_before_work_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("work has started")

    monkeypatch.setattr(chunks.ChunkCoder, "encode", fail)
    files = files_of("npy", smooth((1, 9, 9)))
    source = written(tmp_path, files) / "scan.npy"
    with pytest.raises(UsageError, match="not removed"):
        pipeline.compress(source, preset="llm", weights="tiny-llm", remove=True)
    assert main(["compress", str(source), "--preset", "paper", "--model", "tiny-paper", "--rm"]) == UsageError.exit_code
    assert contents(tmp_path) == files


def test_research_weights_are_never_used_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    only_tiny = tuple(entry for entry in registry.entries() if entry.name.startswith("tiny"))
    monkeypatch.setattr(registry, "entries", lambda: only_tiny)
    monkeypatch.setattr(registry, "SHIPPED", weights)
    source = written(tmp_path, files_of("npy", smooth((1, 9, 9)))) / "scan.npy"
    with pytest.raises(ModelMissingError):
        pipeline.compress(source, preset="paper")
    assert not (tmp_path / "scan.npy.mdz").exists()
    [made] = pipeline.compress(source, preset="paper", models="all")
    assert pipeline.info(made.archive)["licence_class"] == "research"


@pytest.mark.parametrize(("preset", "name"), [("default", "tiny-llm"), ("llm", "tiny-paper"), ("llm", "none-such")])
def test_weights_that_do_not_fit_the_preset_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], preset: str, name: str
) -> None:
    source = written(tmp_path, files_of("npy", smooth((1, 9, 9)))) / "scan.npy"
    assert main(["compress", str(source), "--preset", preset, "--model", name]) == UsageError.exit_code
    assert f"--model {name}" in capsys.readouterr().err
    assert not (tmp_path / "scan.npy.mdz").exists()


def test_a_damaged_base_layer_is_no_mismatch(
    coded: tuple[Path, dict[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ArchiveReader(coded[0]) as reader:
        bases = dict(reader.bases)
    if not bases:
        pytest.skip("this preset has no base layer")
    damaged = Path(shutil.copy(coded[0], tmp_path / "damaged.mdz"))
    data = bytearray(damaged.read_bytes())
    data[bases[1].end - 5] ^= 1
    damaged.write_bytes(data)
    assert main(["verify", str(damaged)]) == 3
    assert main(["decompress", str(damaged), "-o", str(tmp_path / "back"), "--salvage"]) == 3
    assert "slices 3 to 3" in capsys.readouterr().err
