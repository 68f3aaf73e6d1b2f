"""The demo's own parts: what it takes as a sample, the settings it writes, the table it prints."""

from __future__ import annotations

import io

import demo
import demo_sample
import pytest
from demo_report import Found, described, findings, show
from local_orthanc import LocalOrthanc
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from rich.console import Console

from medpipe.config import load_config


def code(value, meaning, scheme="DCM"):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def content(name, *children, **values):
    item = Dataset()
    item.ConceptNameCodeSequence = [name]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    if children:
        item.ContentSequence = list(children)
    return item


def group(finding, count=None, category="49755003"):
    """A measurement group: of a class (it counts similar findings) or of one lesion."""
    parts = [
        content(
            code("276214006", "Finding category", "SCT"), ConceptCodeSequence=[code(category, "Kind", "SCT")]
        ),
        content(code("121071", "Finding"), ConceptCodeSequence=[code("1", finding, "99X")]),
    ]
    if count is not None:
        number = Dataset()
        number.NumericValue = str(count)
        parts.append(content(code("111406", "Number of similar findings"), MeasuredValueSequence=[number]))
    return content(code("125007", "Measurement Group"), *parts)


def test_each_class_is_counted_by_its_own_group():
    measurements = content(
        code("126010", "Imaging Measurements"),
        group("Cyst", 2),
        group("Cyst"),
        group("Scar", 0),
        group("Head", 1, "123037004"),
    )
    report = Dataset()
    report.ContentSequence = [measurements]
    assert list(findings(report)) == [
        ("Cyst", "lesion", 2),
        ("Scar", "lesion", 0),
        ("Head", "structure", 1),
    ]


@pytest.fixture
def picture_file(tmp_path):
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1", "2.25.1"
    header.StudyInstanceUID, header.SeriesInstanceUID = "2.25.2", "2.25.3"
    header.Modality, header.Rows, header.Columns = "OP", 2848, 4288
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = tmp_path / "a" / "picture"
    path.parent.mkdir()
    header.save_as(path, enforce_file_format=True)
    return path


def test_a_folder_as_sample_gives_its_dicom_files(picture_file, tmp_path):
    (tmp_path / "a" / "notes.txt").write_text("not DICOM")
    assert demo_sample.sample_files(tmp_path, tmp_path) == [picture_file]
    assert demo_sample.studies_of([picture_file]) == ["2.25.2"]
    assert list(described([picture_file])) == ["OP, 1 instance, 4288 x 2848"]


@pytest.mark.parametrize("name", ["nothing-here", "empty"])
def test_a_sample_that_is_none_says_so(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(demo_sample.DemoError, match="SAMPLE"):
        demo_sample.sample_files(tmp_path / name, tmp_path)


def test_the_settings_are_sound_and_route_no_test_bundle(tmp_path):
    path = tmp_path / "medpipe.toml"
    demo.write_config(path, tmp_path, 11112, LocalOrthanc(tmp_path / "orthanc"), 8080)
    config = load_config(path)
    assert config.review is not None and config.viewed_peer() == ("PACS", config.peers["PACS"])
    assert config.peers["PACS"].commitment
    assert not [rule for rule in config.rules if "phantom" in rule.bundle]


def table(found, picture_file):
    console = Console(file=io.StringIO(), width=200)
    jobs = [{"bundle": "fundus-lesions", "bundle_version": "0.1.0", "state": "confirmed", "reason": None}]
    show(console, [picture_file], jobs, found, {"modality to PACS": 0.25})
    return console.file.getvalue()


def test_the_table_says_what_came_what_was_found_where_it_is_and_how_long_it_took(picture_file):
    found = Found()
    found.series["2.25.9"] = ("SEG", "AI Lesions", 1)
    found.counts.update({"Hard exudate": 3, "Haemorrhage": 1, "Soft exudate": 0})
    found.nouns |= dict.fromkeys(found.counts, "lesion")
    text = table(found, picture_file)
    for part in (
        "OP, 1 instance, 4288 x 2848",
        "3 lesions",
        "1 lesion ",
        "2.25.9",
        "AI Lesions",
        "0.2",
        "confirmed",
    ):
        assert part in text


def test_a_healthy_picture_has_no_lesion(picture_file):
    found = Found()
    found.counts.update({"Hard exudate": 0})
    found.nouns["Hard exudate"] = "lesion"
    assert "no lesion" in table(found, picture_file)


def test_parts_of_the_body_are_no_lesions(picture_file):
    found = Found()
    found.counts.update({"Anterior hippocampus": 1})
    found.nouns["Anterior hippocampus"] = "structure"
    text = table(found, picture_file)
    assert "1 structure" in text and "lesion" not in text.replace("fundus-lesions", "")


def test_folders_of_demos_that_no_longer_run_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    dead, living = tmp_path / ".demo" / "run-999999999", tmp_path / ".demo" / "run-1"
    for folder in (dead, living):
        folder.mkdir(parents=True)
    mine = demo.own_folder()
    assert (dead.exists(), living.exists(), mine.is_dir()) == (False, True, True)
