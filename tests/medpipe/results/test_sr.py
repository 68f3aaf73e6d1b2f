"""The structured report: readable, valid, and saying the same as the mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
import pytest

from medpipe.bundle import Bundle
from medpipe.errors import ReasonCode
from medpipe.results.options import ResultOptions
from medpipe.results.seg import build_seg
from medpipe.results.source_header import read_source_headers
from medpipe.results.sr import build_refused_sr, build_sr
from medpipe.results.sr_text import summary_text
from medpipe.types import Prediction, Quarantine

Make = Callable[..., Any]
OPTIONS = ResultOptions()


def groups(content: bytes) -> list[Any]:
    report = hd.sr.srread(BytesIO(content))
    measurements = report.content
    return [
        *measurements.get_planar_roi_measurement_groups(),
        *measurements.get_volumetric_roi_measurement_groups(),
        *measurements.get_image_measurement_groups(),
    ]


def values(group: Any) -> dict[str, tuple[float, str]]:
    return {m.name.meaning: (float(m.value), m.unit.value) for m in group.get_measurements()}


@pytest.fixture
def checked(faults: Make, program: Make, tmp_path: Path) -> Callable[[bytes], str]:
    """Validates a report and gives it as DCMTK prints it."""

    def check(content: bytes) -> str:
        path = tmp_path / "report.dcm"
        path.write_bytes(content)
        assert faults(path) == []
        printed = program("dsrdump", "+Pl", path)
        assert printed.returncode == 0, printed.stderr
        assert "E:" not in printed.stderr and "W:" not in printed.stderr, printed.stderr
        return str(printed.stdout)

    return check


@pytest.mark.parametrize("kind", ["OP", "MG", "US"])
@pytest.mark.parametrize("mm", [None, 0.1])
def test_a_picture_s_report_lists_each_lesion_with_its_place_and_sizes(
    kind: str, mm: float | None, picture: Make, prediction: Make, bundle: Bundle, checked: Make
) -> None:
    made: Prediction = prediction(picture(kind, mm=mm))
    seg = build_seg(made, bundle, OPTIONS)
    sr = build_sr(made, seg, bundle, OPTIONS)
    printed = checked(sr.content)
    assert "Lesions found: Microaneurysm 2, Hard exudate 2." in printed
    assert "not for diagnostic use" in printed

    by_identifier = {g.tracking_identifier: g for g in groups(sr.content)}
    assert set(by_identifier) == {"Summary", "MA all", "MA 1", "MA 2", "EX all", "EX 1", "EX 2"}
    first = by_identifier["MA 1"]
    lesion = made.lesions[0]
    assert first.tracking_uid == lesion.tracking_uid
    assert first.finding_type.value == "1522000"
    expected_area = (0.4, "mm2") if mm else (240, "{pixels}")
    assert values(first)["Area"] == expected_area
    assert values(first)["Long axis"] == (8.0, "mm" if mm else "{pixels}")
    assert values(first)["Probability"] == (0.8123, "1")
    outline = first.roi.value  # (column, row)
    _, j0, i0, _, j1, i1 = lesion.box
    assert outline.min(axis=0).tolist() == [i0, j0]
    assert outline.max(axis=0).tolist() == [i1, j1]
    assert values(by_identifier["EX all"])["Number of similar findings"] == (2, "1")

    # the class's group points at the class's frame of the SEG
    dataset = pydicom.dcmread(BytesIO(sr.content))
    references = {
        (r.ReferencedSOPInstanceUID, r.ReferencedFrameNumber)
        for r in every(dataset, "ReferencedSOPSequence")
        if "ReferencedFrameNumber" in r
    }
    assert references == {(seg.sop_instance_uid, 1), (seg.sop_instance_uid, 2)}
    source = made.image.sources[0]
    classes = {
        r.ReferencedSOPClassUID
        for r in every(dataset, "ReferencedSOPSequence")
        if r.ReferencedSOPInstanceUID == source.sop_instance_uid
    }
    assert classes == {source.sop_class_uid}


@pytest.mark.parametrize("kind", ["picture", "volume"])
def test_a_lesion_s_uncertainty_is_a_number_of_the_report_where_it_is_known(
    kind: str, prediction: Make, bundle: Bundle, checked: Make, request: pytest.FixtureRequest
) -> None:
    plain: Prediction = prediction(request.getfixturevalue(kind)())
    known = tuple(replace(lesion, uncertainty=0.03 * n) for n, lesion in enumerate(plain.lesions))
    made = replace(plain, lesions=known)
    sr = build_sr(made, build_seg(made, bundle, OPTIONS), bundle, OPTIONS)
    assert "Uncertainty" in checked(sr.content)
    by_identifier = {g.tracking_identifier: g for g in groups(sr.content)}
    stated = [values(by_identifier[name])["Uncertainty"] for name in ("MA 1", "MA 2", "EX 1", "EX 2")]
    assert stated == [(0.0, "1"), (0.03, "1"), (0.06, "1"), (0.09, "1")]
    assert values(by_identifier["EX 2"])["Probability"] == (0.8123, "1")
    assert "Uncertainty" not in checked(build_sr(plain, None, bundle, OPTIONS).content)


def every(dataset: pydicom.Dataset, keyword: str) -> list[pydicom.Dataset]:
    return [item for element in dataset.iterall() if element.keyword == keyword for item in element.value]


def test_a_volume_s_report_says_where_each_lesion_lies_in_the_patient(
    volume: Make, prediction: Make, bundle: Bundle, checked: Make
) -> None:
    made: Prediction = prediction(volume(row=(0, 1, 0), column=(0, 0, -1)))
    seg = build_seg(made, bundle, OPTIONS)
    sr = build_sr(made, seg, bundle, OPTIONS)
    printed = checked(sr.content)
    assert "Sizes are in pixels" not in printed

    by_identifier = {g.tracking_identifier: g for g in groups(sr.content)}
    first = by_identifier["EX 1"]
    assert values(first)["Volume"] == (0.04, "ml")
    assert values(first)["Short axis"] == (5.0, "mm")
    reference = first.referenced_segment
    assert reference.referenced_sop_instance_uid == seg.sop_instance_uid
    assert reference[0].ReferencedSOPSequence[0].ReferencedSegmentNumber == 2

    lesion = next(x for x in made.lesions if x.class_id == "EX")
    k, j, i = ((a + b - 1) / 2 for a, b in zip(lesion.box[:3], lesion.box[3:], strict=True))
    x, y, z = -31.25 - 2.5 * k, 12.5 + 0.9 * i, 101.0 - 0.7 * j  # the normal of these cosines is -x
    stated = [
        tuple(element.value)
        for element in pydicom.dcmread(BytesIO(sr.content)).iterall()
        if element.keyword == "GraphicData"
    ]
    assert any(all(abs(a - b) < 1e-3 for a, b in zip(s, (x, y, z), strict=True)) for s in stated)


def test_a_report_stands_by_itself_where_the_site_wants_no_seg(
    picture: Make, volume: Make, prediction: Make, bundle: Bundle, checked: Make
) -> None:
    for image in (picture(), volume()):
        sr = build_sr(prediction(image), None, bundle, OPTIONS)
        checked(sr.content)
        by_identifier = {g.tracking_identifier: g for g in groups(sr.content)}
        assert set(by_identifier) == {"Summary", "MA all", "MA 1", "MA 2", "EX all", "EX 1", "EX 2"}


@pytest.mark.parametrize(
    ("empty", "words"), [(False, "Structures found: "), (True, "No structure found. Looked for: ")]
)
def test_parts_of_the_body_are_not_called_lesions(
    empty: bool, words: str, volume: Make, prediction: Make, bundle: Bundle
) -> None:
    anatomy = ("123037004", "SCT", "Anatomical Structure")
    classes = tuple(spec.model_copy(update={"category": anatomy}) for spec in bundle.classes)
    text = summary_text(prediction(volume(), empty=empty), replace(bundle, classes=classes), OPTIONS)
    assert words in text and "esion" not in text.replace(bundle.title, "").replace(bundle.id, "")


def test_no_lesion_is_a_finding_of_its_own(
    picture: Make, volume: Make, prediction: Make, bundle: Bundle, checked: Make
) -> None:
    for image in (picture(), volume()):
        made = prediction(image, empty=True)
        for seg in (None, build_seg(made, bundle, OPTIONS)):
            sr = build_sr(made, seg, bundle, OPTIONS)
            printed = checked(sr.content)
            assert "No lesion found. Looked for: Microaneurysm, Hard exudate." in printed
            assert "All algorithms succeeded; without findings" in printed
            for group in groups(sr.content)[1:]:
                assert not group.get_measurements() or values(group)["Number of similar findings"] == (0, "1")


def test_many_lesions_are_counted_and_the_largest_listed(
    picture: Make, prediction: Make, bundle: Bundle, checked: Make
) -> None:
    made: Prediction = prediction(picture(), lesions=120)
    sr = build_sr(made, build_seg(made, bundle, OPTIONS), bundle, OPTIONS)
    printed = checked(sr.content)
    assert "Microaneurysm: the 50 largest of 120 are listed." in printed
    found = groups(sr.content)
    assert len(found) == 1 + 2 * (1 + 50)
    listed = [
        g for g in found if g.tracking_identifier.startswith("MA ") and "all" not in g.tracking_identifier
    ]
    largest = sorted((x.voxels for x in made.lesions if x.class_id == "MA"), reverse=True)[:50]
    assert [values(g)["Area"][0] for g in listed] == largest


def test_a_refusal_can_be_reported(picture: Make, bundle: Bundle, checked: Make) -> None:
    image = picture("CR")
    refused = Quarantine(ReasonCode.GEOM_GAP, "a slice is missing between 12.5 and 17.5 mm", image.series_uid)
    sr = build_refused_sr([refused], read_source_headers(image), image.series_uid, bundle, OPTIONS)
    printed = checked(sr.content)
    assert "Not processed. GEOM_GAP: a slice is missing between 12.5 and 17.5 mm." in printed
    assert "No algorithms succeeded; without findings" in printed


def test_the_report_s_bytes_depend_on_the_finding_alone(
    volume: Make, prediction: Make, bundle: Bundle
) -> None:
    image = volume()
    first, again, other = (prediction(image), prediction(image), prediction(image, lesions=3))
    seg = build_seg(first, bundle, OPTIONS)
    reports = [build_sr(p, seg, bundle, OPTIONS) for p in (first, again, other)]
    assert reports[0].content == reports[1].content
    assert reports[0].sop_instance_uid != reports[2].sop_instance_uid
    assert reports[0].series_instance_uid == reports[2].series_instance_uid != seg.series_instance_uid
