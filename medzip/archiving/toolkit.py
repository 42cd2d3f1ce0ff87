"""What lies beside the archives so that they can be read in decades: the format, the tables, the weights, a second decoder."""

from __future__ import annotations

from pathlib import Path

import medzip
from medzip.archiving.jobs import sha256_of
from medzip.archiving.store import Store, write_file
from medzip.errors import ArchiveDamagedError
from medzip.weights import registry

PACKAGE = Path(medzip.__file__).parent
DECODER = "unmdz.py"
README = """\
This folder belongs to archives of medzip (*.mdz in the folders beside it). With medzip: `medzip restore`. Without it:
`sha256sum -c SHA256SUMS` in the folder above finds damage; FORMAT.md describes the archives completely, tables.bin and the files
in weights/ (named by their SHA-256) are the numbers that it refers to, and unmdz.py, where it lies here, is a decoder.
ledger.sqlite and audit.jsonl hold UIDs and paths, or digests of them: protect this folder like the archives.
"""


def second_decoder() -> Path | None:
    """`unmdz.py`: in the package where it is shipped with it, in the tools of a checkout, None where there is neither."""
    places = (PACKAGE / DECODER, PACKAGE.parent / "tools" / DECODER)
    return next((path for path in places if path.is_file()), None)


def provide(store: Store) -> None:
    """Puts format, tables and decoder of this version beside the archives, replacing other ones. Raises StorageError."""
    decoder = second_decoder()
    wanted = {"FORMAT.md": PACKAGE / "container" / "FORMAT.md", "tables.bin": PACKAGE / "exact" / "tables.bin"}
    wanted |= {DECODER: decoder} if decoder else {}
    contents = {name: path.read_bytes() for name, path in wanted.items()} | {"README.txt": README.encode()}
    for name, data in contents.items():
        target = store.private / name
        if not target.is_file() or target.read_bytes() != data:
            write_file(target, data)


def require(store: Store, weights: tuple[str, ...]) -> None:
    """Makes sure that weights files, named by their SHA-256, lie beside the archives. Raises ModelMissingError, StorageError."""
    for digest in weights:
        target = store.weights / f"{digest}.safetensors"
        if not target.is_file() or sha256_of(target) != digest:
            found = registry.by_digest(digest)
            write_file(target, found.path.read_bytes())
            if sha256_of(target) != digest:
                raise ArchiveDamagedError(f"{target}: expected the weights of that SHA-256, found others; install medzip again")
            store.mirror(target)
            card = found.path.with_suffix(".md")
            if card.is_file():
                write_file(store.weights / f"{digest}.md", card.read_bytes())


def files(store: Store) -> list[Path]:
    """All that SHA256SUMS names besides archives, sorted."""
    fixed = [store.private / name for name in ("FORMAT.md", "README.txt", "tables.bin", DECODER)]
    return sorted(path for path in (*fixed, *store.weights.iterdir()) if path.is_file() and not path.name.startswith("."))
