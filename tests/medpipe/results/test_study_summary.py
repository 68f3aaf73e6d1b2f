"""What is said of a study as a whole: the first rule of the bundle whose conditions all hold, and that it is a rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from medpipe.bundle import Bounds, Bundle, SummaryRule, find_bundle
from medpipe.results import ResultOptions, study_summary, write_results
from medpipe.types import Prediction

Make = Callable[..., Any]
SAID = "a rule of the bundle on what was marked in 1 image, not calibrated, no accuracy claimed"


def with_rules(bundle: Bundle, *rules: tuple[dict[str, dict[str, float]], str]) -> Bundle:
    made = tuple(
        SummaryRule(when={key: Bounds(**bounds) for key, bounds in when.items()}, says=says)
        for when, says in rules
    )
    return replace(bundle, summary=made)


def test_the_first_rule_that_holds_is_said(bundle: Bundle, picture: Make, prediction: Make) -> None:
    ruled = with_rules(
        bundle,
        ({"EX_count": {"min": 3}}, "Many exudates."),
        ({"EX_count": {"min": 1}, "MA_count": {"max": 1}}, "Exudates, hardly a microaneurysm."),
        ({"EX_count": {"min": 1}}, "Exudates."),
        ({}, "Nothing of note."),
    )
    assert study_summary(ruled, [prediction(picture(), lesions=3)]) == f"Many exudates ({SAID})."
    assert study_summary(ruled, [prediction(picture(), lesions=2)]) == f"Exudates ({SAID})."
    assert study_summary(ruled, [prediction(picture(), empty=True)]) == f"Nothing of note ({SAID})."


def test_loads_are_summed_over_the_images_of_the_study(
    bundle: Bundle, picture: Make, prediction: Make
) -> None:
    ruled = with_rules(bundle, ({"MA_count": {"min": 4}}, "Four or more."))
    one: Prediction = prediction(picture(), lesions=2)
    assert study_summary(ruled, [one]) is None
    said = study_summary(ruled, [one, one])
    assert said is not None and "in 2 images" in said


@pytest.mark.parametrize(
    ("when", "calibrated", "holds"),
    [
        ({"MA_size": {"min": 479, "max": 479}}, False, True),  # 240 + 239 pixels
        ({"MA_size": {"max": 478}}, False, False),
        ({"MA_mm2": {"min": 0.79, "max": 0.8}}, True, True),
        ({"MA_mm2": {"min": 0}}, False, False),  # not known, so no bound holds
        ({"MA_ml": {"min": 0}}, True, False),  # a picture has no volume
    ],
)
def test_sizes_count_where_they_are_known(
    when: dict[str, dict[str, float]],
    calibrated: bool,
    holds: bool,
    bundle: Bundle,
    picture: Make,
    prediction: Make,
) -> None:
    made = prediction(picture(mm=0.1 if calibrated else None), lesions=2)
    assert (study_summary(with_rules(bundle, (when, "Said")), [made]) is not None) is holds


def test_a_study_without_images_or_rules_has_no_summary(
    bundle: Bundle, picture: Make, prediction: Make
) -> None:
    assert study_summary(with_rules(bundle, ({}, "Anything")), []) is None
    assert study_summary(bundle, [prediction(picture())]) is None


def test_the_report_ends_with_it(
    bundle: Bundle, picture: Make, prediction: Make, faults: Make, program: Make, tmp_path: Path
) -> None:
    ruled = with_rules(bundle, ({"MA_count": {"min": 1}}, "Microaneurysms are marked."))
    made: Prediction = prediction(picture())
    _, sr = write_results(made.image.study_uid, [made], [], ruled, tmp_path, ResultOptions())
    assert faults(sr.path) == []
    printed = program("dsrdump", "+Pl", sr.path).stdout
    assert f"Study as a whole: Microaneurysms are marked ({SAID})." in printed
    plain = write_results(made.image.study_uid, [made], [], bundle, tmp_path / "plain", ResultOptions())[1]
    assert "Study as a whole" not in str(pydicom.dcmread(plain.path))


def test_the_shipped_rules_cover_every_eye_and_name_no_disease() -> None:
    rules = find_bundle("fundus-lesions").summary
    assert rules and not rules[-1].when, "the last holds always, so that something is said of every study"
    words = " ".join(rule.says.lower() for rule in rules)
    for word in (
        "retinopathy",
        "diabet",
        "mild",
        "moderate",
        "severe",
        "grade",
        "refer",
        "healthy",
        "normal",
    ):
        assert word not in words
