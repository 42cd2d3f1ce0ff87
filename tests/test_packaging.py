"""What is installed is what the code needs: licences, ranges, versions, files of the wheel, and imports that stay light."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import medzip
from medzip import doctor

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIRED = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
COPYLEFT = re.compile(r"\b(A|L)?GPL|GNU (Affero|Lesser|General)", re.IGNORECASE)
HEAVY = ("torch", "transformers", "numba", "imagecodecs", "pydicom", "constriction", "scipy", "nibabel", "tomoz")
HEAVY += ("SimpleITK", "fsspec", "dask", "xarray", "zarr", "numcodecs", "starlette", "uvicorn", "pynetdicom")


def required_packages() -> set[str]:
    """All that `pip install medzip` brings, down to the last dependency."""
    found: set[str] = set()
    waiting = list(REQUIRED)
    while waiting:
        requirement = Requirement(waiting.pop())
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in found:
            found.add(requirement.name)
            waiting += distribution(requirement.name).requires or []
    return found


def licence(name: str) -> str:
    metadata = distribution(name).metadata
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License")]
    stated = metadata.get("License-Expression") or " ".join([*classifiers, (metadata.get("License") or "")[:200]])
    return stated.strip()


def test_no_required_package_is_under_a_copyleft_licence() -> None:
    licences = {name: licence(name) for name in required_packages()}
    assert all(licences.values()), licences
    assert not {name: text for name, text in licences.items() if COPYLEFT.search(text)}


def test_a_copyleft_licence_would_be_noticed() -> None:
    for text in (
        "LGPL-2.1-or-later",
        "GNU Affero General Public License v3",
        "GPL-3.0-only",
        "License :: OSI Approved :: GNU General",
    ):
        assert COPYLEFT.search(text)


@pytest.mark.parametrize(
    "line", [*REQUIRED, *(line for lines in EXTRAS.values() for line in lines if not line.startswith("medzip["))]
)
def test_every_range_has_both_ends_and_admits_what_is_installed(line: str) -> None:
    requirement = Requirement(line)
    assert {specifier.operator for specifier in requirement.specifier} == {">=", "<"}
    try:
        installed = distribution(requirement.name).version
    except PackageNotFoundError:
        return
    assert requirement.specifier.contains(installed)


def test_every_extra_that_the_project_promises_is_there() -> None:
    assert set(EXTRAS) == {
        "gateway",
        "llm",
        "train",
        "pacs",
        "minc",
        "nibabel",
        "sitk",
        "remote",
        "s3",
        "xarray",
        "dask",
        "zarr",
        "view",
        "bench",
        "dev",
    }


def test_llm_admits_the_torch_that_the_makefile_installs() -> None:
    [pinned] = re.findall(r"^TORCH \?= torch==(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    [torch] = [Requirement(line) for line in EXTRAS["llm"] if line.startswith("torch")]
    assert torch.specifier.contains(pinned)


def test_doctor_asks_for_exactly_the_required_packages() -> None:
    assert set(doctor.REQUIRED) == {Requirement(line).name for line in REQUIRED}


def test_ci_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["exec make test"]
    assert script.stat().st_mode & 0o111


def test_the_wheel_holds_all_of_medzip_and_nothing_else(tmp_path: Path) -> None:
    build = pytest.importorskip("hatchling.builders.wheel", reason="the build backend is not installed here")
    [wheel] = build.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for path in (ROOT / "medzip").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {path.relative_to(ROOT).as_posix() for path in files} | {"medzip/unmdz.py"}
    assert names == expected
    assert "medzip/py.typed" in names
    assert medzip.__version__ in Path(wheel).name


def test_an_installed_wheel_has_a_second_decoder_that_restores(tmp_path: Path) -> None:
    build = pytest.importorskip("hatchling.builders.wheel", reason="the build backend is not installed here")
    [wheel] = build.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    code = "from medzip.archiving.toolkit import second_decoder as found; print(found())"
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(found) == tmp_path / "site" / "medzip" / "unmdz.py"
    assert Path(found).read_bytes() == (ROOT / "tools" / "unmdz.py").read_bytes()
    if shutil.which("zstd") is None:
        pytest.skip("needs the command zstd (Debian package zstd)")
    archive = ROOT / "tests" / "golden" / "v1_0_parametric.mdz"
    run = [sys.executable, "-I", found, str(archive), "-o", str(tmp_path / "out")]
    subprocess.run(run, cwd=tmp_path, capture_output=True, check=True)
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("call", ["import medzip", "import medzip.cli; medzip.cli.main(['--help'])", "import medzip.pipeline"])
def test_nothing_heavy_is_imported_before_it_is_needed(call: str) -> None:
    code = f"import sys; {call}; print(*sorted({{name.split('.')[0] for name in sys.modules}} & set({HEAVY!r})), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stderr.split() == []


def test_doctor_finds_nothing_wrong_here() -> None:
    report = doctor.report()
    assert report["problems"] == []
    assert set(report["self_tests"]) == {"parametric", *(weights["name"] for weights in report["weights"])}
    assert all(report["self_tests"].values())
    assert report["codecs"]["JPEG XL"].startswith("libjxl")
    assert report["versions"]["numpy"]
    assert report["cpu_features"]


def test_doctor_reports_a_model_that_computes_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PARAMETRIC_DIGEST", "0" * 64)
    assert any("parametric" in problem for problem in doctor.report()["problems"])


def test_doctor_reports_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", ("numpy", "no-such-package"))
    report = doctor.report()
    assert report["versions"]["no-such-package"] is None
    assert any("no-such-package" in problem for problem in report["problems"])
