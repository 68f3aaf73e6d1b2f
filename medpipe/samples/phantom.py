"""A drawn CT or MR volume: an ellipsoid body with bright lesions at known places of the patient, in any orientation.

Three balls of unequal size and brightness lie to the patient's left, back and head, so that no flip or swap of axes
can hide. Lesions are the only thing above half their own brightness.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
_CENTRE = np.array([11.0, -17.0, 43.0])
"""Of the volume in patient LPS mm: away from the origin, so that a lost offset shows."""
_FRACTION = 0.004
"""Of the volume that lesions fill together, so that a high percentile of the volume is a lesion's value."""


@dataclass(frozen=True)
class PhantomLesion:
    """A ball: centre in patient LPS mm and radius in mm."""

    centre: tuple[float, float, float]
    radius: float


@dataclass(frozen=True, eq=False)
class PhantomSample:
    """`array` int16 (K, J, I): HU for CT, arbitrary units >= 0 for MR. `affine` takes (i, j, k, 1) to patient LPS mm.

    `truth` bool (K, J, I) is where a voxel's centre lies in a lesion.
    """

    array: NDArray[np.int16]
    affine: NDArray[np.float64]
    truth: NDArray[np.bool_]
    lesions: tuple[PhantomLesion, ...]


@dataclass(frozen=True)
class _Tissue:
    air: float
    body: float
    lesion: float
    marks: tuple[float, float, float]
    noise: float
    floor: float


_TISSUES = {
    "ct": _Tissue(-1000, 30, 2600, (180, 260, -120), 14, -1024),
    "mr": _Tissue(8, 210, 1000, (300, 380, 90), 9, 0),
}


def draw_phantom(
    kind: str,
    seed: int,
    shape: tuple[int, int, int] = (40, 128, 128),
    spacing: tuple[float, float, float] = (3.0, 1.2, 1.2),
    orientation: tuple[float, ...] = AXIAL,
    reverse: bool = False,
    count: int = 5,
) -> PhantomSample:
    """Draws `kind` ("ct" or "mr") with up to `count` lesions, `shape` and `spacing` (mm) along (k, j, i).

    `orientation` is ImageOrientationPatient: the directions in which i and j grow (PS3.3 C.7.6.2.1.1); k grows along
    their cross product, or against it where `reverse` is true. Raises ValueError where these make no volume, or where
    no lesion fits.
    """
    if kind not in _TISSUES:
        raise ValueError(f"a phantom is ct or mr, not {kind!r}")
    sizes, steps = np.array(shape), np.array(spacing, dtype=np.float64)
    if sizes.shape != (3,) or sizes.min() < 8 or steps.shape != (3,) or not (steps > 0).all():
        raise ValueError("a phantom has three sizes of at least 8 and three positive spacings")
    affine = _affine(sizes, steps, orientation, reverse)
    tissue = _TISSUES[kind]
    rng = np.random.default_rng([seed, *shape, 2026])
    extent = sizes * steps
    marks = _marks(extent)
    lesions = _place(rng, affine, extent, float(steps.max()), marks, count)
    array = np.empty(shape, dtype=np.int16)
    truth = np.zeros(shape, dtype=np.bool_)
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in shape]
    in_plane = (axes[1][:, None] / 0.86) ** 2 + (axes[2][None, :] / 0.78) ** 2
    balls = [(*mark, value) for mark, value in zip(marks, tissue.marks, strict=True)]
    balls += [(np.array(lesion.centre), lesion.radius, tissue.lesion) for lesion in lesions]
    places = [(*_index_of(affine, centre), radius, value) for centre, radius, value in balls]
    for k in range(shape[0]):
        level = in_plane + (axes[0][k] / 0.92) ** 2
        inside = np.clip((1 - level) * 24 + 0.5, 0, 1)
        if kind == "mr":  # a receive coil is not equally sensitive everywhere
            inside *= 1 + 0.05 * axes[1][:, None] - 0.04 * axes[2][None, :]
        plane = np.float32(tissue.air) + np.float32(tissue.body - tissue.air) * inside
        for number, (pk, pj, pi, radius, value) in enumerate(places):
            _ball(plane, truth[k], k, (pk, pj, pi), radius, steps, value, number >= len(marks))
        plane += np.float32(tissue.noise) * rng.standard_normal(plane.shape, dtype=np.float32)
        array[k] = np.clip(np.rint(plane), tissue.floor, 3071)
    return PhantomSample(array, affine, truth, lesions)


def _affine(
    sizes: NDArray[np.int_], steps: NDArray[np.float64], orientation: tuple[float, ...], reverse: bool
) -> NDArray[np.float64]:
    cosines = np.array(orientation, dtype=np.float64)
    if cosines.shape != (6,):
        raise ValueError("an orientation has six direction cosines")
    row, column = cosines[:3], cosines[3:]
    if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-4):
        raise ValueError("an orientation's rows and columns are perpendicular unit vectors")
    normal = np.cross(row, column) * (-1 if reverse else 1)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row * steps[2], column * steps[1], normal * steps[0]], axis=1)
    affine[:3, 3] = _CENTRE - affine[:3, :3] @ ((sizes[::-1] - 1) / 2)
    return affine


def _index_of(affine: NDArray[np.float64], centre: NDArray[np.float64]) -> tuple[float, float, float]:
    i, j, k = np.linalg.solve(affine[:3, :3], centre - affine[:3, 3])
    return float(k), float(j), float(i)


def _marks(extent: NDArray[np.float64]) -> list[tuple[NDArray[np.float64], float]]:
    """Balls to the patient's left, back and head: about half way out, unequal in size."""
    small = float(extent.min())
    return [
        (_CENTRE + direction * 0.27 * small, radius * small)
        for direction, radius in zip(np.eye(3), (0.07, 0.055, 0.045), strict=True)
    ]


def _place(
    rng: np.random.Generator,
    affine: NDArray[np.float64],
    extent: NDArray[np.float64],
    coarsest: float,
    marks: list[tuple[NDArray[np.float64], float]],
    count: int,
) -> tuple[PhantomLesion, ...]:
    """Balls inside the body that touch neither each other nor the marks."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    usual = (_FRACTION * float(extent.prod()) / max(1, count) * 0.75 / np.pi) ** (1 / 3)
    usual = max(min(usual, 0.1 * float(extent.min())), 1.5 * coarsest)
    taken = list(marks)
    lesions: list[PhantomLesion] = []
    for _ in range(400 * count):
        if len(lesions) == count:
            break
        radius = usual * rng.uniform(0.8, 1.2)
        inside = rng.uniform(-0.75, 0.75, 3) * extent[::-1] / 2
        room = 0.78 * extent[::-1] / 2 - radius
        if (room <= 0).any() or ((inside / room) ** 2).sum() > 1:
            continue
        centre = _CENTRE + directions @ inside
        if all(np.linalg.norm(centre - other) > radius + size + 2 * coarsest for other, size in taken):
            taken.append((centre, radius))
            lesions.append(
                PhantomLesion((float(centre[0]), float(centre[1]), float(centre[2])), float(radius))
            )
    if count and not lesions:
        raise ValueError("the volume is too small for a lesion")
    return tuple(lesions)


def _ball(
    plane: NDArray[np.float32],
    truth: NDArray[np.bool_],
    k: int,
    place: tuple[float, float, float],
    radius: float,
    steps: NDArray[np.float64],
    value: float,
    is_lesion: bool,
) -> None:
    """Draws slice k of a ball, its edge as soft as a voxel is wide."""
    depth = (k - place[0]) * steps[0]
    edge = float(steps.mean())
    if abs(depth) > radius + edge:
        return
    half = (radius + edge) / steps
    rows = slice(max(0, int(place[1] - half[1])), int(place[1] + half[1]) + 2)
    columns = slice(max(0, int(place[2] - half[2])), int(place[2] + half[2]) + 2)
    y = (np.arange(plane.shape[0])[rows, None] - place[1]) * steps[1]
    x = (np.arange(plane.shape[1])[None, columns] - place[2]) * steps[2]
    far = np.sqrt(x * x + y * y + depth * depth)
    cover = np.clip(0.5 + (radius - far) / edge, 0, 1).astype(np.float32)
    plane[rows, columns] += (np.float32(value) - plane[rows, columns]) * cover
    if is_lesion:
        truth[rows, columns] |= far <= radius
