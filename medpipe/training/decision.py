"""The decision layer: from which probability, and from which size and peak on, a finding of a class counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.bundle import Bundle
from medpipe.inference import Backend
from medpipe.inference.lesions import least_size
from medpipe.training.evaluation import predictions
from medpipe.training.experiment import Decision
from medpipe.training.lesion_scores import FALSE_ALLOWED, NEIGHBOURS
from medpipe.training.metrics import PooledScores

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Smallest sizes to choose from, in pixels or voxels of the grid that the network sees."""
PEAKS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
"""Highest probabilities that a lesion may have to reach, to choose from; up to the threshold they ask for nothing."""
THRESHOLDS = np.linspace(0.1, 0.9, 33)
"""Thresholds to choose from where each image's Dice is what counts."""
_FLAT = 0.01
"""What F1 may fall for fewer false lesions, or for a smaller size."""
_EQUAL = 2e-3
"""Mean Dices this near to the best are as good, whatever their standard error."""


@dataclass(frozen=True)
class Choice:
    """What one class needs before it counts."""

    threshold: float = 0.5
    smallest: int = 1
    peak: float | None = None


class Said(NamedTuple):
    """Of one class in one image: `probability` and `truth` (K, J, I) on its own grid; the network saw `reduction` of
    its voxels as one."""

    probability: NDArray[np.float16]
    truth: NDArray[np.bool_]
    reduction: float = 1.0

    def sizes(self) -> list[int]:
        """SIZES in its voxels."""
        return [least_size(size, self.reduction) for size in SIZES]


def choose(
    bundle: Bundle, backend: Backend, data: Path, names: Sequence[str], decision: Decision
) -> dict[str, Choice]:
    """Per class what `decision.measure` is best for, through the whole pipeline at native resolution."""
    count = len(bundle.classes)
    pooled = [PooledScores() for _ in range(count)]
    kept: list[list[Said]] = [[] for _ in range(count)]
    for prediction, truth in predictions(bundle, backend, data, names):
        assert prediction.probability is not None
        probability = np.array(prediction.probability)
        for c in range(count):
            kept[c].append(Said(probability[c], truth[c], prediction.reduction))
            pooled[c].add(probability[c], truth[c])
    choices = {}
    for c, spec in enumerate(bundle.classes):
        if decision.measure == "images":
            choices[spec.id] = best_for_images(kept[c])
            continue
        threshold = round(pooled[c].best_threshold(), 3)
        choices[spec.id] = best_for_lesions(kept[c], threshold)
    return choices


def best_for_lesions(images: Sequence[Said], threshold: float) -> Choice:
    """Smallest size by the lesion-wise F1 at a threshold; and a peak where false lesions are too many without.

    The lesions of all images count together. Of sizes that are as good the least is taken. The lowest peak is taken
    whose F1 lies no more than two standard errors behind the best (jackknife over the images): mostly none. Where
    that leaves more than FALSE_ALLOWED false lesions per image it is raised, to the lowest that does not or else
    leaves the fewest, while F1 stays within _FLAT: over peaks it is flat, and does not choose one by itself.
    """
    tallies = np.stack([_tally(said, threshold) for said in images])
    total = tallies.sum(axis=0)
    of_all = _f1(total)
    peaks, sizes = np.arange(len(PEAKS)), (of_all >= of_all.max(axis=1, keepdims=True) - _FLAT).argmax(axis=1)
    scores, without = of_all[peaks, sizes], _f1(total - tallies)[:, peaks, sizes]
    behind = without[:, [scores.argmax()]] - without
    error = np.sqrt((len(images) - 1) / len(images) * np.square(behind - behind.mean(axis=0)).sum(axis=0))
    first = int((scores.max() - scores <= 2 * error).argmax())
    open_to = first + np.flatnonzero(scores[first:] >= scores[first] - _FLAT)
    false = (total[peaks, sizes, 0] - total[peaks, sizes, 1])[open_to]
    few = np.flatnonzero(false <= FALSE_ALLOWED * len(images))
    peak = int(open_to[few[0] if len(few) else false.argmin()])
    return Choice(threshold, SIZES[int(sizes[peak])], PEAKS[peak] if PEAKS[peak] > threshold else None)


def best_for_images(images: Sequence[Said]) -> Choice:
    """Threshold and smallest size by the mean Dice per image: the middle of the thresholds as good as the best.

    An image without truth counts 1 when nothing is marked. As good is what lies no more than two standard errors of
    the paired difference behind: what hangs on a few images moves nothing (after the rule of Breiman et al.,
    Classification and Regression Trees, 1984, 3.4.3, who take one).
    """
    scores = np.stack([_image_dices(said) for said in images])
    best, size = np.unravel_index(int(np.argmax(scores.mean(axis=0))), scores.shape[1:])
    behind = scores[:, best, size, None] - scores[:, :, size]
    error = behind.std(axis=0, ddof=1) / np.sqrt(len(images)) if len(images) > 1 else 0.0
    good = behind.mean(axis=0) <= np.maximum(2 * error, _EQUAL)
    first = last = int(best)
    while first > 0 and good[first - 1]:
        first -= 1
    while last < len(good) - 1 and good[last + 1]:
        last += 1
    return Choice(round(float(THRESHOLDS[(first + last) // 2]), 3), SIZES[int(size)])


def _image_dices(said: Said) -> NDArray[np.float64]:
    """Dice of one image for each of THRESHOLDS (rows) and SIZES (columns)."""
    rows = np.empty((len(THRESHOLDS), len(SIZES)))
    probability, truth = said.probability, said.truth
    true = int(truth.sum())
    for row, threshold in zip(rows, THRESHOLDS, strict=True):
        marked, count = ndimage.label(probability >= threshold, NEIGHBOURS)
        sizes = np.bincount(marked.ravel(), minlength=count + 1)[1:]
        hits = np.bincount(marked[truth], minlength=count + 1)[1:]
        for n, smallest in enumerate(said.sizes()):
            kept = sizes >= smallest
            total = int(sizes[kept].sum()) + true
            row[n] = 2 * int(hits[kept].sum()) / total if total else 1.0
    return rows


def _tally(said: Said, threshold: float) -> NDArray[np.int64]:
    """(PEAKS, SIZES, 4): marked lesions, those that touch the truth, true lesions, those that are touched."""
    probability, truth = said.probability, said.truth
    mask = probability >= threshold
    marked, count = ndimage.label(mask, NEIGHBOURS)
    sizes = np.bincount(marked.ravel(), minlength=count + 1)
    sizes[0] = 0
    peaks = np.zeros(count + 1, np.float32)
    np.maximum.at(peaks, marked[mask], probability[mask].astype(np.float32))
    real, lesions = ndimage.label(truth, NEIGHBOURS)
    both = mask & truth
    pairs = np.unique(np.stack([marked[both], real[both]]), axis=1)
    tallies = np.zeros((len(PEAKS), len(SIZES), 4), np.int64)
    for row, peak in zip(tallies, PEAKS, strict=True):
        sure = np.where(peaks >= np.float32(peak), sizes, 0)
        for cell, smallest in zip(row, said.sizes(), strict=True):
            touching, touched = pairs[:, sure[pairs[0]] >= smallest]
            cell[:] = (sure >= smallest).sum(), len(np.unique(touching)), lesions, len(np.unique(touched))
    return tallies


def _f1(tallies: NDArray[np.int64]) -> NDArray[np.float64]:
    marked, right, lesions, found = np.moveaxis(tallies.astype(np.float64), -1, 0)
    precision, recall = right / np.maximum(marked, 1), found / np.maximum(lesions, 1)
    return np.asarray(2 * precision * recall / np.maximum(precision + recall, 1e-9))
