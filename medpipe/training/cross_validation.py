"""Mean and spread over folds (or seeds), from the reports of several runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medpipe.errors import ConfigError
from medpipe.training.lesion_scores import FALSE_ALLOWED
from medpipe.training.report import JSON, REPORT

FOLDS_NEEDED, SEEDS_NEEDED = 5, 3
"""From this many folds, or seeds, on a figure may be called the network's quality."""

_AT = f"at_{FALSE_ALLOWED:g}_false_per_picture"
_COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AUPR", ("aupr",)),
    ("Dice, pooled", ("dice", "pooled")),
    ("Dice, mean per picture", ("dice", "mean")),
    ("Dice, mean of all pictures", ("dice", "mean_of_all")),
    ("IoU, pooled", ("iou", "pooled")),
    (f"lesions found at <= {FALSE_ALLOWED:g} false per picture", ("froc", _AT, "recall")),
)

_BY_SIZE = "Lesions found by their size, as the bundle marks them; the lesions of all runs counted together:"


def read_report(folder: Path) -> dict[str, Any]:
    """report.json of a run's folder, or of a report's own. Raises ConfigError where there is none."""
    for path in (folder / REPORT / JSON, folder / JSON):
        if path.is_file():
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return content
    raise ConfigError(
        f"{folder}: holds no {REPORT}/{JSON}: let `medpipe train` end, or use `medpipe evaluate --report`"
    )


def over_folds(folders: Sequence[Path]) -> str:
    """Two Markdown tables: a row per class and run, each class' and all classes' mean with standard deviation (n - 1);
    and lesions found by their size, all runs together.

    Raises ConfigError where the reports are not of the same classes, or not on the same kind of grid.
    """
    reports = [read_report(folder) for folder in folders]
    first = reports[0]
    for folder, report in zip(folders, reports, strict=True):
        if list(report["classes"]) != list(first["classes"]):
            raise ConfigError(
                f"{folder}: classes {', '.join(report['classes'])}, but {folders[0]} has {', '.join(first['classes'])}"
            )
        if report["grid"] != first["grid"]:
            raise ConfigError(f"{folder}: measured at {report['grid']}, but {folders[0]} at {first['grid']}")
    names = ["class", "fold", *(title for title, _ in _COLUMNS)]
    lines = [names, ["---"] * len(names)]
    of_classes = []
    for class_id in first["classes"]:
        values = [[_value(r["classes"][class_id], path) for _, path in _COLUMNS] for r in reports]
        lines += [[class_id, _fold(r), *map(_shown, row)] for r, row in zip(reports, values, strict=True)]
        lines.append([f"**{class_id}**", "**mean ± sd**", *map(_summary, zip(*values, strict=True))])
        of_classes.append(values)
    if len(of_classes) > 1:
        means = [[_mean(cell) for cell in zip(*run, strict=True)] for run in zip(*of_classes, strict=True)]
        lines.append(["**mean of classes**", "**mean ± sd**", *map(_summary, zip(*means, strict=True))])
    return "\n\n".join([_heading(reports), _table(lines), _BY_SIZE, _table(_found_by_size(reports))])


def _found_by_size(reports: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Head and a row per class: lesions found of lesions, in all the runs, by size and of any size."""
    bins = [one["pixels"] for one in next(iter(reports[0]["classes"].values()))["lesions"]["by_size"]]
    lines = [["class", *(f"{name} pixels" for name in bins), "all"], ["---"] * (len(bins) + 2)]
    for class_id in reports[0]["classes"]:
        counted = [report["classes"][class_id]["lesions"]["by_size"] for report in reports]
        pairs = [
            tuple(sum(one[key] for one in size) for key in ("found", "of"))
            for size in zip(*counted, strict=True)
        ]
        pairs.append(tuple(map(sum, zip(*pairs, strict=True))))
        lines.append(
            [class_id, *(f"{found} of {of} ({found / of:.2f})" if of else "-" for found, of in pairs)]
        )
    return lines


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _heading(reports: Sequence[dict[str, Any]]) -> str:
    """How many runs of how many folds and seeds these are, and what may be concluded from so many."""
    folds = sorted({r["fold"] for r in reports if r["fold"] is not None})
    seeds = sorted({r["seed"] for r in reports if r["seed"] is not None})
    pictures = {name for r in reports for name in r["pictures"]}
    told = [_counted(len(reports), "run"), f"{_counted(len(folds), 'fold')} ({', '.join(map(str, folds))})"]
    if seeds:
        told.append(f"{_counted(len(seeds), 'seed')} ({', '.join(map(str, seeds))})")
    told.append(_counted(len(pictures), "picture"))
    text = f"{', '.join(told)}; {reports[0]['grid']}."
    of_one_split = max(
        len({r["seed"] for r in reports if r["fold"] == fold}) for fold in {r["fold"] for r in reports}
    )
    if len(folds) < FOLDS_NEEDED and of_one_split < SEEDS_NEEDED:
        text += f" Fewer than {FOLDS_NEEDED} folds or {SEEDS_NEEDED} seeds: too few to tell the network's quality."
    return text


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _value(scores: dict[str, Any], path: Sequence[str]) -> float | None:
    found: Any = scores
    for key in path:
        found = found[key]
    return None if found is None else float(found)


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is not known: means of other classes would not be comparable."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _summary(column: Sequence[float | None]) -> str:
    known = [value for value in column if value is not None]
    if not known:
        return "-"
    spread = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    missing = f" ({len(known)} of {len(column)})" if len(known) < len(column) else ""
    return f"**{np.mean(known):.3f}{spread}**{missing}"


def _fold(report: dict[str, Any]) -> str:
    return "-" if report["fold"] is None else str(report["fold"])


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
