"""Lesions of diabetic retinopathy, drawn at known places: MA, HE, EX, SE, with the truth a little generous.

Sizes and contrasts follow what annotators of real pictures outlined: areas at 4288 pixels' width of about 70-670
(MA), 360-20000 (HE), 50-2800 (EX), 3000-38000 (SE) pixels; red lesions dim green by about 10 %, bright ones lift it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.samples.texture import smooth_noise

CLASSES = ("MA", "HE", "EX", "SE")
_REFERENCE_RADIUS = 1713.0
"""Field radius in pixels at which the sizes above were measured."""


@dataclass(frozen=True)
class DrawnLesion:
    """One drawn lesion: class, centre (y, x) and mean radius in pixels."""

    class_id: str
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Stroke:
    """How a class colours the retina at full strength: factors and then lifts (of 255) per channel.

    `softness` of the edge is in parts of the radius; `strength` the range that is drawn from.
    """

    factors: tuple[float, float, float]
    lifts: tuple[float, float, float]
    softness: float
    ragged: float
    strength: tuple[float, float]


STROKES = {
    "MA": Stroke((0.92, 0.71, 0.79), (0, 0, 0), 0.60, 0.10, (0.7, 1.1)),
    "HE": Stroke((0.90, 0.67, 0.80), (0, 0, 0), 0.50, 0.40, (0.6, 1.1)),
    "EX": Stroke((1.16, 1.55, 1.60), (4, 12, 6), 0.24, 0.35, (0.6, 1.15)),
    "SE": Stroke((1.05, 1.34, 1.50), (6, 14, 17), 0.60, 0.35, (0.7, 1.1)),
}


class Brush:
    """Draws lesions into a float picture (J, I, 3) and their truth (4, J, I)."""

    def __init__(
        self, rng: np.random.Generator, picture: NDArray[np.float32], truth: NDArray[np.bool_], radius: float
    ) -> None:
        self._rng, self._picture, self._truth = rng, picture, truth
        self._scale = radius / _REFERENCE_RADIUS
        self.drawn: list[DrawnLesion] = []

    def microaneurysm(self, centre: tuple[float, float]) -> None:
        self._blob("MA", centre, self._rng.uniform(5.5, 11.5), stretch=self._rng.uniform(1.0, 1.25))

    def blot(self, centre: tuple[float, float]) -> None:
        self._blob("HE", centre, self._rng.lognormal(np.log(24), 0.45), stretch=self._rng.uniform(1.0, 1.6))

    def flame(self, centre: tuple[float, float], angle: float) -> None:
        """A haemorrhage in the nerve fibre layer: long, along the fibres, with frayed ends."""
        size = self._rng.uniform(24, 52)
        self._blob("HE", centre, size, stretch=self._rng.uniform(2.2, 3.4), angle=angle, ragged=0.45)

    def exudates(self, centre: tuple[float, float], ring: bool) -> None:
        """A cluster of hard exudates: many small sharp flecks, some run together; a ring around a leak (circinate)."""
        count = int(self._rng.integers(14, 40))
        spread = self._rng.uniform(90, 210)
        turn = self._rng.uniform(0, 2 * np.pi)
        for _ in range(count):
            if ring:
                angle = turn + self._rng.uniform(0, 1.6 * np.pi)
                reach = spread * self._rng.normal(1.0, 0.12)
            else:
                angle = self._rng.uniform(0, 2 * np.pi)
                reach = spread * abs(self._rng.normal(0, 0.55))
            place = (
                centre[0] + reach * np.sin(angle) * self._scale,
                centre[1] + reach * np.cos(angle) * self._scale,
            )
            size = min(30.0, self._rng.lognormal(np.log(8.5), 0.5))
            if self._rng.random() < 0.04:
                size = self._rng.uniform(25, 48)  # a plaque
            self._blob("EX", place, size, stretch=self._rng.uniform(1.0, 1.7))

    def cotton_wool(self, centre: tuple[float, float], angle: float) -> None:
        size = self._rng.uniform(38, 78)
        self._blob("SE", centre, size, stretch=self._rng.uniform(1.1, 1.6), angle=angle)

    def _blob(
        self,
        class_id: str,
        centre: tuple[float, float],
        size: float,
        *,
        stretch: float = 1.0,
        angle: float | None = None,
        ragged: float | None = None,
    ) -> None:
        """An irregular ellipse of mean radius `size` (reference pixels) that colours the retina beneath it."""
        stroke = STROKES[class_id]
        ragged = stroke.ragged if ragged is None else ragged
        angle = self._rng.uniform(0, np.pi) if angle is None else angle
        radius = max(1.2, size * self._scale)
        half = int(np.ceil(radius * stretch * 1.8 + 4))
        row, column = round(centre[0]), round(centre[1])
        rows, columns = self._picture.shape[:2]
        if not (half < row < rows - half and half < column < columns - half):
            return
        y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
        along = (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(stretch)
        across = (-x * np.sin(angle) + y * np.cos(angle)) * np.sqrt(stretch)
        noise = smooth_noise(self._rng, y.shape, max(4.0, radius * 0.9)) if ragged else np.zeros_like(y)
        level = np.sqrt(along**2 + across**2) / radius + ragged * 0.5 * noise
        softness = max(stroke.softness * 0.5, 0.5 / radius)
        cover = 1.0 / (1.0 + np.exp(np.clip((level - 1.0) / (softness * 0.5), -30, 30)))
        mask = cover > 0.35
        if not mask.any():
            return
        window = np.s_[row - half : row + half + 1, column - half : column + half + 1]
        strength = self._rng.uniform(*stroke.strength)
        for channel, (factor, lift) in enumerate(zip(stroke.factors, stroke.lifts, strict=True)):
            plane = self._picture[..., channel][window]
            plane += strength * cover * ((factor - 1) * plane + lift)
        if class_id in ("MA", "EX"):
            mask = ndimage.binary_dilation(mask)  # annotators' outlines are a little generous
        self._truth[CLASSES.index(class_id)][window] |= mask
        self.drawn.append(
            DrawnLesion(class_id, (float(row), float(column)), float(np.sqrt(mask.sum() / np.pi)))
        )
