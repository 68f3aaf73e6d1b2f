"""A bundle measured on pictures with known truth, through the very pipeline that patients' pictures go through."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.bundle import Bundle, find_bundle, load_bundle
from medpipe.config import Config
from medpipe.errors import ConfigError, Refused
from medpipe.inference import Backend, load_backend, predict
from medpipe.results.overlay import Colour, grey_window, srgb
from medpipe.results.overlay import shown as slice_for_the_eye
from medpipe.training.cases import check_size
from medpipe.training.class_scores import ClassScores
from medpipe.training.dicom_pairs import Label
from medpipe.training.experiment import read_folds
from medpipe.training.lesion_scores import FALSE_ALLOWED
from medpipe.training.sources import open_source
from medpipe.training.worst_cases import WorstCase, WorstCases
from medpipe.types import Prediction


@dataclass(frozen=True, eq=False)
class Judged:
    """One picture: what was said (classes, K, J, I), what is true, and slice k (J, I, 3) uint8 for the eye."""

    name: str
    mask: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    probability: NDArray[Any] | None
    shown: Callable[[int], NDArray[np.uint8]]
    smallest: tuple[int, ...]
    """Per class the pixels that a lesion must have."""


@dataclass(frozen=True)
class EvaluationReport:
    """What a bundle is worth on `pictures`. `colours` are the classes' in sRGB, `worst` the pictures of least Dice."""

    bundle: str
    pictures: tuple[str, ...]
    classes: tuple[ClassScores, ...]
    grid: str = "native resolution"
    fold: int | None = None
    colours: tuple[Colour, ...] = ()
    worst: tuple[WorstCase, ...] = ()

    def table(self) -> str:
        """A Markdown table, one row per class."""
        lacking = any(len(s.dices) < len(self.pictures) for s in self.classes)
        names = ["class", "pictures with it", "AUPR", "Dice, pooled", "Dice, mean per picture (sd)"]
        names += ["Dice, mean of all pictures"] if lacking else []
        names += ["IoU, pooled", "lesions found", "false lesions per picture"]
        names += [f"lesions found at <= {FALSE_ALLOWED:g} false per picture"]
        rows = [self._row(s, lacking) for s in self.classes]
        head = f"{self.bundle} on {len(self.pictures)} pictures, {self.grid}\n"
        lines = [names, ["---"] * len(names), *rows]
        return "\n".join([head, *(f"| {' | '.join(cells)} |" for cells in lines)])

    @staticmethod
    def _row(s: ClassScores, lacking: bool) -> list[str]:
        spread = f" ({np.std(s.dices, ddof=1):.3f})" if len(s.dices) > 1 else ""
        cells = [s.class_id, str(len(s.dices)), shown(s.pooled.aupr), shown(s.dice)]
        cells += [shown(s.mean_dice) + spread]
        cells += [shown(s.mean_dice_of_all)] if lacking else []
        cells += [shown(s.iou), f"{s.found} of {s.lesions} ({shown(s.recall)})", f"{s.false_per_picture:.1f}"]
        return [*cells, shown(s.froc.at()[0])]


def evaluate_bundle(
    bundle: str | Path,
    *,
    data: Path,
    folds: Path,
    fold: int = 0,
    settings: Config | None = None,
    worst: int = 0,
) -> EvaluationReport:
    """Measures a bundle (id or folder) on the pictures of one fold of `data`; keeps `worst` of them for the eye.

    `settings` say where bundles are found and on what device to compute. Raises ConfigError, BundleError.
    """
    folder = Path(bundle)
    folders = settings.worker.bundle_folders if settings else ()
    loaded = load_bundle(folder) if folder.is_dir() else find_bundle(str(bundle), folders)
    parts = read_folds(folds)
    if not 0 <= fold < len(parts):
        raise ConfigError(f"{folds}: there is no fold {fold}, only 0 to {len(parts) - 1}")
    worker = settings.worker if settings else None
    backend = load_backend(
        loaded,
        device=worker.device if worker else "auto",
        backend=worker.backend if worker else "auto",
        precision=worker.precision if worker else "auto",
    )
    return measure(loaded, backend, data, parts[fold], fold=fold, worst=worst)


def measure(
    bundle: Bundle,
    backend: Backend,
    data: Path,
    names: Sequence[str],
    *,
    fold: int | None = None,
    worst: int = 0,
) -> EvaluationReport:
    """Measures a bundle on named pictures; `worst` of them are kept as pictures for the eye."""

    def judged() -> Iterator[Judged]:
        for name, (prediction, truth) in zip(names, predictions(bundle, backend, data, names), strict=True):
            image = prediction.image
            window = grey_window(image, bundle)
            look = partial(slice_for_the_eye, image, window=window)
            smallest = tuple(prediction.provenance.smallest[class_id] for class_id in bundle.class_ids)
            yield Judged(name, prediction.mask, truth, prediction.probability, look, smallest)

    colours = tuple(srgb(spec.colour_cielab) for spec in bundle.classes)
    scores = tuple(ClassScores(spec.id, spec.threshold) for spec in bundle.classes)
    kept = judge(judged(), scores, colours, worst=worst)
    title = f"{bundle.id} {bundle.version}"
    return EvaluationReport(title, tuple(names), scores, fold=fold, colours=colours, worst=kept)


def judge(
    pictures: Iterable[Judged], scores: Sequence[ClassScores], colours: Sequence[Colour], *, worst: int = 0
) -> tuple[WorstCase, ...]:
    """Adds pictures to the scores of their classes, one picture in memory at a time; gives back the worst ones."""
    kept = WorstCases(worst, colours)
    for picture in pictures:
        dices = []
        for c, score in enumerate(scores):
            probability = None if picture.probability is None else picture.probability[c]
            dices.append(score.add(picture.mask[c], picture.truth[c], probability, picture.smallest[c]))
        kept.offer(picture.name, dices, picture.truth, picture.mask, picture.shown)
    return kept.cases


def predictions(
    bundle: Bundle, backend: Backend, data: Path, names: Sequence[str]
) -> Iterator[tuple[Prediction, NDArray[np.bool_]]]:
    """What the bundle says of each picture, and the truth (classes, K, J, I); arrays live until the next one.

    Raises Refused and ConfigError, which name the picture, where the bundle is not for it or its truth does not fit.
    """
    source = open_source(data, bundle.input, [Label(c.id, c.name, *c.type[:2]) for c in bundle.classes])
    for name in names:
        image, truth = source.image(name), source.truth(name, len(bundle.classes))
        check_size(image, truth)
        with tempfile.TemporaryDirectory(prefix="medpipe-evaluate-") as scratch:
            try:
                prediction = predict(image, bundle, backend, Path(scratch), keep_probability=True)
            except Refused as refused:
                raise Refused(refused.reason, f"{name}: {refused}") from refused
            yield prediction, truth


def shown(value: float | None) -> str:
    """Three digits, or a dash where there is nothing to measure."""
    return "-" if value is None else f"{value:.3f}"
