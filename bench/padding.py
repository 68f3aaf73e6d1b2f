"""What should surround an image smaller than the patch: mean Dice with either `padding`, at the best threshold of each.

    python bench/padding.py --bundle FOLDER [--data HIPPOCAMPUS] [--fold 0]

Without --fold, on the pictures that the bundle's experiment chooses thresholds on; --fold is for a bundle whose network
was not trained on that fold. Images without a class are left out of its mean.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medpipe.bundle import Bundle, find_bundle, load_bundle
from medpipe.inference import load_backend
from medpipe.training.decision import THRESHOLDS
from medpipe.training.evaluation import predictions
from medpipe.training.experiment import load_experiment, read_folds, split

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Prints one Markdown table: a line for each padding, the best mean Dice of each class and its threshold."""
    asked = _asked()
    if not asked.data.is_dir():
        print(f"skipped, no data ({asked.data.name})")
        return
    folder = Path(asked.bundle)
    bundle = load_bundle(folder) if folder.is_dir() else find_bundle(asked.bundle, ())
    experiment = load_experiment(ROOT / bundle.provenance.training)
    fold = asked.fold
    names = split(experiment.data).thresholds if fold is None else read_folds(experiment.data.folds)[fold]
    print(f"{bundle.id} {bundle.version}, {len(names)} images, mean Dice at the best threshold\n")
    print("| padding |", " | ".join(bundle.class_ids), "|")
    print("| --- |", " | ".join("---" for _ in bundle.class_ids), "|")
    for padding in ("edge", "zero"):
        window = bundle.window.model_copy(update={"padding": padding})
        cells = best(replace(bundle, window=window), asked.data, names)
        print(f"| {padding} |", " | ".join(cells), "|", flush=True)


def best(bundle: Bundle, data: Path, names: Sequence[str]) -> Iterator[str]:
    """Of each class: its best mean Dice, and the threshold of that."""
    dices: list[list[NDArray[np.float64]]] = [[] for _ in bundle.classes]
    for prediction, truth in predictions(bundle, load_backend(bundle, device="cpu"), data, names):
        assert prediction.probability is not None
        for of_class, probability, true in zip(dices, prediction.probability, truth, strict=True):
            if true.any():
                marks = [probability >= threshold for threshold in THRESHOLDS]
                of_class.append(np.array([2 * (m & true).sum() / (m.sum() + true.sum()) for m in marks]))
    for of_class in dices:
        mean = np.mean(of_class, axis=0)
        yield f"{mean.max():.3f} at {THRESHOLDS[mean.argmax()]:.2f}"


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("MEDPIPE_DATA") or ROOT.parent / "shared" / "data") / "hippocampus"
    parser.add_argument(
        "--data", type=Path, default=default, help="a folder that medpipe.training.sources knows"
    )
    parser.add_argument("--bundle", default="hippocampus", help="id, or folder")
    parser.add_argument("--fold", type=int, help="on this fold's pictures, not those for thresholds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
