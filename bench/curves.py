"""Learning curves of runs in one picture: the loss, and AUPR at working size where a run was measured on the way.

    python bench/curves.py runs/fundus-lesions-fold* --out curves.png

A run's own report has the same of that run alone, by class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from medpipe.training.experiment import load_run
from medpipe.training.journal import read_notes

PARTS = {"held_out": "o-", "thresholds": "s:"}


def main() -> None:
    """Writes the picture; prints each run's losses at a tenth, half and all of its steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    options = parser.parse_args()
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for number, run in enumerate(options.runs):
        name, colour = load_run(run).name, f"C{number % 10}"
        notes = read_notes(run, "train")
        steps, values = (np.array([note[key] for note in notes]) for key in ("step", "loss"))
        # runs of different losses in one picture: each against where it began
        losses.plot(steps / steps[-1], values / values[0], color=colour, label=name)
        for part, look in PARTS.items():
            measured = [
                (note["step"] / steps[-1], np.mean(list(note["aupr"].values())))
                for note in read_notes(run, "validate")
                if note["part"] == part and None not in note["aupr"].values()
            ]
            if measured:
                scores.plot(*zip(*measured, strict=True), look, color=colour)
        at = [values[min(len(values) - 1, int(share * len(values)))] for share in (0.1, 0.5, 1)]
        print(f"{name}: loss " + ", ".join(f"{value:.3f}" for value in at))
    losses.set(title="loss, of that at the first 50 steps", xlabel="part of the steps", yscale="log")
    scores.set(
        title="mean AUPR, held out (round) and for thresholds", xlabel="part of the steps", ylim=(0, 1)
    )
    # the colours are the same in both, and here nothing lies under it
    scores.legend(*losses.get_legend_handles_labels(), loc="lower left", frameon=False, fontsize=9)
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()
