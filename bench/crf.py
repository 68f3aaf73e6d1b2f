"""What the CRF does to a bundle's masks: none, the guarded one, the unguarded seed setting, on pictures with truth.

    python bench/crf.py                                     # four drawn photographs, 1072 x 712
    python bench/crf.py --data IDRID [--fold 0]             # what the bundle has not seen
    python bench/crf.py --data IDRID --pictures 2 --seed    # the seed setting takes minutes a picture

Every class uses the CRF, whatever the bundle says. "gain" is the paired gain in Dice per picture over none, with its
95 % t interval; "by the rule" whether the class may use the CRF (medpipe.training.crf_choice).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from held_out import asked_for, bundle_of, parser_for
from PIL import Image as Picture

from medpipe.bundle import Bundle
from medpipe.inference import Backend, load_backend, with_crf
from medpipe.samples.fundus import draw_fundus
from medpipe.training.crf_choice import CrfGain
from medpipe.training.evaluation import ClassScores, predictions

TITLES = {"off": "none", "guarded": "guarded", "seed": "seed setting"}


def scores_of(
    bundle: Bundle, backend: Backend, data: Path, names: Sequence[str], mode: str
) -> tuple[list[ClassScores], float]:
    """Scores of each class with the CRF in one mode, and its seconds per picture."""
    scores = [ClassScores(class_id) for class_id in bundle.class_ids]
    seconds = 0.0
    for prediction, truth in predictions(with_crf(bundle, mode), backend, data, names):
        seconds += prediction.seconds["crf"]
        for c, score in enumerate(scores):
            score.add(prediction.mask[c], truth[c], None)
    return scores, seconds / len(names)


def rows(name: str, mode: str, off: ClassScores, on: ClassScores) -> str:
    """One line of the table: a class in one mode against none."""
    gain = CrfGain(off, on)
    shown = [f"{value:.3f}" if value is not None else "-" for value in (on.dice, on.mean_dice)]
    found = f"{on.found} of {on.lesions}"
    paired, rule = "-", "-"
    if mode != "off" and gain.interval is not None:
        low, high = gain.interval
        paired = f"{float(np.mean(gain.gains)):+.4f} ({low:+.4f} to {high:+.4f})"
    if mode == "guarded":
        rule = "on" if gain.holds else "off"
    return f"| {name} | {TITLES[mode]} | {shown[0]} | {shown[1]} | {found} | {on.false_lesions} | {paired} | {rule} |"


def draw_pictures(folder: Path) -> list[str]:
    """Drawn photographs that no network was trained on, with masks as bits."""
    names = [f"drawn_{seed}" for seed in range(50, 54)]
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for seed, name in enumerate(names, 50):
        sample = draw_fundus(seed, 1072, 712)
        Picture.fromarray(sample.picture).save(folder / "images" / f"{name}.png")
        bits = sum(sample.truth[c].astype(np.uint8) << c for c in range(len(sample.truth)))
        Picture.fromarray(np.asarray(bits, np.uint8)).save(folder / "masks" / f"{name}.png")
    return names


def main() -> None:
    parser = parser_for(__doc__, "fundus-lesions")
    parser.add_argument("--seed", action="store_true", help="the seed setting too, also on real pictures")
    options = parser.parse_args()
    modes = ("off", "guarded", "seed") if options.seed or options.data is None else ("off", "guarded")
    bundle = bundle_of(options)
    backend = load_backend(bundle, device="cpu")
    with tempfile.TemporaryDirectory() as drawn:
        if options.data is None:
            data, names = Path(drawn), draw_pictures(Path(drawn))[: options.pictures]
            print(f"{bundle.id} {bundle.version} on {len(names)} drawn pictures\n")
        else:
            held_out = asked_for(options)
            data, names = held_out.data, list(held_out.names)
            print(f"{held_out}\n")
        measured = {mode: scores_of(bundle, backend, data, names, mode) for mode in modes}
    print("| class | CRF | Dice, pooled | Dice, mean | lesions found | false | gain | by the rule |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- | --- |")
    for number, spec in enumerate(bundle.classes):
        for mode in modes:
            print(rows(spec.id, mode, measured["off"][0][number], measured[mode][0][number]))
    print("\nSeconds of the CRF per picture, all classes: ", end="")
    print(", ".join(f"{TITLES[mode]} {measured[mode][1]:.2f}" for mode in modes))


if __name__ == "__main__":
    main()
