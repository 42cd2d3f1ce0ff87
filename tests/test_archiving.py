"""`medzip archive` and `restore`: whole trees come back, whatever came late, changed, could not be read or was lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from archived_trees import ENVIRONMENT, call, events, flip, same_tree, slice_of, state, studies
from archived_trees import query as asked
from pipeline_inputs import npy, smooth, written

from medzip import pipeline, skeleton, sources
from medzip.archiving import scrub as scrubbing
from medzip.archiving import sums, toolkit, walk
from medzip.archiving.store import open_store
from medzip.cli import main
from medzip.container.writer import ArchiveWriter
from medzip.errors import StorageFullError
from medzip.volume import Skeleton

Run = Callable[..., tuple[int, str, str]]
SECRETS = ("Doe", "Jane", "report", "1.2.0", "scan.npy", ".dcm")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def called(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return called


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tree, src, and its archives, dst."""
    folder = tmp_path_factory.mktemp("made")
    assert main(call(studies(folder / "src"), folder / "dst", "--quiet")) == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` that a test may change; times and inodes of its files are other ones."""
    subprocess.run(["cp", "-a", f"{made}/.", str(tmp_path)], check=True)
    return tmp_path


def archives(folder: Path) -> set[str]:
    return set(state(folder / "dst")["archives"])


def test_a_tree_comes_back_as_it_was(made: Path, tmp_path: Path, run: Run) -> None:
    code, out, err = run("restore", made / "dst", tmp_path / "back", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["files"] == 12
    assert same_tree(made / "src", tmp_path / "back")


def test_one_archive_is_made_for_each_series_scan_and_rest_of_a_folder(made: Path) -> None:
    kinds = [kind for (kind,) in asked(made / "dst", "SELECT kind FROM archives ORDER BY kind")]
    assert kinds == ["image", "rest", "rest", "series", "series", "series", "series", "tree"]


@pytest.mark.parametrize(
    ("choice", "files"),
    [
        (
            ("--study", "1.2.1"),
            {"Doe_Jane/1.2.1/2/0.dcm", "Doe_Jane/1.2.1/2/1.dcm", "Doe_Jane/1.2.1/3/0.dcm", "Doe_Jane/1.2.1/3/1.dcm"},
        ),
        (("--series", "1.2.1.3"), {"Doe_Jane/1.2.1/3/0.dcm", "Doe_Jane/1.2.1/3/1.dcm"}),
        (("--path", "*/0.dcm"), {f"Doe_Jane/1.2.{n // 2}/{n}/0.dcm" for n in range(4)}),
        (("--path", "Doe_Jane/1.2.0/1"), {"Doe_Jane/1.2.0/1/0.dcm", "Doe_Jane/1.2.0/1/1.dcm"}),
    ],
)
def test_a_part_comes_back_and_nothing_else(
    made: Path, tmp_path: Path, run: Run, choice: tuple[str, str], files: set[str]
) -> None:
    assert run("restore", made / "dst", tmp_path, *choice)[0] == 0
    back = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert back == files
    assert all((tmp_path / name).read_bytes() == (made / "src" / name).read_bytes() for name in files)


def test_nothing_that_fits_is_an_error(made: Path, tmp_path: Path, run: Run) -> None:
    assert run("restore", made / "dst", tmp_path, "--series", "9.9")[0] == 1


def test_restoring_goes_on_where_it_ended_and_writes_over_nothing(made: Path, tmp_path: Path, run: Run) -> None:
    assert run("restore", made / "dst", tmp_path / "back")[0] == 0
    (tmp_path / "back" / "scan.npy").unlink()
    code, out, _ = run("restore", made / "dst", tmp_path / "back", "--json")
    assert (code, json.loads(out)["files"], json.loads(out)["there"]) == (0, 1, 11)
    (tmp_path / "back" / "scan.npy").write_bytes(b"another")
    assert run("restore", made / "dst", tmp_path / "back")[0] == 1
    assert (tmp_path / "back" / "scan.npy").read_bytes() == b"another"


def test_the_same_call_again_changes_nothing(folder: Path, run: Run) -> None:
    before = state(folder / "dst")
    assert run(*call(folder / "src", folder / "dst"))[0] == 0
    assert state(folder / "dst") == before


def test_late_slices_make_a_second_archive_and_leave_the_first_alone(folder: Path, run: Run) -> None:
    before = state(folder / "dst")
    written(folder / "src", {"late/7.dcm": slice_of("1.2.0", "1.2.0.1", 7)})
    assert run(*call(folder / "src", folder / "dst"))[0] == 0
    after = state(folder / "dst")
    assert before["archives"].items() < after["archives"].items()
    [new] = set(after["archives"]) - set(before["archives"])
    assert new.endswith("-2.mdz")
    assert run("restore", folder / "dst", folder / "back")[0] == 0
    assert same_tree(folder / "src", folder / "back")
    assert run("restore", folder / "dst", folder / "one", "--series", "1.2.0.1")[0] == 0
    assert len(list((folder / "one").rglob("*.dcm"))) == 3


def test_a_changed_file_is_archived_again_and_the_newest_comes_back(folder: Path, run: Run) -> None:
    before = archives(folder)
    (folder / "src" / "scan.npy").write_bytes(npy(smooth((3, 5, 6))))
    assert run(*call(folder / "src", folder / "dst"))[0] == 0
    assert len(archives(folder) - before) == 1
    assert run("index", "rebuild", folder / "dst")[0] == 0
    code, _, err = run("restore", folder / "dst", folder / "back")
    assert code == 0
    assert "1 older" in err
    assert same_tree(folder / "src", folder / "back")


def test_the_ledger_is_made_again_from_the_archives(folder: Path, run: Run) -> None:
    before = state(folder / "dst")
    (folder / "dst" / "_medzip" / "ledger.sqlite").unlink()
    assert run("restore", folder / "dst", folder / "back")[0] == 1
    assert run(*call(folder / "src", folder / "dst"))[0] == 1, "a new ledger would know nothing of sources that were removed"
    assert run("index", "rebuild", folder / "dst")[0] == 0
    assert state(folder / "dst") == before
    assert run("restore", folder / "dst", folder / "back")[0] == 0
    assert same_tree(folder / "src", folder / "back")
    assert run(*call(folder / "src", folder / "dst"))[0] == 0
    assert state(folder / "dst") == before


def test_a_rebuilt_ledger_knows_what_is_damaged_and_what_is_lost(folder: Path, run: Run) -> None:
    [damaged, lost] = asked(folder / "dst", "SELECT name FROM archives WHERE kind = 'series' ORDER BY name LIMIT 2")
    flip(folder / "dst" / damaged[0], -60)
    (folder / "dst" / lost[0]).unlink()
    code, out, err = run("index", "rebuild", folder / "dst", "--json")
    assert code == 3
    assert (json.loads(out)["damaged"], json.loads(out)["lost"]) == (1, 1)
    assert damaged[0] in err
    assert lost[0] in err


def test_sources_are_removed_when_asked_and_come_back(folder: Path, run: Run) -> None:
    subprocess.run(["cp", "-a", str(folder / "src"), str(folder / "copy")], check=True)
    code, out, _ = run(*call(folder / "src", folder / "dst", "--rm", "--json"))
    assert code == 0
    assert json.loads(out.splitlines()[-1])["sources_removed"] == 12
    assert not [path for path in (folder / "src").rglob("*") if path.is_file()]
    assert {row[5] for row in state(folder / "dst")["rows"] if row[1] != "tree"} == {"removed"}
    before = archives(folder)
    assert run(*call(folder / "src", folder / "dst", "--rm"))[0] == 0
    assert archives(folder) == before, "folders that --rm emptied are no new empty folders"
    assert run("restore", folder / "dst", folder / "back")[0] == 0
    assert same_tree(folder / "copy", folder / "back")


def test_a_source_of_a_damaged_archive_is_not_removed(folder: Path, run: Run) -> None:
    [[name]] = asked(folder / "dst", "SELECT name FROM archives WHERE kind = 'image'")
    flip(folder / "dst" / name, -60)
    assert run(*call(folder / "src", folder / "dst", "--rm"))[0] == 3
    assert {path.name for path in (folder / "src").rglob("*") if path.is_file()} == {"scan.npy"}


def test_presets_that_not_every_machine_decodes_are_refused(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "is_portable", lambda preset: preset != "llm")  # the true one loads a language model
    code, _, err = run("archive", folder / "src", folder / "new", "--preset", "llm")
    assert code == 1
    assert "every machine decodes" in err
    assert not (folder / "new").exists()


def test_nothing_outside_archives_tells_of_a_patient(folder: Path, run: Run) -> None:
    (folder / "src" / "Doe_Jane" / "1.2.0" / "0" / "0.dcm").unlink()
    written(folder / "src", {"Doe_Jane/new.npy": npy(smooth((2, 5, 6)))})
    os.mkfifo(folder / "src" / "Doe_Jane" / "pipe.dcm")
    code, out, err = run(*call(folder / "src", folder / "dst", "--json", "-v"))
    assert code == 0
    names = "\n".join(path.relative_to(folder).as_posix() for path in (folder / "dst").rglob("*"))
    trail = (folder / "dst" / "_medzip" / "audit.jsonl").read_text()
    sums = (folder / "dst" / "SHA256SUMS").read_text()
    for text in (names, out, err, trail, sums):
        assert not [secret for secret in SECRETS if secret in text]
    assert '"special": 1' in out


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions")
def test_only_its_owner_reads_what_tells_of_patients(folder: Path, run: Run) -> None:
    assert run("index", "rebuild", folder / "dst")[0] == 0
    assert run("archive", folder / "src", folder / "new", "--preset", "parametric")[0] == 0
    for private in (folder / "dst" / "_medzip", folder / "new" / "_medzip"):
        modes = {path.name: path.stat().st_mode & 0o077 for path in private.iterdir()}
        assert {modes.get(name, 0) for name in ("ledger.sqlite", "audit.jsonl", "site.key")} == {0}


def test_another_site_key_is_refused(folder: Path, run: Run) -> None:
    (folder / "other.key").write_text("cd" * 32)
    code, _, err = run("archive", folder / "src", folder / "dst", "--key-file", folder / "other.key")
    assert code == 1
    assert "site key" in err


def test_two_at_once_are_refused(folder: Path, run: Run) -> None:
    with open_store(folder / "dst").exclusively():
        code, _, err = run(*call(folder / "src", folder / "dst"))
    assert code == 6
    assert "another medzip" in err


@pytest.mark.parametrize(("source", "destination"), [("src", "src/dst"), ("src/Doe_Jane", "src"), ("none", "dst")])
def test_trees_and_archives_lie_apart(folder: Path, run: Run, source: str, destination: str) -> None:
    assert run(*call(folder / source, folder / destination))[0] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs sha256sum")
def test_the_sums_are_proved_without_medzip(made: Path) -> None:
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"], cwd=made / "dst", capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout) == (0, b"")
    assert {"FORMAT.md", "tables.bin"} <= {path.name for path in (made / "dst" / "_medzip").iterdir()}


def test_a_forgotten_series_is_gone_and_stays_away(folder: Path, run: Run) -> None:
    before = archives(folder)
    code, out, _ = run("forget", folder / "dst", "--series", "1.2.0.1", "--key-file", folder / "site.key", "--json")
    assert code == 0
    assert json.loads(out)["archives"] == 1
    code, out, _ = run(*call(folder / "src", folder / "dst", "--json"))
    assert (code, json.loads(out)["forgotten"]) == (0, 2)
    assert len(before - archives(folder)) == 1
    assert b"1.2.0.1" not in (folder / "dst" / "_medzip" / "ledger.sqlite").read_bytes()
    assert len(events(folder / "dst", "forgotten")) == 1
    assert run("restore", folder / "dst", folder / "back", "--series", "1.2.0.1")[0] == 1
    (folder / "dst" / "_medzip" / "ledger.sqlite").unlink()
    assert run("index", "rebuild", folder / "dst")[0] == 0
    assert run(*call(folder / "src", folder / "dst"))[0] == 0
    assert len(before - archives(folder)) == 1


def test_scrub_finds_a_flipped_bit_and_a_missing_archive_and_remembers(folder: Path, run: Run) -> None:
    names = [name for (name,) in asked(folder / "dst", "SELECT name FROM archives WHERE kind = 'series' ORDER BY name")]
    assert run("scrub", folder / "dst", "--max-age", "1h")[0] == 0
    whole = (folder / "dst" / names[0]).read_bytes()
    flip(folder / "dst" / names[0], -60)
    (folder / "dst" / names[1]).unlink()
    code, _, err = run("scrub", folder / "dst")
    assert code == 3
    assert names[0] in err
    assert names[1] in err
    assert len(events(folder / "dst", "damage found")) == 2
    (folder / "dst" / names[0]).write_bytes(whole)
    code, out, _ = run("scrub", folder / "dst", "--max-age", "1h", "--json")
    assert (code, json.loads(out.splitlines()[-1])["archives"]) == (3, 1), "what was damaged is looked at first"
    assert len(events(folder / "dst", "good again")) == 1


def test_scrub_finds_what_is_needed_to_read_the_archives(folder: Path, run: Run) -> None:
    flip(folder / "dst" / "_medzip" / "tables.bin", 100)
    assert run("scrub", folder / "dst")[0] == 3


def test_scrub_ends_in_time_and_goes_on_with_the_oldest(folder: Path, run: Run) -> None:
    asked(folder / "dst", "UPDATE archives SET proved = '2020-01-01T00:00:00+00:00'")
    for left in range(7, -1, -1):
        code, out, _ = run("scrub", folder / "dst", "--max-duration", "0s", "--max-age", "1d", "--json")
        assert (code, json.loads(out)["archives"], json.loads(out)["left"]) == (0, 1, left)
    assert json.loads(run("scrub", folder / "dst", "--max-age", "1d", "--json")[1])["archives"] == 0


def test_decoding_scrub_is_content_with_good_archives(made: Path, run: Run) -> None:
    assert run("scrub", made / "dst", "--decode")[0] == 0


def test_scrub_does_not_trust_times_in_the_future(folder: Path, run: Run) -> None:
    asked(folder / "dst", "UPDATE archives SET proved = '2099-01-01T00:00:00.000000+00:00' WHERE kind = 'series'")
    code, out, _ = run("scrub", folder / "dst", "--max-age", "1d", "--json")
    assert (code, json.loads(out)["archives"]) == (0, 4)


def test_a_clock_that_is_set_back_while_scrubbing_brings_nothing_back(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "now", lambda: "2001-01-01T00:00:00.000000+00:00")
    code, out, _ = run("scrub", folder / "dst", "--json")
    assert (code, json.loads(out)["archives"]) == (0, 8)


def test_a_change_that_hides_its_time_is_archived(folder: Path, run: Run) -> None:
    assert run(*call(folder / "src", folder / "dst"))[0] == 0
    path = folder / "src" / "Doe_Jane" / "report.txt"
    before, archived = path.stat(), archives(folder)
    path.write_bytes(b"not well"[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run(*call(folder / "src", folder / "dst"))[0] == 0
    assert len(archives(folder) - archived) == 1


def test_files_of_any_time_and_links_to_any_name_cost_nobody_else(folder: Path, run: Run) -> None:
    os.utime(folder / "src" / "scan.npy", ns=(0, 13 * 10**18))
    (folder / "src" / "odd").symlink_to(os.fsdecode(b"\xff\xfe"))
    written(folder / "src", {"new.npy": npy(smooth((2, 5, 6)))})
    before = archives(folder)
    assert run(*call(folder / "src", folder / "dst"))[0] == 2, "of the link nobody could tell"
    assert len(archives(folder) - before) == 1


def test_a_header_that_breaks_its_reader_costs_its_file_alone(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def member(path: Path, name: str) -> sources.Member:
        if name == "new.dcm":
            raise RecursionError
        return member_of(path, name)

    member_of = sources.member
    monkeypatch.setattr(sources, "member", member)
    written(folder / "src", {"new.dcm": slice_of("1.2.0", "1.2.0.9", 1), "new.npy": npy(smooth((2, 5, 6)))})
    assert run(*call(folder / "src", folder / "dst"))[0] == 0
    assert run("restore", folder / "dst", folder / "back")[0] == 0
    assert same_tree(folder / "src", folder / "back")


def test_what_is_gone_is_dropped_though_some_folder_cannot_be_read(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"new/{place}.dcm" for place in range(3)]
    written(folder / "src", {name: slice_of("1.2.7", "1.2.7.7", place) for place, name in enumerate(names)})
    with monkeypatch.context() as patched:
        patched.setattr(walk, "plan", lambda *_: None)
        assert run(*call(folder / "src", folder / "dst"))[0] == 0
    assert len(state(folder / "dst")["waiting"]) == 3
    (folder / "src" / names[1]).unlink()
    (folder / "src" / os.fsdecode(b"\xff")).write_bytes(b"cannot be named")
    assert run(*call(folder / "src", folder / "dst"))[0] == 2
    assert state(folder / "dst")["waiting"] == []
    assert asked(folder / "dst", "SELECT count(*) FROM files WHERE path LIKE 'new/%'") == [(2,)]


def test_nothing_behind_a_link_is_removed(folder: Path, run: Run) -> None:
    moved = folder / "moved"
    (folder / "src" / "Doe_Jane" / "1.2.1").rename(moved)
    (folder / "src" / "Doe_Jane" / "1.2.1").symlink_to(moved)
    code, out, _ = run(*call(folder / "src", folder / "dst", "--rm", "--json"))
    assert code == 0
    assert json.loads(out.splitlines()[-1])["sources_kept"] == 4
    assert len(list(moved.rglob("*.dcm"))) == 4


def test_what_was_restored_to_its_place_is_removed_again(folder: Path, run: Run) -> None:
    assert run(*call(folder / "src", folder / "dst", "--rm"))[0] == 0
    assert run("restore", folder / "dst", folder / "src", "--overwrite")[0] == 0
    code, out, _ = run(*call(folder / "src", folder / "dst", "--rm", "--json"))
    assert (code, json.loads(out.splitlines()[-1])["sources_removed"]) == (0, 12)


def test_the_environment_does_not_say_who_it_was(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert run(*call(folder / "src", folder / "dst"))[0] == 0
    assert "somebody-else" not in (folder / "dst" / "_medzip" / "audit.jsonl").read_text()


@pytest.mark.parametrize("place", [4096, 8192, 12288, 16384, 20480])
def test_a_damaged_ledger_is_told_as_such(folder: Path, run: Run, place: int) -> None:
    ledger = folder / "dst" / "_medzip" / "ledger.sqlite"
    data = bytearray(ledger.read_bytes())
    data[place : place + 4096] = b"\xa5" * 4096
    ledger.write_bytes(data)
    for command in (
        call(folder / "src", folder / "dst"),
        ["restore", folder / "dst", folder / "back"],
        ["scrub", folder / "dst"],
    ):
        code, _, err = run(*command)
        assert code in (0, 3)
        assert "a bug" not in err
        assert code == 0 or "index rebuild" in err
    ledger.unlink()
    assert run("index", "rebuild", folder / "dst")[0] == 0
    assert run("restore", folder / "dst", folder / "back", "--overwrite")[0] == 0
    assert same_tree(folder / "src", folder / "back")


@pytest.mark.parametrize(
    "about", [{"folders": [{}]}, {"links": {"a": 1}}, {"part": 1 << 63}, {"generation": 1 << 63}, {"folders": [b"\xff"]}]
)
def test_a_hostile_archive_costs_itself_alone_when_the_ledger_is_made_again(
    folder: Path, run: Run, about: dict[str, object]
) -> None:
    good = {"kind": "tree", "key": "", "study": "", "part": 1, "generation": 1}
    head = {"medzip": "9", "preset": "parametric", "guarantee": "file", "portable": True, "licence_class": "open", "volumes": []}
    (folder / "dst" / "00").mkdir(exist_ok=True)
    with ArchiveWriter(folder / "dst" / "00" / f"{'0' * 32}.mdz") as writer:
        writer.head({**head, "archived": good | about})
        writer.files([])
        writer.skeleton(skeleton.pack(Skeleton(()))[0])
        writer.finish()
        writer.publish()
    (folder / "dst" / "_medzip" / "ledger.sqlite").unlink()
    code, out, _ = run("index", "rebuild", folder / "dst", "--json")
    assert (code, json.loads(out)["unreadable"], json.loads(out)["archives"]) == (3, 1, 8)


def test_a_torn_line_of_the_sums_spoils_no_other(folder: Path) -> None:
    store = open_store(folder / "dst")
    store.sums.write_bytes(b"ab" * 32 + b"  00/torn.mdz\n" + b"cd" * 20)
    sums.append(store, "ef" * 32, "00/whole.mdz")
    assert sums.read(store) == {"00/torn.mdz": "ab" * 32, "00/whole.mdz": "ef" * 32}


def test_of_two_who_begin_at_once_one_makes_the_site_key(tmp_path: Path) -> None:
    keys = [tmp_path / str(number) for number in range(4)]
    program = "import sys, pathlib as p; from medzip.archiving.store import create; print(create(p.Path(sys.argv[1]), None).key)"
    command = [sys.executable, "-c", program, str(tmp_path / "dst")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) for _ in keys]
    assert len({process.communicate()[0] for process in processes}) == 1


def test_a_full_disk_ends_the_run_at_once(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageFullError("no space left")

    written(folder / "src", {f"new{number}/a.txt": b"text" for number in range(3)})
    with monkeypatch.context() as patched:
        patched.setattr(toolkit, "require", full)
        code, _, err = run(*call(folder / "src", folder / "dst"))
    assert code == 6
    assert "no space" in err
    assert asked(folder / "dst", "SELECT sum(attempts) FROM archives WHERE state <> 'committed'") == [(1,)]
    assert run(*call(folder / "src", folder / "dst"))[0] == 0
    assert run("restore", folder / "dst", folder / "back")[0] == 0
    assert same_tree(folder / "src", folder / "back")


def hurt(path: Path, share: float = 0.05) -> None:
    """Sectors in the middle are lost, a bit flips, and the end is cut off."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + int(share * len(data))] = bytes(int(share * len(data)))
    data[100] ^= 4
    path.write_bytes(data[: -int(share * len(data)) - 1])


def test_scrub_repairs_what_has_parity_and_parity_itself(folder: Path, run: Run) -> None:
    code, out, _ = run(*call(folder / "src", folder / "dst", "--parity", "--json"))
    assert (code, json.loads(out.splitlines()[-1])["protected"]) == (0, 8)
    before = state(folder / "dst")
    archived = sorted((folder / "dst").rglob("*.mdz"))
    for path in archived[:3]:
        hurt(path)
    flip(archived[3].with_name(archived[3].name + ".par"), 70)
    code, out, err = run("scrub", folder / "dst", "--json")
    summary = json.loads(out.splitlines()[-1])
    assert (code, summary["archives"], summary["repaired"], summary["parity"], summary["damaged"]) == (0, 8, 3, 1, 0)
    assert "look after the disk" in err
    assert state(folder / "dst") == before
    assert len(events(folder / "dst", "repaired")) == 3
    assert run("parity", "check", folder / "dst")[0] == 0


def test_scrub_tells_what_parity_cannot_repair_and_replaces_nothing(folder: Path, run: Run) -> None:
    assert run(*call(folder / "src", folder / "dst", "--parity"))[0] == 0
    one, other, *_ = sorted((folder / "dst").rglob("*.mdz"))
    other.with_name(other.name + ".par").replace(one.with_name(one.name + ".par"))
    flip(one, -60)
    damaged = one.read_bytes()
    assert run("scrub", folder / "dst")[0] == 3
    assert one.read_bytes() == damaged


def test_what_is_forgotten_leaves_no_parity(folder: Path, run: Run) -> None:
    assert run(*call(folder / "src", folder / "dst", "--parity"))[0] == 0
    assert run("forget", folder / "dst", "--series", "1.2.0.1", "--key-file", folder / "site.key")[0] == 0
    assert len(list((folder / "dst").rglob("*.par"))) == len(list((folder / "dst").rglob("*.mdz"))) == 7


def test_no_parity_is_made_of_a_damaged_archive(folder: Path, run: Run) -> None:
    [[name]] = asked(folder / "dst", "SELECT name FROM archives WHERE kind = 'image'")
    flip(folder / "dst" / name, -60)
    assert run(*call(folder / "src", folder / "dst", "--parity"))[0] == 3
    assert len(list((folder / "dst").rglob("*.par"))) == 7
    assert run("parity", "make", folder / "dst" / name)[0] == 3


def test_single_archives_get_parity_too(folder: Path, run: Run) -> None:
    [[name]] = asked(folder / "dst", "SELECT name FROM archives WHERE kind = 'image'")
    path = folder / "dst" / name
    whole = path.read_bytes()
    assert run("parity", "make", path)[0] == 0
    assert run("parity", "check", path)[0] == 0
    hurt(path)
    assert run("parity", "check", path)[0] == 3
    assert run("parity", "repair", path)[0] == 0
    assert path.read_bytes() == whole
    path.write_bytes(b"")
    path.with_name(path.name + ".par").write_bytes(b"")
    assert run("parity", "repair", path)[0] == 3
