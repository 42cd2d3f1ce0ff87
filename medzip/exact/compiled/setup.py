"""How medzip compiles: numba's decorator, with a cache folder of medzip's own or, where none is writable, no cache.

numba notices that the file of a function has changed, but not the files of the functions, intrinsics and constants that
were compiled into it; and two processes that fill one index for different CPUs at the same time can mix up their entries.
So the folder's name is a digest of all of medzip's code, of numba's version and of the CPU as numba sees it. Nor does
numba notice that a global name stands for another function than before, as where a variant is chosen when a module is
imported: so the key of each entry names all compiled functions that it calls.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


@cache
def available() -> bool:
    """Whether numba can be imported and may compile (NUMBA_DISABLE_JIT is not set); imports it."""
    try:
        return not _config().DISABLE_JIT
    except (ImportError, OSError):
        return False


def cpu_features() -> frozenset[str]:
    """LLVM's names of what the code may use, such as "avx512vnni": the CPU's, or what NUMBA_CPU_FEATURES says."""
    features = _cpu()[2].split(",")
    return frozenset(feature.removeprefix("+") for feature in features if feature.startswith("+"))


def njit(function: _Function, *, allocates: bool = True) -> _Function:
    """Compiles `function` when it is first called: without the GIL, floats as numpy has them, cached where that is possible.

    Where neither it nor what it calls `allocates` arrays, references to arrays need not be counted, which makes calls between
    small functions several times faster.

    Call other compiled functions as globals, not from a closure: numba's key for a closure changes with every process.
    """
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": allocates}
    dispatcher: Any = numba.njit(**options)(function)
    folder = cache_folder()
    if folder is not None:
        config = _config()
        elsewhere, config.CACHE_DIR = config.CACHE_DIR, str(folder)
        try:
            # RuntimeError: the source is no file, as in a zip archive.
            with suppress(RuntimeError):
                dispatcher._cache = _forgiving_cache()(function)
        finally:
            config.CACHE_DIR = elsewhere
    compiled: _Function = dispatcher
    return compiled


@cache
def cache_folder() -> Path | None:
    """Where machine code is kept: below NUMBA_CACHE_DIR if that is set, else the user's cache folder; None if not writable.

    Machine code is loaded only from a folder that belongs to the user who runs medzip.
    """
    try:
        chosen = _config().CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(chosen) / "medzip" / f"compiled-{_digest()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        owned = not hasattr(os, "geteuid") or folder.stat().st_uid == os.geteuid()
    except (OSError, RuntimeError):
        return None
    return folder if owned else None


def _config() -> Any:
    import numba

    return numba.config


def _cpu() -> tuple[str, str, str]:
    """Target triple, name of the CPU and its features, as numba compiles for them."""
    from numba.core.registry import cpu_target

    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    return triple, name, features


def _digest() -> str:
    import numba

    digest = hashlib.sha256(repr((platform.python_version(), numba.__version__, _cpu())).encode())
    package = Path(__file__).parents[2]
    for source in sorted(package.rglob("*.py")):
        digest.update(repr((source.relative_to(package).as_posix(), source.stat().st_size)).encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _forgiving_cache() -> Any:
    """numba's cache, but a damaged file is compiled anew, a full disk is no error, and code must be for the types asked for."""
    from numba.core import caching

    function_cache: Any = caching.FunctionCache

    class ForgivingCache(function_cache):  # type: ignore[misc]  # Any, as numba has no types
        def load_overload(self, sig: Any, target_context: Any) -> Any:
            try:
                found = super().load_overload(sig, target_context)
            except Exception:
                with suppress(OSError):
                    self.flush()
                return None
            asked = getattr(sig, "args", sig)
            return found if found is not None and found.signature.args == tuple(asked) else None

        def save_overload(self, sig: Any, data: Any) -> None:
            with suppress(OSError):
                super().save_overload(sig, data)

        def _index_key(self, sig: Any, codegen: Any) -> Any:
            return (*super()._index_key(sig, codegen), *_called(self._py_func))

    return ForgivingCache


def _called(function: Any, *callers: Any) -> list[str]:
    """The compiled functions that `function` calls by a global name, and those that they call."""
    found = []
    for name in function.__code__.co_names:
        callee = getattr(function.__globals__.get(name), "py_func", None)
        if callee is not None and callee not in callers:
            found += [f"{callee.__module__}.{callee.__qualname__}", *_called(callee, function, *callers)]
    return found
