"""The circle of a fundus photograph's field of view, from its sharp rim: what lies beside the field does not widen it.

Three points of a region's edge at a time give a circle; the one that most edge points lie on is fitted to them (RANSAC:
Fischler and Bolles, Communications of the ACM 24, 1981), and counts where light falls along it, as at an aperture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

POINTS = 500
"""Edge points, drawn evenly, on which circles are tried."""
TRIES = 300
NEAR = 2.0
"""Distance, in pixels of the reduced picture, up to which a point lies on a circle."""
BESIDE = 0.04
"""Part of the radius within and beyond the rim at which light is compared."""
STEP = 0.6
"""Light left beyond the rim, at most, as a part of that within; and the part of the circle along which it falls so."""
COVERED = 0.5
"""Part of the circle within the picture that has edge points."""
SHORTEST = 60
"""Degrees of the circle, at least, that lie within the picture."""
RADII = (0.25, 1.2)
"""Of the picture's shorter and longer side: no field is smaller or larger."""

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Circle:
    """`centre` (j, i) and `radius` in pixels of the picture it was found on."""

    centre: Points
    radius: float

    def disc(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Pixels of a picture of `shape` (j, i) within it."""
        j, i = np.ogrid[: shape[0], : shape[1]]
        return np.asarray(np.hypot(j - self.centre[0], i - self.centre[1]) <= self.radius + 0.5)

    def distance(self, points: Points) -> Points:
        """Distances of points (n, 2) from the circle's line."""
        return np.asarray(np.abs(np.hypot(*(points - self.centre).T) - self.radius))


def circle_at_the_rim(region: NDArray[np.bool_], grey: NDArray[np.float32]) -> Circle | None:
    """The circle on which most of the edge lies and along which `grey` (j, i) falls; None where there is none."""
    points = _edge(region)
    circle = _most_agreed(points, region.shape)
    for _ in range(3):
        if circle is None:
            return None
        circle = _fitted(points[circle.distance(points) < NEAR])
    return circle if circle is not None and _is_rim(circle, points, grey) else None


def _edge(region: NDArray[np.bool_]) -> Points:
    """The region's outermost pixels (n, 2) but for those at the picture's border, which is no edge of it."""
    edge = region & ~ndimage.binary_erosion(region, border_value=1)
    edge[:2] = edge[-2:] = edge[:, :2] = edge[:, -2:] = False
    return np.argwhere(edge).astype(np.float64)


def _most_agreed(points: Points, shape: tuple[int, ...]) -> Circle | None:
    """Of circles through three points each, the one near most of them."""
    if len(points) < POINTS // 10:
        return None
    rng = np.random.default_rng(0)  # the same picture gives the same field
    drawn = points[rng.permutation(len(points))[:POINTS]]
    a, b, c = np.moveaxis(drawn[rng.integers(0, len(drawn), (TRIES, 3))], 1, 0)
    sides = 2 * np.stack([b - a, c - a], axis=1)
    proper = np.abs(np.linalg.det(sides)) > 1e-6
    a, b, c, sides = a[proper], b[proper], c[proper], sides[proper]
    squares = np.stack([(b**2 - a**2).sum(1), (c**2 - a**2).sum(1)], axis=1)
    centres = np.linalg.solve(sides, squares[..., None])[..., 0]
    radii = np.hypot(*(a - centres).T)
    fits = (radii > RADII[0] * min(shape)) & (radii < RADII[1] * max(shape))
    if not fits.any():
        return None
    centres, radii = centres[fits], radii[fits]
    distances = np.hypot(*np.moveaxis(drawn - centres[:, None], 2, 0)) - radii[:, None]
    best = int(np.argmax((np.abs(distances) < NEAR).sum(axis=1)))
    return Circle(centres[best], float(radii[best]))


def _fitted(points: Points) -> Circle | None:
    """The circle of least squares through points (n, 2), linear in centre and power (Kåsa 1976)."""
    if len(points) < POINTS // 25:
        return None
    unknown = np.linalg.lstsq(np.c_[2 * points, np.ones(len(points))], (points**2).sum(1), rcond=None)[0]
    centre = unknown[:2]
    return Circle(centre, float(np.sqrt(max(0.0, unknown[2] + centre @ centre))))


def _is_rim(circle: Circle, points: Points, grey: NDArray[np.float32]) -> bool:
    """Whether light falls along the circle, and edge points lie on it, for long enough."""
    angles = np.radians(np.arange(360))
    around = np.stack([np.sin(angles), np.cos(angles)])

    def at(part: float) -> Points:
        return np.asarray(circle.centre[:, None] + part * circle.radius * around)

    beyond = at(1 + BESIDE)
    seen = ((beyond >= 0) & (beyond < np.array(grey.shape)[:, None])).all(axis=0)
    if seen.sum() < SHORTEST:
        return False
    outer, inner = (
        ndimage.map_coordinates(grey, place[:, seen], order=1, mode="nearest")
        for place in (beyond, at(1 - BESIDE))
    )
    on = points[circle.distance(points) < NEAR] - circle.centre
    reached = np.zeros(360, bool)
    reached[np.degrees(np.arctan2(on[:, 0], on[:, 1])).astype(int) % 360] = True
    covered = ndimage.binary_dilation(reached, iterations=2) & seen
    return bool((outer < STEP * inner).mean() >= STEP and covered.sum() >= COVERED * seen.sum())
