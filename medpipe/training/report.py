"""A report's folder: report.json for programs, index.html with figures for people."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.training.calibration import BINS, DOUBTFUL_FROM, Calibration
from medpipe.training.class_scores import ClassScores, dice_of
from medpipe.training.evaluation import EvaluationReport
from medpipe.training.experiment import Experiment
from medpipe.training.journal import read_notes
from medpipe.training.lesion_scores import FALSE_ALLOWED, FOUND, LEVELS, RecallBySize

REPORT = "report"
"""The report's folder in a run's folder."""
JSON = "report.json"
PAGE = "index.html"
WORST = 6
"""Pictures of least Dice that are shown."""

READING = (
    "AUPR: area under precision over recall of pixels, all pictures pooled, from the network's probabilities. "
    "Dice, IoU and lesions: of the mask after threshold, peak, smallest size, and the CRF where a class uses it. "
    "A mean is over the pictures that have the class, sd is the spread over them; in the mean of all pictures one "
    "without the class counts 1 where nothing is marked, else 0.",
    f"A true lesion (8-connected component; 26 in a volume) counts as found when {FOUND:.0%} of its pixels are "
    "marked; a marked lesion is false when it touches none.",
    f"FROC: at each of {len(LEVELS)} levels ({LEVELS[0]:g} to {LEVELS[-1]:g}) the lesions that somewhere reach it, "
    "out to the class's threshold (or the level, where that is lower), without those below the smallest size, before "
    f"the CRF. Lesions found at <= {FALSE_ALLOWED:g} false per picture: at the lowest level down to which no level has "
    "more.",
)
CALIBRATION = (
    f"Calibration: {BINS} bins of equal width; ECE is the mean over pixels of |mean probability - share true| of their "
    "bin. Over all pixels it is small for any network that is sure of the background, so it is told twice: of all "
    f"pixels of the pictures, and of those with a probability of at least {DOUBTFUL_FROM:g} or a true lesion."
)


@dataclass(frozen=True)
class Origin:
    """Which training the measured weights come from, where that is known."""

    experiment: str | None = None
    seed: int | None = None
    run: Path | None = None

    @classmethod
    def of(cls, experiment: Experiment, run: Path) -> Origin:
        return cls(experiment.name, experiment.seed, run)


def write_report(folder: Path, report: EvaluationReport, origin: Origin | None = None) -> Path:
    """Writes report.json, index.html and its PNG figures; gives back the page's path. An older report is replaced."""
    from medpipe.training.figures import draw_report  # matplotlib is loaded when something is drawn

    origin = origin or Origin()
    train, validate = (read_notes(origin.run, kind) if origin.run else [] for kind in ("train", "validate"))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("worst-*.png"):
        old.unlink()
    content = {**as_json(report, origin), "training": {"train": train, "validate": validate}}
    (folder / JSON).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    figures = draw_report(folder, report, train, validate)
    (folder / PAGE).write_text(_page(report, origin, figures), encoding="utf-8")
    return folder / PAGE


def as_json(report: EvaluationReport, origin: Origin) -> dict[str, Any]:
    """The figures of a report; what cannot be measured is null."""
    return {
        "bundle": report.bundle,
        "experiment": origin.experiment,
        "seed": origin.seed,
        "fold": report.fold,
        "grid": report.grid,
        "pictures": list(report.pictures),
        "reading": [*READING, CALIBRATION],
        "classes": {score.class_id: _class_json(score) for score in report.classes},
        "per_picture": [
            {
                "name": name,
                "dice": {s.class_id: _dice_in(s, n) for s in report.classes},
                "pixels": {
                    s.class_id: dict(zip(("hit", "marked", "true"), s.counts[n], strict=True))
                    for s in report.classes
                },
            }
            for n, name in enumerate(report.pictures)
        ],
        "worst": [case.name for case in report.worst],
    }


def _class_json(score: ClassScores) -> dict[str, Any]:
    recall, precision = score.pooled.curve()
    at_recall, at_threshold = score.froc.at()
    sizes = zip(RecallBySize.names(), score.by_size.found, score.by_size.lesions, strict=True)
    return {
        "pictures_with_it": len(score.dices),
        "aupr": score.pooled.aupr,
        "dice": {
            "pooled": score.dice,
            "mean": score.mean_dice,
            "sd": _spread(score.dices),
            "mean_of_all": score.mean_dice_of_all,
        },
        "iou": {"pooled": score.iou, "mean": _mean(score.ious), "sd": _spread(score.ious)},
        "lesions": {
            "found": score.found,
            "of": score.lesions,
            "false_per_picture": score.false_per_picture,
            "by_size": [{"pixels": name, "found": int(f), "of": int(of)} for name, f, of in sizes],
        },
        "froc": {
            "threshold": LEVELS.round(3).tolist(),
            "recall": score.froc.recall.tolist(),
            "false_per_picture": score.froc.false_per_picture.tolist(),
            f"at_{FALSE_ALLOWED:g}_false_per_picture": {"recall": at_recall, "threshold": at_threshold},
        },
        "calibration": {"all": _bins(score.calibration), "doubtful": _bins(score.calibration_doubtful)},
        "precision_recall": {"recall": recall.tolist(), "precision": precision.tolist()},
    }  # fmt: skip


def _bins(counted: Calibration) -> dict[str, Any]:
    return {
        "ece": counted.error,
        "pixels": counted.pixels.tolist(),
        "said": _numbers(counted.said),
        "true": _numbers(counted.seen),
    }


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _dice_in(score: ClassScores, n: int) -> float | None:
    """Of picture n; null where it has nothing of the class."""
    return dice_of(*score.counts[n]) if score.counts[n][2] else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _spread(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1e293b; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e2e8f0; text-align: right; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #94a3b8; vertical-align: bottom; }
img { max-width: 100%; margin: .8rem 0; display: block; }
.quiet { color: #64748b; font-size: 13px; }
"""


def _page(report: EvaluationReport, origin: Origin, figures: Sequence[Path]) -> str:
    head, _, table = report.table().partition("\n\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    named = ["picture", *(score.class_id for score in report.classes)]
    dices = [
        [name, *("-" if (d := _dice_in(s, n)) is None else f"{d:.3f}" for s in report.classes)]
        for n, name in enumerate(report.pictures)
    ]
    facts = [f"fold {report.fold}"] if report.fold is not None else []
    facts += [f"experiment {origin.experiment}"] if origin.experiment else []
    facts += [f"seed {origin.seed}"] if origin.seed is not None else []
    images = "\n".join(
        f'<a href="{path.name}"><img src="{path.name}" alt="{path.stem.replace("-", " ")}"></a>'
        for path in figures
    )
    reading = "\n".join(
        f'<p class="quiet">{html.escape(sentence)}</p>' for sentence in (*READING, CALIBRATION)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(report.bundle)}</title><style>{_CSS}</style></head>
<body>
<h1>{html.escape(head)}</h1>
<p>{html.escape(", ".join(facts))}</p>
{_table(rows[0], rows[2:])}
{reading}
{images}
<h2>Dice of each picture</h2>
{_table(named, dices)}
</body></html>
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "\n".join(line(cells, "td") for cells in rows)
    return f"<table><thead>{line(head, 'th')}</thead>\n<tbody>{body}</tbody></table>"
