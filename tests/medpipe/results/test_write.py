"""The files of a study's results, and what is in them of the patient and the time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medpipe.bundle import Bundle
from medpipe.config import Results
from medpipe.errors import IntegrityError, ReasonCode
from medpipe.results import ResultOptions, read_seg, write_results
from medpipe.results.provenance import read_provenance
from medpipe.results.source_header import UNDATED
from medpipe.types import Image, Quarantine, Result

Make = Callable[..., Any]
OPTIONS = ResultOptions()


def names(results: tuple[Result, ...]) -> list[str]:
    return [result.path.name for result in results]


def test_each_image_gives_a_seg_and_an_sr_named_after_it(
    picture: Make, prediction: Make, bundle: Bundle, tmp_path: Path
) -> None:
    image: Image = picture()
    made = prediction(image)
    results = write_results(image.study_uid, [made], [], bundle, tmp_path / "out", OPTIONS)
    assert names(results) == [
        f"{image.name}.fundus-lesions.seg.dcm",
        f"{image.name}.fundus-lesions.sr.dcm",
    ]
    assert [result.modality for result in results] == ["SEG", "SR"]
    for result in results:
        content = result.path.read_bytes()
        assert hashlib.sha256(content).hexdigest() == result.sha256
        dataset = pydicom.dcmread(result.path)
        assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
        assert dataset.SOPInstanceUID == result.sop_instance_uid
        assert dataset.SOPClassUID == result.sop_class_uid
        assert dataset.SeriesInstanceUID == result.series_instance_uid
        assert dataset.StudyInstanceUID == image.study_uid
        assert result.image_name == image.name
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(names(results))
    mask, labels = read_seg(results[0].path)
    assert np.array_equal(mask, made.mask)
    assert labels == ("Microaneurysm", "Hard exudate")


def test_nothing_found_gives_what_the_site_wants(
    picture: Make, prediction: Make, bundle: Bundle, tmp_path: Path
) -> None:
    made = prediction(picture(), empty=True)

    def kinds(options: ResultOptions) -> list[str]:
        results = write_results(made.image.study_uid, [made], [], bundle, tmp_path / "out", options)
        return [result.modality for result in results]

    assert kinds(OPTIONS) == ["SR"]
    assert kinds(replace(OPTIONS, no_lesion="empty-seg")) == ["SEG", "SR"]
    assert kinds(replace(OPTIONS, sr=False)) == ["SEG"]  # nothing found is a result: it never just disappears


def test_a_refused_series_gets_a_report_only_where_the_site_asks(
    picture: Make, bundle: Bundle, tmp_path: Path
) -> None:
    image = picture("CR")
    refused = [
        Quarantine(ReasonCode.BAD_PIXELS, "the pixel data ends early", image.series_uid, (image.name,)),
        Quarantine(ReasonCode.NOT_FOR_BUNDLE, "CR is not what this bundle is for", image.series_uid),
    ]
    headers = [pydicom.dcmread(image.sources[0].header)]
    write = [image.study_uid, [], refused, bundle, tmp_path / "out"]
    assert write_results(*write, OPTIONS, headers=headers) == ()
    results = write_results(*write, replace(OPTIONS, refused_sr=True), headers=headers)
    assert names(results) == [f"{image.series_uid}-refused.fundus-lesions.sr.dcm"]
    assert "BAD_PIXELS: the pixel data ends early." in results[0].path.read_bytes().decode("latin-1")


def test_the_options_are_the_configuration_s() -> None:
    options = ResultOptions.from_config(Results(series_number=77, institution_department="KI"), "1.2.3")
    assert (options.series_number, options.institution_department, options.uid_root) == (77, "KI", "1.2.3")


def test_who_made_it_is_stated_in_the_standard_s_places(
    picture: Make, prediction: Make, bundle: Bundle, tmp_path: Path
) -> None:
    image = picture()
    options = replace(OPTIONS, institution_department="Eye clinic", uid_root="1.2.40.0.13.1")
    seg, sr = (
        pydicom.dcmread(r.path)
        for r in write_results(image.study_uid, [prediction(image)], [], bundle, tmp_path, options)
    )
    for dataset in (seg, sr):
        assert dataset.SeriesDescription == "AI Lesions of diabetic retinopathy... (not for diagnostic use)"
        assert len(dataset.SeriesDescription) <= 64
        assert dataset.ManufacturerModelName == "medpipe"
        assert dataset.InstitutionalDepartmentName == "Eye clinic"
        assert "fundus-lesions 0.3.1" in dataset.SoftwareVersions
        assert any(
            item.get("ManufacturerModelName") == "medpipe" for item in dataset.ContributingEquipmentSequence
        )
        assert dataset.SOPInstanceUID.startswith("1.2.40.0.13.1.")
    assert seg.ContentCreatorName == ""
    record = read_provenance(seg)
    assert record["bundle_hash"] == bundle.hash
    assert record["weights_sha256"] == bundle.weights_sha256
    assert record["thresholds"] == {"MA": 0.42, "EX": 0.5}
    assert record["peaks"] == {"MA": 0.7}
    assert [s.SegmentDescription for s in seg.SegmentSequence] == [
        "Found by fundus-lesions 0.3.1, probability of at least 0.42, lesions of at least 6 pixels, "
        "somewhere in each a probability of at least 0.7",
        "Found by fundus-lesions 0.3.1, probability of at least 0.5, lesions of at least 4 pixels",
    ]
    assert record["crf"]["mode"] == "guarded"
    assert record["precision"] == "f32"
    assert [s.SegmentNumber for s in seg.SegmentSequence] == [1, 2]
    assert seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "1522000"
    assert seg.SegmentSequence[0].RecommendedDisplayCIELabValue[0] == round(53.2 / 100 * 65535)


def test_dates_come_from_the_newest_source(
    volume: Make, prediction: Make, bundle: Bundle, tmp_path: Path
) -> None:
    made = prediction(volume())
    for result in write_results(made.image.study_uid, [made], [], bundle, tmp_path, OPTIONS):
        dataset = pydicom.dcmread(result.path)
        assert (dataset.ContentDate, dataset.ContentTime) == ("20260102", "102007")
        assert (dataset.InstanceCreationDate, dataset.InstanceCreationTime) == ("20260102", "102007")
        assert dataset.StudyTime == "101500"


@pytest.mark.parametrize(
    "values",
    [
        {"ContentDate": None, "ContentTime": None, "StudyDate": "", "StudyTime": ""},
        {"ContentDate": "20261399", "StudyDate": None, "StudyTime": None},
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DA")
def test_a_source_without_a_date_gives_a_fixed_one(
    values: dict[str, Any], picture: Make, prediction: Make, bundle: Bundle, tmp_path: Path
) -> None:
    made = prediction(picture(**values))
    for result in write_results(made.image.study_uid, [made], [], bundle, tmp_path, OPTIONS):
        dataset = pydicom.dcmread(result.path)
        assert (dataset.ContentDate, dataset.ContentTime) == UNDATED


def test_a_finding_that_contradicts_itself_does_not_leave(
    picture: Make, prediction: Make, bundle: Bundle, tmp_path: Path
) -> None:
    made = prediction(picture())
    silent = replace(made, lesions=tuple(x for x in made.lesions if x.class_id != "EX"))
    with pytest.raises(IntegrityError, match="contradict each other for class EX"):
        write_results(made.image.study_uid, [silent], [], bundle, tmp_path / "out", OPTIONS)
    with pytest.raises(IntegrityError, match=r"belongs to study .* not 1\.2\.3"):
        write_results("1.2.3", [made], [], bundle, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_files_are_written_whole_or_not_at_all(
    picture: Make, prediction: Make, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    made = prediction(picture())
    with pytest.raises(OSError, match="No space left"):
        write_results(made.image.study_uid, [made], [], bundle, tmp_path / "out", OPTIONS)
    assert list((tmp_path / "out").iterdir()) == []
