"""A bundle's card: what it is for, what it learned from, what was measured, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medpipe.bundle import Bundle
from medpipe.training.crf_choice import CrfGain
from medpipe.training.evaluation import EvaluationReport
from medpipe.training.experiment import Experiment, split
from medpipe.training.report import READING

CARD = "CARD.md"
TEXTS = {
    "use": "Intended use",
    "data": "Data",
    "training": "Training",
    "failures": "Where it fails",
    "limits": "Limits",
}
"""What `[bundle.card]` may tell, and the heading that it stands under."""


def write_card(
    folder: Path,
    bundle: Bundle,
    experiment: Experiment,
    report: EvaluationReport | None,
    *,
    gains: Sequence[CrfGain] = (),
    cross_validated: str = "",
) -> Path:
    """Writes CARD.md from the experiment's `[bundle.card]` texts and what was measured.

    `gains` are what the CRF was measured to change; `cross_validated` is the table of
    medpipe.training.cross_validation over other runs of the experiment.
    """
    texts = experiment.bundle.get("card", {})
    parts = [
        f"# {bundle.title}\n\n`{bundle.id}` {bundle.version}. Not a medical device; not for diagnostic use."
    ]
    if bundle.network.members > 1:
        parts.append(
            f"An ensemble: the mean of {bundle.network.members} networks. Its figures are not a single network's."
        )
    parts += _told(texts, "use", "data", "training")
    parts.append(f"## Pictures\n\n{_pictures(experiment)}")
    measured = report.table() if report else "Nothing was measured on this export."
    parts.append(f"## Measured\n\n{measured}")
    if report is not None:
        unknown = "" if cross_validated else " Over no other folds or runs: no spread is known."
        parts.append("\n\n".join(READING) + unknown)
    if cross_validated:
        weights = "this bundle's weights are of one run alone." if bundle.network.members == 1 else _SINGLE
        text = f"Runs of the same experiment that held out one fold each; {weights}"
        parts.append(f"## Over folds\n\n{text}\n\n{cross_validated}")
    parts.append(f"## Thresholds\n\n{thresholds_table(bundle, gains)}")
    parts += _told(texts, "failures", "limits")
    path = folder / CARD
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


_SINGLE = (
    "each measured alone: the mean of several has no such figures, as each fold was learned by some of them."
)


def _told(texts: Mapping[str, str], *keys: str) -> list[str]:
    return [f"## {TEXTS[key]}\n\n{texts[key].strip()}" for key in keys if key in texts]


def _pictures(experiment: Experiment) -> str:
    parts = split(experiment.data)
    lines = [
        f"- trained on {len(parts.training)} pictures of {_trained_folds(experiment)}",
        f"- thresholds and smallest sizes chosen on {len(parts.thresholds)} pictures that were not trained on: "
        f"{', '.join(parts.thresholds)}",
        f"- measured on the {len(parts.held_out)} pictures of fold {experiment.data.held_out}, in no training step "
        f"and no choice of thresholds: {', '.join(parts.held_out)}"
        if parts.held_out
        else "- measured on those same pictures, no fold being held out: AUPR is of pictures that it never saw, but "
        "Dice and lesions are at thresholds chosen on them",
    ]
    if experiment.drawn is not None:
        seeds = experiment.drawn.seeds
        lines.insert(
            1,
            f"- {len(seeds)} drawn pictures (`medpipe.samples`, seeds {seeds[0]} to {seeds[-1]}) were mixed in, "
            f"{100 * experiment.drawn.share:.0f} % of the patches, so that it also finds the lesions of the drawn "
            "samples; what it finds on those says nothing about patients",
        )
    return "\n".join(lines)


def _trained_folds(experiment: Experiment) -> str:
    fold = experiment.data.fold
    return "every fold" if fold is None else f"the folds other than {fold}"


def thresholds_table(bundle: Bundle, gains: Sequence[CrfGain] = ()) -> str:
    """What each class needs before it counts; with what the CRF was measured to change, where it was.

    A column of which every class has only the default is left out.
    """
    told = {gain.class_id: gain.told for gain in gains}
    columns = {
        "class": [c.id for c in bundle.classes],
        "name": [c.name for c in bundle.classes],
        "sizes seen": [" and ".join(f"{scale:g}" for scale in c.scales) for c in bundle.classes],
        "threshold": [f"{c.threshold:g}" for c in bundle.classes],
        "peak": ["-" if c.peak is None else f"{c.peak:g}" for c in bundle.classes],
        "smallest, at working size": [str(c.smallest) for c in bundle.classes],
        "CRF": ["yes" if c.crf else "no" for c in bundle.classes],
        "gain in Dice by the CRF": [told.get(c.id, "-") for c in bundle.classes],
    }
    if all(c.scales == (1.0,) for c in bundle.classes):
        del columns["sizes seen"]
    if all(c.peak is None for c in bundle.classes):
        del columns["peak"]
    if not told:
        del columns["gain in Dice by the CRF"]
    rows = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, *([_CRF_RULE] if told else [])])


_CRF_RULE = (
    "\nGain: mean over the threshold pictures that have the class of Dice with the guarded CRF less Dice without it, "
    "and its 95 % t interval. A class uses the CRF only where that interval lies above zero and no true lesion fewer "
    "is found, unless the experiment states it."
)
