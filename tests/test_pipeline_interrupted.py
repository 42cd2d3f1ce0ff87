"""Killed processes and full disks: never half a file under a final name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pipeline_inputs import contents, files_of, npy, smooth, written

from medzip import pipeline
from medzip.errors import StorageError

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a scan."""
    files = {"scan.npy": npy(smooth((36, 4, 5), "f4") * np.float32(0.1)) + b"behind the samples"}
    folder = tmp_path_factory.mktemp("scan")
    [made] = pipeline.compress(written(folder / "source", files) / "scan.npy", folder / "archive")
    return Path(made.archive)


def child(code: str, *arguments: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    def limited() -> None:
        import resource  # not on Windows

        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    call = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(call, env=ENVIRONMENT, capture_output=True, text=True, check=False, preexec_fn=limited)


KILLED = """
import os, signal, sys
from medzip import pipeline
from medzip.container import storage, writer
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
where, name = sys.argv[2].split(".")
setattr({"writer": writer.ArchiveWriter, "file": storage.AtomicFile}[where], name, kill)
getattr(pipeline, sys.argv[3])(*sys.argv[4:], **{"overwrite": sys.argv[1] == "overwrite"})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("moment", ["writer.chunk", "writer.finish", "file.seal", "writer.publish"])
def test_a_killed_process_leaves_no_archive_under_the_final_name(tmp_path: Path, moment: str) -> None:
    files = files_of("npy", smooth((2, 3, 3), "f4"))
    source = written(tmp_path, files) / "scan.npy"
    mode = "new" if moment == "writer.chunk" else "overwrite"
    if mode == "overwrite":
        (tmp_path / "scan.npy.mdz").write_bytes(b"an older archive")
    before = contents(tmp_path)
    died = child(KILLED, Path(mode), Path(moment), Path("compress"), source)
    assert died.returncode == -signal.SIGKILL, died.stderr
    after = contents(tmp_path)
    assert {name: data for name, data in after.items() if not name.endswith(".tmp")} == before
    pipeline.compress(source, overwrite=True)
    pipeline.verify(tmp_path / "scan.npy.mdz", against=source)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_killed_process_leaves_no_file_under_the_final_name(archive: Path, tmp_path: Path) -> None:
    died = child(KILLED, Path("new"), Path("file.publish"), Path("decompress"), archive, tmp_path)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (tmp_path / "scan.npy").exists()


FULL = "import sys; from medzip.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("limit", [10, 300, 3000])
def test_a_full_disk_leaves_no_archive_and_no_rest(tmp_path: Path, limit: int) -> None:
    files = {"scan.npy": npy(np.random.default_rng(1).integers(0, 1 << 16, (3, 40, 40)).astype("u2"))}
    source = written(tmp_path, files) / "scan.npy"
    failed = child(FULL, Path("compress"), source, Path("--rm"), limit=limit)
    assert failed.returncode == StorageError.exit_code, failed.stderr
    assert failed.stderr.count("\n") == 1
    assert contents(tmp_path) == files


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_leaves_no_restored_file(archive: Path, tmp_path: Path) -> None:
    failed = child(FULL, Path("decompress"), archive, Path("-o"), tmp_path / "back", limit=1000)
    assert failed.returncode == StorageError.exit_code, failed.stderr
    assert contents(tmp_path / "back") == {}
