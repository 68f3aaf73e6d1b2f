"""Whether probabilities mean what they say: reliability and expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10
"""Equal widths of probability: 0 to .1, .1 to .2, ..., .9 to 1."""
DOUBTFUL_FROM = 0.01
"""Most pixels of a picture are surely nothing and would hide every error: `doubtful` ones have at least this
probability, or are true."""


@dataclass(eq=False)
class Calibration:
    """Per bin of probability: pixels, the sum of their probabilities, and how many are true; all pictures together."""

    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    probability: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    true: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, probability: NDArray[Any], truth: NDArray[np.bool_]) -> None:
        """Adds pixels; both arrays have the same shape."""
        values = np.asarray(probability, np.float32).ravel()
        bins = np.clip((values * BINS).astype(np.int32), 0, BINS - 1)
        self.pixels += np.bincount(bins, minlength=BINS)
        self.probability += np.bincount(bins, weights=values, minlength=BINS)
        self.true += np.bincount(bins[truth.ravel()], minlength=BINS)

    def add_nothing(self, pixels: int, probability: float) -> None:
        """Adds pixels of the lowest bin that are not true, by the sum of their probabilities."""
        self.pixels[0] += pixels
        self.probability[0] += probability

    @property
    def said(self) -> NDArray[np.float64]:
        """Mean probability of each bin; not a number where it is empty."""
        return _ratio(self.probability, self.pixels)

    @property
    def seen(self) -> NDArray[np.float64]:
        """Share of each bin's pixels that are true; not a number where it is empty."""
        return _ratio(self.true, self.pixels)

    @property
    def error(self) -> float | None:
        """Expected calibration error (Naeini 2015): the mean over pixels of |said - seen| of their bin."""
        total = int(self.pixels.sum())
        if not total:
            return None
        return float(np.abs(self.probability - self.true).sum() / total)


def doubtful(probability: NDArray[Any], truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that are not plainly nothing."""
    return np.asarray((probability >= probability.dtype.type(DOUBTFUL_FROM)) | truth)


def _ratio(part: NDArray[Any], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.where(whole > 0, part / np.maximum(whole, 1), np.nan))
