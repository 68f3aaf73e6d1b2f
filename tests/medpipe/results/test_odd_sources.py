"""Sources as they really come: incomplete, retired, out of the standard. The result stays valid and complete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medpipe.bundle import Bundle
from medpipe.config import Reading
from medpipe.dicom import GuardedReader, is_own_output
from medpipe.errors import MedpipeError
from medpipe.results import ResultOptions, read_seg, write_results
from medpipe.types import Image, Result

Make = Callable[..., Any]
OPTIONS = ResultOptions()
RETIRED_US = "1.2.840.10008.5.1.4.1.1.6"


@pytest.fixture
def results(prediction: Make, bundle: Bundle, tmp_path: Path) -> Callable[[Image], tuple[Result, ...]]:
    def write(image: Image) -> tuple[Result, ...]:
        made = prediction(image)
        written = write_results(image.study_uid, [made], [], bundle, tmp_path / "out", OPTIONS)
        mask, _ = read_seg(written[0].path, tuple(s.sop_instance_uid for s in image.sources))
        assert np.array_equal(mask, made.mask)
        return written

    return write


ODD = {
    "missing type 2": dict.fromkeys(
        [
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "AccessionNumber",
            "StudyID",
            "StudyDate",
            "StudyTime",
        ]
    ),
    "no referring physician": {"ReferringPhysicianName": None},
    "empty name": {"PatientName": ""},
    "impossible age": {"PatientAge": "0Y"},
    "calibrated": {"PixelSpacing": [0.1, 0.1]},
    "lossy": {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 12.5,
        "LossyImageCompressionMethod": "ISO_10918_1",
    },
    "frame of reference": {"FrameOfReferenceUID": "1.2.826.0.1.99.7"},
    "frames stated": {"NumberOfFrames": 1},
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR AS:UserWarning")  # of making the header
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", ["OP", "DX"])
def test_an_odd_picture_still_gives_valid_results(
    odd: str, kind: str, picture: Make, results: Make, faults: Make
) -> None:
    mm = 0.1 if odd == "calibrated" else None
    for result in results(picture(kind, mm=mm, **ODD[odd])):
        assert faults(result.path) == []
        dataset = pydicom.dcmread(result.path)
        if odd == "lossy" and result.modality == "SEG":
            assert dataset.LossyImageCompression == "01"
            assert dataset.LossyImageCompressionRatio == 12.5
        if odd == "frame of reference" and result.modality == "SEG":
            assert dataset.FrameOfReferenceUID == "1.2.826.0.1.99.7"


def test_a_retired_class_is_named_as_it_is(picture: Make, results: Make, faults: Make) -> None:
    image = picture("US", SOPClassUID=RETIRED_US)
    image = replace(image, sources=(replace(image.sources[0], sop_class_uid=RETIRED_US),))
    for result in results(image):
        assert faults(result.path) == []
        named = {
            item.ReferencedSOPClassUID
            for element in pydicom.dcmread(result.path).iterall()
            if element.VR == "SQ"
            for item in element.value
            if item.get("ReferencedSOPInstanceUID") == image.name
        }
        assert named == {RETIRED_US}


@pytest.mark.parametrize("kind", ["CT", "MR"])
def test_a_volume_without_frame_of_reference_or_thickness(
    kind: str, volume: Make, results: Make, faults: Make
) -> None:
    image = volume(kind, FrameOfReferenceUID=None, SliceThickness=None)
    seg, sr = results(image)
    assert faults(seg.path) == []
    assert faults(sr.path) == []
    first = pydicom.dcmread(seg.path).FrameOfReferenceUID
    assert first.startswith("2.25.")
    assert pydicom.dcmread(results(image)[0].path).FrameOfReferenceUID == first


def test_cosines_that_jitter_in_the_last_digit(volume: Make, results: Make) -> None:
    image = volume()
    header = pydicom.dcmread(image.sources[3].header)
    header.ImageOrientationPatient = [1, 1e-9, 0, 0, 1, 0]
    header.save_as(image.sources[3].header)
    results(image)


def test_several_frames_of_one_instance_are_not_written_wrongly(
    volume: Make, prediction: Make, bundle: Bundle, tmp_path: Path
) -> None:
    image = volume()
    frames = tuple(replace(image.sources[0], frame=k + 1) for k in range(len(image.sources)))
    made = prediction(replace(image, sources=frames))
    with pytest.raises(MedpipeError, match="multi-frame"):
        write_results(image.study_uid, [made], [], bundle, tmp_path / "out", OPTIONS)


def test_our_own_output_is_known_as_such(picture: Make, volume: Make, results: Make) -> None:
    for image in (picture(), volume()):
        assert not is_own_output(pydicom.dcmread(image.sources[0].header))
        for result in results(image):
            assert is_own_output(pydicom.dcmread(result.path))


REAL = [
    "charsets",
    "ct-axial-5mm-philips",
    "mr-double-oblique",
    "mr-oblique-hitachi-implicit",
    "mr-non-isotropic",
    "ophthalmic-photography",
    "xray-cr-dx-mg",
]


@pytest.mark.parametrize("case", REAL)
def test_real_studies_from_file_to_result(
    case: str, shared_data: Path, results: Make, faults: Make, tmp_path: Path
) -> None:
    files = [path for path in sorted((shared_data / "dicom" / case).rglob("*")) if path.is_file()]
    written = 0
    with GuardedReader(Reading()) as reader:
        studies: dict[str, list[Path]] = {}
        for instance in reader.scan(files).instances:
            studies.setdefault(instance.study_uid, []).append(instance.path)
        for number, paths in enumerate(studies.values()):
            scratch = tmp_path / f"scratch-{number}"
            scratch.mkdir()
            for image in reader.assemble(paths, scratch).images:
                name = raw_name(paths[0])
                for result in results(image):
                    assert faults(result.path) == []
                    assert raw_name(result.path) == name
                    written += 1
    assert written


def raw_name(path: Path) -> bytes:
    """Patient's Name as it lies in the file, undecoded, without padding."""
    element: Any = pydicom.dcmread(path, stop_before_pixels=True).get_item(0x00100010)
    return bytes(element.value or b"").rstrip(b" ")
