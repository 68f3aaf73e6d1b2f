"""DICOM with SEG as training data: the images, the truth, and a correction that supersedes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medpipe.bundle import InputSpec
from medpipe.cli.app import EXIT_USAGE, run
from medpipe.config import parse_config
from medpipe.errors import ConfigError
from medpipe.process import Processor
from medpipe.results import read_seg
from medpipe.samples.studies import write_study
from medpipe.training.cases import load_cases
from medpipe.training.dicom_pairs import DicomPairs, Label, classes_of_segments
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
    labels = [Label("x", "Bright lesion"), Label("other", "Something else")]
    truth = DicomPairs(folder, labels).truth(prediction.image.name, 2)
    assert np.array_equal(truth[0], prediction.mask[0])
    assert not truth[1].any()


def later_seg(folder: Path, path: Path, change: Callable[[pydicom.Dataset], None]) -> Path:
    """The folder's SEG once more, changed, as a later one in file `path`."""
    (written,) = (folder / "results").glob("*.seg.dcm")
    seg = pydicom.dcmread(written)
    seg.SOPInstanceUID = seg.file_meta.MediaStorageSOPInstanceUID = "2.25.77"
    seg.ContentDate = "20301231"
    change(seg)
    seg.save_as(path)
    return path


def of_the_liver(seg: pydicom.Dataset) -> None:
    (segment,) = seg.SegmentSequence
    segment.SegmentLabel, segment.TrackingID = "Liver", "organs LIVER"
    segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "10200004"


def emptied(seg: pydicom.Dataset) -> None:
    seg.PixelData = bytes(len(seg.PixelData))


def test_of_two_segs_of_one_moment_none_is_the_truth(pairs: tuple[Path, Prediction], tmp_path: Path) -> None:
    """Not by the names of their files; the same SEG twice, or one about something else, is no question."""
    folder, prediction = pairs
    all_of_it = Path(shutil.copytree(folder, tmp_path / "all"))
    (written,) = (all_of_it / "results").glob("*.seg.dcm")
    name, lesion = prediction.image.name, Label("x", "Bright lesion")
    shutil.copyfile(written, all_of_it / "again.dcm")
    assert np.array_equal(DicomPairs(all_of_it, [lesion]).truth(name, 1), prediction.mask)
    when = pydicom.dcmread(written).ContentDate
    for change, refused in ((of_the_liver, False), (emptied, True)):
        path = later_seg(folder, all_of_it / "other.dcm", change)
        seg = pydicom.dcmread(path)
        seg.ContentDate = when
        seg.save_as(path)
        if not refused:
            assert np.array_equal(DicomPairs(all_of_it, [lesion]).truth(name, 1), prediction.mask)
            continue
        with pytest.raises(ConfigError, match=r"other\.dcm.* SEGs of one image and one moment"):
            DicomPairs(all_of_it, [lesion]).truth(name, 1)


def test_a_later_seg_about_something_else_supersedes_nothing(
    pairs: tuple[Path, Prediction], tmp_path: Path
) -> None:
    folder, prediction = pairs
    all_of_it = Path(shutil.copytree(folder, tmp_path / "all"))
    later_seg(folder, all_of_it / "liver.dcm", of_the_liver)
    name, lesion = prediction.image.name, Label("x", "Bright lesion", "52988006", "SCT")
    assert np.array_equal(DicomPairs(all_of_it, [lesion]).truth(name, 1), prediction.mask)
    shutil.rmtree(all_of_it / "results")
    source = DicomPairs(all_of_it, [lesion])
    assert source.groups() == {}, "of an image whose only SEG is about something else nothing is known"
    with pytest.raises(ConfigError, match=f"no SEG of {name} has a segment of x; take it out"):
        source.truth(name, 1)


@pytest.mark.parametrize(("name", "patients"), [("Liver", 1), ("Kidney", 0)])
def test_folds_for_an_experiment_leave_out_images_of_which_no_seg_knows_its_classes(
    pairs: tuple[Path, Prediction],
    tmp_path: Path,
    experiment: Path,
    name: str,
    patients: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = pairs
    shutil.copytree(folder / "study", tmp_path / "data" / "study")
    later_seg(folder, tmp_path / "data" / "liver.dcm", of_the_liver)
    experiment.write_text(experiment.read_text().replace('name = "MA"', f'name = "{name}"'))
    dealing = ["folds", str(tmp_path / "data"), "--out", str(tmp_path / "list.toml"), "--folds", "2"]
    assert run([*dealing, "--experiment", str(experiment)]) == EXIT_USAGE
    assert f"{patients} patients or images with a truth are too few" in capsys.readouterr().err


def test_a_later_seg_in_which_every_mark_was_removed_says_that_nothing_is_there(
    pairs: tuple[Path, Prediction], tmp_path: Path
) -> None:
    folder, prediction = pairs
    all_of_it = Path(shutil.copytree(folder, tmp_path / "all"))
    later_seg(folder, all_of_it / "emptied.dcm", emptied)
    source = DicomPairs(all_of_it, [Label("x", "Bright lesion")])
    assert not source.truth(prediction.image.name, 1).any()
    assert list(source.groups()) == [prediction.image.name]


def seg_of(*segments: tuple[str, str, str]) -> pydicom.Dataset:
    """The segments (Segment Label, code, scheme) of a SEG, and no pixels."""
    seg = pydicom.Dataset()
    seg.SegmentSequence = []
    for number, (label, code, scheme) in enumerate(segments, 1):
        kind = pydicom.Dataset()
        kind.CodeValue, kind.CodingSchemeDesignator = code, scheme
        segment = pydicom.Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, label
        segment.SegmentedPropertyTypeCodeSequence = [kind]
        seg.SegmentSequence.append(segment)
    return seg


KIDNEY = ("64033007", "SCT")
KIDNEYS = [Label("LK", "Left kidney", *KIDNEY), Label("RK", "Right kidney", *KIDNEY)]


def classes_of(seg: pydicom.Dataset, labels: list[Label]) -> list[int | None]:
    return classes_of_segments(Path("some.dcm"), seg, labels)


def test_classes_of_one_type_are_known_by_their_names() -> None:
    assert classes_of(seg_of(("Left kidney", *KIDNEY)), KIDNEYS) == [0]
    assert classes_of(seg_of(("right KIDNEY", *KIDNEY), ("lk", *KIDNEY)), KIDNEYS) == [1, 0]
    both = seg_of(("Left kidney", *KIDNEY), ("Right kidney", *KIDNEY), ("Cyst", *KIDNEY))
    assert classes_of(both, KIDNEYS) == [0, 1, None], "what is named decides, once every class is"


def test_a_code_counts_with_its_scheme_and_where_no_name_says_more() -> None:
    label = [Label("LES", "Lesion", "52988006", "SCT")]
    assert classes_of(seg_of(("one", "52988006", "SCT"), ("two", "52988006", "SCT")), label) == [0, 0]
    assert classes_of(seg_of(("one", "52988006", "99OTHER")), label) == [None]
    assert classes_of(seg_of(("one", "52988006", "99OTHER")), [Label("LES", "Lesion", "52988006")]) == [0]
    assert classes_of(seg_of(("Lesion", "52988006", "SCT"), ("Scar", "52988006", "SCT")), label) == [0, None]


def test_a_segment_that_may_be_of_two_classes_is_refused() -> None:
    for seg in (seg_of(("Kidney", *KIDNEY)), seg_of(("Left kidney", *KIDNEY), ("Other", *KIDNEY))):
        with pytest.raises(ConfigError, match=r"some\.dcm: segment \d is coded like LK and RK") as caught:
            classes_of(seg, KIDNEYS)
        assert "\n" not in str(caught.value)
    contrary = seg_of(("Left kidney", *KIDNEY))
    contrary.SegmentSequence[0].TrackingID = "kidneys RK"
    with pytest.raises(ConfigError, match="segment 1 is named like LK and RK"):
        classes_of(contrary, KIDNEYS)


def test_the_background_of_a_label_map_is_no_segment() -> None:
    seg = seg_of(("Background", "1", "99X"), ("Left kidney", *KIDNEY))
    seg.SegmentSequence[0].SegmentNumber, seg.SegmentSequence[1].SegmentNumber = 0, 1
    seg.PixelPaddingValue = 0
    assert classes_of(seg, KIDNEYS) == [0]


def as_probabilities(seg: pydicom.Dataset) -> None:
    """What was marked has 128 of 255, what was not 127."""
    pixels = seg.NumberOfFrames * seg.Rows * seg.Columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[:pixels]
    seg.PixelData = (bits + 127).astype(np.uint8).tobytes()
    seg.BitsAllocated = seg.BitsStored = 8
    seg.HighBit = 7
    seg.SegmentationType, seg.SegmentationFractionalType = "FRACTIONAL", "PROBABILITY"
    seg.MaximumFractionalValue = 255


def test_a_fractional_segment_is_where_it_has_half_of_its_largest_value(
    pairs: tuple[Path, Prediction], tmp_path: Path
) -> None:
    folder, prediction = pairs
    instances = tuple(source.sop_instance_uid for source in prediction.image.sources)
    mask, _ = read_seg(later_seg(folder, tmp_path / "some.dcm", as_probabilities), instances)
    occupied = prediction.mask.any(axis=(0, 2, 3))
    assert np.array_equal(mask[:, occupied], prediction.mask[:, occupied])
    assert not mask[:, ~occupied].any()


def without_sources(seg: pydicom.Dataset) -> None:
    for frame in seg.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence


def without_places(seg: pydicom.Dataset) -> None:
    for frame in seg.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence[0].SourceImageSequence[0].SpatialLocationsPreserved


def without_segments(seg: pydicom.Dataset) -> None:
    del seg.SegmentSequence


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_sources, "do not say on which pixels"),
        (without_places, "do not say on which pixels"),
        (without_segments, "cannot be read as a SEG"),
    ],
)
def test_a_seg_that_does_not_say_where_it_lies_is_refused_by_its_name(
    change: Callable[[pydicom.Dataset], None], said: str, pairs: tuple[Path, Prediction], tmp_path: Path
) -> None:
    folder, prediction = pairs
    instances = tuple(source.sop_instance_uid for source in prediction.image.sources)
    with pytest.raises(ConfigError, match=rf"some\.dcm: .*{said}") as caught:
        read_seg(later_seg(folder, tmp_path / "some.dcm", change), instances)
    assert "\n" not in str(caught.value)


def with_half_the_rows(seg: pydicom.Dataset) -> None:
    seg.Rows //= 2
    seg.PixelData = bytes(seg.NumberOfFrames * seg.Rows * seg.Columns // 8)


def test_a_seg_of_another_size_is_refused(pairs: tuple[Path, Prediction], tmp_path: Path) -> None:
    folder, prediction = pairs
    shutil.copytree(folder / "study", tmp_path / "study")
    later_seg(folder, tmp_path / "some.dcm", with_half_the_rows)
    with pytest.raises(ConfigError, match=r"some\.dcm: its frames have 48 x 96 pixels .*, not the 96 x 96"):
        DicomPairs(tmp_path, [Label("x", "Bright lesion")]).truth(prediction.image.name, 1)


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
