"""A retinal vessel tree: arcades around the macula, nasal vessels, branches that taper by Murray's law."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFilter

Point = NDArray[np.float64]
_MURRAY = 3.0
_STEP = 0.012


@dataclass(frozen=True)
class Anatomy:
    """Places in units of the field's radius, x to the right, y down, origin in the field's centre."""

    disc: Point
    macula: Point
    disc_radius: float
    temporal: float
    """+1 where temporal is to the right, -1 where it is to the left."""


@dataclass(frozen=True, eq=False)
class Vessel:
    """A path (n, 2) with a width at each point, in units of the field's radius; `artery` decides its colour."""

    path: NDArray[np.float64]
    width: NDArray[np.float64]
    artery: bool


def grow(rng: np.random.Generator, anatomy: Anatomy) -> list[Vessel]:
    """The whole tree: an artery and a vein along each arcade and each nasal quadrant, with their branches."""
    vessels: list[Vessel] = []
    for up in (-1.0, 1.0):
        first = rng.choice([-1.0, 1.0])  # which of the two leaves the disc on the temporal side
        for artery in (True, False):
            caliber = (0.017 if artery else 0.023) * rng.uniform(0.9, 1.1)
            offset = rng.uniform(0.012, 0.03) * (first if artery else -first)
            vessels += _branching(rng, anatomy, _arcade(rng, anatomy, up, offset), caliber, artery, 0)
            vessels += _branching(rng, anatomy, _nasal(rng, anatomy, up, offset), 0.7 * caliber, artery, 0)
    for side in (-0.35, 0.4):  # small vessels that run straight from the disc towards the macula
        vessels += _branching(rng, anatomy, _towards_macula(rng, anatomy, side), 0.0065, True, 1)
    return sorted(vessels, key=lambda vessel: float(vessel.width.max()))


def draw(
    vessels: list[Vessel], shape: tuple[int, int], centre: Point, radius: float, artery: bool
) -> NDArray[np.float32]:
    """Coverage 0..1 of the arteries (or veins) on a picture (J, I); `centre` (x, y) and `radius` in pixels."""
    canvas = PillowImage.new("L", (shape[1], shape[0]))
    pen = ImageDraw.Draw(canvas)
    for vessel in vessels:
        if vessel.artery is not artery:
            continue
        points = vessel.path * radius + centre
        for start, end, width in zip(points, points[1:], vessel.width, strict=False):
            across = max(1.0, width * radius)
            ink = int(255 * min(1.0, width * radius, (width / 0.011) ** 0.55))  # less blood, less colour
            pen.line([*start, *end], fill=ink, width=max(1, round(across)))
            if across > 3:
                half = across / 2
                pen.ellipse([end[0] - half, end[1] - half, end[0] + half, end[1] + half], fill=ink)
    blurred = canvas.filter(ImageFilter.GaussianBlur(max(0.6, 0.0012 * radius)))
    return np.asarray(blurred, dtype=np.float32) / np.float32(255)


def _arcade(rng: np.random.Generator, anatomy: Anatomy, up: float, offset: float) -> NDArray[np.float64]:
    """From the disc up (or down), around the macula, and out on the temporal side."""
    span = float(np.linalg.norm(anatomy.disc - anatomy.macula))
    t = anatomy.temporal
    jitter = rng.normal(0, 0.035, (5, 2)) * np.array([0.3, 0.6, 1, 1, 1])[:, None]
    control = np.array(
        [
            anatomy.disc + anatomy.disc_radius * np.array([-t * 0.15, 0.05 * up]),
            anatomy.disc + np.array([-t * 0.05 + 2 * offset * t, up * 0.30 * span]),
            anatomy.disc + np.array([t * 0.06 + 2 * offset * t, up * 0.75 * span]),
            anatomy.macula + np.array([t * -0.35 * span, up * 1.05 * span]),
            anatomy.macula + np.array([t * 0.75 * span, up * 0.95 * span]),
            anatomy.macula + np.array([t * 1.75 * span, up * 0.65 * span]),
        ]
    )
    control[1:] += jitter + offset
    return _wobble(rng, _bezier(control), 0.006)


def _nasal(rng: np.random.Generator, anatomy: Anatomy, up: float, offset: float) -> NDArray[np.float64]:
    t = anatomy.temporal
    reach = rng.uniform(0.55, 0.8)
    control = np.array(
        [
            anatomy.disc + anatomy.disc_radius * np.array([-t * 0.25, 0.05 * up]),
            anatomy.disc + np.array([-t * 0.10, up * (0.20 + offset)]),
            anatomy.disc + np.array([-t * 0.22, up * (0.45 + offset)]),
            anatomy.disc + np.array([-t * reach, up * (0.75 + offset)]),
        ]
    )
    control[1:] += rng.normal(0, 0.03, (3, 2))
    return _wobble(rng, _bezier(control), 0.006)


def _towards_macula(rng: np.random.Generator, anatomy: Anatomy, side: float) -> NDArray[np.float64]:
    along = anatomy.macula - anatomy.disc
    across = np.array([-along[1], along[0]])
    control = np.array(
        [
            anatomy.disc,
            anatomy.disc + 0.3 * along + 0.5 * side * across,
            anatomy.disc + 0.62 * along + 0.6 * side * across,
            anatomy.disc + 0.8 * along + 0.35 * side * across,
        ]
    )
    return _wobble(rng, _bezier(control), 0.005)


def _branching(
    rng: np.random.Generator,
    anatomy: Anatomy,
    path: NDArray[np.float64],
    caliber: float,
    artery: bool,
    generation: int,
) -> list[Vessel]:
    """A vessel that gives branches off on its way: caliber^3 is kept at each fork (Murray, PNAS 1926)."""
    width = np.empty(len(path))
    left = caliber
    vessels: list[Vessel] = []
    until_next = rng.uniform(8, 18)
    side = rng.choice([-1.0, 1.0])
    for n in range(len(path)):
        width[n] = left
        until_next -= 1
        far_from_disc = float(np.linalg.norm(path[n] - anatomy.disc)) > 1.5 * anatomy.disc_radius
        if until_next <= 0 and far_from_disc and left > 0.0032 and generation < 3 and n + 3 < len(path):
            share = rng.uniform(0.08, 0.4)
            small = left * share ** (1 / _MURRAY)
            left *= (1 - share) ** (1 / _MURRAY)
            heading = path[min(n + 2, len(path) - 1)] - path[max(0, n - 2)]
            branch = _wander(rng, anatomy, path[n], heading, side, small)
            if len(branch) > 8:
                vessels += _branching(rng, anatomy, branch, small, artery, generation + 1)
            side = -side if rng.random() < 0.75 else side
            until_next = rng.uniform(11, 26) * (1 + 0.35 * generation)
    taper = np.linspace(1.0, 0.55 if generation == 0 else 0.3, len(path))
    if generation == 0:  # a trunk comes up out of the depth of the cup
        taper[: len(taper) // 10] *= np.linspace(0.55, 1.0, len(taper) // 10)
    return [Vessel(path, width * taper, artery), *vessels]


def _wander(
    rng: np.random.Generator, anatomy: Anatomy, start: Point, heading: Point, side: float, caliber: float
) -> NDArray[np.float64]:
    """A side branch: leaves at an angle, bends back, winds, keeps out of the fovea and ends when it has become thin."""
    angle = np.arctan2(heading[1], heading[0]) + side * rng.uniform(0.6, 1.15)
    steps = int(rng.uniform(0.35, 0.85) * (caliber / 0.012) ** 0.5 / _STEP)
    bend = -side * rng.uniform(0.004, 0.02)
    winding = 0.0
    points = [start]
    for _ in range(max(10, steps)):
        winding = 0.93 * winding + rng.normal(0, 0.022)
        bend *= 0.99
        angle += bend + winding
        point = points[-1] + _STEP * np.array([np.cos(angle), np.sin(angle)])
        if np.linalg.norm(point - anatomy.macula) < 0.11 or np.linalg.norm(point) > 1.05:
            break
        if np.linalg.norm(point - anatomy.disc) < 1.15 * anatomy.disc_radius:
            break
        points.append(point)
    return np.array(points)


def _bezier(control: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Bezier curve of the control points, in steps of about _STEP."""
    length = float(np.linalg.norm(np.diff(control, axis=0), axis=1).sum())
    t = np.linspace(0, 1, max(8, int(0.9 * length / _STEP)))[:, None]
    points = [np.repeat(p[None], len(t), axis=0) for p in control]
    while len(points) > 1:
        points = [(1 - t) * a + t * b for a, b in pairwise(points)]
    return points[0]


def _wobble(rng: np.random.Generator, path: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    """A little tortuosity, none at the start."""
    n = len(path)
    kernel = np.hanning(15) / np.hanning(15).sum()
    noise = np.stack([np.convolve(rng.normal(0, 1, n + 14), kernel, mode="valid") for _ in range(2)], axis=1)
    return np.asarray(path + noise * size * 3 * np.linspace(0, 1, n)[:, None] ** 0.5)
