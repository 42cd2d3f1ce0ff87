"""Shards of an array job: together they are the tree, whatever is killed, run twice or run by two at once."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from archived_trees import call, finished, flip, query, same_tree, slice_of, start, state, studies
from pipeline_inputs import written

from medzip.cli import main

Run = Callable[..., tuple[int, str, str]]
COUNT = 3


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def called(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return called


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree, src, its archives made by one run, one, and by three shards."""
    folder = tmp_path_factory.mktemp("sharded")
    source = studies(folder / "src")
    assert main(call(source, folder / "one", "--quiet")) == 0
    for which in range(1, COUNT + 1):
        assert main(call(source, folder / f"shard{which}", "--shard", f"{which}/{COUNT}", "--quiet")) == 0
    return folder


@pytest.fixture
def folder(sharded: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(sharded, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def merge(folder: Path, run: Run, *options: str) -> tuple[int, str, str]:
    shards = (folder / f"shard{which}" for which in range(1, COUNT + 1))
    return run("ledger", "merge", folder / "dst", *shards, "--key-file", folder / "site.key", *options)


def alike(one: Path, other: Path) -> bool:
    """Whether two stores hold the same; a merged one tells in its trail of shards, not of archives."""
    first, second = state(one), state(other)
    return all(first[name] == second[name] for name in first if name != "told")


def test_shards_share_the_tree_and_become_the_store_of_one_run(folder: Path, run: Run) -> None:
    parts = [set(state(folder / f"shard{which}")["archives"]) for which in range(1, COUNT + 1)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(state(folder / "one")["archives"])
    assert all(parts)
    assert merge(folder, run)[0] == 0
    assert alike(folder / "dst", folder / "one")
    assert run("audit", "verify", folder / "dst")[0] == 0
    assert run("scrub", folder / "dst")[0] == 0
    assert run("restore", folder / "dst", folder / "back")[0] == 0
    assert same_tree(folder / "src", folder / "back")
    code, out, _ = run(*call(folder / "src", folder / "dst", "--json"))
    assert (code, json.loads(out.splitlines()[-1])["archives"]) == (0, 0), "nothing is left to do"


def test_merging_goes_on_with_what_came_since(folder: Path, run: Run) -> None:
    assert merge(folder, run)[0] == 0
    before = set(state(folder / "dst")["archives"])
    written(folder / "src", {"late/7.dcm": slice_of("1.2.0", "1.2.0.1", 7)})
    for which in range(1, COUNT + 1):
        assert main(call(folder / "src", folder / f"shard{which}", "--shard", f"{which}/{COUNT}", "--quiet")) == 0
    code, out, _ = merge(folder, run, "--json")
    assert (code, json.loads(out)["archives"], json.loads(out)["there"]) == (0, 1, len(before))
    assert run("restore", folder / "dst", folder / "back")[0] == 0
    assert same_tree(folder / "src", folder / "back")


def test_what_was_forgotten_does_not_come_back_from_a_shard(folder: Path, run: Run) -> None:
    assert merge(folder, run)[0] == 0
    key = folder / "site.key"
    assert run("forget", folder / "dst", "--series", "1.2.0.1", "--key-file", key)[0] == 0
    before = state(folder / "dst")["archives"]
    assert merge(folder, run)[0] == 0
    assert state(folder / "dst")["archives"] == before


def test_a_merge_that_was_killed_is_ended_by_the_same_call(folder: Path, run: Run) -> None:
    shards = [str(folder / f"shard{which}") for which in range(1, COUNT + 1)]
    arguments = ["ledger", "merge", str(folder / "dst"), *shards, "--key-file", str(folder / "site.key")]
    for moment in ("'merge._bring', 3", "'sums.rewrite', 1"):
        armed = f"import archived_trees; archived_trees.armed({moment}, after=True)"
        assert finished(*arguments, code=armed)[0] == -signal.SIGKILL
    assert merge(folder, run)[0] == 0
    assert alike(folder / "dst", folder / "one")


def test_a_damaged_archive_stays_in_its_shard(folder: Path, run: Run) -> None:
    [name, *_] = [name for (name,) in query(folder / "shard1", "SELECT name FROM archives ORDER BY name")]
    flip(folder / "shard1" / name, -60)
    assert merge(folder, run)[0] == 4
    assert not (folder / "dst" / name).exists()
    assert (folder / "shard1" / name).exists()
    assert len(state(folder / "dst")["archives"]) == len(state(folder / "one")["archives"]) - 1


def test_shards_at_one_url_run_at_once_and_twice_without_harm(folder: Path, run: Run) -> None:
    url, again = f"file://{folder}/far", folder / "again"
    shutil.rmtree(folder / "shard1")
    arguments = [call(folder / "src", folder / f"far{which}", "--shard", f"{which}/2", "--remote", url) for which in (1, 2)]
    # The second shard twice, as a scheduler does that lost sight of a node.
    arguments.append(call(folder / "src", again, "--shard", "2/2", "--remote", url))
    processes = [start(*given) for given in arguments]
    for process in processes:
        process.communicate()
    for given in arguments:
        assert finished(*given)[0] == 0
    key = folder / "site.key"
    shards = [folder / name for name in ("far1", "far2", "again")]
    assert run("ledger", "merge", folder / "dst", *shards, "--key-file", key)[0] == 0
    assert run("scrub", folder / "dst")[0] == 0
    assert state(folder / "dst")["rows"] == state(folder / "one")["rows"]
    assert run("index", "rebuild", folder / "new", "--remote", url)[0] == 0
    assert run("restore", folder / "new", folder / "back")[0] == 0
    assert same_tree(folder / "src", folder / "back")


def test_a_shard_keeps_its_folder_and_all_share_a_key(folder: Path, run: Run) -> None:
    assert run(*call(folder / "src", folder / "shard1", "--shard", "2/3"))[0] == 1
    assert run(*call(folder / "src", folder / "shard1"))[0] == 1
    assert run("archive", folder / "src", folder / "new", "--shard", "1/3")[0] == 1
    assert run("archive", folder / "src", folder / "new", "--preset", "parametric")[0] == 0
    shards = (folder / f"shard{which}" for which in range(1, COUNT + 1))
    assert run("ledger", "merge", folder / "new", *shards)[0] == 1


@pytest.mark.parametrize("bad", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_shards_that_are_none_are_refused(tmp_path: Path, run: Run, bad: str) -> None:
    assert run("archive", tmp_path, tmp_path / "dst", f"--shard={bad}")[0] == 1
