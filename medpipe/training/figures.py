"""The drawings of a report: one function a figure, class colours alike in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no window, no global state, drawn by Agg
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from medpipe.results.overlay import Colour
from medpipe.training.calibration import BINS, DOUBTFUL_FROM, Calibration
from medpipe.training.class_scores import ClassScores
from medpipe.training.evaluation import EvaluationReport, shown
from medpipe.training.lesion_scores import FALSE_ALLOWED, RecallBySize
from medpipe.training.worst_cases import WorstCase

Notes = Sequence[Mapping[str, Any]]
_MARKERS = "osD^vPX*"
_LIGHTEST = 0.2
"""Luminance of a line at most, where white is 1."""
_FINE = 170
"""Dots per inch of pictures: one of theirs is about one of the figure's."""
_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
}


def draw_report(
    folder: Path, report: EvaluationReport, train: Notes = (), validate: Notes = ()
) -> list[Path]:
    """Writes the PNG files of a report into a folder, in the order in which they are read."""
    written = []
    with rc_context(_STYLE):
        drawn = [("training", training(train, validate, report))] if train or validate else []
        drawn += [
            ("precision-recall", precision_recall(report)),
            ("froc", froc(report)),
            ("lesions-by-size", lesions_by_size(report)),
            ("dice-per-picture", dice_per_picture(report)),
            ("calibration", calibration(report)),
            *((f"worst-{n}", worst_case(case, report)) for n, case in enumerate(report.worst, 1)),
        ]
        for name, figure in drawn:
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=_FINE if name.startswith("worst") else "figure")
            written.append(path)
    return written


def ink(colour: Colour) -> tuple[float, float, float]:
    """A class's colour as a line on white: darkened where it would be too light to see, in the same hue."""
    values = np.array(colour) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    light = float(linear @ (0.2126, 0.7152, 0.0722))
    linear = linear * min(1.0, _LIGHTEST / max(light, 1e-6))
    red, green, blue = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return float(red), float(green), float(blue)


def training(train: Notes, validate: Notes, report: EvaluationReport) -> Figure:
    """Loss and rate, and AUPR and mean Dice of the measured parts at working size, over steps."""
    figure = Figure(figsize=(10, 6.4))
    axes = figure.subplots(2, 2)
    steps = [note["step"] for note in train]
    for at, key, title in (
        (axes[0, 0], "loss", "Loss, mean of 50 steps"),
        (axes[0, 1], "rate", "Learning rate"),
    ):
        at.plot(steps, [note.get(key) for note in train], color="#334155")
        at.set(title=title, xlabel="step")
    for at, key, title in (
        (axes[1, 0], "aupr", "AUPR at working size"),
        (axes[1, 1], "mean_dice", "Mean Dice at working size, threshold .5"),
    ):
        for part, line in (("held_out", "-"), ("thresholds", "--")):
            notes = [note for note in validate if note.get("part") == part and key in note]
            for score, look in _looks(report):
                values = [(note["step"], note[key].get(score.class_id)) for note in notes]
                pairs = [(step, value) for step, value in values if value is not None]
                if pairs:
                    at.plot(*zip(*pairs, strict=True), linestyle=line, **look)
        at.set(title=title, xlabel="step", ylim=(0, 1))
    _class_legend(axes[1, 0], report, loc="best")
    kinds = [axes[1, 1].plot([], [], color="#334155", linestyle=line)[0] for line in ("-", "--")]
    axes[1, 1].legend(kinds, ["held-out pictures", "threshold pictures"])
    for at in axes.flat:
        at.set_xlim(left=0)
    return figure


def precision_recall(report: EvaluationReport) -> Figure:
    """Of pixels, all pictures pooled, from probabilities; the dots are the masks that the bundle gives."""
    figure = Figure(figsize=(7, 5.6))
    axes = figure.subplots()
    _equal_f1(axes)
    for score, look in _looks(report):
        recall, precision = score.pooled.curve()
        if not len(recall):
            continue
        colour = look["color"]
        axes.plot(
            recall, precision, color=colour, label=f"{score.class_id}   AUPR {shown(score.pooled.aupr)}"
        )
        hits, marked, true = score.pooled_counts
        if marked:
            axes.plot(
                hits / true,
                hits / marked,
                look["marker"],
                color=colour,
                markersize=8,
                markeredgecolor="white",
            )
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="recall of pixels", ylabel="precision of pixels")
    axes.set_title("Precision and recall; dots: masks as given out")
    _legend(axes, "lower left")
    return figure


def froc(report: EvaluationReport) -> Figure:
    """Lesions found against false ones per picture as the threshold moves."""
    figure = Figure(figsize=(7, 5.6))
    axes = figure.subplots()
    axes.axvline(FALSE_ALLOWED, color="#94a3b8", linestyle=":", linewidth=1.4)
    for score, look in _looks(report):
        if score.froc.lesions:
            false = np.maximum(score.froc.false_per_picture, 1 / 8)
            label = f"{score.class_id}   {shown(score.froc.at()[0])} at ≤ {FALSE_ALLOWED:g}"
            axes.plot(false, score.froc.recall, **look, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1 / 8.6, 64)
    ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32, 64]
    axes.set_xticks(ticks, ["≤ 1/8", "1/4", "1/2", *(f"{tick:g}" for tick in ticks[3:])])
    axes.minorticks_off()
    axes.set(ylim=(0, 1.02), xlabel="false lesions per picture", ylabel="lesions found")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title("Lesions found as the threshold moves (FROC)")
    _legend(axes, "lower right")
    return figure


def lesions_by_size(report: EvaluationReport) -> Figure:
    """Of the masks as given out."""
    figure = Figure(figsize=(8.4, 4.4))
    axes = figure.subplots()
    names = RecallBySize.names()
    width = 0.8 / max(1, len(report.classes))
    for n, (score, look) in enumerate(_looks(report)):
        places = np.arange(len(names)) + (n - (len(report.classes) - 1) / 2) * width
        lesions, found = score.by_size.lesions, score.by_size.found
        heights = found / np.maximum(lesions, 1)
        bars = axes.bar(places, heights, width * 0.9, color=look["color"], label=score.class_id)
        axes.bar_label(bars, [f"{f}/{of}" if of else "" for f, of in zip(found, lesions, strict=True)],
                       fontsize=7, rotation=90, padding=3, color="#475569")  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set(ylim=(0, 1.2), xlabel=f"size of the true lesion, pixels of the {_grid(report)}", ylabel="found")
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(visible=False, axis="x")
    axes.set_title("Lesions found by size")
    axes.legend(ncols=len(report.classes), loc="upper left", bbox_to_anchor=(0, -0.16))
    return figure


def dice_per_picture(report: EvaluationReport) -> Figure:
    """One dot a picture that has the class; the bar is their mean."""
    figure = Figure(figsize=(7, 4.2))
    axes = figure.subplots()
    for n, (score, look) in enumerate(_looks(report)):
        dices = np.array(score.dices)
        if not len(dices):
            continue
        aside = ((np.arange(len(dices)) * 0.618) % 1 - 0.5) * 0.36
        axes.scatter(
            n + aside, dices, s=26, color=look["color"], alpha=0.6, linewidths=0, marker=look["marker"]
        )
        axes.hlines(dices.mean(), n - 0.3, n + 0.3, color=look["color"], linewidth=2.4)
        axes.text(n + 0.33, dices.mean(), f"{dices.mean():.2f}", va="center", fontsize=9, color=look["color"])
    axes.set_xticks(range(len(report.classes)), [s.class_id for s in report.classes])
    axes.set(xlim=(-0.6, len(report.classes) - 0.4), ylim=(-0.02, 1.02), ylabel="Dice of a picture")
    axes.grid(visible=False, axis="x")
    axes.set_title("Dice per picture, pictures that have the class; bars: mean")
    return figure


def calibration(report: EvaluationReport) -> Figure:
    """What share of pixels is true where the network says p: of all pixels, and of the doubtful ones."""
    figure = Figure(figsize=(10.4, 6.4))
    axes = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    columns = (
        ("all pixels", [s.calibration for s in report.classes]),
        (f"pixels with p ≥ {DOUBTFUL_FROM:g} or true", [s.calibration_doubtful for s in report.classes]),
    )
    for (upper, lower), (title, found) in zip(axes.T, columns, strict=True):
        upper.plot([0, 1], [0, 1], color="#94a3b8", linestyle=":", linewidth=1.4)
        for (score, look), counted in zip(_looks(report), found, strict=True):
            _reliability(upper, lower, counted, score.class_id, look)
        upper.set(title=f"Reliability, {title}", ylim=(0, 1), xlim=(0, 1), ylabel="share that is true")
        _legend(upper, "upper left")
        lower.set(yscale="log", xlabel=f"probability said ({BINS} bins of equal width)", ylabel="pixels")
    return figure


def worst_case(case: WorstCase, report: EvaluationReport) -> Figure:
    """Source, truth and what was said, side by side; outlines in the class colours."""
    height, width = case.source.shape[:2]
    figure = Figure(
        figsize=(15.5, min(7.0, 15.5 / 3 * height / width) + 0.9),
        layout=ConstrainedLayoutEngine(rect=(0, 0.06, 1, 0.94)),  # the legend lies below
    )
    axes = figure.subplots(1, 3)
    panels = (("picture", case.source), ("truth", case.true), ("prediction", case.said))
    for at, (title, picture) in zip(axes, panels, strict=True):
        at.imshow(picture, interpolation="antialiased")
        at.set_title(title)
        at.set_axis_off()
    dices = zip(report.classes, case.dices, strict=True)
    told = ", ".join(f"{s.class_id} {'absent' if d is None else f'{d:.2f}'}" for s, d in dices)
    slice_ = "" if case.slice is None else f", slice {case.slice + 1}"
    figure.suptitle(f"{case.name}{slice_}: Dice {told}", fontsize=12)
    handles = [
        Patch(facecolor=_unit(colour), edgecolor="#475569", label=score.class_id)
        for score, colour in zip(report.classes, _colours(report), strict=True)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles))
    return figure


def _reliability(upper: Axes, lower: Axes, counted: Calibration, name: str, look: dict[str, Any]) -> None:
    kept = counted.pixels > 0
    if not kept.any():
        return
    label = f"{name}   ECE {counted.error:.4f}"
    upper.plot(counted.said[kept], counted.seen[kept], **look, label=label)
    centres = (np.arange(BINS) + 0.5) / BINS
    lower.plot(centres[kept], counted.pixels[kept], **look)


def _equal_f1(axes: Axes) -> None:
    recall = np.linspace(0, 1, 2001)
    for f1 in (0.2, 0.4, 0.6, 0.8):
        part = recall[recall > f1 / 2 + 1e-4]
        precision = f1 * part / (2 * part - f1)
        kept = precision <= 1
        axes.plot(part[kept], precision[kept], color="#d3d9e0", linewidth=0.9)
        axes.text(1.005, precision[-1], f"Dice {f1:g}", fontsize=8, color="#94a3b8", va="center")


def _unit(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _colours(report: EvaluationReport) -> Sequence[Colour]:
    return report.colours or ((51, 65, 85),) * len(report.classes)


def _looks(report: EvaluationReport) -> list[tuple[ClassScores, dict[str, Any]]]:
    """Each class with its colour and marker, alike in every figure."""
    rows = zip(report.classes, _colours(report), strict=True)
    return [(s, {"color": ink(c), "marker": _MARKERS[n % len(_MARKERS)]}) for n, (s, c) in enumerate(rows)]


def _legend(axes: Axes, place: Any) -> None:
    """On a light ground, so that a line behind it does not cross the words; none where nothing is drawn."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, frameon=True, facecolor="white", framealpha=0.9, edgecolor="none")


def _class_legend(axes: Axes, report: EvaluationReport, **where: Any) -> None:
    handles = [axes.plot([], [], **look)[0] for _, look in _looks(report)]
    axes.legend(handles, [score.class_id for score in report.classes], **where)


def _grid(report: EvaluationReport) -> str:
    return "source" if report.grid.startswith("native") else "working grid"
