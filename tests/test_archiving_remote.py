"""Archives at a URL: in an object store (moto, a server of this machine) and in another file system of fsspec."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import archived_trees
import pytest
from archived_trees import call, events, finished, query, same_tree, slice_of, state, studies
from pipeline_inputs import written

from medzip.archiving import remote
from medzip.archiving.remote import Remote
from medzip.cli import main
from medzip.errors import StorageError, UsageError, VerificationError

pytest.importorskip("s3fs", reason="s3fs is not installed")
server = pytest.importorskip("moto.server", reason="moto is not installed")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An object store on this machine; the name of a bucket."""
    import fsspec

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    known = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in known.items():
            patch.setenv(name, value)
            patch.setitem(archived_trees.ENVIRONMENT, name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield "bucket"
    running.stop()


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/far"
    return f"s3://{request.getfixturevalue('s3')}/{tmp_path.name}"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def called(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return called


def there(url: str) -> dict[str, str]:
    far = Remote(url)
    return {name.rpartition("/")[2]: far.digest(name) for name in far.names()}


def remembered(destination: Path) -> dict[str, Any]:
    """What does not lie at the URL."""
    found = state(destination)
    assert found.pop("archives") == {}, "archives stay in the folder only until they are committed"
    return found


def test_a_tree_goes_to_a_url_and_comes_back_from_it_alone(tmp_path: Path, url: str, run: Run) -> None:
    source = studies(tmp_path / "src")
    assert main(call(source, tmp_path / "near", "--quiet")) == 0
    near = state(tmp_path / "near")
    assert main(call(source, tmp_path / "dst", "--remote", url, "--quiet")) == 0
    assert there(url) == near["archives"], "the same archives, whatever they are kept in"
    assert remembered(tmp_path / "dst") | {"archives": there(url)} | {"sums": near["sums"]} == near
    assert run("scrub", tmp_path / "dst", "--decode")[0] == 0

    written(source, {"late/7.dcm": slice_of("1.2.0", "1.2.0.1", 7)})
    subprocess.run(["cp", "-a", str(source), str(tmp_path / "copy")], check=True)
    code, out, _ = run(*call(source, tmp_path / "dst", "--rm", "--json"))
    assert (code, json.loads(out.splitlines()[-1])["sources_removed"]) == (0, 13)
    shutil.rmtree(tmp_path / "dst")
    shutil.rmtree(tmp_path / "near")

    assert run("index", "rebuild", tmp_path / "new", "--remote", url)[0] == 0
    assert run("restore", tmp_path / "new", tmp_path / "back")[0] == 0
    assert same_tree(tmp_path / "copy", tmp_path / "back")
    assert run("archive", source, tmp_path / "new")[0] == 1, "without the key nothing gets a name"
    assert run(*call(tmp_path / "copy", tmp_path / "new"))[0] == 0
    assert len(there(url)) == len(near["archives"]) + 1


def test_killed_after_it_was_sent_an_archive_is_not_made_again(tmp_path: Path, s3: str) -> None:
    source, url = studies(tmp_path / "src", series=1), f"s3://{s3}/{tmp_path.name}"
    arguments = call(source, tmp_path / "dst", "--remote", url)
    armed = "import archived_trees; archived_trees.armed('records.commit', 2, after=False)"
    assert finished(*arguments, code=armed)[0] == -signal.SIGKILL
    shutil.rmtree(tmp_path / "dst" / "_medzip" / "weights")
    (tmp_path / "dst" / "_medzip" / "weights").mkdir()
    for path in (tmp_path / "dst").glob("??/*.mdz"):
        path.unlink()  # this machine's disk was lost, and the ledger came from a backup
    sent = there(url)
    assert sent
    assert finished(*arguments)[0] == 0
    assert sent.items() <= there(url).items()
    assert finished("restore", str(tmp_path / "dst"), str(tmp_path / "back"))[0] == 0
    assert same_tree(source, tmp_path / "back")
    told = [event["archive"] for event in events(tmp_path / "dst", "committed")]
    assert len(told) == len(set(told)) == len(there(url))


def test_an_object_that_is_another_is_neither_taken_nor_replaced(tmp_path: Path, url: str, run: Run) -> None:
    source = studies(tmp_path / "src", series=1)
    assert main(call(source, tmp_path / "one", "--quiet")) == 0
    [[name]] = query(tmp_path / "one", "SELECT name FROM archives WHERE kind = 'series'")
    written(tmp_path / "before", {"a.txt": b"text"})
    assert run(*call(tmp_path / "before", tmp_path / "dst", "--remote", url))[0] == 0
    (tmp_path / "half").write_bytes((tmp_path / "one" / name).read_bytes()[:-100])
    Remote(url).publish(tmp_path / "half", name, hashlib.sha256((tmp_path / "half").read_bytes()).hexdigest())
    assert run(*call(source, tmp_path / "dst"))[0] == 3
    assert there(url)[name.rpartition("/")[2]] == hashlib.sha256((tmp_path / "half").read_bytes()).hexdigest()
    assert query(tmp_path / "dst", "SELECT count(*) FROM archives WHERE kind = 'series' AND state = 'committed'") == [(0,)]
    Remote(url).remove(name)
    assert run(*call(source, tmp_path / "dst"))[0] == 0


def test_scrub_finds_what_is_damaged_or_gone_at_the_url(tmp_path: Path, url: str, run: Run) -> None:
    source, far = studies(tmp_path / "src", series=2), Remote(url)
    assert main(call(source, tmp_path / "dst", "--remote", url, "--quiet")) == 0
    one, other = (name for (name,) in query(tmp_path / "dst", "SELECT name FROM archives WHERE kind = 'series'"))
    far.remove(one)
    far.remove(other)
    (tmp_path / "wrong").write_bytes(b"wrong")
    far.replace(tmp_path / "wrong", other)
    assert run("scrub", tmp_path / "dst")[0] == 3
    assert sorted(event["archive"] for event in events(tmp_path / "dst", "damage found")) == sorted([one, other])


def test_what_is_forgotten_is_gone_at_the_url_too(tmp_path: Path, url: str, run: Run) -> None:
    source = studies(tmp_path / "src", series=2)
    assert main(call(source, tmp_path / "dst", "--remote", url, "--quiet")) == 0
    before = there(url)
    key = tmp_path / "site.key"
    assert run("forget", tmp_path / "dst", "--series", "1.2.0.1", "--key-file", key)[0] == 0
    assert len(before.items() - there(url).items()) == 1
    assert run("index", "rebuild", tmp_path / "new", "--remote", url)[0] == 0
    assert run("archive", source, tmp_path / "new", "--key-file", key, "--preset", "parametric")[0] == 0
    assert there(url).keys() < before.keys()


@pytest.fixture
def sendable(tmp_path: Path) -> tuple[Path, str, str]:
    """A file, its name at a URL, its SHA-256."""
    path, data = tmp_path / "x.mdz", random.Random(5).randbytes(100_000)
    path.write_bytes(data)
    return path, f"00/{'0' * 32}.mdz", hashlib.sha256(data).hexdigest()


def test_what_broke_off_while_it_was_sent_is_no_archive(
    url: str, sendable: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name, digest = sendable
    far, half = Remote(url), path.with_name("half")
    half.write_bytes(path.read_bytes()[:500])
    put = far._system.put_file

    def broken(_local: str, target: str, **options: Any) -> None:
        if not far._conditional:  # where it is sent piece by piece
            put(str(half), target, **options)
        raise ConnectionError

    monkeypatch.setattr(far._system, "put_file", broken)
    with pytest.raises(StorageError):
        far.publish(path, name, digest)
    monkeypatch.undo()
    assert far.everything() == []
    far.publish(path, name, digest)
    far.publish(path, name, digest)
    assert far.digest(name) == digest


def test_parts_of_an_object_are_no_archive(s3: str, sendable: tuple[Path, str, str]) -> None:
    path, name, digest = sendable
    far = Remote(f"s3://{s3}/parts")
    key = f"parts/{name}"
    begun = far._system.call_s3("create_multipart_upload", Bucket=s3, Key=key)
    far._system.call_s3("upload_part", Bucket=s3, Key=key, PartNumber=1, UploadId=begun["UploadId"], Body=path.read_bytes()[:500])
    assert not far.holds(name)
    assert far.names() == []
    far.publish(path, name, digest)
    assert far.digest(name) == digest


def test_what_arrives_changed_does_not_stay(url: str, sendable: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, name, digest = sendable
    far, put, changed = Remote(url), Remote(url)._system.put_file, path.with_name("changed")
    changed.write_bytes(path.read_bytes()[:-1] + b"\0")
    monkeypatch.setattr(far._system, "put_file", lambda _local, *rest, **options: put(str(changed), *rest, **options))
    with pytest.raises(VerificationError):
        far.publish(path, name, digest)
    assert far.everything() == []


def test_of_two_who_send_at_once_one_is_taken(s3: str, sendable: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, name, digest = sendable
    far = Remote(f"s3://{s3}/race")
    far.publish(path, name, digest)
    monkeypatch.setattr(far, "holds", lambda _name: False)  # looked before the other had sent it
    far.publish(path, name, digest)
    other = path.with_name("other")
    other.write_bytes(b"another archive")
    with pytest.raises(VerificationError):
        far.publish(other, name, hashlib.sha256(b"another archive").hexdigest())
    assert far.digest(name) == digest


@pytest.mark.parametrize("bad", ["bucket", "s3://", "://x", "s3://key:secret@host/x", "s3://a b/c", "s3://a\n"])
def test_urls_that_are_none_or_hold_a_password_are_refused(bad: str) -> None:
    with pytest.raises(UsageError) as told:
        remote.checked(bad)
    assert "secret" not in str(told.value)


def test_a_folder_keeps_its_url(tmp_path: Path, run: Run) -> None:
    source = studies(tmp_path / "src", series=1)
    url = f"file://{tmp_path}/far"
    assert run(*call(source, tmp_path / "dst", "--remote", url))[0] == 0
    assert run(*call(source, tmp_path / "dst", "--remote", url + "2"))[0] == 1
    assert run(*call(source, tmp_path / "dst"))[0] == 0
    assert not os.path.lexists(tmp_path / "far2")
    assert main(call(source, tmp_path / "plain", "--quiet")) == 0
    assert run(*call(source, tmp_path / "plain", "--remote", url))[0] == 1
