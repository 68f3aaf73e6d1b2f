"""Camera pictures as DICOM: the coded picture is kept, what may name the patient is not, and nonsense is refused."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from medpipe.config import Reading
from medpipe.dicom import GuardedReader
from medpipe.errors import ReasonCode, Refused, UsageError
from medpipe.samples import wrap_photo
from medpipe.samples.fundus import draw_fundus
from medpipe.samples.jpeg_stream import BrokenJpeg, read_jpeg

SECRET = b"DOE^JANE"


@pytest.fixture(scope="module")
def eye() -> PillowImage.Image:
    return PillowImage.fromarray(draw_fundus(1, 480, 321).picture)


def saved(eye: PillowImage.Image, path: Path, **options: Any) -> Path:
    eye.save(path, **options)
    return path


def with_segment(raw: bytes, marker: int, body: bytes) -> bytes:
    """The JPEG with one more segment right after its start."""
    return raw[:2] + bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body + raw[2:]


def coded(dataset: Dataset) -> bytes:
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def scan_of(raw: bytes) -> bytes:
    """From the first SOS marker to the end of the picture."""
    return raw[raw.index(b"\xff\xda") : raw.rindex(b"\xff\xd9") + 2]


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_the_coded_picture_is_kept_byte_for_byte(
    eye: PillowImage.Image, tmp_path: Path, subsampling: str
) -> None:
    source = saved(eye, tmp_path / "eye.jpg", quality=90, subsampling=subsampling)
    dataset = dcmread(wrap_photo(source, tmp_path / "eye.dcm", laterality="R"))
    assert dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert dataset.PhotometricInterpretation == "YBR_FULL_422"
    assert scan_of(coded(dataset)) == scan_of(source.read_bytes())
    assert (dataset.LossyImageCompression, dataset.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert (dataset.Rows, dataset.Columns) == (321, 480)
    with GuardedReader(Reading()) as reader:
        (image,) = reader.assemble([tmp_path / "eye.dcm"], tmp_path).images
    with PillowImage.open(source) as picture:
        assert np.array_equal(image.array[:, 0].transpose(1, 2, 0), np.asarray(picture))
    assert image.laterality == "R"


@pytest.mark.parametrize(
    ("stated", "read"), [(45, 45.0), (float("nan"), None), (0, None), (-45, None), (1e30, None), (None, None)]
)
def test_a_field_of_view_is_stated_and_believed_where_it_can_be(
    eye: PillowImage.Image, tmp_path: Path, stated: object, read: float | None
) -> None:
    wrapped = wrap_photo(saved(eye, tmp_path / "eye.jpg"), tmp_path / "eye.dcm", field_degrees=30)
    other = wrap_photo(saved(eye, tmp_path / "eye.jpg"), tmp_path / "other.dcm")
    dataset = dcmread(wrapped)
    assert dataset.HorizontalFieldOfView == 30
    assert dataset.SOPInstanceUID != dcmread(other).SOPInstanceUID
    dataset.HorizontalFieldOfView = stated
    dataset.save_as(tmp_path / "stated.dcm")
    with GuardedReader(Reading()) as reader:
        for path, expected in ((wrapped, 30.0), (other, None), (tmp_path / "stated.dcm", read)):
            (image,) = reader.assemble([path], tmp_path).images
            assert image.field_degrees == expected


def test_a_real_camera_picture_is_wrapped(shared_data: Path, tmp_path: Path) -> None:
    source = min((shared_data / "idrid_train" / "images").iterdir())
    dataset = dcmread(wrap_photo(source, tmp_path / "eye.dcm", laterality="L"))
    kept = coded(dataset)
    assert scan_of(kept) in source.read_bytes()
    assert (dataset.Rows, dataset.Columns) == (2848, 4288)
    with PillowImage.open(source) as before, PillowImage.open(io.BytesIO(kept)) as after:
        assert np.array_equal(np.asarray(before), np.asarray(after))


def test_metadata_that_may_name_the_patient_stays_behind(eye: PillowImage.Image, tmp_path: Path) -> None:
    raw = saved(eye, tmp_path / "eye.jpg").read_bytes()
    for marker in (*range(0xE1, 0xF0), 0xFE):
        raw = with_segment(raw, marker, b"Exif\0\0" + SECRET)
    raw = with_segment(raw, 0xE0, b"JFXX\0\x10" + SECRET) + SECRET
    thumbnail = b"\x03\x01" + SECRET + b"!"  # 3 x 1 pixels of three bytes
    raw = with_segment(raw, 0xE0, b"JFIF\0\x01\x02\0\0\x01\0\x01" + thumbnail)
    (tmp_path / "named.jpg").write_bytes(raw)
    wrapped = wrap_photo(tmp_path / "named.jpg", tmp_path / "eye.dcm")
    assert SECRET in raw and SECRET not in wrapped.read_bytes()
    assert scan_of(coded(dcmread(wrapped))) == scan_of(saved(eye, tmp_path / "eye.jpg").read_bytes())


def test_a_picture_that_lies_on_its_side_is_stored_upright(eye: PillowImage.Image, tmp_path: Path) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    exif.get_ifd(0x8769)[0x9003] = "2019:05:06 07:08:09"
    source = saved(eye, tmp_path / "eye.jpg", exif=exif)
    dataset = dcmread(wrap_photo(source, tmp_path / "eye.dcm"))
    with PillowImage.open(source) as picture:
        assert np.array_equal(dataset.pixel_array, np.rot90(np.asarray(picture), -1))
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert dataset.LossyImageCompression == "01", "what was lossy stays lossy"
    assert (dataset.StudyDate, dataset.ContentTime) == ("20190506", "070809")


@pytest.mark.parametrize("name", ["eye.png", "eye.tif"])
def test_lossless_pictures_keep_every_value(eye: PillowImage.Image, tmp_path: Path, name: str) -> None:
    dataset = dcmread(wrap_photo(saved(eye, tmp_path / name), tmp_path / "eye.dcm"))
    assert np.array_equal(dataset.pixel_array, np.asarray(eye))
    assert dataset.PhotometricInterpretation == "RGB" and dataset.LossyImageCompression == "00"
    assert dataset.StudyDate == "", "no date is known"


def test_jpegs_that_baseline_readers_do_not_know_are_decoded(eye: PillowImage.Image, tmp_path: Path) -> None:
    for name, picture, options in (
        ("progressive.jpg", eye, {"progressive": True}),
        ("cmyk.jpg", eye.convert("CMYK"), {}),
    ):
        source = saved(picture, tmp_path / name, **options)
        dataset = dcmread(wrap_photo(source, tmp_path / "eye.dcm"))
        with PillowImage.open(source) as opened:
            assert np.array_equal(dataset.pixel_array, np.asarray(opened.convert("RGB")))


def test_grey_pictures_stay_grey(eye: PillowImage.Image, tmp_path: Path) -> None:
    jpeg = dcmread(wrap_photo(saved(eye.convert("L"), tmp_path / "grey.jpg"), tmp_path / "a.dcm"))
    png = dcmread(wrap_photo(saved(eye.convert("L"), tmp_path / "grey.png"), tmp_path / "b.dcm"))
    assert jpeg.PhotometricInterpretation == png.PhotometricInterpretation == "MONOCHROME2"
    assert jpeg.file_meta.TransferSyntaxUID == JPEGBaseline8Bit


@pytest.mark.parametrize("name", ["eye.jpg", "eye.png", "grey.jpg", "progressive.jpg"])
def test_the_standard_is_kept(eye: PillowImage.Image, tmp_path: Path, name: str) -> None:
    if shutil.which("dciodvfy") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("dciodvfy is not installed")
        pytest.skip("dciodvfy is not installed")
    picture = eye.convert("L") if name.startswith("grey") else eye
    source = saved(picture, tmp_path / name, **({"progressive": True} if "progressive" in name else {}))
    wrapped = wrap_photo(source, tmp_path / "eye.dcm", laterality="L", patient_name="Mustermann^Jörg")
    said = subprocess.run(["dciodvfy", "-new", str(wrapped)], capture_output=True, text=True, timeout=60)
    assert "Error" not in said.stderr + said.stdout, said.stderr


def test_the_same_call_gives_the_same_bytes_and_another_one_other_uids(
    eye: PillowImage.Image, tmp_path: Path
) -> None:
    source = saved(eye, tmp_path / "eye.jpg")
    first = wrap_photo(source, tmp_path / "a.dcm", patient_id="P1", accession_number="A1")
    again = wrap_photo(source, tmp_path / "b.dcm", patient_id="P1", accession_number="A1")
    other = wrap_photo(source, tmp_path / "c.dcm", patient_id="P2", accession_number="A1")
    named = dcmread(wrap_photo(source, tmp_path / "d.dcm", study_uid="1.2.3"))
    assert first.read_bytes() == again.read_bytes()
    one, two = dcmread(first), dcmread(other)
    assert one.SOPInstanceUID != two.SOPInstanceUID and one.StudyInstanceUID != two.StudyInstanceUID
    assert (one.PatientID, one.AccessionNumber) == ("P1", "A1")
    assert named.StudyInstanceUID == "1.2.3"


def test_without_a_side_none_is_claimed(eye: PillowImage.Image, tmp_path: Path) -> None:
    dataset = dcmread(wrap_photo(saved(eye, tmp_path / "eye.jpg"), tmp_path / "eye.dcm"))
    assert "ImageLaterality" not in dataset


def test_names_in_any_script_are_kept(eye: PillowImage.Image, tmp_path: Path) -> None:
    source = saved(eye, tmp_path / "eye.png")
    dataset = dcmread(wrap_photo(source, tmp_path / "eye.dcm", patient_name="山田^太郎"))
    assert str(dataset.PatientName) == "山田^太郎"


@pytest.mark.parametrize(
    "arguments",
    [
        {"laterality": "left"},
        {"study_uid": "1.02.3"},
        {"patient_id": "a\\b"},
        {"patient_name": "a\nb"},
        {"accession_number": "x" * 17},
        {"field_degrees": 5},
        {"field_degrees": float("nan")},
    ],
)
def test_impossible_arguments_are_named(
    eye: PillowImage.Image, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    source = saved(eye, tmp_path / "eye.png")
    with pytest.raises(UsageError) as refusal:
        wrap_photo(source, tmp_path / "eye.dcm", **arguments)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "eye.dcm").exists()


def test_what_is_no_picture_is_refused_with_its_reason(eye: PillowImage.Image, tmp_path: Path) -> None:
    whole = saved(eye, tmp_path / "eye.jpg").read_bytes()
    two_pages = tmp_path / "pages.tif"
    eye.save(two_pages, save_all=True, append_images=[eye])
    deep = PillowImage.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50))
    for raw, reason in (
        (b"", ReasonCode.UNREADABLE),
        (b"no picture", ReasonCode.UNREADABLE),
        (whole[: len(whole) // 2], ReasonCode.UNREADABLE),
        (whole[:30], ReasonCode.UNREADABLE),
        (two_pages.read_bytes(), ReasonCode.MULTIFRAME),
        (saved(deep, tmp_path / "deep.png").read_bytes(), ReasonCode.BAD_PIXELS),
    ):
        (tmp_path / "input").write_bytes(raw)
        with pytest.raises(Refused) as refusal:
            wrap_photo(tmp_path / "input", tmp_path / "eye.dcm")
        assert refusal.value.reason is reason
        assert "\n" not in str(refusal.value)
    with pytest.raises(UsageError, match="cannot be read"):
        wrap_photo(tmp_path / "nowhere.jpg", tmp_path / "eye.dcm")


def test_what_is_transparent_is_black(eye: PillowImage.Image, tmp_path: Path) -> None:
    cut = eye.convert("RGBA")
    cut.putalpha(PillowImage.new("L", eye.size, 0))
    dataset = dcmread(wrap_photo(saved(cut, tmp_path / "eye.png"), tmp_path / "eye.dcm"))
    assert not dataset.pixel_array.any()


def test_any_cut_of_a_jpeg_is_noticed(eye: PillowImage.Image) -> None:
    stream = io.BytesIO()
    eye.resize((64, 48)).save(stream, "JPEG", subsampling="4:2:0")
    whole = stream.getvalue()
    assert read_jpeg(whole).clean == whole
    assert read_jpeg(whole).sampling == ((2, 2), (1, 1), (1, 1))
    for size in range(0, len(whole) - 1, 7):
        with pytest.raises(BrokenJpeg):
            read_jpeg(whole[:size])
