"""A picture for the eye with its mask drawn on it: thin contours, so that what lies beneath stays visible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.types import Image

Colour = tuple[int, int, int]

_D50 = (0.96422, 1.0, 0.82521)
_D50_TO_LINEAR_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
"""Bradford-adapted (B. Lindbloom, brucelindbloom.com, "RGB/XYZ Matrices")."""


def srgb(cielab: tuple[float, float, float]) -> Colour:
    """CIELab under D50, as DICOM's Recommended Display CIELab Value has it (PS3.3 C.10.7.1.1), as 8-bit sRGB."""
    lightness, a, b = cielab
    fy = (lightness + 16) / 116
    values = []
    for white, f in zip(_D50, (fy + a / 500, fy, fy - b / 200), strict=True):
        values.append(white * (f**3 if f > 6 / 29 else 3 * (6 / 29) ** 2 * (f - 4 / 29)))
    linear = np.clip(_D50_TO_LINEAR_SRGB @ np.array(values), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(x) * 255) for x in encoded)
    return red, green, blue


def grey_window(image: Image, bundle: Bundle) -> tuple[float, float]:
    """Values shown as black and white: the bundle's window where it has one, else percentiles 0.5 and 99.5."""
    normalise = bundle.input.normalise
    if normalise.kind == "window":
        return normalise.low, normalise.high
    step = tuple(slice(None, None, max(1, size // 128)) for size in image.array.shape)
    sample = image.array[step]
    if image.padding is not None:
        kept = sample[0][~image.padding[step[1:]]]
        sample = kept if kept.size else sample
    low, high = (float(x) for x in np.percentile(sample, (0.5, 99.5)))
    return (low, high) if high > low else (low, low + 1)


def shown(image: Image, k: int, window: tuple[float, float]) -> NDArray[np.uint8]:
    """Slice k as (J, I, 3) uint8: colours as they are, grey through the window, MONOCHROME1 inverted."""
    plane = image.array[:, k]
    if plane.shape[0] == 3 and plane.dtype == np.uint8:
        return np.ascontiguousarray(np.moveaxis(np.asarray(plane), 0, -1))
    low, high = window
    grey = np.clip((np.asarray(plane[0], dtype=np.float32) - low) / (high - low), 0, 1)
    if image.photometric == "MONOCHROME1":
        grey = 1 - grey
    return np.repeat((grey * 255 + 0.5).astype(np.uint8)[..., None], 3, axis=-1)


def resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(J, I, 3) at (height, width): averaged when smaller, smooth when larger."""
    from PIL import Image as Picture

    height, width = size
    smaller = height * width < picture.shape[0] * picture.shape[1]
    method = Picture.Resampling.BOX if smaller else Picture.Resampling.BICUBIC
    return np.asarray(Picture.fromarray(picture).resize((width, height), method))


def resized_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(J, I) at (height, width): a pixel is set if anything of it is, so that the smallest lesion stays visible."""
    rows, columns = np.nonzero(mask)
    result = np.zeros(size, dtype=np.bool_)
    if rows.size == 0:
        return result
    scale_j, scale_i = size[0] / mask.shape[0], size[1] / mask.shape[1]
    if scale_j <= 1 and scale_i <= 1:
        result[(rows * scale_j).astype(np.intp), (columns * scale_i).astype(np.intp)] = True
        return result
    j = np.minimum(((np.arange(size[0]) + 0.5) / scale_j).astype(np.intp), mask.shape[0] - 1)
    i = np.minimum(((np.arange(size[1]) + 0.5) / scale_i).astype(np.intp), mask.shape[1] - 1)
    return np.ascontiguousarray(mask[np.ix_(j, i)])


def outlined(
    picture: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], colours: Sequence[Colour], width: int = 2
) -> NDArray[np.uint8]:
    """Contours of the masks, all at the picture's own size: `width` pixels around each, on a dark hairline."""
    result = picture.copy()
    for mask, colour in zip(masks, colours, strict=True):
        if not mask.any():
            continue
        ring = _grown(mask, width) & ~mask
        hairline = _grown(mask, width + 1) & ~ring & ~mask
        result[hairline] = result[hairline] // 3
        result[ring] = colour
    return result


def _grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    from scipy import ndimage  # loaded when something is drawn, not when the command line starts

    grown: Any = ndimage.binary_dilation(mask, structure=np.ones((3, 3), bool), iterations=pixels)
    return np.asarray(grown, dtype=np.bool_)
