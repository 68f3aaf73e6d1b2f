"""Smooth random fields and soft discs, the raw material of drawn pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy import ndimage

Plane = NDArray[np.float32]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Plane:
    """A random field of about unit spread whose features are `scale` pixels wide, float32 (J, I)."""
    rows = max(4, int(np.ceil(shape[0] / scale * 2)) + 4)
    columns = max(4, int(np.ceil(shape[1] / scale * 2)) + 4)
    coarse = ndimage.gaussian_filter(rng.standard_normal((rows, columns)).astype(np.float32), 1.0)
    coarse /= max(float(coarse.std()), 1e-6)
    return enlarge(coarse, shape)


def enlarge(plane: Plane, shape: tuple[int, int]) -> Plane:
    """Bicubic resampling of a float32 plane to (J, I)."""
    picture = PillowImage.fromarray(plane, mode=None)
    return np.asarray(picture.resize((shape[1], shape[0]), PillowImage.Resampling.BICUBIC), dtype=np.float32)


def distance(shape: tuple[int, int], centre: tuple[float, float]) -> Plane:
    """Distance in pixels of every pixel of (J, I) from a centre (y, x)."""
    y = np.arange(shape[0], dtype=np.float32)[:, None] - np.float32(centre[0])
    x = np.arange(shape[1], dtype=np.float32)[None, :] - np.float32(centre[1])
    return np.asarray(np.sqrt(y * y + x * x), dtype=np.float32)


def soft_step(value: Plane, edge: float, softness: float) -> Plane:
    """1 well below `edge`, 0 well above, with a transition about `softness` wide."""
    return np.asarray(
        1.0 / (1.0 + np.exp(np.clip((value - edge) / max(softness, 1e-6), -30, 30))), dtype=np.float32
    )
