"""The report of a run that was not exported: its averaged network at working size, on the held-out pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medpipe.results.overlay import Colour, srgb
from medpipe.training.cases import PRESENT, TrainingCase
from medpipe.training.class_scores import ClassScores
from medpipe.training.evaluation import EvaluationReport, Judged, judge
from medpipe.training.experiment import Experiment
from medpipe.training.report import REPORT, WORST, Origin, write_report

THRESHOLD = 0.5
"""Nothing is chosen for a run before it is exported."""
GRID = "working size, threshold .5, no pipeline"
_COLOURS: tuple[Colour, ...] = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189))
"""Of classes whose bundle's description gives none."""

Probabilities = Callable[[TrainingCase], NDArray[np.float32]]


def write_run_report(
    run: Path, experiment: Experiment, cases: Sequence[TrainingCase], probabilities: Probabilities
) -> Path:
    """Measures `cases` by their probabilities (classes, k, j, i) and writes the run's report; gives its page."""
    colours = class_colours(experiment)
    scores = tuple(ClassScores(class_id) for class_id in experiment.data.classes)
    worst = judge(_judged(cases, probabilities), scores, colours, worst=WORST)
    report = EvaluationReport(
        bundle=experiment.name,
        pictures=tuple(case.name for case in cases),
        classes=scores,
        grid=GRID,
        fold=experiment.data.fold,
        colours=colours,
        worst=worst,
    )
    return write_report(run / REPORT, report, Origin.of(experiment, run))


def class_colours(experiment: Experiment) -> tuple[Colour, ...]:
    """As the bundle's description says."""
    rows = {row.get("id"): row for row in experiment.bundle.get("classes", ())}
    given = [rows.get(class_id, {}).get("colour_cielab") for class_id in experiment.data.classes]
    return tuple(srgb(tuple(lab)) if lab else _COLOURS[n % len(_COLOURS)] for n, lab in enumerate(given))


def _judged(cases: Sequence[TrainingCase], probabilities: Probabilities) -> Iterator[Judged]:
    for case in cases:
        inside = np.asarray(case.inside)
        probability = np.where(inside, probabilities(case), np.float32(0))
        truth = (np.asarray(case.masks) >= PRESENT) & inside
        yield Judged(
            case.name, probability >= THRESHOLD, truth, probability, partial(_slice, case), (1,) * len(truth)
        )


def _slice(case: TrainingCase, k: int) -> NDArray[np.uint8]:
    """Slice k as (j, i, 3) for the eye: colours as they are, scores between their percentiles 0.5 and 99.5."""
    plane = np.asarray(case.image[:, k])
    if plane.dtype != np.uint8:
        low, high = np.percentile(np.asarray(case.image, np.float32), (0.5, 99.5))
        plane = np.clip((plane - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(plane if len(plane) == 3 else np.repeat(plane[:1], 3, 0), 0, -1))
