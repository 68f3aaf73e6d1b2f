"""DICOM with SEG as training data: the images, the truth, and a correction that supersedes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medpipe.bundle import InputSpec
from medpipe.config import parse_config
from medpipe.errors import ConfigError
from medpipe.process import Processor
from medpipe.samples.studies import write_study
from medpipe.training.cases import load_cases
from medpipe.training.dicom_pairs import DicomPairs, Label
from medpipe.training.sources import open_source
from medpipe.types import Prediction

VOLUME = InputSpec.model_validate(
    {
        "modality": ["CT"],
        "channels": 1,
        "spatial_dims": 3,
        "normalise": {"kind": "window", "low": -100, "high": 300},
    }
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prediction]:
    """A CT phantom with the SEG that `process` makes of it, and the prediction behind it."""
    folder = tmp_path_factory.mktemp("pairs")
    study = write_study("ct", folder / "study", 3, shape=(24, 96, 96))
    shutil.rmtree(folder / "study" / "truth")
    with Processor(parse_config({})) as processor:
        outcome = processor.process(
            study.files, "phantom", folder / "results", tmp_path_factory.mktemp("scratch")
        )
    (prediction,) = outcome.predictions
    assert prediction.mask.any()
    return folder, prediction


def test_truth_is_what_the_seg_says_voxel_by_voxel(pairs: tuple[Path, Prediction]) -> None:
    folder, prediction = pairs
    source = DicomPairs(folder, [Label(prediction.class_ids[0])])
    name = prediction.image.name
    assert name in source.names
    assert np.array_equal(source.image(name).array, prediction.image.array)
    assert np.array_equal(source.truth(name, 1), prediction.mask)


def test_a_folder_of_dicom_is_recognised_and_trained_on(
    pairs: tuple[Path, Prediction], tmp_path: Path
) -> None:
    folder, prediction = pairs
    source = open_source(folder, VOLUME, [Label(prediction.class_ids[0])])
    (case,) = load_cases(source, [prediction.image.name], VOLUME, classes=1, cache=tmp_path)
    assert case.shape == prediction.image.grid.shape
    assert len(case.places[0]) == int(prediction.mask.sum())


def test_the_latest_seg_is_the_truth(pairs: tuple[Path, Prediction], tmp_path: Path) -> None:
    """A correction of a later date in which the first frame of the lesion was emptied."""
    folder, prediction = pairs
    shutil.copytree(folder, tmp_path / "all")
    (path,) = (tmp_path / "all" / "results").glob("*.seg.dcm")
    corrected = pydicom.dcmread(path)
    frame = corrected.Rows * corrected.Columns // 8
    corrected.PixelData = bytes(frame) + corrected.PixelData[frame:]
    corrected.SOPInstanceUID = corrected.file_meta.MediaStorageSOPInstanceUID = "2.25.77"
    corrected.ContentDate = "20301231"
    corrected.save_as(tmp_path / "all" / "a-corrected.dcm")
    truth = DicomPairs(tmp_path / "all", [Label(prediction.class_ids[0])]).truth(prediction.image.name, 1)
    lost = prediction.mask & ~truth
    slices = np.flatnonzero(lost.any(axis=(0, 2, 3)))
    assert len(slices) == 1
    assert not truth[0, slices[0]].any()


@pytest.mark.parametrize("label", [Label("x", "Bright lesion"), Label("x", code="52988006")])
def test_classes_are_known_by_name_or_code(label: Label, pairs: tuple[Path, Prediction]) -> None:
    folder, prediction = pairs
    truth = DicomPairs(folder, [label]).truth(prediction.image.name, 1)
    assert np.array_equal(truth, prediction.mask)


def test_a_class_without_a_segment_is_empty(pairs: tuple[Path, Prediction]) -> None:
    folder, prediction = pairs
    assert not DicomPairs(folder, [Label("other", "Something else")]).truth(prediction.image.name, 1).any()


def test_what_is_missing_is_named(pairs: tuple[Path, Prediction], tmp_path: Path) -> None:
    folder, prediction = pairs
    with pytest.raises(ConfigError, match=r"no picture or series 1\.2\.3"):
        DicomPairs(folder, []).image("1.2.3")
    shutil.copytree(folder / "study", tmp_path / "study")
    with pytest.raises(ConfigError, match="no SEG refers to"):
        DicomPairs(tmp_path, []).truth(prediction.image.name, 1)


def test_images_with_a_seg_are_grouped_by_patient(pairs: tuple[Path, Prediction], tmp_path: Path) -> None:
    """The phantom's study; once more as another study of the same patient; once more without a patient."""
    folder, prediction = pairs
    for n, patient in enumerate([None, "same", ""]):
        for path in sorted(path for path in folder.rglob("*.dcm") if path.is_file()):
            header = pydicom.dcmread(path)
            if patient is not None:
                renumber(header, n)
            if patient == "":
                header.PatientID = header.PatientName = header.PatientBirthDate = ""
            (tmp_path / str(n)).mkdir(exist_ok=True)
            header.save_as(tmp_path / str(n) / path.name)
    groups = DicomPairs(tmp_path, []).groups()
    names = [prediction.image.name, f"{prediction.image.name}.1", f"{prediction.image.name}.2"]
    assert sorted(groups) == names
    assert groups[names[0]] == groups[names[1]]
    assert groups[names[2]] == f"{prediction.image.study_uid}.2"


def renumber(header: pydicom.Dataset, n: int) -> None:
    """As objects of another study: `.n` behind the UIDs of study, series and instances, references too."""
    for element in header.iterall():
        if element.keyword in (
            "StudyInstanceUID",
            "SeriesInstanceUID",
            "SOPInstanceUID",
            "ReferencedSOPInstanceUID",
            "FrameOfReferenceUID",
        ):
            element.value = f"{element.value}.{n}"
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
