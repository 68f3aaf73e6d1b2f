"""A drawn fundus photograph with lesions at known places: disc, macula, vessel tree, uneven light, round field.

No picture of a patient went into it. It serves the demo, the golden cases and the tests; seeds below 1000 are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medpipe.samples import vessels
from medpipe.samples.retinal_lesions import CLASSES, Brush, DrawnLesion
from medpipe.samples.texture import distance, enlarge, smooth_noise, soft_step

__all__ = ["CLASSES", "DrawnLesion", "FundusSample", "draw_fundus"]

_RADIUS = 0.3996
"""Of the field of view, in parts of the picture's width (the circle is cut off at top and bottom)."""
_COARSE = 6
"""What is smooth is drawn at a sixth of the size."""


@dataclass(frozen=True, eq=False)
class FundusSample:
    """`picture` uint8 RGB (J, I, 3); `truth` bool (4, J, I) in the order MA, HE, EX, SE; `lesions` as drawn."""

    picture: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    lesions: tuple[DrawnLesion, ...]
    laterality: str


def draw_fundus(seed: int, width: int = 4288, height: int = 2848, lesions: bool = True) -> FundusSample:
    """Draws one eye. The same arguments give the same bytes; `lesions=False` gives a healthy one."""
    if width < 256 or height < 192:
        raise ValueError("a drawn fundus photograph has at least 256 x 192 pixels")
    rng = np.random.default_rng([seed, width, height, 20261])
    shape = (height, width)
    radius = _RADIUS * width
    centre = np.array([0.465 * width + rng.normal(0, 0.004 * width), height / 2])
    temporal = float(rng.choice([-1.0, 1.0]))
    anatomy = _anatomy(rng, temporal)
    picture = _retina(rng, shape, centre, radius, anatomy)
    _draw_disc(rng, picture, centre, radius, anatomy)
    _draw_vessels(rng, picture, centre, radius, anatomy)
    truth = np.zeros((len(CLASSES), height, width), dtype=np.bool_)
    brush = Brush(rng, picture, truth, radius)
    if lesions:
        _draw_lesions(rng, brush, centre, radius, anatomy, shape)
    inside = soft_step(distance(shape, (centre[1], centre[0])), radius, 0.0015 * radius)
    truth &= inside > 0.5
    # OD (right eye): the disc lies to the right of the macula as the picture is taken, temporal is to the left
    laterality = "R" if temporal < 0 else "L"
    return FundusSample(_exposed(rng, picture, inside), truth, tuple(brush.drawn), laterality)


def _anatomy(rng: np.random.Generator, temporal: float) -> vessels.Anatomy:
    disc = np.array([-temporal * rng.uniform(0.50, 0.66), rng.uniform(-0.10, 0.04)])
    macula = disc + np.array([temporal * rng.uniform(0.60, 0.68), rng.uniform(0.06, 0.12)])
    return vessels.Anatomy(disc, macula, rng.uniform(0.125, 0.15), temporal)


def _retina(
    rng: np.random.Generator,
    shape: tuple[int, int],
    centre: NDArray[np.float64],
    radius: float,
    anatomy: vessels.Anatomy,
) -> NDArray[np.float32]:
    """Pigment, choroid, uneven light and the macula's shade, float32 0..255 (J, I, 3)."""
    small = (max(48, shape[0] // _COARSE), max(48, shape[1] // _COARSE))
    scale = small[1] / shape[1]
    middle, reach = centre * scale, radius * scale
    light = 1 + 0.06 * smooth_noise(rng, small, 1.2 * reach) + 0.02 * smooth_noise(rng, small, 0.3 * reach)
    from_middle = distance(small, (middle[1], middle[0])) / reach
    light *= 1.05 - 0.22 * from_middle**2
    choroid = smooth_noise(rng, small, 0.05 * reach) * (0.4 + 0.6 * soft_step(1 - from_middle, 0.5, 0.15))
    choroid += 0.55 * smooth_noise(rng, small, 0.012 * reach)
    red = rng.uniform(172, 202)
    pigment = red * np.array([1.0, rng.uniform(0.49, 0.57), rng.uniform(0.08, 0.22)], dtype=np.float32)
    place = anatomy.macula * reach + middle
    from_macula = distance(small, (place[1], place[0])) / reach
    shade = np.exp(-((from_macula / 0.16) ** 2)) + 0.5 * np.exp(-((from_macula / 0.34) ** 2))
    reflex = np.exp(-((from_macula / 0.022) ** 2))
    planes = []
    for channel, (texture, dimming) in enumerate(((0.014, 0.13), (0.028, 0.22), (0.028, 0.15))):
        plane = pigment[channel] * light * (1 + texture * choroid) * (1 - dimming * shade)
        plane += (4, 9, 7)[channel] * reflex
        planes.append(enlarge(plane.astype(np.float32), shape))
    return np.stack(planes, axis=-1)


def _draw_vessels(
    rng: np.random.Generator,
    picture: NDArray[np.float32],
    centre: NDArray[np.float64],
    radius: float,
    anatomy: vessels.Anatomy,
) -> None:
    tree = vessels.grow(rng, anatomy)
    shape = (picture.shape[0], picture.shape[1])
    for artery, factors in ((False, (0.84, 0.62, 0.80)), (True, (0.93, 0.72, 0.85))):
        cover = vessels.draw(tree, shape, centre, radius, artery)
        for channel, factor in enumerate(factors):
            picture[..., channel] *= 1 - (1 - np.float32(factor)) * cover


def _draw_disc(
    rng: np.random.Generator,
    picture: NDArray[np.float32],
    centre: NDArray[np.float64],
    radius: float,
    anatomy: vessels.Anatomy,
) -> None:
    """The optic disc beneath the vessels: a bright, slightly oval plate with a paler cup."""
    place = anatomy.disc * radius + centre
    reach = anatomy.disc_radius * radius
    half = int(2.2 * reach)
    rows = slice(max(0, int(place[1]) - half), min(picture.shape[0], int(place[1]) + half))
    columns = slice(max(0, int(place[0]) - half), min(picture.shape[1], int(place[0]) + half))
    y = (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(place[1])) / np.float32(
        1.08
    )
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - np.float32(place[0])
    far = np.sqrt(x * x + y * y) / np.float32(reach)
    far = far + np.float32(0.03) * smooth_noise(rng, (far.shape[0], far.shape[1]), 0.8 * reach)
    plate = soft_step(far, 1.0, 0.05)
    cup = soft_step(np.sqrt((x - 0.12 * reach) ** 2 + y * y) / np.float32(reach), 0.45, 0.12)
    colours = np.array([[238, 152, 82], [252, 208, 128]], dtype=np.float32) * np.float32(
        rng.uniform(0.94, 1.02)
    )
    window = picture[rows, columns]
    disc = colours[0] * (1 - cup[..., None]) + colours[1] * cup[..., None]
    mixed = window * (1 - plate[..., None]) + plate[..., None] * disc
    halo = np.exp(-(((far - 1.0) / 0.35) ** 2)) * 0.07
    picture[rows, columns] = mixed * (1 + halo[..., None])


def _draw_lesions(
    rng: np.random.Generator,
    brush: Brush,
    centre: NDArray[np.float64],
    radius: float,
    anatomy: vessels.Anatomy,
    shape: tuple[int, int],
) -> None:
    def place(near: NDArray[np.float64] | None = None, spread: float = 0.0) -> tuple[float, float]:
        """A place (y, x) in the field, away from the disc."""
        for _ in range(200):
            point = rng.uniform(-0.9, 0.9, 2) if near is None else near + rng.normal(0, spread, 2)
            y, x = point[1] * radius + centre[1], point[0] * radius + centre[0]
            clear = np.linalg.norm(point - anatomy.disc) > 1.5 * anatomy.disc_radius
            if clear and np.linalg.norm(point) < 0.9 and 0.05 * shape[0] < y < 0.95 * shape[0]:
                return float(y), float(x)
        return float(centre[1]), float(centre[0])

    def along_fibres(where: tuple[float, float]) -> float:
        """Nerve fibres run from the disc: the angle of flames and cotton wool."""
        away = np.array([where[1], where[0]]) - (anatomy.disc * radius + centre)
        return float(np.arctan2(away[1], away[0]))

    for _ in range(int(rng.integers(3, 7))):
        brush.exudates(place(anatomy.macula, 0.28), ring=bool(rng.random() < 0.5))
    for _ in range(int(rng.integers(2, 5))):
        where = place(anatomy.disc + (anatomy.macula - anatomy.disc) * 0.5, 0.38)
        brush.cotton_wool(where, along_fibres(where) + np.pi / 2)
    for _ in range(int(rng.integers(6, 14))):
        brush.blot(place())
    for _ in range(int(rng.integers(2, 6))):
        where = place(anatomy.disc, 0.45)
        brush.flame(where, along_fibres(where))
    for _ in range(int(rng.integers(25, 60))):
        brush.microaneurysm(place(anatomy.macula, 0.42))


def _exposed(
    rng: np.random.Generator, picture: NDArray[np.float32], inside: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Through the camera: a little blur is in the drawing, noise and the black surround come here."""
    shape = (picture.shape[0], picture.shape[1])
    grain = rng.standard_normal((shape[0] // 2 + 1, shape[1] // 2 + 1), dtype=np.float32)
    grain = enlarge(grain, (shape[0] + 2, shape[1] + 2))[: shape[0], : shape[1]]
    out = np.empty((*shape, 3), dtype=np.uint8)
    for channel, size in enumerate((1.6, 1.4, 1.8)):
        plane = (picture[..., channel] + size * grain) * inside + 2.0 * (1 - inside)
        out[..., channel] = np.clip(plane + 0.5, 0, 255)
    return out
