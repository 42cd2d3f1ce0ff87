"""Targets `dicom` and `images`: files, alone or several in a folder, that a source may refuse but may not bring back wrong."""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import cbor2
import numpy as np

from benchmarks.fuzz.contract import BrokenPromiseError
from benchmarks.fuzz.mutations import mutated
from medzip import skeleton, sources
from medzip.errors import MedzipError
from medzip.sources import pairs
from medzip.sources.wrappers import gzip as gzip_wrapper
from medzip.volume import join
from tools import make_golden

LARGEST_SEED = 24_000
"""Bytes, once they are unpacked: larger ones take too long for many executions."""
MEMORY_LIMIT = 1 << 28
ROOT = Path(__file__).resolve().parents[2]
Files = dict[str, bytes]


def made_up() -> Iterator[Files]:
    """Small scans of the formats that take a few lines to write, in folders of one and several."""
    ct = make_golden.body(3, 9, 8)
    series = {f"{z}.dcm": make_golden.native(ct[z], z) for z in range(3)}
    yield from (series, {"0.dcm": series["0.dcm"]}, {"r.dcm": make_golden.run_length(ct[0], 1)})
    yield {f"{z}.dcm": make_golden.run_length(ct[z], z) for z in range(3)}
    yield {"0.dcm.gz": gzip.compress(series["0.dcm"] * 4)}
    nifti, npy = make_golden.nifti(ct), make_golden.npy(ct.astype(">i2"))
    yield from ({"a.nii": nifti}, {"a.nii.gz": gzip.compress(nifti)}, {"a.npy": npy})
    yield {"a.hdr": nifti[:344] + b"ni1\0" + bytes(4), "a.img": bytes(352) + nifti[352:]}
    packed = io.BytesIO()
    np.savez_compressed(packed, a=ct.astype("i2"), b=np.arange(5.0))
    yield {"a.npz": packed.getvalue()}
    raw = ct.astype("<i2").tobytes()
    mha = b"ObjectType = Image\nNDims = 3\nDimSize = 8 9 3\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    nrrd = b"NRRD0004\ntype: int16\ndimension: 3\nsizes: 8 9 3\nendian: little\nencoding: %s\n\n"
    yield from ({"a.mha": mha + raw}, {"a.nrrd": nrrd % b"raw" + raw}, {"b.nrrd": nrrd % b"gzip" + gzip.compress(raw)})
    yield {"a.mhd": mha.replace(b"LOCAL", b"a.raw"), "a.raw": raw}
    mgh = np.array([1, 8, 9, 3, 1, 4, 0], ">i4").tobytes().ljust(284, b"\0") + ct.astype(">i2").tobytes()
    yield from ({"a.mgh": mgh}, {"a.mgz": gzip.compress(mgh)})


def _found(folder: Path | None) -> Iterator[Files]:
    """Files below `folder` that are not too large, with the other file of a pair."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
    for path in [*(ROOT / "sample_data").glob("*small*"), *paths]:
        try:
            pair = pairs.beside(path, sources.IMAGES)
        except MedzipError:  # a header without its samples
            continue
        names = (pair.header, pair.data) if pair and pair.header == path.name else (path.name,)
        files = {name: path.with_name(name).read_bytes() for name in names}
        if sum(len(_unpacked(data)) for data in files.values()) <= LARGEST_SEED:
            yield files


class Scans:
    """Inputs are maps of file names to bytes, as CBOR."""

    def __init__(self, seeds: Path | None, wanted: Callable[[Files], bool]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="medzip-fuzz-", dir=memory_folder()))
        self._all = [files for files in (*made_up(), *_found(seeds)) if wanted(files) and self._is_taken(files)]
        self._parts = [data for files in self._all for data in files.values()]
        self.seeds = [cbor2.dumps(files) for files in self._all]

    def mutated(self, random: Random) -> bytes:
        files = dict(random.choice(self._all))
        for name in random.sample(list(files), random.randint(1, len(files))):
            data = files[name]
            if data[:2] == b"\x1f\x8b" and random.random() < 0.8:
                files[name] = gzip.compress(mutated(_unpacked(data), random, self._parts), random.randint(0, 9))
            else:
                files[name] = mutated(data, random, self._parts)
        return cbor2.dumps(files)

    def run(self, data: bytes) -> bool:
        files: Files = cbor2.loads(data)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        for name, content in files.items():
            (self._folder / name).write_bytes(content)
        named = self._folder / next(iter(files))
        back: Files = {}
        for group in sources.groups(named if len(files) == 1 else self._folder):
            back |= _restored(group)
        if any(back.get(name) != content for name, content in files.items()):
            raise BrokenPromiseError("a file did not come back")
        return True

    def _is_taken(self, files: Files) -> bool:
        try:
            return self.run(cbor2.dumps(files))
        except MedzipError:
            return False


def _restored(group: sources.Group) -> Files:
    """The files of a group from its volumes and its packed skeleton."""
    found, volumes = sources.read(group)
    payload, blobs = skeleton.pack(skeleton.ordered(found))
    unpacked = skeleton.unpack(payload, dict(enumerate(blobs)), group.name, MEMORY_LIMIT)
    return {file.name: b"".join(join(file, volumes)) for file in unpacked.files}


def memory_folder() -> str | None:
    """Where files cost no time to write, if there is such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _is_dicom(files: Files) -> bool:
    source = sources.SOURCES["dicom"]
    return any(source.detect(_unpacked(data)[:4096]) for data in files.values())


def _unpacked(data: bytes) -> bytes:
    """The bytes, or what a gzip file holds of so many as are of interest here."""
    return gzip_wrapper.start(data, LARGEST_SEED + 1) or data


def dicom(seeds: Path | None) -> Scans:
    return Scans(seeds, _is_dicom)


def images(seeds: Path | None) -> Scans:
    return Scans(seeds, lambda files: not _is_dicom(files))
