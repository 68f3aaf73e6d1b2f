"""Which series goes to which bundle, and why: `[[rules]]` against a series' header. Nothing is evaluated as code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.datadict import tag_for_keyword

from medpipe.config import Condition, Matches, Range, Rule
from medpipe.dicom.headers import InstanceHeader, TagValue
from medpipe.errors import ConfigError

OUR_KEYWORDS = ("CallingAE", "Instances", "Rows", "Columns", "Frames")
"""Keys of `when` that are no attribute of the header but facts about what was received."""

_ALLOWED_PATIENT = ("PatientSex", "PatientAge")


@dataclass(frozen=True)
class SeriesFacts:
    """What a rule may ask about one series. `tags` are those of its first instance (by UID), by DICOM keyword."""

    series_uid: str
    tags: Mapping[str, TagValue]
    calling_aes: tuple[str, ...]
    instances: int
    rows: int
    columns: int
    frames: int

    def values(self, keyword: str) -> tuple[str | int | float, ...]:
        """The value or values under a key of `when`; none where the header has no such attribute."""
        if keyword == "CallingAE":
            return self.calling_aes
        if keyword in OUR_KEYWORDS:
            return (getattr(self, keyword.lower()),)
        value = self.tags.get(keyword)
        if value is None:
            return ()
        return tuple(value) if isinstance(value, list) else (value,)


@dataclass(frozen=True)
class Verdict:
    """One rule on one series: whether it fires, and in one sentence why or why not."""

    rule: Rule
    fired: bool
    why: str


def facts_of(instances: Sequence[InstanceHeader], calling: Mapping[Path, str]) -> tuple[SeriesFacts, ...]:
    """Facts per series, ordered by Series UID. `calling` names the AE that sent each file, where that is known."""
    by_series: dict[str, list[InstanceHeader]] = {}
    for instance in instances:
        by_series.setdefault(instance.series_uid, []).append(instance)
    facts: list[SeriesFacts] = []
    for series_uid, members in sorted(by_series.items()):
        first = min(members, key=lambda member: member.sop_instance_uid)
        callers = sorted({calling[m.path] for m in members if calling.get(m.path)})
        frames = sum(member.frames for member in members)
        size = max(m.rows for m in members), max(m.columns for m in members)
        facts.append(SeriesFacts(series_uid, first.tags, tuple(callers), len(members), *size, frames))
    return tuple(facts)


def route(rules: Sequence[Rule], facts: SeriesFacts) -> tuple[Rule, ...]:
    """The rules that fire: in file order, the first that fits for each bundle."""
    return tuple(verdict.rule for verdict in explain(rules, facts) if verdict.fired)


def explain(rules: Sequence[Rule], facts: SeriesFacts) -> tuple[Verdict, ...]:
    """One verdict per rule, in file order."""
    verdicts: list[Verdict] = []
    taken: dict[str, str] = {}
    for rule in rules:
        failed = [
            sentence
            for keyword, condition in rule.when.items()
            if (sentence := _failure(keyword, condition, facts.values(keyword))) is not None
        ]
        if failed:
            verdicts.append(Verdict(rule, False, "; ".join(failed)))
        elif rule.bundle in taken:
            earlier = taken[rule.bundle]
            verdicts.append(Verdict(rule, False, f"rule {earlier!r} already sends it to {rule.bundle}"))
        else:
            taken[rule.bundle] = rule.name
            verdicts.append(
                Verdict(rule, True, "all its conditions hold" if rule.when else "it has no conditions")
            )
    return tuple(verdicts)


def check_rules(rules: Sequence[Rule]) -> None:
    """Raises ConfigError where a rule asks for an attribute that DICOM does not know or that names a patient."""
    for rule in rules:
        for keyword in rule.when:
            if keyword in OUR_KEYWORDS:
                continue
            tag = tag_for_keyword(keyword)
            if tag is None:
                raise ConfigError(
                    f"rule {rule.name!r}: when.{keyword}: no DICOM keyword; also allowed: {', '.join(OUR_KEYWORDS)}"
                )
            if tag >> 16 == 0x0010 and keyword not in _ALLOWED_PATIENT:
                raise ConfigError(
                    f"rule {rule.name!r}: when.{keyword}: rules cannot ask who the patient is "
                    f"(allowed: {', '.join(_ALLOWED_PATIENT)})"
                )


def _failure(keyword: str, condition: Condition, values: tuple[str | int | float, ...]) -> str | None:
    """None where any value satisfies the condition, else the sentence that says why none does."""
    if not values:
        return f"{keyword} is not in the header"
    if any(_holds(condition, value) for value in values):
        return None
    found = " or ".join(str(value) for value in values)
    return f"{keyword} is {found}, wanted {_wanted(condition)}"


def _holds(condition: Condition, value: str | int | float) -> bool:
    if isinstance(condition, Matches):
        return re.search(condition.matches, str(value)) is not None
    if isinstance(condition, Range):
        number = _number(value)
        if number is None:
            return False
        return (condition.min is None or number >= condition.min) and (
            condition.max is None or number <= condition.max
        )
    if isinstance(condition, list):
        return any(_holds(item, value) for item in condition)
    if isinstance(condition, str):
        return str(value).strip() == condition
    return _number(value) == float(condition)


def _number(value: str | int | float) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _wanted(condition: Condition) -> str:
    if isinstance(condition, Matches):
        return f"a match of {condition.matches!r}"
    if isinstance(condition, Range):
        if condition.min is None:
            return f"at most {condition.max:g}"
        return (
            f"at least {condition.min:g}"
            if condition.max is None
            else f"{condition.min:g} to {condition.max:g}"
        )
    if isinstance(condition, list):
        return "one of " + ", ".join(str(item) for item in condition)
    return str(condition)
