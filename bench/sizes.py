"""At which size of the picture each class of a bundle is found best: AUPR at native resolution, size by size.

    python bench/sizes.py [--data IDRID] [--bundle fundus-lesions] [--scales 0.64 0.8 1 1.25] [--mirrored] [--fold 0]

Without --fold, on the pictures that the bundle's experiment chooses thresholds on. Figures of pictures that have chosen
a size are no longer those of unseen ones. Pairs of neighbouring sizes are the mean of both answers, as `scales` of a
class in bundle.toml makes it. --fold is for a bundle whose network was not trained on that fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from held_out import asked_for, parser_for
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.inference import Backend, load_backend
from medpipe.training.evaluation import predictions, shown
from medpipe.training.metrics import PooledScores

Sizes = tuple[float, ...]


def main() -> None:
    """Prints one Markdown table: a line for each size and each pair of neighbours, AUPR per class and their mean."""
    parser = parser_for(__doc__, "fundus-lesions")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.64, 0.8, 1.0, 1.25])
    parser.add_argument("--mirrored", action="store_true", help="with the bundle's mirrored views")
    asked = parser.parse_args()
    held_out = asked_for(asked)
    bundle = held_out.bundle
    if bundle.input.scale != "fit":
        raise SystemExit(f'{bundle.id}: its pictures are not brought to one size (input.scale = "fit")')
    scales = sorted(asked.scales)
    groups: list[Sizes] = [*((scale,) for scale in scales), *pairwise(scales)]
    scores = {group: [PooledScores() for _ in bundle.classes] for group in groups}
    backend = load_backend(bundle, device="cpu")
    for name in held_out.names:
        add(scores, bundle, backend, held_out.data, name, mirrored=asked.mirrored)
    views = "mirrored views" if asked.mirrored else "one view"
    print(f"{held_out}, {views}, AUPR at native resolution\n")
    print(table(scores, bundle))


def add(
    scores: dict[Sizes, list[PooledScores]],
    bundle: Bundle,
    backend: Backend,
    data: Path,
    name: str,
    *,
    mirrored: bool,
) -> None:
    """Adds one picture to the scores of every group of sizes."""
    said: dict[float, NDArray[np.float16]] = {}
    truth: NDArray[np.bool_] = np.zeros(0, np.bool_)
    for scale in {scale for group in scores for scale in group}:
        for prediction, marked in predictions(seen_at(bundle, scale, mirrored), backend, data, [name]):
            assert prediction.probability is not None
            truth = marked
            said[scale] = np.array(prediction.probability)  # which lives in a file of the loop's
    for group, of_classes in scores.items():
        for c, pooled in enumerate(of_classes):
            mean = sum(said[scale][c].astype(np.float32) for scale in group) / np.float32(len(group))
            pooled.add(np.asarray(mean, np.float16), truth[c])


def seen_at(bundle: Bundle, scale: float, mirrored: bool) -> Bundle:
    """The same bundle, every class of which is looked for at one size."""
    classes = tuple(spec.model_copy(update={"scales": (scale,)}) for spec in bundle.classes)
    return replace(bundle, classes=classes, window=bundle.window.model_copy(update={"tta": mirrored}))


def table(scores: dict[Sizes, list[PooledScores]], bundle: Bundle) -> str:
    """Markdown; sizes in working sizes."""
    lines: list[Sequence[str]] = [("size", *bundle.class_ids, "mean"), ("---",) * (len(bundle.classes) + 2)]
    for group, of_classes in scores.items():
        values = [pooled.aupr for pooled in of_classes]
        known = [value for value in values if value is not None]
        name = " and ".join(f"{scale:g}" for scale in group)
        lines.append((name, *map(shown, values), shown(float(np.mean(known)) if known else None)))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
