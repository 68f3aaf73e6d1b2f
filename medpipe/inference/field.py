"""The field of view of a fundus photograph: the lit, round region on a dark ground, found on a reduced picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.errors import ReasonCode, Refused
from medpipe.inference.rim import circle_at_the_rim

REDUCED_SIDE = 512
"""Longer side, in pixels, of the picture on which the field is looked for."""
DARKEST = 8.0
"""Grey value (0..255) below which nothing counts as lit: JPEG noise on the black ground stays under it."""
RELATIVE = 0.15
"""Part of the bright level (90th percentile), counted from a ground that is not black, from which on a pixel is lit."""
CORNER = 1 / 32
"""Side of the squares in the corners by which the ground is judged, as a part of the picture's."""
WHITE = 200.0
"""Least value of every channel of a white ground (paper, a report's page): no fundus is as bright in its corners."""
RIM = 3
"""Pixels of the reduced picture on either side of the field's rim between which light falls to the ground."""
FALL = 0.4
"""Light left beyond the rim of an aperture, as a part of that within; where it fades slowly it is nearly all."""
SMALLEST_PART = 0.15
SMALLEST_CIRCLE = 0.1
"""The same of a whole circle, as cameras leave in the middle of a wide frame."""
WHOLE = (0.95, 1.05)
ROUNDNESS = (0.8, 1.3)
"""Allowed ratio of the region's area to a circle's of its longer side, cut off like the region (a full frame: 1.27)."""
HIGHER = (0.25, 0.4, 0.55)
"""Parts of the bright level at which the rim is looked for as well."""
LIT_DISC = 0.97
"""Part of the disc within the rim that is lit, at least."""
SAME = 0.98
"""Overlap and ratio of sides from which on the disc and the lit region are the same field."""
OTHER_SIZE = 0.4
OTHER_LIGHT = 0.4
"""Part of the field's size and of its bright level from which on a red region beside it is another field."""
REDNESS = 1.05
"""Ratio of red to blue within the field that is to be exceeded: what lies behind a pupil is red."""
GREENLESS = 0.8
"""Least ratio of red to green: less is a picture without red, through a green filter."""
GREENNESS = 0.05
"""Least ratio of green to red: less is a single channel."""


@dataclass(frozen=True, eq=False)
class Field:
    """`box` (j0, i0, j1, i1) half-open in source pixels; `mask` is the region within the box on the reduced picture.

    `light` is the bright level (90th percentile of the brightest channel) within the region, of 0..255.
    """

    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]
    light: float = 255.0


def find_field(rgb: NDArray[np.uint8]) -> Field:
    """Finds the field of view of an RGB picture (3, J, I).

    Raises Refused(FOV_NOT_FOR_BUNDLE) where there is none (too dark, without colour, no round region, on white) or two.
    """
    reduced = _reduced(rgb)
    grey = reduced.max(axis=0)
    if _ground(reduced.min(axis=0)) > WHITE:
        raise Refused(
            ReasonCode.FOV_NOT_FOR_BUNDLE,
            "the picture's ground is white: its field is looked for on a dark one",
        )
    lit = _disc_of(_lit_region(grey), grey)
    _check_alone(lit, reduced)
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    j0, j1, i0, i1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    _check_round(lit[j0:j1, i0:i1], lit.size)
    _check_red(reduced, lit)
    step_j, step_i = rgb.shape[1] / lit.shape[0], rgb.shape[2] / lit.shape[1]
    box = (
        math.floor(j0 * step_j),
        math.floor(i0 * step_i),
        min(rgb.shape[1], math.ceil(j1 * step_j)),
        min(rgb.shape[2], math.ceil(i1 * step_i)),
    )
    return Field(box, lit[j0:j1, i0:i1], float(np.percentile(grey[lit], 90)))


def _reduced(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Samples at the centres of a coarse grid over the whole picture, smoothed: (3, j, i) float32 of 0..255."""
    sizes = [max(1, round(n * min(1.0, REDUCED_SIDE / max(rgb.shape[1:])))) for n in rgb.shape[1:]]
    rows, columns = (
        ((np.arange(m) + 0.5) * n / m).astype(int) for m, n in zip(sizes, rgb.shape[1:], strict=True)
    )
    sampled = rgb[:, rows[:, None], columns].astype(np.float32)
    return ndimage.uniform_filter(sampled, size=(1, 3, 3), mode="nearest")


def _lit_region(grey: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The largest lit component, each row and column filled between its ends (dark lesions, vessels, shadows)."""
    bright = float(np.percentile(grey, 90))
    if bright < 2 * DARKEST:
        raise Refused(
            ReasonCode.FOV_NOT_FOR_BUNDLE, "the picture is almost black: no field of view to be seen"
        )
    level = max(DARKEST, RELATIVE * bright)
    ground = _ground(grey)
    if level < 1.25 * ground + DARKEST / 2 < bright:  # the ground would count as lit, or almost
        apart = _region(grey > ground + max(DARKEST / 2, RELATIVE * (bright - ground)))
        within, beyond = _beside_the_rim(apart, grey)
        if within - ground > RELATIVE * bright and beyond - ground < FALL * (within - ground):
            return apart  # light falls to the ground at once, as at an aperture, instead of fading towards the corners
    return _region(grey > level)


def _disc_of(lit: NDArray[np.bool_], grey: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The disc within the sharp rim that is lit throughout, where the lit region is clearly another; else the region.

    A label's box that touches the field, or light scattered around it, is lit as well.
    """
    for region in (lit, *_brighter(grey)):
        circle = circle_at_the_rim(region, grey)
        if circle is None:
            continue
        disc = circle.disc(lit.shape)
        both = (disc & lit).sum()
        # a part of it is dark, the region is no circle, or it lies beside the picture
        if both <= LIT_DISC * disc.sum():
            continue
        same = both > SAME * (disc | lit).sum() and SAME < _longer_side(lit) / _longer_side(disc) < 1 / SAME
        return lit if same else disc
    return lit


def _brighter(grey: NDArray[np.float32]) -> Iterator[NDArray[np.bool_]]:
    """Regions above higher levels, which lie within the lit one."""
    bright = float(np.percentile(grey, 90))
    for part in HIGHER:
        yield _opened(_largest(grey > part * bright))


def _longer_side(region: NDArray[np.bool_]) -> int:
    return max(int(np.ptp(np.flatnonzero(region.any(axis=other)))) + 1 for other in (0, 1))


def _ground(grey: NDArray[np.float32]) -> float:
    """Grey value of the second darkest corner: labels may lie in two (of the fundus, where that fills the picture)."""
    height, width = (max(3, round(n * CORNER)) for n in grey.shape)
    corners = [
        grey[rows, columns]
        for rows in (slice(height), slice(-height, None))
        for columns in (slice(width), slice(-width, None))
    ]
    return float(np.sort([np.median(corner) for corner in corners])[1])


def _beside_the_rim(region: NDArray[np.bool_], grey: NDArray[np.float32]) -> tuple[float, float]:
    """Middle grey values a little within and a little beyond a region's rim, the picture's border being none."""
    near, far = (ndimage.binary_erosion(region, iterations=n * RIM, border_value=1) for n in (1, 2))
    next_to, around = (ndimage.binary_dilation(region, iterations=n * RIM) for n in (1, 2))
    within, beyond = grey[near & ~far], grey[around & ~next_to]
    if not within.size or not beyond.size:
        return 0.0, 0.0
    return float(np.median(within)), float(np.median(beyond))


def _region(lit: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest component, filled; nothing where nothing is lit."""
    region = _opened(_largest(lit))
    return _spans(region, 0) | _spans(region, 1)


def _opened(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without the thin bridge to a patient label or a light spot beside the field."""
    opened = ndimage.binary_opening(np.pad(region, 3, mode="edge"), iterations=3)[3:-3, 3:-3]
    return _largest(opened) if opened.any() else region


def _largest(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = ndimage.label(region)
    if count <= 1:
        return region
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))


def _spans(region: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    before = np.maximum.accumulate(region, axis=axis)
    after = np.flip(np.maximum.accumulate(np.flip(region, axis), axis=axis), axis)
    return np.asarray(before & after)


def _check_round(region: NDArray[np.bool_], picture: int) -> None:
    height, width = region.shape
    radius, half = max(region.shape) / 2, min(region.shape) / 2
    cut = 2 * (half * math.sqrt(radius**2 - half**2) + radius**2 * math.asin(half / radius))
    ratio = float(region.sum()) / cut
    whole = min(height, width) > 0.95 * max(height, width) and WHOLE[0] <= ratio <= WHOLE[1]
    if (
        region.sum() < (SMALLEST_CIRCLE if whole else SMALLEST_PART) * picture
        or not ROUNDNESS[0] <= ratio <= ROUNDNESS[1]
        or half < radius / 2
    ):
        raise Refused(
            ReasonCode.FOV_NOT_FOR_BUNDLE,
            f"no round field of view: the lit region has {100 * region.sum() / picture:.0f} % of the picture, "
            f"sides {width}:{height} and {100 * ratio:.0f} % of a circle's area",
        )


def _check_alone(lit: NDArray[np.bool_], reduced: NDArray[np.float32]) -> None:
    """Refuses a stereo pair: of two fields on one picture one would be passed over."""
    grey = reduced.max(axis=0)
    bright = float(np.percentile(grey[lit], 90))
    beside = (grey > OTHER_LIGHT * bright) & ~ndimage.binary_dilation(lit, iterations=RIM)
    if not beside.any():
        return
    other = _largest(beside)
    red, _, blue = (float(channel[other].mean()) for channel in reduced)
    if other.sum() > OTHER_SIZE * lit.sum() and red > REDNESS * blue:
        raise Refused(
            ReasonCode.FOV_NOT_FOR_BUNDLE,
            "two fields of view on one picture (a stereo pair?): send each as a picture of its own",
        )


def _check_red(reduced: NDArray[np.float32], lit: NDArray[np.bool_]) -> None:
    red, green, blue = (float(channel[lit].mean()) for channel in reduced)
    if red <= REDNESS * blue or red < GREENLESS * green or green < GREENNESS * red:
        raise Refused(
            ReasonCode.FOV_NOT_FOR_BUNDLE,
            "the picture has not the colours of a fundus photograph (red does not outweigh the rest, or is alone)",
        )


def is_inside(field: Field, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The field's region sampled at the pixel centres of a grid of `shape` (J, I) laid over its box."""
    index: list[NDArray[Any]] = []
    for n, m in zip(shape, field.mask.shape, strict=True):
        index.append(np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1))
    return np.asarray(field.mask[np.ix_(*index)])
