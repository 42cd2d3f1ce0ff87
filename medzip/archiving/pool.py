"""Worker processes that stay warm, and may die: a death costs the job that the worker had, and no other.

`concurrent.futures.ProcessPoolExecutor` gives up all its workers and jobs when one is killed, and does not say whose fault it
was. Here each worker has a pipe of its own. A worker whose coordinator is gone ends at its next word to it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from medzip.errors import MedzipError

EXIT_CODE_OF_BUG = 70
Work = Callable[[Any, Callable[[str, int, int], None]], Any]


@dataclass(frozen=True)
class Failure:
    """Why a job failed: the error's type and exit code, which tell nothing of a patient, and its text, which may name files."""

    type: str
    exit_code: int
    text: str


@dataclass(frozen=True)
class Progressed:
    """How far a job is: phase, done, total, as in `medzip.pipeline`."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True)
class Died:
    """The worker ended without an answer: killed, out of memory, or crashed."""

    exit_code: int | None


@dataclass(frozen=True)
class Limits:
    """What a worker may take: bytes of address space (where the system can limit them), seconds of work without a word."""

    memory_bytes: int | None = None
    silent_seconds: float | None = None


class Pool:
    """`size` workers; a context manager that ends them. Jobs and their results are pickled.

    A worker that needs more than `limits` allow dies.
    """

    def __init__(self, size: int, limits: Limits | None = None) -> None:
        self._context = multiprocessing.get_context("spawn")  # forked threads of compiled code are not safe
        self._workers: list[_Worker | None] = [None] * size
        self._limits = limits or Limits()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            if worker:
                worker.end()

    @property
    def free(self) -> bool:
        return any(worker is None or worker.tag is None for worker in self._workers)

    @property
    def busy(self) -> bool:
        return any(worker and worker.tag is not None for worker in self._workers)

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers if worker and worker.process.pid]

    def submit(self, tag: int, work: Work, job: object) -> None:
        """Gives a job to a free worker; `tag` (a number) comes back with everything that is heard of it."""
        index = next(i for i, worker in enumerate(self._workers) if worker is None or worker.tag is None)
        worker = self._workers[index] or _Worker(self._context, self._limits.memory_bytes)
        self._workers[index] = worker
        worker.tag, worker.heard = tag, time.monotonic()
        with contextlib.suppress(OSError):  # it died while it was idle: `wait` hears of it
            worker.pipe.send((work, job))

    def wait(self, seconds: float) -> list[tuple[int, Any]]:
        """What was heard meanwhile: (tag, Progressed, Failure, Died or the result)."""
        working = {worker.pipe: i for i, worker in enumerate(self._workers) if worker and worker.tag is not None}
        heard: list[tuple[int, Any]] = []
        for pipe in wait(list(working), seconds):
            index = working[pipe]  # type: ignore[index]  # `wait` gives back what it was given
            worker = self._workers[index]
            assert worker is not None and worker.tag is not None
            tag = worker.tag
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                message = Died(worker.end())
                self._workers[index] = None
            else:
                worker.tag = worker.tag if isinstance(message, Progressed) else None
                worker.heard = time.monotonic()
            heard.append((tag, message))
        return heard + self._silent()

    def _silent(self) -> list[tuple[int, Any]]:
        """Ends the workers that have been silent for too long."""
        ended: list[tuple[int, Any]] = []
        for index, worker in enumerate(self._workers):
            if worker is None or worker.tag is None or self._limits.silent_seconds is None:
                continue
            if time.monotonic() - worker.heard > self._limits.silent_seconds:
                ended.append((worker.tag, Died(worker.end())))
                self._workers[index] = None
        return ended


class _Worker:
    """A process and the pipe to it; `tag` is that of its job, None while it has none, `heard` when it last said something."""

    def __init__(self, context: multiprocessing.context.SpawnContext, memory_bytes: int | None) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, memory_bytes), daemon=True)
        self.process.start()
        theirs.close()
        self.tag: int | None = None
        self.heard = time.monotonic()

    def end(self) -> int | None:
        """Ends the process, if it has not ended, and tells its exit code."""
        self.pipe.close()
        self.process.join(0.2)
        if self.process.is_alive():
            self.process.terminate()
        self.process.join()
        return self.process.exitcode


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _limit_memory(memory_bytes: int) -> None:
    with contextlib.suppress(ImportError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _serve(pipe: Connection, memory_bytes: int | None) -> None:
    """A worker's life: jobs until the pipe is closed."""
    if memory_bytes is not None:
        _limit_memory(memory_bytes)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the coordinator ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    def progress(phase: str, done: int, total: int) -> None:
        pipe.send(Progressed(phase, done, total))

    while True:
        try:
            work, job = pipe.recv()
        except (EOFError, OSError):
            return
        answer: object
        try:
            answer = work(job, progress)
        except MedzipError as error:
            answer = Failure(type(error).__name__, error.exit_code, str(error))
        except OSError as error:
            answer = Failure("StorageError", 6, str(error))
        except MemoryError:
            answer = Failure(
                "StorageError", 6, "expected enough memory, found too little; use a machine with more, or fewer --jobs"
            )
        except Exception as error:
            answer = Failure(type(error).__name__, EXIT_CODE_OF_BUG, repr(error))
        pipe.send(answer)
