"""What the demo's PACS holds of the results, read back from the PACS itself, as tables."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from local_orthanc import LocalOrthanc
from pydicom import Dataset, dcmread
from rich.console import Console
from rich.table import Table

from medpipe.bundle import noun_of

MEASUREMENT_GROUP = ("125007", "DCM")
FINDING = ("121071", "DCM")
FINDING_CATEGORY = ("276214006", "SCT")
SIMILAR_FINDINGS = ("111406", "DCM")


@dataclass
class Found:
    """Results in the PACS: their series, and what the structured reports count per class."""

    series: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    """Series UID -> modality, description, number of objects."""
    counts: Counter[str] = field(default_factory=Counter)
    nouns: dict[str, str] = field(default_factory=dict)
    """Class -> what one of it is called: lesion, structure or finding."""
    missing: list[str] = field(default_factory=list)


def read_results(orthanc: LocalOrthanc, sop_instance_uids: Collection[str]) -> Found:
    """Fetches the results from the PACS and reads them."""
    found = Found()
    for uid in sorted(sop_instance_uids):
        try:
            result = dcmread(io.BytesIO(orthanc.file(uid)))
        except KeyError:
            found.missing.append(uid)
            continue
        modality, description, count = found.series.get(
            result.SeriesInstanceUID, (result.Modality, result.get("SeriesDescription", ""), 0)
        )
        found.series[result.SeriesInstanceUID] = (modality, description, count + 1)
        if result.Modality == "SR":
            for name, noun, count in findings(result):
                found.counts[name] += count
                found.nouns[name] = noun
    return found


def findings(report: Dataset) -> Iterator[tuple[str, str, int]]:
    """Each class, what one of it is called, and how many: a TID 1500 report's groups that count similar findings."""
    for item in report.get("ContentSequence") or ():
        if code_of(item) != MEASUREMENT_GROUP:
            yield from findings(item)
            continue
        parts = {code_of(part): part for part in item.get("ContentSequence") or ()}
        if FINDING in parts and SIMILAR_FINDINGS in parts:
            count = parts[SIMILAR_FINDINGS].MeasuredValueSequence[0].NumericValue
            category = parts[FINDING_CATEGORY].ConceptCodeSequence[0]
            code = (category.CodeValue, category.CodingSchemeDesignator, category.CodeMeaning)
            yield str(parts[FINDING].ConceptCodeSequence[0].CodeMeaning), noun_of([code]), int(count)


def code_of(item: Dataset) -> tuple[str, str] | None:
    names = item.get("ConceptNameCodeSequence")
    return (str(names[0].CodeValue), str(names[0].CodingSchemeDesignator)) if names else None


def show(
    console: Console,
    files: Sequence[Path],
    jobs: Sequence[Mapping[str, Any]],
    found: Found,
    seconds: Mapping[str, float],
) -> None:
    """The table of the demo: received, found, where it is in the PACS, how long each step took."""
    table = Table(
        "", "", "", show_header=False, title="from the modality and back into the PACS", title_justify="left"
    )
    for number, line in enumerate(described(files)):
        table.add_row("received" if number == 0 else "", line, "")
    table.add_section()
    for number, job in enumerate(jobs):
        what = f"{job['bundle']} {job.get('bundle_version') or ''}".strip()
        table.add_row(
            "job" if number == 0 else "", what, " ".join(filter(None, [job["state"], job.get("reason")]))
        )
    table.add_section()
    total = found.counts.total()
    if total == 0:
        nouns = sorted(set(found.nouns.values()))
        table.add_row("found", f"no {' or '.join(nouns) or 'finding'}", "")
    for number, (name, count) in enumerate(sorted(found.counts.items())):
        if total:
            words = f"{count} {found.nouns[name]}{'s' * (count != 1)}"
            table.add_row("found" if number == 0 else "", name, words)
    table.add_section()
    for number, (uid, (modality, description, _)) in enumerate(
        sorted(found.series.items(), key=itemgetter(1))
    ):
        table.add_row("in the PACS" if number == 0 else "", f"{modality}  {description}\n{uid}", "")
    table.add_section()
    for number, (step, took) in enumerate(with_steps(seconds, jobs)):
        table.add_row("seconds" if number == 0 else "", step, f"{took:.1f}")
    console.print(table)


def with_steps(
    seconds: Mapping[str, float], jobs: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, float]]:
    """The demo's own clock, with the steps that the jobs timed themselves below the line `job`."""
    steps: dict[str, float] = {}
    for job in jobs:
        for step, spent in (job.get("seconds") or {}).items():
            steps[step] = steps.get(step, 0) + spent
    for name, took in seconds.items():
        yield name, took
        if name == "job":
            yield from ((f"  {step}", spent) for step, spent in steps.items())


def described(files: Sequence[Path]) -> Iterator[str]:
    """One line per series of the files: modality, number of instances, size."""
    series: dict[str, list[Dataset]] = {}
    tags = ["SeriesInstanceUID", "Modality", "Rows", "Columns", "NumberOfFrames"]
    for path in files:
        header = dcmread(path, stop_before_pixels=True, specific_tags=tags)
        series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(header)
    for headers in series.values():
        first = headers[0]
        size = f"{first.get('Columns', '?')} x {first.get('Rows', '?')}"
        yield f"{first.get('Modality', '?')}, {len(headers)} instance{'s' * (len(headers) != 1)}, {size}"
