"""Rules: which series goes where, and why."""

from __future__ import annotations

from typing import Any

import pytest

from medpipe.config import parse_config
from medpipe.errors import ConfigError
from medpipe.routing import SeriesFacts, check_rules, explain, route


def rules(*tables: dict[str, Any]) -> Any:
    named = [{"name": f"rule {n}", "bundle": "fundus", **table} for n, table in enumerate(tables)]
    return parse_config({"rules": named}).rules


def facts(**tags: Any) -> SeriesFacts:
    return SeriesFacts("1.2", tags, ("EYEPACS",), 3, 2848, 4288, 3)


@pytest.mark.parametrize(
    ("when", "fires"),
    [
        ({}, True),
        ({"Modality": "OP"}, True),
        ({"Modality": "CT"}, False),
        ({"Modality": ["CT", "OP"]}, True),
        ({"Rows": {"min": 1000, "max": 3000}}, True),
        ({"Rows": {"min": 3000}}, False),
        ({"Instances": 3}, True),
        ({"CallingAE": "EYEPACS"}, True),
        ({"CallingAE": ["OTHER"]}, False),
        ({"StudyDescription": {"matches": "(?i)screening"}}, True),
        ({"StudyDescription": {"matches": "^x"}}, False),
        ({"ImageType": "PRIMARY"}, True),
        ({"SliceThickness": {"max": 3}}, False),
        ({"Modality": "OP", "Rows": {"max": 10}}, False),
    ],
)
def test_conditions(when: dict[str, Any], fires: bool) -> None:
    series = facts(Modality="OP", StudyDescription="Screening 2026", ImageType=["ORIGINAL", "PRIMARY"])
    assert bool(route(rules({"when": when}), series)) is fires


def test_the_first_rule_of_a_bundle_wins_and_other_bundles_may_fire_too() -> None:
    made = rules({"when": {"Modality": "CT"}}, {}, {"priority": "stat"}, {"bundle": "other"})
    assert [rule.name for rule in route(made, facts(Modality="OP"))] == ["rule 1", "rule 3"]


def test_explain_says_why_in_words() -> None:
    made = rules({"when": {"Modality": ["CT", "MR"], "Laterality": "L"}}, {}, {})
    verdicts = [(verdict.fired, verdict.why) for verdict in explain(made, facts(Modality="OP"))]
    assert verdicts == [
        (False, "Modality is OP, wanted one of CT, MR; Laterality is not in the header"),
        (True, "it has no conditions"),
        (False, "rule 'rule 1' already sends it to fundus"),
    ]


@pytest.mark.parametrize("keyword", ["Modalty", "PatientName", "PatientID"])
def test_an_unknown_or_personal_keyword_is_refused(keyword: str) -> None:
    with pytest.raises(ConfigError, match=keyword):
        check_rules(rules({"when": {keyword: "x"}}))
