"""What one class scores over all pictures: pixels, lesions and probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.training.calibration import Calibration, doubtful
from medpipe.training.lesion_scores import Froc, RecallBySize, judge_lesions
from medpipe.training.metrics import PooledScores


@dataclass(eq=False)
class ClassScores:
    """One class over all pictures, on the grid they are measured on.

    What is counted by probability (`pooled`, `calibration`, `froc`) is the network's, before the CRF and (but
    for `froc`) smallest sizes; Dice, IoU and lesions are of the mask that the bundle gives in the end. `counts` are
    (hits, marked, true) pixels of each picture. Nothing of the pictures themselves is kept.
    """

    class_id: str
    threshold: float = 1.0
    pooled: PooledScores = field(default_factory=PooledScores)
    calibration: Calibration = field(default_factory=Calibration)
    calibration_doubtful: Calibration = field(default_factory=Calibration)
    counts: list[tuple[int, int, int]] = field(default_factory=list)
    by_size: RecallBySize = field(default_factory=RecallBySize)
    false_lesions: int = 0
    froc: Froc = field(init=False)

    def __post_init__(self) -> None:
        self.froc = Froc(self.threshold)

    def add(
        self,
        mask: NDArray[np.bool_],
        truth: NDArray[np.bool_],
        probability: NDArray[Any] | None,
        smallest: int = 1,
    ) -> float | None:
        """Adds one picture: arrays (K, J, I); `smallest` is the class's, in its pixels.

        Gives its Dice, None where it has nothing of the class.
        """
        if probability is not None:
            self.pooled.add(probability, truth)
            self._calibrate(probability, truth)
            self.froc.add(probability, truth, smallest)
        self.counts.append((int((mask & truth).sum()), int(mask.sum()), int(truth.sum())))
        judged = judge_lesions(mask, truth)
        self.by_size.add(judged)
        self.false_lesions += judged.false
        return dice_of(*self.counts[-1]) if self.counts[-1][2] else None

    def _calibrate(self, probability: NDArray[Any], truth: NDArray[np.bool_]) -> None:
        """Most of a large picture is surely nothing, and need not be binned pixel by pixel."""
        unsure = doubtful(probability, truth)
        values, true = probability[unsure], truth[unsure]
        self.calibration_doubtful.add(values, true)
        self.calibration.add(values, true)
        rest = float(probability.sum(dtype=np.float64, where=~unsure))
        self.calibration.add_nothing(probability.size - len(values), rest)

    @property
    def dices(self) -> list[float]:
        """Of each picture that has the class."""
        return [dice_of(*counts) for counts in self.counts if counts[2]]

    @property
    def dice(self) -> float | None:
        """Of all pictures' pixels together; None where the truth has none."""
        hits, marked, true = self.pooled_counts
        return dice_of(hits, marked, true) if true else None

    @property
    def mean_dice(self) -> float | None:
        """Mean over the pictures that have the class."""
        return float(np.mean(self.dices)) if self.dices else None

    @property
    def mean_dice_of_all(self) -> float | None:
        """Mean over all pictures; one without the class counts 1 where nothing is marked, else 0."""
        return float(np.mean([dice_of(*counts) for counts in self.counts])) if self.counts else None

    @property
    def iou(self) -> float | None:
        """Of all pictures' pixels together; None where the truth has none."""
        hits, marked, true = self.pooled_counts
        return hits / (marked + true - hits) if true else None

    @property
    def ious(self) -> list[float]:
        """Of each picture that has the class."""
        return [hits / (marked + true - hits) for hits, marked, true in self.counts if true]

    @property
    def found(self) -> int:
        return int(self.by_size.found.sum())

    @property
    def lesions(self) -> int:
        return int(self.by_size.lesions.sum())

    @property
    def recall(self) -> float | None:
        """Part of the true lesions that were found."""
        return self.found / self.lesions if self.lesions else None

    @property
    def false_per_picture(self) -> float:
        """Marked lesions that touch no pixel of the truth, per picture."""
        return self.false_lesions / max(1, len(self.counts))

    @property
    def pooled_counts(self) -> tuple[int, int, int]:
        hits, marked, true = (
            (sum(column) for column in zip(*self.counts, strict=True)) if self.counts else (0, 0, 0)
        )
        return hits, marked, true


def dice_of(hits: int, marked: int, true: int) -> float:
    """1 where nothing is there and nothing is marked."""
    return 2 * hits / (marked + true) if marked + true else 1.0
