"""Encapsulated pixel data through the whole of medzip: every byte comes back, or voxels do where that was asked for."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from encapsulated_files import (
    END,
    HTJ2K,
    JPEG_2000,
    JPEG_BASELINE,
    JPEG_LOSSLESS,
    JPEG_LS,
    JPEG_XL,
    RLE,
    Samples,
    encapsulated,
    image,
    photograph,
    rle,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_inputs import contents, rewritten, written
from test_sources_dicom import image as native_image
from test_sources_dicom import taken_apart
from test_sources_dicom_packed import bitmap

from medzip import pipeline
from medzip.archive import Archive
from medzip.cli import main
from medzip.errors import ArchiveDamagedError, UsageError, VerificationError
from medzip.skeleton import pack, unpack
from medzip.sources.encapsulated.frames import CODECS
from medzip.sources.encapsulated.jpeg_markers import Headers, values
from medzip.volume import EncodedFrame, FileSkeleton, Skeleton, Voxels

AWKWARD = Path(__file__).resolve().parents[2] / "shared" / "data" / "awkward"


def cut(stream: bytes, pieces: int) -> list[bytes]:
    """A stream as fragments."""
    ends = [len(stream) * number // pieces for number in range(pieces + 1)]
    return [stream[begin:end] for begin, end in pairwise(ends)]


def encoded(skeleton: Skeleton) -> list[EncodedFrame]:
    return [segment for file in skeleton.files for segment in file.segments if isinstance(segment, EncodedFrame)]


def test_jpeg_frames_that_resemble_each_other_are_kept_for_zstd() -> None:
    samples = [photograph(seed) for seed in range(4)]
    streams = [imagecodecs.jpeg8_encode(one, level=85) for one in samples]
    for frames, there in ((streams, 4), (streams[:1] * 4, 0)):
        file = encapsulated([[stream + b"\0" * (len(stream) % 2)] for stream in frames], samples[0], JPEG_BASELINE)
        assert len(encoded(taken_apart(file)[0])) == there


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(["rle", "lossless", "ls", "near", "lossy"]),
    frames=st.integers(1, 3),
    pieces=st.integers(1, 4),
    offsets=st.booleans(),
    after=st.sampled_from([END, END + b"\xfc\xff\xfc\xff\0\0\0\0", b"", END[:5]]),
)
def test_frames_are_voxels_whatever_their_fragments_and_what_follows(
    kind: str, frames: int, pieces: int, offsets: bool, after: bytes
) -> None:
    images = [photograph(seed) if kind == "lossy" else image((9, 14), "u1", 255, seed) for seed in range(frames)]
    make = {
        "rle": lambda samples: rle(samples, np.random.default_rng(1)),
        "lossless": lambda samples: imagecodecs.jpeg8_encode(samples, lossless=True, predictor=1),
        "ls": imagecodecs.jpegls_encode,
        "near": lambda samples: imagecodecs.jpegls_encode(samples, level=2),
        "lossy": lambda samples: imagecodecs.jpeg8_encode(samples, level=85),
    }[kind]
    syntax = {"rle": RLE, "lossless": JPEG_LOSSLESS, "lossy": JPEG_BASELINE}.get(kind, JPEG_LS)
    streams = [make(samples) for samples in images]
    # Of RLE in several fragments only the table says where a frame begins.
    known = offsets or pieces == 1 or kind != "rle"
    file = encapsulated([cut(stream, pieces) for stream in streams], images[0], syntax, offsets=offsets, after=after)
    skeleton, volumes = taken_apart(file)
    if not known and frames > 1:
        return
    assert len(encoded(skeleton)) == frames
    assert len(volumes) == (kind != "lossy")
    for samples, stream, found in zip(images, streams, volumes[0].samples if volumes else [], strict=False):
        np.testing.assert_array_equal(found, imagecodecs.jpegls_decode(stream) if kind == "near" else samples)


def test_a_frame_that_cannot_be_made_again_is_kept_among_others() -> None:
    images = [image((9, 14), "u1", 255, seed) for seed in range(4)]
    streams = [imagecodecs.jpegls_encode(samples) for samples in images]
    streams[2] = streams[2][:-9]
    skeleton, [volume] = taken_apart(encapsulated([[stream] for stream in streams], images[0], JPEG_LS))
    np.testing.assert_array_equal(volume.samples, [images[0], images[1], images[3]])
    assert len(encoded(skeleton)) == 3


def test_what_is_kept_of_an_image_becomes_a_blob_and_its_header_does_not() -> None:
    samples = image((64, 64))
    stream = imagecodecs.jpeg2k_encode(samples, reversible=True)
    skeleton, volumes = taken_apart(encapsulated([[stream]], samples, JPEG_2000))
    assert volumes == []
    packed, blobs = pack(skeleton)
    assert len(blobs) == 1 and stream in blobs[0] and len(packed) < 400
    assert unpack(packed, dict(enumerate(blobs)), "a.mdz", 1 << 30) == skeleton


def test_native_packed_and_compressed_files_share_volumes_or_number_them_apart(tmp_path: Path) -> None:
    slices = [image((9, 14), "u2", 4095, seed) for seed in range(3)]
    first, last = (encapsulated([[rle(slices[i], np.random.default_rng(1))]], slices[i], RLE) for i in (0, 2))
    (packed, bits), (other, other_bits) = (bitmap(1, rows, 7) for rows in (5, 6))
    kept = encapsulated([[b"no stream"]], slices[0], JPEG_2000)
    files = [first, packed, native_image(slices[1][None]), other, last, kept]
    skeleton, volumes = taken_apart(*files)
    np.testing.assert_array_equal(volumes[2].samples, slices)
    assert [volume.samples.shape for volume in volumes] == [(1, 5, 7), (1, 6, 7), (3, 9, 14)]
    assert {volume.samples.tobytes() for volume in volumes[:2]} == {bits.tobytes(), other_bits.tobytes()}
    payload, blobs = pack(skeleton)
    assert unpack(payload, dict(enumerate(blobs)), "a.mdz", 1 << 30) == skeleton
    source = written(tmp_path / "source", {f"{number}.dcm": file for number, file in enumerate(files)})
    pipeline.compress(source, tmp_path / "archive", preset="parametric")
    pipeline.decompress(tmp_path / "archive", tmp_path / "restored")
    assert contents(tmp_path / "restored") == contents(source)


def series(frames: int = 4) -> dict[str, bytes]:
    """Slices in lossless JPEG."""
    images = [image((24, 31), "u2", 4095, seed) for seed in range(frames)]
    texts = {0x0020000E: ("UI", "1.2.3"), 0x00200037: ("DS", "1\\0\\0\\0\\1\\0"), 0x00280030: ("DS", "0.5\\0.25")}
    files = {}
    for number, samples in enumerate(images):
        stream = imagecodecs.jpeg8_encode(samples, lossless=True, predictor=1, bitspersample=12)
        place = {0x00200013: ("IS", str(number)), 0x00200032: ("DS", f"10\\20\\{number}")}
        files[f"{number}.dcm"] = encapsulated([[stream]], samples, JPEG_LOSSLESS, texts=texts | place)
    return files


def test_a_compressed_series_is_one_volume_in_an_archive_and_comes_back(tmp_path: Path) -> None:
    source = written(tmp_path / "source", series())
    [made] = pipeline.compress(source, tmp_path / "archive", preset="fast")
    assert made.guarantee == "file" and made.samples == 4 * 24 * 31
    with pipeline.open(made.archive) as archive:
        assert [volume.shape for volume in archive.volumes] == [(4, 24, 31)]
        np.testing.assert_array_equal(archive.volumes[0][2], image((24, 31), "u2", 4095, 2))
    pipeline.decompress(tmp_path / "archive", tmp_path / "restored")
    assert contents(tmp_path / "restored") == contents(source)


def changed_segments(path: Path, change: Any) -> None:
    """The archive again, with `change` applied to each encoded frame."""

    def changed(payload: bytes) -> bytes:
        skeleton = unpack(payload, {}, "", 1 << 30)
        files = []
        for file in skeleton.files:
            segments = (change(part) if isinstance(part, EncodedFrame) else part for part in file.segments)
            files.append(FileSkeleton(file.name, tuple(segments)))
        return pack(Skeleton(tuple(files)))[0]

    rewritten(path, path, skeleton=changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda part: EncodedFrame(part.codec, part.recipe[:-1], part.lengths, part.voxels),
        lambda part: EncodedFrame("deflate", part.recipe, part.lengths, part.voxels),
        lambda part: EncodedFrame(part.codec, part.recipe, (1 << 40,), part.voxels),
        lambda part: EncodedFrame(part.codec, part.recipe, part.lengths, None),
        lambda part: EncodedFrame(part.codec, part.recipe, part.lengths, Voxels(0, 99, 1, "<u2")),
        lambda part: EncodedFrame(part.codec, part.recipe, part.lengths, Voxels(7, 0, 1, "<u2")),
    ],
)
def test_a_broken_recipe_in_an_archive_is_damage(tmp_path: Path, change: Any) -> None:
    source = written(tmp_path / "source", series(1)) / "0.dcm"
    [made] = pipeline.compress(source, tmp_path / "a.mdz")
    changed_segments(Path(made.archive), change)
    with pytest.raises(ArchiveDamagedError, match=r"a\.mdz|0\.dcm"):
        pipeline.decompress(made.archive, tmp_path / "restored")
    assert not (tmp_path / "restored" / "0.dcm").exists()


def test_a_codec_that_errs_is_found_before_the_archive_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path, {"a.dcm": series(1)["0.dcm"]}) / "a.dcm"
    codec, encode, calls = CODECS["jpeg_lossless"], CODECS["jpeg_lossless"].encode, list[bytes]()

    def right_once(samples: Samples | None, recipe: bytes) -> bytes:
        calls.append(recipe)
        made = encode(samples, recipe)
        return made if len(calls) == 1 else made[:-3] + b"\0" + made[-2:]

    monkeypatch.setattr(codec, "encode", right_once)
    with pytest.raises(VerificationError):
        pipeline.compress(source)
    assert len(calls) == 2 and not (tmp_path / "a.dcm.mdz").exists()


def test_salvage_leaves_an_empty_fragment_where_a_slice_is_lost(tmp_path: Path) -> None:
    images = [image((16, 20), "u1", 255, seed) for seed in range(9)]
    file = encapsulated([[imagecodecs.jpegls_encode(samples)] for samples in images], images[0], JPEG_LS)
    [made] = pipeline.compress(written(tmp_path, {"a.dcm": file}) / "a.dcm", preset="fast")
    with Archive(Path(made.archive)) as archive:
        chunk = next(section for section in archive.reader.sections if section.type == "CHNK")
    data = bytearray(Path(made.archive).read_bytes())
    data[chunk.end - 8] ^= 1
    Path(made.archive).write_bytes(data)
    restored = pipeline.decompress(made.archive, tmp_path / "out", salvage=True)
    assert any("slices 0 to 8" in lost for lost in restored.lost)
    found = (tmp_path / "out" / "a.dcm.salvaged").read_bytes()
    empty = bytes.fromhex("feff00e000000000")
    assert found == file[: file.index(empty)] + empty * (1 + len(images)) + END


def compressed(syntax: str, samples: Samples) -> bytes:
    if syntax == JPEG_XL:
        return bytes(imagecodecs.jpegxl_encode(samples, lossless=True, effort=3))
    if syntax == HTJ2K:
        return bytes(imagecodecs.htj2k_encode(samples, reversible=True))
    return bytes(imagecodecs.jpeg2k_encode(samples, level=0, reversible=True, codecformat="j2k"))


@pytest.mark.parametrize("syntax", [JPEG_2000, HTJ2K, JPEG_XL])
@pytest.mark.parametrize("samples", [image((21, 33)), image((21, 33, 3), "u1", 255)])
def test_where_asked_jpeg_2000_and_its_like_become_voxels_and_everything_says_so(
    tmp_path: Path, syntax: str, samples: Samples
) -> None:
    streams = [compressed(syntax, frame) for frame in (samples, samples[::-1])]
    colour = "YBR_RCT" if samples.ndim == 3 and syntax == JPEG_2000 else ""
    file = encapsulated([[stream] for stream in streams], samples, syntax, photometric=colour, meta_length=True)
    source = written(tmp_path / "source", {"a.dcm": file, "notes.txt": b"notes"})
    kept, given_up = tmp_path / "kept", tmp_path / "given_up"
    assert {made.guarantee for made in pipeline.compress(source, kept)} == {"file"}
    made = {Path(one.archive).name: one for one in pipeline.compress(source, given_up, encapsulated="voxels")}
    [name] = {name for name in made if name != "rest.mdz"}
    assert made[name].guarantee == "voxels" and made["rest.mdz"].guarantee == "file"
    assert made[name].original_bytes == len(file)

    [record] = pipeline.info(given_up / name)["files"]
    assert record["original"]["transfer_syntax"] == syntax and record["original"]["bytes"] == len(file)
    manifest = (given_up / "medzip-tree.json").read_text()
    assert manifest.count('"guarantee":"voxels"') == 1 and manifest.count("guarantee") == 1

    pipeline.verify(given_up, against=source)
    pipeline.decompress(kept, tmp_path / "same")
    pipeline.decompress(given_up, tmp_path / "other")
    assert contents(tmp_path / "same") == contents(source)
    dataset = pydicom.dcmread(tmp_path / "other" / "a.dcm")
    dataset.BitsStored, dataset.HighBit = samples.itemsize * 8, samples.itemsize * 8 - 1
    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert dataset.file_meta.FileMetaInformationGroupLength == 28
    np.testing.assert_array_equal(dataset.pixel_array, np.stack([samples, samples[::-1]]))
    assert dataset.PhotometricInterpretation == ("RGB" if samples.ndim == 3 else "MONOCHROME2")


@pytest.mark.parametrize("lossy", ["stream", "header", "cut"])
def test_lossy_and_broken_streams_are_never_given_up(tmp_path: Path, lossy: str) -> None:
    samples = image((40, 50), "u1", 255)
    stream = bytes(imagecodecs.jpeg2k_encode(samples, level=30, reversible=lossy != "stream", codecformat="j2k"))
    texts = {0x00282110: ("CS", "01")} if lossy == "header" else {}
    stream = stream[:-40] if lossy == "cut" else stream
    syntax = "1.2.840.10008.1.2.4.91"
    file = encapsulated([[stream]], samples, syntax, texts=texts, after=b"" if lossy == "cut" else END)
    source = written(tmp_path, {"a.dcm": file}) / "a.dcm"
    [made] = pipeline.compress(source, encapsulated="voxels")
    assert made.guarantee == "file"
    pipeline.decompress(made.archive, tmp_path / "out")
    assert (tmp_path / "out" / "a.dcm").read_bytes() == file


def test_the_command_line_takes_the_choice_and_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = image((21, 33))
    file = encapsulated([[compressed(JPEG_2000, samples)]], samples, JPEG_2000)
    source = written(tmp_path, {"a.dcm": file}) / "a.dcm"
    assert main(["compress", str(source), "--encapsulated", "voxels"]) == 0
    assert "not byte for byte" in capsys.readouterr().err
    with pytest.raises(UsageError, match="keep, voxels"):
        pipeline.compress(source, encapsulated="some")


def test_a_removed_source_is_proved_by_its_voxels_first(tmp_path: Path) -> None:
    samples = image((21, 33))
    source = written(tmp_path, {"a.dcm": encapsulated([[compressed(JPEG_2000, samples)]], samples, JPEG_2000)}) / "a.dcm"
    [made] = pipeline.compress(source, encapsulated="voxels", remove=True)
    assert made.removed and not source.exists()


REMADE = {
    "rle": """D_CLUNIE_CT1_RLE_FRAGS MR_small_RLE OBXXXX1A_rle SC_rgb_rle_16bit_2frame SC_rgb_rle_32bit emri_small_RLE
              rtdose_rle""",
    "jpeg_lossless": """CTImage.dcm_JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57 GH184 JPEG-LL SC_rgb_jpeg_gdcm
                        CT0012.fragmented_no_bot_jpeg_lossless.57 bad_sequence""",
    "jpeg_ls": """CT0012.fragmented_no_bot_jpeg_ls.81 CT1_UNC.fragmented_bot_jpeg_ls.80 GH364 JLSL_08_07_0_1F JLSL_16_15_1_1F
                  JLSL_RGB_ILV0 JPEGLSNearLossless_16 MR_small_jpeg_ls_lossless SC_rgb_jls_lossy_line sm_image_jpegls_nobot""",
    "jpeg_xl": "IM00001.fragmented_no_bot_jpeg_baseline.50 leadtools-8BitsJpegLossyGrayScale",
}


@pytest.mark.skipif(not AWKWARD.is_dir(), reason="the shared data folder is not there")
@pytest.mark.parametrize("codec", REMADE)
def test_frames_of_other_projects_are_made_again(codec: str) -> None:
    for name in REMADE[codec].split():
        [path] = {path.name: path for path in AWKWARD.rglob(f"{name}.dcm") if "damaged" not in path.parts}.values()
        skeleton, volumes = taken_apart(path.read_bytes())
        frames = encoded(skeleton)
        assert frames and {frame.codec for frame in frames} == {codec}, name
        items = sum(len(frame.lengths) + 1 for frame in frames)
        dataset = pydicom.dcmread(io.BytesIO(path.read_bytes()), force=True)
        assert 1 + items == len(list(pydicom.encaps.generate_fragments(dataset.PixelData))), name
        for frame in frames if codec in ("jpeg_lossless", "jpeg_ls") else ():
            assert frame.voxels is not None
            samples = volumes[frame.voxels.volume].samples[frame.voxels.first]
            stream = CODECS[codec].encode(samples, frame.recipe)
            expected = (imagecodecs.jpegls_decode if codec == "jpeg_ls" else imagecodecs.jpeg8_decode)(stream)
            headers = Headers()
            headers.next_scan(stream, 0)
            np.testing.assert_array_equal(expected, values(samples, headers.one_size(1 << 30).precision), err_msg=name)
        if codec == "rle":
            expected = dataset.pixel_array if "YBR" not in dataset.PhotometricInterpretation else volumes[0].samples
            np.testing.assert_array_equal(volumes[0].samples.reshape(expected.shape), expected)
