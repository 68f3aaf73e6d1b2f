"""The pictures of least Dice, kept small for the eye: as they are, with what is true, with what was said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medpipe.results.overlay import Colour, outlined, resized, resized_mask

ROOM = (860, 860)
"""Height and width that a picture is fitted into."""


@dataclass(frozen=True, eq=False)
class WorstCase:
    """One picture (of a volume the slice that holds most), uint8 (j, i, 3) each; `dices` per class, None if absent."""

    name: str
    dices: tuple[float | None, ...]
    slice: int | None
    source: NDArray[np.uint8]
    true: NDArray[np.uint8]
    said: NDArray[np.uint8]

    @property
    def mean_dice(self) -> float:
        """Over the classes that the picture has."""
        return float(np.mean([dice for dice in self.dices if dice is not None]))


class WorstCases:
    """Keeps the `most` pictures of least mean Dice among those that are offered and have anything."""

    def __init__(self, most: int, colours: Sequence[Colour]) -> None:
        self._most, self._colours = most, colours
        self.cases: tuple[WorstCase, ...] = ()

    def offer(
        self,
        name: str,
        dices: Sequence[float | None],
        truth: NDArray[np.bool_],
        said: NDArray[np.bool_],
        shown: Callable[[int], NDArray[np.uint8]],
    ) -> None:
        """`truth` and `said` are (classes, K, J, I); `shown` draws slice k as (J, I, 3)."""
        known = [dice for dice in dices if dice is not None]
        if not known or not self._most:
            return
        if len(self.cases) == self._most and np.mean(known) >= self.cases[-1].mean_dice:
            return
        k = int(np.argmax(truth.sum(axis=(0, 2, 3))))
        picture = shown(k)
        scale = min(room / size for room, size in zip(ROOM, picture.shape, strict=False))
        height, width = (max(1, round(size * scale)) for size in picture.shape[:2])
        small = resized(picture, (height, width))

        def drawn(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
            planes = [resized_mask(np.asarray(mask[k]), (height, width)) for mask in masks]
            return outlined(small, planes, self._colours, 1)

        number = k if truth.shape[1] > 1 else None
        case = WorstCase(name, tuple(dices), number, small, drawn(truth), drawn(said))
        self.cases = tuple(sorted([*self.cases, case], key=lambda c: c.mean_dice)[: self._most])
