"""The command line as a user or a script meets it: what it writes, says and returns."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medzip import errors, pipeline
from medzip.cli import main

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
COMMAND = [sys.executable, "-m", "medzip"]
SAMPLES = np.random.default_rng(5).integers(900, 1100, (7, 9, 11)).cumsum(axis=2).astype(np.uint16)

Run = Callable[..., tuple[int, str, str]]


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([*COMMAND, *map(str, arguments)], text=True, env=ENVIRONMENT, **pipes)


def in_process_of_its_own(*arguments: str | Path) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def nifti(samples: np.ndarray) -> bytes:
    """A NIfTI-1 single file of (slices, rows, columns) int16 samples."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *samples.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, *[1.0] * 8)
    struct.pack_into("<3f", header, 108, 352.0, 1.0, 0.0)
    header[344:348] = b"n+1\0"
    return bytes(header) + samples.astype("<i2").tobytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scan.npy, ct.nii (negative samples) and their archives, which another process made."""
    folder = tmp_path_factory.mktemp("made")
    np.save(folder / "scan.npy", SAMPLES)
    (folder / "ct.nii").write_bytes(nifti(SAMPLES.astype(np.int32) - 12_000))
    code, out, err = in_process_of_its_own("compress", folder / "scan.npy", folder / "ct.nii")
    assert code == 0, err
    assert out.count("\n") == 2
    assert out.count(", verified") == 2
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "work"))


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# What comes back


def test_the_same_bytes_come_back_in_another_process_and_nothing_else_is_written(folder: Path) -> None:
    assert names(folder) == {"scan.npy", "ct.nii", "scan.npy.mdz", "ct.nii.mdz"}
    code, out, err = in_process_of_its_own("decompress", folder / "scan.npy.mdz", folder / "ct.nii.mdz", "-o", folder / "back")
    assert (code, err) == (0, "")
    assert out.count("\n") == 2
    assert names(folder / "back") == {"scan.npy", "ct.nii"}
    for name in names(folder / "back"):
        assert (folder / "back" / name).read_bytes() == (folder / name).read_bytes()


def test_verify_in_another_process_compares_with_the_source(folder: Path) -> None:
    code, out, err = in_process_of_its_own("verify", folder / "scan.npy.mdz", "--against", folder / "scan.npy")
    assert (code, err) == (0, "")
    assert "good" in out
    assert str(folder / "scan.npy") in out


def test_rm_removes_the_source_of_a_good_archive_only(folder: Path, run: Run) -> None:
    original = (folder / "scan.npy").read_bytes()
    (folder / "notes.nii").write_text("no scan")
    code, out, _ = run("compress", folder / "scan.npy", folder / "notes.nii", "-o", folder / "kept", "--rm")
    assert code == errors.UnsupportedInputError.exit_code
    assert "original removed" in out
    assert not (folder / "scan.npy").exists()
    assert (folder / "notes.nii").exists()
    assert run("decompress", folder / "kept" / "scan.npy.mdz")[0] == 0
    assert (folder / "kept" / "scan.npy").read_bytes() == original


def test_no_verify_says_what_is_given_up(folder: Path, run: Run) -> None:
    code, out, err = run("compress", folder / "scan.npy", "-o", folder / "kept", "--no-verify")
    assert code == 0
    assert "not verified" in out
    assert "warning" in err
    assert "verify --against" in err


# Where it goes


def test_output_that_ends_in_mdz_is_that_file(folder: Path, run: Run) -> None:
    assert run("compress", folder / "scan.npy", "-o", folder / "a.mdz")[0] == 0
    assert run("verify", folder / "a.mdz", "--against", folder / "scan.npy")[0] == 0


def test_any_other_output_is_a_folder_made_if_need_be(folder: Path, run: Run) -> None:
    assert run("compress", folder / "scan.npy", folder / "ct.nii", "-o", folder / "new" / "deep")[0] == 0
    assert names(folder / "new") == {"deep/scan.npy.mdz", "deep/ct.nii.mdz"}


def test_a_source_folder_is_mirrored_and_comes_back_whole(folder: Path, run: Run) -> None:
    source = folder / "study"
    (source / "a" / "b").mkdir(parents=True)
    (source / "empty").mkdir()
    shutil.copy(folder / "scan.npy", source / "a" / "b" / "scan.npy")
    shutil.copy(folder / "ct.nii", source / "ct.nii")
    (source / "notes.txt").write_text("kept as well")
    assert run("compress", source, "-o", folder / "archive")[0] == 0
    assert {"a/b/scan.npy.mdz", "ct.nii.mdz"} <= names(folder / "archive")
    assert run("decompress", folder / "archive", "-o", folder / "back")[0] == 0
    assert names(folder / "back") == names(source)
    assert all((folder / "back" / name).read_bytes() == (source / name).read_bytes() for name in names(source))
    assert (folder / "back" / "empty").is_dir()


def test_several_source_folders_lie_side_by_side_in_the_output(folder: Path, run: Run) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
        shutil.copy(folder / "scan.npy", folder / name / "scan.npy")
    assert run("compress", folder / "one", folder / "two", "-o", folder / "archive")[0] == 0
    assert {"one/scan.npy.mdz", "two/scan.npy.mdz"} <= names(folder / "archive")


def test_one_archive_name_for_several_sources_is_refused(folder: Path, run: Run) -> None:
    before = names(folder)
    assert run("compress", folder / "scan.npy", folder / "ct.nii", "-o", folder / "a.mdz")[0] == 1
    assert names(folder) == before


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_two_inputs_that_would_share_one_output_are_refused_even_with_overwrite(folder: Path, run: Run, command: str) -> None:
    name = "scan.npy" if command == "compress" else "scan.npy.mdz"
    (folder / "other").mkdir()
    shutil.copy(folder / name, folder / "other" / name)
    code, _, err = run(command, folder / name, folder / "other" / name, "-o", folder / "out", "--overwrite")
    assert code == 1
    assert "one call for each" in err
    assert not (folder / "out").exists()


def test_nothing_is_overwritten_unless_asked(folder: Path, run: Run) -> None:
    for command, name, target in (("compress", "scan.npy", "scan.npy.mdz"), ("decompress", "scan.npy.mdz", "scan.npy")):
        (folder / target).rename(folder / "aside")
        (folder / target).write_text("mine")
        code, out, err = run(command, folder / name)
        assert (code, out) == (1, "")
        assert target in err
        assert "overwrite" in err
        assert (folder / target).read_text() == "mine"
        assert run(command, folder / name, "--overwrite")[0] == 0
        assert (folder / target).read_bytes() == (folder / "aside").read_bytes()


# What is said


def test_json_is_one_object_per_file_and_nothing_else_on_stdout(folder: Path, run: Run) -> None:
    sources = [folder / "scan.npy", folder / "missing.npy", folder / "ct.nii"]
    code, out, err = run("compress", *sources, "-o", folder / "out", "--json", "--no-verify")
    good, failed, other = (json.loads(line) for line in out.splitlines())
    assert code == failed["exit_code"] == 6
    assert failed["type"] == "StorageError"
    assert failed["input"] == str(folder / "missing.npy")
    assert failed["error"] in err
    assert (good["archive"], other["archive"]) == (str(folder / "out" / "scan.npy.mdz"), str(folder / "out" / "ct.nii.mdz"))
    assert good["original_bytes"] == (folder / "scan.npy").stat().st_size
    assert good["archive_bytes"] == (folder / "out" / "scan.npy.mdz").stat().st_size


def test_json_of_every_reading_command_parses(folder: Path, run: Run) -> None:
    archive = folder / "scan.npy.mdz"
    for arguments in (
        ["info", archive],
        ["verify", archive],
        ["verify", archive, "--fast"],
        ["decompress", archive, "-o", folder / "b"],
    ):
        code, out, err = run(*arguments, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["archive"] == str(archive)


def test_json_reports_wrong_arguments_too(run: Run) -> None:
    code, out, _ = run("verify", "--json", "--nonsense")
    assert code == json.loads(out)["exit_code"] == 1


def test_info_shows_what_the_archive_holds(folder: Path, run: Run) -> None:
    code, out, _ = run("info", folder / "scan.npy.mdz")
    assert code == 0
    assert "7 x 9 x 11" in out
    assert "portable: yes" in out


def test_quiet_says_nothing_but_errors(folder: Path, run: Run) -> None:
    assert run("compress", folder / "scan.npy", "-o", folder / "out", "--no-verify", "-q") == (0, "", "")
    code, out, err = run("compress", folder / "missing", "-q")
    assert (code, out, err.count("\n")) == (6, "", 1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_the_progress_bar_is_on_a_terminal_on_stderr_and_never_on_stdout(folder: Path) -> None:
    import pty

    terminal, stderr = pty.openpty()
    process = start("verify", folder / "scan.npy.mdz", "--json", stderr=stderr)
    os.close(stderr)
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux's end of file on a pseudo-terminal
            break
        if not piece:
            break
        shown += piece
    os.close(terminal)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["archive"] == str(folder / "scan.npy.mdz")
    assert b"scan.npy.mdz" in shown


# How it fails

WRONG_ARGUMENTS = [
    [],
    ["frobnicate"],
    ["compress"],
    ["compress", "scan.npy", "--preset", "none-such"],
    ["compress", "scan.npy", "--jobs", "0"],
    ["compress", "scan.npy", "--rm", "--no-verify"],
    ["compress", "scan.npy", "--over"],
    ["info", "scan.npy.mdz", "-q", "-v"],
    ["verify", "scan.npy.mdz", "ct.nii.mdz", "--against", "scan.npy"],
    ["verify", "scan.npy.mdz", "--against", "scan.npy", "--fast"],
    ["extract", "scan.npy.mdz", "-o", "x.npy"],
    ["extract", "scan.npy.mdz", "--slices", "a:b", "-o", "x.npy"],
    ["extract", "scan.npy.mdz", "--slices", "3:3", "-o", "x.npy"],
    ["extract", "scan.npy.mdz", "--slices", "5:8", "-o", "x.npy"],
    ["extract", "scan.npy.mdz", "--slices", "0:1", "--volume", "1", "-o", "x.npy"],
    ["extract", "scan.npy.mdz", "--slices", "0:1", "-o", "x.jpg"],
    ["extract", "ct.nii.mdz", "--slices", "0:1", "-o", "x.png"],
    ["completion", "cmd"],
]


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS, ids=" ".join)
def test_wrong_arguments_end_with_1_and_one_line_and_write_nothing(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(folder)
    before = names(folder)
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("medzip: error: ")
    assert err.count("\n") == 1
    assert names(folder) == before


FAILURES = [
    (errors.UsageError("a"), 1),
    (errors.UnsupportedInputError("a"), 2),
    (errors.TruncatedArchiveError("a"), 3),
    (errors.VerificationError("a"), 4),
    (errors.ModelMissingError("a"), 5),
    (errors.ModelMismatchError("a"), 5),
    (errors.StorageError("a"), 6),
    (PermissionError(13, "Permission denied", "a"), 6),
    (RuntimeError("Doe^Jane"), 70),
]


@pytest.mark.parametrize(("error", "expected"), FAILURES)
def test_every_kind_of_failure_has_its_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: int
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(pipeline, "verify", fail)
    code, out, err = run("verify", "a.mdz", "--json")
    assert code == json.loads(out)["exit_code"] == expected
    assert err.startswith("medzip: error: a")
    assert err.count("\n") == 1
    assert "Doe" not in out + err


def test_an_unexpected_error_shows_its_traceback_only_when_verbose(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("details")

    monkeypatch.setattr(pipeline, "verify", fail)
    assert "Traceback" not in run("verify", "a.mdz")[2]
    code, _, err = run("verify", "a.mdz", "-v")
    assert code == 70
    assert "Traceback" in err
    assert "medzip doctor" in err


def test_after_a_failure_the_others_are_done_and_the_worst_exit_code_wins(folder: Path, run: Run) -> None:
    (folder / "bad.npy.mdz").write_bytes((folder / "scan.npy.mdz").read_bytes()[:-1])
    archives = [folder / "missing.mdz", folder / "bad.npy.mdz", folder / "ct.nii.mdz"]
    code, out, err = run("decompress", *archives, "-o", folder / "out")
    assert code == 3
    assert err.count("medzip: error: ") == 2
    assert out.count("\n") == 1
    assert names(folder / "out") == {"ct.nii"}


def test_what_is_no_scan_is_unsupported(folder: Path, run: Run) -> None:
    (folder / "notes.nii").write_text("no scan")
    code, out, err = run("compress", folder / "notes.nii")
    assert (code, out) == (2, "")
    assert "notes.nii" in err
    assert not (folder / "notes.nii.mdz").exists()


def test_a_damaged_archive_gives_no_file(folder: Path, run: Run) -> None:
    data = bytearray((folder / "scan.npy.mdz").read_bytes())
    (folder / "short.mdz").write_bytes(data[: len(data) // 2])
    assert run("verify", folder / "short.mdz")[0] == 3
    assert run("verify", folder / "short.mdz", "--fast")[0] == 3
    assert run("info", folder / "short.mdz")[0] == 3
    assert run("decompress", folder / "short.mdz", "-o", folder / "out")[0] == 3
    assert not (folder / "out" / "scan.npy").exists()


def test_another_original_is_a_failed_verification(folder: Path, run: Run) -> None:
    changed = bytearray((folder / "scan.npy").read_bytes())
    changed[-1] ^= 1
    (folder / "other.npy").write_bytes(changed)
    assert run("verify", folder / "scan.npy.mdz", "--against", folder / "other.npy")[0] == 4


def test_salvage_with_losses_lists_them_and_ends_with_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    restored = pipeline.Restored("a.mdz", ("out/good.nii",), 5, ("bad.nii: slices 32 to 63",), 0.1)
    monkeypatch.setattr(pipeline, "decompress", lambda *_, **__: restored)
    code, out, err = run("decompress", "a.mdz", "--salvage")
    assert code == 3
    assert "out/good.nii" in out
    assert "bad.nii: slices 32 to 63" in err


def test_doctor_ends_with_5_when_a_self_test_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from medzip import doctor

    monkeypatch.setattr(doctor, "report", lambda: {"versions": {"numpy": "2"}, "problems": ["llm: wrong numbers"]})
    code, out, err = run("doctor")
    assert code == 5
    assert "numpy: 2" in out
    assert "llm: wrong numbers" in err


# Extract


def test_extract_gives_the_slices_as_npy(folder: Path, run: Run) -> None:
    assert run("extract", folder / "scan.npy.mdz", "--slices", "2:5", "-o", folder / "x.npy")[0] == 0
    assert np.array_equal(np.load(folder / "x.npy"), SAMPLES[2:5])
    assert run("extract", folder / "ct.nii.mdz", "--slices", ":", "-o", folder / "y.npy")[0] == 0
    assert np.array_equal(np.load(folder / "y.npy"), SAMPLES.astype(np.int32) - 12_000)


def test_extract_gives_16_bit_png(folder: Path, run: Run) -> None:
    import imagecodecs

    archive = folder / "scan.npy.mdz"
    code, out, _ = run("extract", archive, "--slices", "5:", "-o", folder / "x.png", "--json")
    assert code == 0
    assert json.loads(out)["files"] == [str(folder / "x_0005.png"), str(folder / "x_0006.png")]
    assert run("extract", archive, "--slices", "3", "-o", folder / "one.png")[0] == 0
    for name, index in (("x_0005.png", 5), ("x_0006.png", 6), ("one.png", 3)):
        picture = imagecodecs.png_decode((folder / name).read_bytes())
        assert picture.dtype == np.uint16
        assert np.array_equal(picture, SAMPLES[index])


def test_extract_overwrites_none_of_its_files_unless_asked(folder: Path, run: Run) -> None:
    (folder / "x_0001.png").write_text("mine")
    before = names(folder)
    arguments = ["extract", folder / "scan.npy.mdz", "--slices", "0:2", "-o", folder / "x.png"]
    assert run(*arguments)[0] == 1
    assert names(folder) == before
    assert (folder / "x_0001.png").read_text() == "mine"
    assert run(*arguments, "--overwrite")[0] == 0
    assert names(folder) == before | {"x_0000.png"}


# The process


@pytest.mark.parametrize("arguments", [["--help"], ["compress", "--help"], ["--version"]], ids=" ".join)
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "medzip", *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    imported = {
        line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    assert "argparse" in imported
    assert not imported & {"torch", "numba", "transformers", "imagecodecs", "pydicom", "constriction", "rich", "scipy"}
    assert done.stdout


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "large.npy"
    np.save(source, np.random.default_rng(6).integers(0, 4096, (96, 512, 512)).astype(np.uint16))
    process = start("compress", source, "-o", tmp_path / "out", "-v")
    assert process.stderr is not None
    assert "compressing" in process.stderr.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("medzip: error: interrupted; nothing unfinished was kept\n")
    assert "Traceback" not in err
    assert names(tmp_path) == {"large.npy"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGPIPE")
def test_a_reader_that_goes_away_ends_the_run_quietly(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = start("info", folder / "scan.npy.mdz", folder / "ct.nii.mdz", stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_an_input_output_error(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = start("info", folder / "scan.npy.mdz", "--json", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 6
    assert err.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_every_command_and_parse(run: Run, tmp_path: Path, shell: str) -> None:
    code, script, _ = run("completion", shell)
    assert code == 0
    commands = ("compress", "decompress", "verify", "info", "extract", "export", "bench", "doctor", "models", "completion")
    assert all(name in script for name in commands)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed, so only the names were checked")
    (tmp_path / "script").write_text(script)
    assert subprocess.run([shell, "-n", tmp_path / "script"], check=False).returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_presets_and_options(run: Run) -> None:
    _, script, _ = run("completion", "bash")
    ask = 'ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _medzip; echo "${COMPREPLY[*]}"; }'
    calls = "\n".join(["ask medzip ver", "ask medzip compress --preset d", "ask medzip compress --ove", "ask medzip compress sc"])
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}\n{calls}"], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["verify", "default", "--overwrite", "", ""]
