"""A bundle measured on pictures with known truth, through the very pipeline that patients' pictures go through."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.bundle import Bundle, find_bundle, load_bundle
from medpipe.config import Config
from medpipe.errors import ConfigError
from medpipe.inference import Backend, load_backend, predict
from medpipe.training.dicom_pairs import Label
from medpipe.training.experiment import read_folds
from medpipe.training.metrics import PooledScores
from medpipe.training.sources import open_source
from medpipe.types import Prediction

FOUND = 0.2
"""A lesion of the truth is found when at least this part of its pixels is marked."""
NEIGHBOURS = np.ones((3, 3, 3), np.int8)
"""Lesions are connected by faces, edges and corners: 8 neighbours in a picture, 26 in a volume."""


@dataclass(eq=False)
class ClassScores:
    """One class over all pictures, at native resolution.

    `pooled` counts pixels by probability, before the CRF and smallest sizes; Dice, IoU and lesions are of the mask
    that the bundle gives in the end.
    """

    class_id: str
    pooled: PooledScores = field(default_factory=PooledScores)
    hits: int = 0
    marked: int = 0
    true: int = 0
    dices: list[float] = field(default_factory=list)
    lesions: int = 0
    found: int = 0
    false_lesions: int = 0
    pictures: int = 0

    def add(
        self, mask: NDArray[np.bool_], truth: NDArray[np.bool_], probability: NDArray[np.float16] | None
    ) -> None:
        """Adds one picture: arrays (K, J, I)."""
        if probability is not None:
            self.pooled.add(probability, truth)
        hits, marked, true = int((mask & truth).sum()), int(mask.sum()), int(truth.sum())
        self.hits, self.marked, self.true = self.hits + hits, self.marked + marked, self.true + true
        self.pictures += 1
        if true:
            self.dices.append(2 * hits / (marked + true))
        found, lesions, false_lesions = count_lesions(mask, truth)
        self.found, self.lesions = self.found + found, self.lesions + lesions
        self.false_lesions += false_lesions

    @property
    def dice(self) -> float | None:
        """Of all pictures' pixels together; None where the truth has none."""
        return 2 * self.hits / (self.marked + self.true) if self.true else None

    @property
    def mean_dice(self) -> float | None:
        """Mean over the pictures that have the class."""
        return float(np.mean(self.dices)) if self.dices else None

    @property
    def iou(self) -> float | None:
        return self.hits / (self.marked + self.true - self.hits) if self.true else None

    @property
    def recall(self) -> float | None:
        """Part of the true lesions that were found."""
        return self.found / self.lesions if self.lesions else None

    @property
    def false_per_picture(self) -> float:
        """Marked lesions that touch no pixel of the truth, per picture."""
        return self.false_lesions / max(1, self.pictures)


@dataclass(frozen=True)
class EvaluationReport:
    """What a bundle is worth on `pictures`."""

    bundle: str
    pictures: tuple[str, ...]
    classes: tuple[ClassScores, ...]

    def table(self) -> str:
        """A Markdown table, one row per class."""
        head = (
            f"{self.bundle} on {len(self.pictures)} pictures, native resolution\n\n"
            "| class | pictures with it | AUPR | Dice, pooled | Dice, mean per picture | IoU, pooled "
            "| lesions found | false lesions per picture |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
        )
        rows = [
            f"| {s.class_id} | {len(s.dices)} | {_shown(s.pooled.aupr)} | {_shown(s.dice)} "
            f"| {_shown(s.mean_dice)} | {_shown(s.iou)} | {s.found} of {s.lesions} ({_shown(s.recall)}) "
            f"| {s.false_per_picture:.1f} |"
            for s in self.classes
        ]
        return "\n".join([head, *rows])


def evaluate_bundle(
    bundle: str | Path, *, data: Path, folds: Path, fold: int = 0, settings: Config | None = None
) -> EvaluationReport:
    """Measures a bundle (id or folder) on the pictures of one fold of `data`.

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
    return measure(loaded, backend, data, parts[fold])


def measure(bundle: Bundle, backend: Backend, data: Path, names: Sequence[str]) -> EvaluationReport:
    """Measures a bundle on named pictures."""
    scores = tuple(ClassScores(class_id) for class_id in bundle.class_ids)
    for prediction, truth in predictions(bundle, backend, data, names):
        for c, score in enumerate(scores):
            probability = None if prediction.probability is None else prediction.probability[c]
            score.add(prediction.mask[c], truth[c], probability)
    return EvaluationReport(f"{bundle.id} {bundle.version}", tuple(names), scores)


def predictions(
    bundle: Bundle, backend: Backend, data: Path, names: Sequence[str]
) -> Iterator[tuple[Prediction, NDArray[np.bool_]]]:
    """What the bundle says of each picture, and the truth (classes, K, J, I); arrays live until the next one."""
    source = open_source(data, bundle.input, [Label(c.id, c.name, c.type[0]) for c in bundle.classes])
    for name in names:
        image, truth = source.image(name), source.truth(name, len(bundle.classes))
        with tempfile.TemporaryDirectory(prefix="medpipe-evaluate-") as scratch:
            yield predict(image, bundle, backend, Path(scratch), keep_probability=True), truth


def count_lesions(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[int, int, int]:
    """(true lesions found, true lesions, marked lesions that touch no truth) of one image (K, J, I)."""
    real, lesions = ndimage.label(truth, NEIGHBOURS)
    covered = np.bincount(real[mask], minlength=lesions + 1)[1:]
    sizes = np.bincount(real.ravel(), minlength=lesions + 1)[1:]
    found = int((covered >= np.maximum(1, FOUND * sizes)).sum())
    marked, count = ndimage.label(mask, NEIGHBOURS)
    touching = np.unique(marked[truth & mask])
    return found, int(lesions), int(count - len(touching))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
