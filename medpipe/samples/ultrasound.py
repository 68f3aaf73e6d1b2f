"""A drawn breast ultrasound picture: skin, fat, gland, muscle, speckle, and dark masses with known outlines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.samples.texture import enlarge, smooth_noise, soft_step

DEPTH_CM = 4.0
"""What the picture shows from skin to bottom."""


@dataclass(frozen=True)
class DrawnMass:
    """One mass: centre (y, x) and mean radius in pixels, smooth (benign-looking) or spiculated outline."""

    centre: tuple[float, float]
    radius: float
    spiculated: bool


@dataclass(frozen=True, eq=False)
class UltrasoundSample:
    """`picture` uint8 grey (J, I); `truth` bool (J, I); `masses` as drawn; `spacing` in mm per pixel, both ways."""

    picture: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    masses: tuple[DrawnMass, ...]
    spacing: float


def draw_ultrasound(seed: int, width: int = 800, height: int = 600, masses: int = 1) -> UltrasoundSample:
    """Draws one frame of a linear probe with `masses` (0..3). The same arguments give the same bytes."""
    if width < 128 or height < 128:
        raise ValueError("a drawn ultrasound picture has at least 128 x 128 pixels")
    if not 0 <= masses <= 3:
        raise ValueError("a drawn ultrasound picture has 0 to 3 masses")
    rng = np.random.default_rng([seed, width, height, 20262])
    shape = (height, width)
    echo = _layers(rng, shape)
    truth = np.zeros(shape, dtype=np.bool_)
    drawn = []
    for n in range(masses):
        radius = rng.uniform(0.075, 0.13) * height / (1 + 0.25 * (masses - 1))
        centre = (rng.uniform(0.36, 0.56) * height, (n + rng.uniform(0.38, 0.62)) * width / masses)
        spiculated = bool(rng.random() < 0.5)
        truth |= _mass(rng, echo, centre, radius, spiculated)
        drawn.append(DrawnMass((float(centre[0]), float(centre[1])), float(radius), spiculated))
    return UltrasoundSample(_scanned(rng, echo), truth, tuple(drawn), 10 * DEPTH_CM / height)


def _layers(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Echo strength 0..1 of skin, fat lobules, gland, muscle and the chest wall, with wavy borders (J, I)."""
    height, width = shape
    wave = smooth_noise(rng, (8, width), width / 3)[3]
    depth = np.arange(height, dtype=np.float32)[:, None] / height + 0.018 * wave[None, :]
    lobules = smooth_noise(rng, (height, max(8, width // 2)), height / 9)
    lobules = enlarge(lobules, shape)
    fibres = enlarge(smooth_noise(rng, (height, max(8, width // 6)), height / 40), shape)
    skin = soft_step(depth, 0.045, 0.006)
    gland = soft_step(-depth, -0.24, 0.02) * soft_step(depth, 0.68, 0.015)
    wall = soft_step(-depth, -0.68, 0.015)
    fat = 0.30 + 0.07 * lobules + 0.05 * np.clip(fibres, 0, None)
    echo = fat * (1 - gland) + gland * (0.50 + 0.05 * lobules + 0.07 * fibres)
    echo = echo * (1 - wall) + wall * (0.30 + 0.12 * fibres)
    fascia = np.exp(-(((depth - 0.685) / 0.008) ** 2))
    return np.asarray(np.clip(echo * (1 - skin) + 0.72 * skin + 0.3 * fascia, 0.02, 1), dtype=np.float32)


def _mass(
    rng: np.random.Generator,
    echo: NDArray[np.float32],
    centre: tuple[float, float],
    radius: float,
    spiculated: bool,
) -> NDArray[np.bool_]:
    """Draws a hypoechoic mass, its bright rim and what lies behind it: a shadow, or enhancement of a smooth one."""
    y = np.arange(echo.shape[0], dtype=np.float32)[:, None] - np.float32(centre[0])
    x = np.arange(echo.shape[1], dtype=np.float32)[None, :] - np.float32(centre[1])
    angle = np.arctan2(y, x)
    level = np.hypot(x / np.float32(1.25), y / np.float32(0.85)) / np.float32(radius)
    outline = np.ones_like(level)
    for order, size in ((2, 0.05), (3, 0.05), (5, 0.03)) + (((9, 0.09), (14, 0.06)) if spiculated else ()):
        outline += np.float32(size * rng.uniform(0.6, 1.2)) * np.sin(order * angle + rng.uniform(0, 6.28))
    level /= outline
    inside = soft_step(level, 1.0, 0.05 if spiculated else 0.025)
    behind = soft_step(np.abs(x), 1.05 * radius, 0.15 * radius) * soft_step(-y, -0.6 * radius, 0.2 * radius)
    echo *= 1 + behind * (1 - inside) * np.float32(-0.45 if spiculated else 0.3)
    inner = 0.08 + 0.025 * smooth_noise(rng, (echo.shape[0], echo.shape[1]), radius / 3)
    echo *= 1 - inside
    echo += inside * np.clip(inner, 0.02, 0.2)
    echo += 0.12 * np.exp(-(((level - 1.06) / 0.05) ** 2))
    return np.asarray(level <= 1.0)


def _scanned(rng: np.random.Generator, echo: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Speckle of a focused beam (fully developed: Rayleigh, wider than deep), depth gain and log compression."""
    cell = echo.shape[0] / 600
    parts = [
        ndimage.gaussian_filter(rng.standard_normal(echo.shape, dtype=np.float32), (0.9 * cell, 1.7 * cell))
        for _ in range(2)
    ]
    speckle = np.hypot(parts[0], parts[1])
    speckle /= speckle.mean()
    gain = np.linspace(1.05, 0.75, echo.shape[0], dtype=np.float32)[:, None]
    amplitude = echo * gain * (0.45 + 0.55 * speckle)
    grey = 255 * np.log1p(6 * amplitude) / np.log(7 * 1.3)
    return np.asarray(np.clip(grey - 12, 0, 255), dtype=np.uint8)
