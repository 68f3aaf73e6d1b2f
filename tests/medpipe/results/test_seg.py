"""The segmentation object: what is read back is what was put in, whatever the source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medpipe.bundle import Bundle
from medpipe.results.finished import FinishedObject
from medpipe.results.options import ResultOptions
from medpipe.results.seg import build_seg
from medpipe.results.sr import build_sr
from medpipe.types import Image, Prediction

Make = Callable[..., Any]
OPTIONS = ResultOptions()


def read(seg: FinishedObject) -> hd.seg.Segmentation:
    return hd.seg.segread(BytesIO(seg.content))


def pixels(seg: FinishedObject, image: Image) -> np.ndarray:
    """(classes, K, J, I) by source instances, as a reader that knows nothing of us gets it."""
    array = read(seg).get_pixels_by_source_instance(
        [source.sop_instance_uid for source in image.sources],
        ignore_spatial_locations=False,
        assert_missing_frames_are_empty=True,
    )
    return np.moveaxis(array, -1, 0).astype(bool)


@pytest.mark.parametrize("kind", ["OP", "OP16", "MG", "CR", "DX", "US", "SC"])
def test_a_picture_comes_back_pixel_by_pixel(
    kind: str, picture: Make, prediction: Make, bundle: Bundle, faults: Make, tmp_path: Path
) -> None:
    made = prediction(picture(kind))
    seg = build_seg(made, bundle, OPTIONS)
    assert np.array_equal(pixels(seg, made.image), made.mask)

    dataset = pydicom.dcmread(BytesIO(seg.content))
    true_class = made.image.sources[0].sop_class_uid
    assert dataset.SourceImageSequence[0].ReferencedSOPClassUID == true_class
    assert (
        dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPClassUID == true_class
    )
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        assert frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPClassUID == true_class
    assert dataset.PatientOrientation == ["L", "F"]
    assert "FrameOfReferenceUID" not in dataset

    (tmp_path / "seg.dcm").write_bytes(seg.content)
    assert faults(tmp_path / "seg.dcm") == []


OBLIQUE = ((0.8, 0.6, 0.0), (-0.36, 0.48, 0.8))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cosines", [((1, 0, 0), (0, 1, 0)), ((0, 1, 0), (0, 0, -1)), OBLIQUE])
@pytest.mark.parametrize("omit", [True, False])
def test_a_volume_comes_back_voxel_by_voxel_in_any_orientation(
    cosines: Any,
    reverse: bool,
    omit: bool,
    volume: Make,
    prediction: Make,
    bundle: Bundle,
    faults: Make,
    tmp_path: Path,
) -> None:
    made = prediction(volume(row=cosines[0], column=cosines[1], reverse=reverse))
    seg = build_seg(made, bundle, replace(OPTIONS, omit_empty_frames=omit))
    assert np.array_equal(pixels(seg, made.image), made.mask)

    # And by position: every frame lies where its slice lies in the patient.
    dataset = pydicom.dcmread(BytesIO(seg.content))
    assert dataset.NumberOfFrames == (6 if omit else 14)
    uids = [source.sop_instance_uid for source in made.image.sources]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        expected = made.image.grid.to_patient(np.array([uids.index(source), 0.0, 0.0]))
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        assert np.allclose(position, expected, atol=1e-4)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(x) for x in measures.PixelSpacing] == [0.7, 0.9]
    assert float(measures.SpacingBetweenSlices) == 2.5
    assert len(dataset.SourceImageSequence) == made.image.grid.shape[0]

    (tmp_path / "seg.dcm").write_bytes(seg.content)
    assert faults(tmp_path / "seg.dcm") == []


def test_the_same_finding_has_the_same_bytes_and_another_one_another_uid(
    picture: Make, prediction: Make, bundle: Bundle
) -> None:
    image = picture()
    first: Prediction = prediction(image)
    seg, again = build_seg(first, bundle, OPTIONS), build_seg(prediction(image), bundle, OPTIONS)
    assert seg.content == again.content

    mask = first.mask.copy()
    mask[1, 0, 5, 5] ^= True
    other = build_seg(prediction(image, mask), bundle, OPTIONS)
    assert other.sop_instance_uid != seg.sop_instance_uid
    assert other.series_instance_uid == seg.series_instance_uid


def test_nothing_found_is_one_empty_frame_with_all_segments_described(
    volume: Make, picture: Make, prediction: Make, bundle: Bundle, faults: Make, tmp_path: Path
) -> None:
    for image in (volume("MR"), picture("OP")):
        made = prediction(image, empty=True)
        seg = build_seg(made, bundle, replace(OPTIONS, no_lesion="empty-seg"))
        dataset = pydicom.dcmread(BytesIO(seg.content))
        assert dataset.NumberOfFrames == 1
        assert len(dataset.SegmentSequence) == 2
        assert not dataset.pixel_array.any()
        (tmp_path / "seg.dcm").write_bytes(seg.content)
        assert faults(tmp_path / "seg.dcm") == []


def test_a_bundle_with_a_single_class(
    picture: Make, volume: Make, prediction: Make, bundle: Bundle, faults: Make, tmp_path: Path
) -> None:
    """highdicom then states the segment once for all frames, not in each."""
    one = replace(bundle, classes=bundle.classes[:1])
    for image in (picture(), volume()):
        both = prediction(image)
        made = replace(
            both,
            class_ids=("MA",),
            mask=both.mask[:1],
            lesions=tuple(lesion for lesion in both.lesions if lesion.class_id == "MA"),
        )
        seg = build_seg(made, one, OPTIONS)
        assert np.array_equal(pixels(seg, image), made.mask)
        sr = build_sr(made, seg, one, OPTIONS)
        for content in (seg.content, sr.content):
            (tmp_path / "object.dcm").write_bytes(content)
            assert faults(tmp_path / "object.dcm") == []
        assert seg.sop_instance_uid.encode() in sr.content
