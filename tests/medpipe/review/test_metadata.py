"""The metadata patch: a SEG without a place gets one on its way to the viewer, everything else stays as it is."""

from __future__ import annotations

import json

import pytest
from pydicom.dataset import Dataset

from medpipe.review.metadata import placed, without_patient_id

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
MEASURES, ORIENTATION, POSITION = "00289110", "00209116", "00209113"
SHARED = "52009229"


def segmentation(shared: Dataset | None = None, *frames: Dataset) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = SEG
    if shared is not None:
        dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = list(frames)
    return dataset


def spacing(row: float, column: float) -> Dataset:
    group, measures = Dataset(), Dataset()
    measures.PixelSpacing = [row, column]
    group.PixelMeasuresSequence = [measures]
    return group


def patched(*datasets: Dataset) -> list[dict]:
    return json.loads(placed(json.dumps([dataset.to_json_dict() for dataset in datasets]).encode()))


def test_a_photographs_segmentation_gets_a_plane() -> None:
    (found,) = patched(segmentation(None, Dataset()))
    shared = Dataset.from_json(found).SharedFunctionalGroupsSequence[0]
    assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == [1, 1]
    assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert list(shared.PlanePositionSequence[0].ImagePositionPatient) == [0, 0, 0]


def test_what_is_known_is_kept_and_only_the_rest_added() -> None:
    (found,) = patched(segmentation(spacing(0.2, 0.3), Dataset()))
    shared = Dataset.from_json(found).SharedFunctionalGroupsSequence[0]
    assert [float(x) for x in shared.PixelMeasuresSequence[0].PixelSpacing] == [0.2, 0.3]
    assert "PlanePositionSequence" in shared


def test_a_group_of_the_frames_is_not_given_a_second_time() -> None:
    (found,) = patched(segmentation(None, spacing(0.2, 0.3)))
    assert MEASURES not in found[SHARED]["Value"][0]


def test_a_volumes_segmentation_passes_byte_for_byte() -> None:
    shared = spacing(0.7, 0.7)
    shared.PlaneOrientationSequence = [Dataset()]
    frame = Dataset()
    frame.PlanePositionSequence = [Dataset()]
    body = json.dumps([segmentation(shared, frame).to_json_dict()], indent=3).encode()
    assert placed(body) == body


def test_a_picture_that_only_refers_to_a_segmentation_passes_byte_for_byte() -> None:
    picture, reference = Dataset(), Dataset()
    picture.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
    reference.ReferencedSOPClassUID = SEG
    picture.ReferencedInstanceSequence = [reference]
    body = json.dumps([picture.to_json_dict()]).encode()
    assert placed(body) == body


def test_other_instances_of_the_answer_stay() -> None:
    picture = Dataset()
    picture.SOPClassUID, picture.Rows = "1.2.840.10008.5.1.4.1.1.7", 5
    first, second = patched(picture, segmentation(None, Dataset()))
    assert first == picture.to_json_dict()
    assert {MEASURES, ORIENTATION, POSITION} == set(second[SHARED]["Value"][0])


def test_what_is_no_json_is_said_so() -> None:
    with pytest.raises(ValueError):
        placed(b"<html>" + SEG.encode())


def test_a_search_answer_loses_the_patient_id_alone() -> None:
    body = json.dumps(
        [{"00100020": {"vr": "LO", "Value": ["P"]}, "0020000D": {"vr": "UI", "Value": ["1.2"]}}]
    )
    assert json.loads(without_patient_id(body.encode())) == [{"0020000D": {"vr": "UI", "Value": ["1.2"]}}]
