"""What should surround an image smaller than the patch: mean Dice with each `padding`, at the best threshold of each.

    python bench/padding.py --bundle FOLDER [--data HIPPOCAMPUS] [--fold 0]

Without --fold, on the pictures that the bundle's experiment chooses thresholds on; --fold is for a bundle whose network
was not trained on that fold. Images without a class are left out of its mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from held_out import asked_for, parser_for
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.inference import load_backend
from medpipe.training.decision import THRESHOLDS
from medpipe.training.evaluation import predictions


def main() -> None:
    """Prints one Markdown table: a line for each padding, the best mean Dice of each class and its threshold."""
    held_out = asked_for(parser_for(__doc__, "hippocampus").parse_args())
    bundle = held_out.bundle
    print(f"{held_out}, mean Dice at the best threshold\n")
    print("| padding |", " | ".join(bundle.class_ids), "|")
    print("| --- |", " | ".join("---" for _ in bundle.class_ids), "|")
    for padding in ("edge", "zero") if bundle.input.black is None else ("edge", "zero", "black"):
        window = bundle.window.model_copy(update={"padding": padding})
        cells = best(replace(bundle, window=window), held_out.data, held_out.names)
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


if __name__ == "__main__":
    main()
