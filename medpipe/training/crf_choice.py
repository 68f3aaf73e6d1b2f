"""The rule by which a class uses the CRF: pictures that were not trained on must show that it gains, else it is off.

The guarded CRF is measured against none, through the whole pipeline, on the same pictures. A class uses it when the
95 % t interval of its paired gain in Dice (over the pictures that have the class; Student 1908) lies above zero and
no fewer true lesions are found with it. The t interval, since a bootstrap over so few pictures is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from medpipe.bundle import Bundle
from medpipe.inference import Backend, with_crf
from medpipe.training.class_scores import ClassScores
from medpipe.training.evaluation import measure

CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class CrfGain:
    """One class on the same pictures, in the same order, without the CRF (`off`) and with it (`on`)."""

    off: ClassScores
    on: ClassScores

    @property
    def class_id(self) -> str:
        return self.off.class_id

    @property
    def gains(self) -> tuple[float, ...]:
        """Dice with the CRF less Dice without, of each picture that has the class."""
        return tuple(b - a for a, b in zip(self.off.dices, self.on.dices, strict=True))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % t interval of the mean gain; None of fewer than two pictures, which say nothing of the spread."""
        count = len(self.gains)
        if count < 2:
            return None
        mean = float(np.mean(self.gains))
        quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
        half = quantile * float(np.std(self.gains, ddof=1)) / math.sqrt(count)
        return mean - half, mean + half

    @property
    def holds(self) -> bool:
        """Whether the rule lets the class use the CRF."""
        return self.interval is not None and self.interval[0] > 0 and self.on.found >= self.off.found

    @property
    def told(self) -> str:
        """The figures behind the rule's answer, for the card: mean gain, interval, pictures, lesions found."""
        if self.interval is None:
            return f"no interval: {len(self.gains)} of the pictures have the class"
        low, high = self.interval
        return (
            f"{float(np.mean(self.gains)):+.4f} ({low:+.4f} to {high:+.4f}) on {len(self.gains)} pictures, "
            f"lesions {self.off.found} -> {self.on.found} of {self.off.lesions}"
        )


def measure_crf(bundle: Bundle, backend: Backend, data: Path, names: Sequence[str]) -> tuple[CrfGain, ...]:
    """What the guarded CRF changes for each class on named pictures, at the bundle's thresholds and smallest sizes.

    All classes use it at once, so they share the time budget as they would if all of them were to use it.
    """
    off, on = (measure(with_crf(bundle, mode), backend, data, names) for mode in ("off", "guarded"))
    return tuple(CrfGain(without, with_it) for without, with_it in zip(off.classes, on.classes, strict=True))


def with_rule(row: Mapping[str, Any], gains: Sequence[CrfGain]) -> bool:
    """Whether a class (its row in the experiment) uses the CRF: as it states, else by the rule, else not."""
    if "crf" in row:
        return bool(row["crf"])
    return any(gain.holds for gain in gains if gain.class_id == row["id"])
