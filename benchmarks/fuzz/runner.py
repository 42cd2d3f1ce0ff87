"""Runs a target on mutated inputs in child processes that may take neither much memory nor much time, and keeps what breaks."""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
import signal
import struct
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.fuzz.contract import Target
from medzip.errors import MedzipError

_COUNTS = struct.Struct("<QQQQ")  # executions, taken, slowest in microseconds of CPU time, bytes of the input that runs
_SLOT_BYTES = 16 << 20
_POLL_SECONDS = 0.5
_MOST_QUIET_POLLS = 600
"""So many polls without a new execution are a deadlock; hangs that take CPU time end by themselves."""


@dataclass(frozen=True)
class Limits:
    """Of one process: bytes of memory beyond what it has at its start, seconds of CPU time for one input."""

    memory: int
    seconds: int


@dataclass
class Result:
    executions: int = 0
    taken: int = 0
    slowest: float = 0.0
    cpu: float = 0.0
    """Both in seconds of CPU time."""
    children: int = 0


def fuzz(target: Target, name: str, duration: float, seed: int, limits: Limits, finds: Path) -> Result:
    """Runs for `duration` seconds; each input that breaks a promise goes into `finds`, one for each place in the code."""
    finds.mkdir(parents=True, exist_ok=True)
    for data in target.seeds:
        assert target.run(data), "a seed was not taken"
    result, end = Result(), time.monotonic() + duration
    while (left := end - time.monotonic()) > 0:
        slot = mmap.mmap(-1, _SLOT_BYTES)
        child = os.fork()
        if child == 0:
            _child(target, name, Random(f"{seed} {result.children}"), slot, limits, finds, left)
        status, cpu = _waited(child, slot)
        executions, taken, slowest, size = _COUNTS.unpack_from(slot)
        result.executions, result.taken = result.executions + executions, result.taken + taken
        result.slowest, result.children = max(result.slowest, slowest / 1e6), result.children + 1
        result.cpu += cpu
        if status != 0:
            data = slot[_COUNTS.size : _COUNTS.size + size]
            signals = {signal.SIGPROF: "hang", signal.SIGKILL: "deadlock"}
            what = signals.get(signal.Signals(os.WTERMSIG(status)), "crash") if os.WIFSIGNALED(status) else "exit"
            _keep(finds, f"{name}-{what}", data, f"{what}: status {status}\n")
        slot.close()
    return result


def _waited(child: int, slot: mmap.mmap) -> tuple[int, float]:
    """The status with which the child ended, and its CPU time in seconds; it is killed where nothing moves any more."""
    before, quiet = -1, 0
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage.ru_utime + usage.ru_stime
        executions = _COUNTS.unpack_from(slot)[0]
        before, quiet = executions, quiet + 1 if executions == before else 0
        if quiet > _MOST_QUIET_POLLS:
            os.kill(child, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _child(target: Target, name: str, random: Random, slot: mmap.mmap, limits: Limits, finds: Path, duration: float) -> None:
    """Never returns. Ends by itself after a while, so that what leaks does not look like a find."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_virtual_bytes() + limits.memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    executions = taken = slowest = 0
    end = time.monotonic() + min(duration, 120)
    while time.monotonic() < end:
        data = target.mutated(random)[: _SLOT_BYTES - _COUNTS.size]
        _COUNTS.pack_into(slot, 0, executions, taken, slowest, len(data))
        slot[_COUNTS.size : _COUNTS.size + len(data)] = data
        signal.setitimer(signal.ITIMER_PROF, limits.seconds)
        began = time.process_time()
        try:
            taken += target.run(data)
        except MedzipError:
            pass
        except BaseException as error:
            _keep(finds, f"{name}-{type(error).__name__}-{_place(error)}", data, traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        executions += 1
        slowest = max(slowest, round(1e6 * (time.process_time() - began)))
    _COUNTS.pack_into(slot, 0, executions, taken, slowest, 0)
    os._exit(0)


def _place(error: BaseException) -> str:
    """The innermost line of medzip that the error came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/medzip/" in frame.filename]
    return f"{Path(frames[-1].filename).stem}-{frames[-1].lineno}" if frames else "harness"


def _keep(finds: Path, kind: str, data: bytes, what: str) -> None:
    """An input and what it did; one of each kind, of deaths and broken promises all."""
    several = kind.endswith(("-hang", "-crash", "-exit", "-deadlock", "-harness"))
    name = f"{kind}-{hashlib.sha256(data).hexdigest()[:12]}" if several else kind
    if not (finds / f"{name}.bin").exists():
        (finds / f"{name}.bin").write_bytes(data)
        (finds / f"{name}.txt").write_text(what)


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
