"""Which DICOM files are one object, and which of their slices are one volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pipeline_inputs import contents, smooth, written
from test_sources_dicom import element, image, taken_apart

import medzip
from medzip import cli
from medzip.container.reader import ArchiveReader

NO_PIXELS = bytes(128) + b"DICM" + element(0x00020010, "UI", b"1.2.840.10008.1.2.1\0")


def instance(uid: str, samples: NDArray[np.generic], **texts: str) -> bytes:
    values = {0x00080018: ("UI", uid), 0x0020000E: ("UI", "1.2"), 0x00200037: ("DS", "1\\0\\0\\0\\1\\0")}
    tags = {"position": (0x00200032, "DS"), "number": (0x00200013, "IS")}
    return image(samples, texts=values | {tags[name][0]: (tags[name][1], text) for name, text in texts.items()})


# Volumes

PLACES = 6
KEYS = {
    "echo": {0x00180086: ("IS", ["1", "2"]), 0x00180081: ("DS", ["4.6", "9.2"])},
    "b-value": {0x00189087: ("FD", ["\0\0\0\0\0\0\0\0", "\0\0\0\0\0@\x2f\x40"])},
    "b-value of Siemens": {0x0019100C: ("IS", ["0", "1000"])},
    "gradient": {0x00189089: ("FD", ["\1" * 24, "\2" * 24])},
    "temporal position": {0x00200100: ("IS", ["1", "2"])},
    "acquisition": {0x00200012: ("IS", ["3", "4"])},
    "trigger time": {0x00181060: ("DS", ["12.5", "80"])},
    "image type": {0x00080008: ("CS", ["ORIGINAL\\PRIMARY\\M", "ORIGINAL\\PRIMARY\\P"])},
    "order alone": {0x00080060: ("CS", ["MR", "MR"])},
}


def slice_of(place: float, number: int, value: int, texts: dict[int, tuple[str, str]], seed: int | None = None) -> bytes:
    """A slice with an image of its own (or that of `seed`), whose first sample is `value`."""
    samples = smooth((1, 20, 20), seed=number if seed is None else seed).copy()
    samples[0, 0, 0] = value
    described = {0x00200013: ("IS", str(number)), 0x00200032: ("DS", f"0\\0\\{place}"), 0x00200037: ("DS", "1\\0\\0\\0\\1\\0")}
    return image(samples, texts={0x00280030: ("DS", "1\\1")} | described | texts)


def interleaved(key: str, alike: bool) -> list[bytes]:
    """Two slices at each of several places; alike at one place, or to their neighbours along the normal."""
    files = []
    for place in range(PLACES):
        for which in range(2):
            texts = {tag: (vr, values[which]) for tag, (vr, values) in KEYS[key].items()}
            number = 2 * place + which if key != "order alone" else place + PLACES * which
            seed = 100 + place if alike else 200 + which
            files.append(slice_of(2.0 * place, number, 10 * which + place, texts, seed))
    return files


@pytest.mark.parametrize("key", KEYS)
def test_slices_at_one_place_are_two_volumes(key: str) -> None:
    _, volumes = taken_apart(*interleaved(key, alike=False))
    assert [volume.samples[:, 0, 0].tolist() for volume in volumes] == [[*range(PLACES)], [*range(10, 10 + PLACES)]]
    assert all(volume.affine is not None and volume.affine[2, 2] == 2 for volume in volumes)


@pytest.mark.parametrize("key", [key for key in KEYS if key != "image type"])
def test_slices_that_are_more_alike_in_time_than_in_space_lie_beside_each_other(key: str) -> None:
    _, [volume] = taken_apart(*interleaved(key, alike=True))
    assert volume.samples[:, 0, 0].tolist() == [value for place in range(PLACES) for value in (place, 10 + place)]
    assert volume.affine is None


@pytest.mark.parametrize("tag", [0x00200012, 0x00080032, 0x00181060])
def test_what_only_counts_slices_divides_nothing(tag: int) -> None:
    files = [slice_of(n, n, n, {tag: ("IS", str(n))}) for n in range(PLACES)]
    _, [volume] = taken_apart(*files, slice_of(2, 99, 99, {tag: ("IS", "99")}))
    assert volume.samples[:, 0, 0].tolist() == [0, 1, 2, 99, 3, 4, 5]


def test_orientations_sizes_bits_and_localizers_are_volumes_of_their_own() -> None:
    sagittal = {0x00200037: ("DS", "0\\1\\0\\0\\0\\-1")}
    localizer = {0x00080008: ("CS", "ORIGINAL\\PRIMARY\\LOCALIZER")}
    bits = {0x00280101: ("US", "\x0c\0")}
    kinds = [{}, sagittal, localizer, bits]
    files = [slice_of(n, n, kind, kinds[kind]) for n in range(4) for kind in range(len(kinds))]
    small = image(smooth((1, 7, 20)), texts={0x00200013: ("IS", "1")})
    _, volumes = taken_apart(*files, small)
    assert [volume.samples.shape[:2] for volume in volumes] == [(4, 20)] * 4 + [(1, 7)]
    assert [set(volume.samples[:, 0, 0].tolist()) for volume in volumes[:4]] == [{0}, {1}, {2}, {3}]


def test_floats_that_are_no_numbers_and_images_of_one_column_are_divided_as_well() -> None:
    for samples in (np.full((1, 4, 4), np.nan, "f4"), np.zeros((1, 4, 1), "u2")):
        tag = 0x7FE00008
        files = []
        for n in range(6):
            texts = {0x00200013: ("IS", str(n)), 0x00200032: ("DS", f"0\\0\\{n // 2}"), 0x00200037: ("DS", "1\\0\\0\\0\\1\\0")}
            file = image(samples.view("u4") if samples.dtype == "f4" else samples, texts=texts)
            if samples.dtype == "f4":
                file = file[: file.rindex(b"\xe0\x7f\x10\x00")] + element(tag, "OF", samples.tobytes())
            files.append(file)
        _, volumes = taken_apart(*files)
        assert sum(len(volume.samples) for volume in volumes) == 6


# Objects


def test_files_with_the_same_bytes_are_stored_once_and_all_restored(tmp_path: Path) -> None:
    first, second = (instance(f"1.{n}", smooth((1, 40, 50), seed=n), position=f"0\\0\\{n}") for n in range(2))
    report = NO_PIXELS + element(0x00080018, "UI", b"1.9") + element(0x00420011, "OB", np.random.default_rng(1).bytes(1 << 17))
    files = {"a": first, "b": second, "copy/a": first, "copy/b": second, "report": report, "copy/report": report}
    made = medzip.compress(written(tmp_path / "in", files), tmp_path / "out", preset="parametric")
    assert not any(archive.contradicting for archive in made)
    shapes = {shape for archive in made for shape in [tuple(v["shape"]) for v in medzip.info(archive.archive)["volumes"]]}
    assert shapes == {(2, 40, 50)}
    assert sum(archive.archive_bytes for archive in made) < len(report) + 2 * len(first)
    medzip.decompress(tmp_path / "out", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "in")


def test_a_series_that_is_there_twice_costs_little_more_than_once(tmp_path: Path) -> None:
    files = {f"{n}": instance(f"1.{n}", smooth((1, 20, 20), seed=n), position=f"0\\0\\{n}") for n in range(40)}
    [once] = medzip.compress(written(tmp_path / "one", files), tmp_path / "once", preset="parametric")
    twice = files | {f"copy/{name}": data for name, data in files.items()}
    [both] = medzip.compress(written(tmp_path / "two", twice), tmp_path / "twice", preset="parametric")
    assert both.archive_bytes < once.archive_bytes + 40 * 60
    with ArchiveReader(Path(both.archive)) as reader:
        assert len(reader.files) == 80


@pytest.mark.parametrize("apart", [False, True])
def test_one_uid_with_other_bytes_is_two_objects_and_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], apart: bool
) -> None:
    first, second = smooth((1, 4, 5)), smooth((1, 6, 5) if apart else (1, 4, 5), seed=9)
    files = {"a": instance("1.23.77", first), "b": instance("1.23.77", second), "c": instance("1.5", first)}
    made = medzip.compress(written(tmp_path / "in", files), tmp_path / "out", preset="parametric")
    assert len(made) == 1 + apart
    [contradicting] = {name for archive in made for name in archive.contradicting}
    assert contradicting in "ab"
    medzip.decompress(tmp_path / "out", tmp_path / "back")
    assert contents(tmp_path / "back") == files

    cli.main(["compress", str(tmp_path / "in"), "-o", str(tmp_path / "again"), "--preset", "parametric"])
    said = capsys.readouterr().err
    assert f"{contradicting}: expected a SOP Instance UID of its own" in said
    assert "1.23.77" not in said
