"""`medzip archive` killed at any moment, workers that die, files that cannot be read: nothing lost, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from archived_trees import call, events, finished, same_tree, start, state, studies

from medzip.archiving import pool, walk
from medzip.archiving.audit import append, event, verify
from medzip.cli import main
from medzip.errors import VerificationError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")

MOMENTS = [
    ("walk.plan", 1, True),
    ("records.commit", 2, False),
    ("records.commit", 1, True),
    ("audit.append", 2, False),
    ("audit.append", 3, True),
    ("jobs.write_tree", 1, True),
]
REMOVING = [("ledger.Ledger.set_state", 2, False)]


def armed(moment: tuple[str, int, bool]) -> str:
    name, count, after = moment
    return f"import archived_trees; archived_trees.armed({name!r}, {count}, after={after})"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tree, src, and its archives, dst, that nothing disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    assert main(call(studies(folder / "src"), folder / "dst", "--quiet")) == 0
    return folder


@pytest.fixture
def undisturbed(calm: Path, tmp_path: Path) -> dict[str, Any]:
    """The state to end in; a copy of the tree lies in src."""
    subprocess.run(["cp", "-a", str(calm / "src"), str(tmp_path / "src")], check=True)
    return state(calm / "dst")


def test_killed_between_any_two_steps_the_same_call_ends_in_the_same_state(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    arguments = call(tmp_path / "src", tmp_path / "dst")
    for moment in MOMENTS:
        assert finished(*arguments, code=armed(moment))[0] == -signal.SIGKILL, moment
    assert finished(*arguments)[0] == 0
    assert state(tmp_path / "dst") == undisturbed
    verify(tmp_path / "dst" / "_medzip" / "audit.jsonl")
    assert main(["restore", str(tmp_path / "dst"), str(tmp_path / "back"), "--quiet"]) == 0
    assert same_tree(tmp_path / "src", tmp_path / "back")

    subprocess.run(["cp", "-a", str(tmp_path / "src"), str(tmp_path / "copy")], check=True)
    for moment in REMOVING:
        assert finished(*arguments, "--rm", code=armed(moment))[0] == -signal.SIGKILL, moment
    assert finished(*arguments, "--rm")[0] == 0
    assert not [path for path in (tmp_path / "src").rglob("*") if path.is_file()]
    assert state(tmp_path / "dst")["archives"] == undisturbed["archives"]
    assert main(["restore", str(tmp_path / "dst"), str(tmp_path / "again"), "--quiet"]) == 0
    assert same_tree(tmp_path / "copy", tmp_path / "again")


def test_killed_at_random_moments_the_same_call_ends_in_the_same_state(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    seconds = random.Random(5)
    for _ in range(2):
        process = start(*call(tmp_path / "src", tmp_path / "dst", "--jobs", "2"))
        time.sleep(seconds.uniform(0.5, 3))
        process.kill()
        process.communicate()
    assert finished(*call(tmp_path / "src", tmp_path / "dst", "--jobs", "2"))[0] == 0
    assert state(tmp_path / "dst") == undisturbed


def test_ctrl_c_leaves_nothing_half_done(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    process = start(*call(tmp_path / "src", tmp_path / "dst"))
    while not (tmp_path / "dst" / "_medzip" / "ledger.sqlite").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert finished(*call(tmp_path / "src", tmp_path / "dst"))[0] == 0
    assert state(tmp_path / "dst") == undisturbed


def killing(monkeypatch: pytest.MonkeyPatch, times: int, name: str = "") -> None:
    """The first `times` workers that get a job for an archive with `name` in it are killed."""
    submit, left = pool.Pool.submit, [times]

    def submitted(self: pool.Pool, tag: int, work: Any, job: Any) -> None:
        before = set(self.processes)
        submit(self, tag, work, job)
        if left[0] and name in str(job.target):
            left[0] -= 1
            for process in set(self.processes) - before or before:
                os.kill(process, signal.SIGKILL)

    monkeypatch.setattr(pool.Pool, "submit", submitted)


def test_a_worker_that_is_killed_costs_nothing(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killing(monkeypatch, 2)
    assert main(call(tmp_path / "src", tmp_path / "dst")) == 0
    assert "worker processes that died: 2" in capsys.readouterr().out
    assert state(tmp_path / "dst") == undisturbed


def test_a_series_that_kills_its_workers_costs_itself_only(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    [poisoned, *_] = undisturbed["archives"]
    killing(monkeypatch, 99, poisoned)
    assert main(call(tmp_path / "src", tmp_path / "dst", "--quiet")) == 6
    after = state(tmp_path / "dst")
    assert set(undisturbed["archives"]) - set(after["archives"]) == {poisoned}
    [row] = [row for row in after["rows"] if row[0].endswith(poisoned)]
    assert row[5] == "discovered"
    assert row[9].startswith("WorkerDied")
    monkeypatch.undo()
    assert main(call(tmp_path / "src", tmp_path / "dst", "--quiet")) == 0
    assert state(tmp_path / "dst") == undisturbed


@pytest.mark.parametrize("harm", ["changed", "gone", "unreadable"])
def test_a_poisoned_file_costs_its_series_only(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    poisoned = tmp_path / "src" / "Doe_Jane" / "1.2.1" / "3" / "0.dcm"
    good, plan = poisoned.read_bytes(), walk.plan

    def planned(*arguments: Any) -> None:
        plan(*arguments)
        if poisoned.is_file():
            poisoned.unlink()
        if harm == "changed":
            poisoned.write_bytes(good + b"more")
        if harm == "unreadable":
            poisoned.mkdir(exist_ok=True)

    monkeypatch.setattr(walk, "plan", planned)
    assert main(call(tmp_path / "src", tmp_path / "dst", "--json")) == VerificationError.exit_code
    said = "".join(capsys.readouterr())
    after = state(tmp_path / "dst")
    assert len(set(undisturbed["archives"]) - set(after["archives"])) == 1
    [error] = [row[9] for row in after["rows"] if row[9]]
    assert not [secret for secret in ("Doe", "dcm", "1.2.1") if secret in error + said]
    monkeypatch.undo()
    if poisoned.is_dir():
        poisoned.rmdir()
    poisoned.write_bytes(good)
    assert main(call(tmp_path / "src", tmp_path / "dst", "--quiet")) == 0
    assert state(tmp_path / "dst") == undisturbed


def trail(folder: Path) -> tuple[Path, str]:
    path = folder / "audit.jsonl"
    heads = [append(path, event("committed", archive=f"{number}.mdz")) for number in range(5)]
    return path, heads[-1]


def test_a_whole_audit_trail_is_followed_to_its_head(tmp_path: Path) -> None:
    path, head = trail(tmp_path)
    assert verify(path, head) == verify(path)
    assert verify(path).head == head
    later = append(path, event("committed"))
    assert verify(path, head).head == later


@pytest.mark.parametrize("line", range(5))
def test_a_changed_audit_line_shows(tmp_path: Path, line: int) -> None:
    path, head = trail(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"committed", b"forgotten")
    path.write_bytes(b"".join(lines))
    with pytest.raises(VerificationError):
        verify(path, head)
    if line < 4:
        with pytest.raises(VerificationError):
            verify(path)


@pytest.mark.parametrize("line", range(5))
def test_a_removed_audit_line_shows(tmp_path: Path, line: int) -> None:
    path, head = trail(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
    with pytest.raises(VerificationError):
        verify(path, head)


def test_an_end_that_was_cut_off_shows_beside_its_head_alone(tmp_path: Path) -> None:
    path, head = trail(tmp_path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert verify(path).entries == 3
    with pytest.raises(VerificationError):
        verify(path, head)


def test_a_torn_audit_line_is_cut_off_and_told(tmp_path: Path) -> None:
    path, _ = trail(tmp_path)
    path.write_bytes(path.read_bytes() + b'{"action": "comm')
    append(path, event("committed"))
    assert verify(path).entries == 7
    assert "torn line" in path.read_text()


def test_each_archive_is_told_once(calm: Path) -> None:
    told = [entry["archive"] for entry in events(calm / "dst", "committed")]
    assert len(told) == len(set(told)) == len(state(calm / "dst")["archives"])
