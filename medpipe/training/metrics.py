"""Pixel scores pooled over pictures, from histograms of probabilities: AUPR, and Dice and IoU at any threshold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 4096
"""Probabilities are counted in bins of 1/4096: finer than float16 near 1, coarser than it near 0."""


@dataclass(eq=False)
class PooledScores:
    """Counts of positive and negative pixels by probability, one class, all pictures together."""

    positives: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    negatives: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, probability: NDArray[Any], truth: NDArray[np.bool_]) -> None:
        """Adds one picture's pixels; both arrays have the same shape."""
        bins = np.clip(np.asarray(probability, np.float32) * BINS, 0, BINS - 1).astype(np.int32)
        self.positives += np.bincount(bins[truth], minlength=BINS)
        self.negatives += np.bincount(bins[~truth], minlength=BINS)

    @property
    def aupr(self) -> float | None:
        """Area under precision over recall: the sum of precision x step in recall; None where nothing is positive."""
        total = int(self.positives.sum())
        if total == 0:
            return None
        hits, wrong = self._from_above()
        precision = hits / np.maximum(hits + wrong, 1)
        return float(np.sum(np.diff(hits, prepend=0) * precision) / total)

    def curve(self, points: int = 201) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(recall, precision) where recall passes each of `points` even steps; empty where nothing is positive."""
        total = int(self.positives.sum())
        if total == 0:
            return np.zeros(0), np.zeros(0)
        hits, wrong = self._from_above()
        steps = np.linspace(0, 1, points)
        at = np.unique(np.minimum(np.searchsorted(hits / total, steps), BINS - 1))
        at = at[(hits + wrong)[at] > 0]
        return hits[at] / total, hits[at] / (hits + wrong)[at]

    def dice(self, threshold: float) -> float | None:
        """Dice of the pixels at or above `threshold`; None where nothing is positive in truth."""
        hits, wrong, missed = self.at(threshold)
        return None if hits + missed == 0 else 2 * hits / (2 * hits + wrong + missed)

    def at(self, threshold: float) -> tuple[int, int, int]:
        """(hits, false alarms, misses) in pixels."""
        first = int(np.ceil(threshold * BINS))
        hits = int(self.positives[first:].sum())
        return hits, int(self.negatives[first:].sum()), int(self.positives[:first].sum())

    def best_threshold(self, lowest: float = 0.05, highest: float = 0.95) -> float:
        """The threshold of the largest Dice in a range: 0.5 where nothing is positive."""
        total = int(self.positives.sum())
        if total == 0:
            return 0.5
        hits, wrong = (counts[::-1] for counts in self._from_above())
        dice = 2 * hits / (hits + wrong + total)
        first, last = round(lowest * BINS), round(highest * BINS)
        return float(first + int(np.argmax(dice[first : last + 1]))) / BINS

    def _from_above(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.cumsum(self.positives[::-1]), np.cumsum(self.negatives[::-1])
