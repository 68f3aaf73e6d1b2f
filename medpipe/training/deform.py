"""A patch resampled once through rotation, zoom and an elastic deformation, image and truth alike."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medpipe.training.cases import TrainingCase, unit_values
from medpipe.training.experiment import Patches

_KNOTS = 5
"""Knots of the elastic deformation along each axis of a patch (Ronneberger 2015 uses 3; finer follows lesions)."""


def is_rigid(spec: Patches) -> bool:
    """Whether patches are only cut, zoomed, flipped and turned by quarters."""
    return spec.rotation == 0 and spec.elastic == 0


def deformed(
    case: TrainingCase,
    centre: NDArray[np.float64],
    zoom: float,
    size: tuple[int, int, int],
    rng: Generator,
    spec: Patches,
) -> Tensor:
    """float32 (channels + classes + 1, *size) around `centre` (k, j, i): image, masks, field; 0 beyond the case.

    `spec.rotation` is the largest angle in degrees, `spec.elastic` the displacement's standard deviation in voxels.
    A picture, or one slice of a volume (size[0] = 1), is turned and bent within its plane, the centre's.
    """
    flat = size[0] == 1
    axes = [1, 2] if flat else [0, 1, 2]
    around = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size]
    grid = torch.stack(torch.meshgrid(*around, indexing="ij"))[axes]
    turn = torch.from_numpy(_rotation(rng, np.deg2rad(spec.rotation), len(axes)) * zoom).float()
    places = torch.einsum("ab,b...->a...", turn, grid)
    if spec.elastic:
        bend = torch.from_numpy(rng.normal(0, spec.elastic, (len(axes), *(_KNOTS,) * len(axes)))).float()
        for axis in axes:
            bend = torch.tensordot(bend, _curve(size[axis]), dims=([1], [1]))
        bend = bend[:, None] if flat else bend
        places = places + bend
    places = places + torch.from_numpy(centre[axes]).float().view(-1, *(1,) * 3)
    return _sampled(case, places, axes, min(int(centre[0]), case.shape[0] - 1))


@lru_cache(maxsize=32)
def _curve(size: int) -> Tensor:
    """(size, knots): a smooth curve through knots spread over `size` pixels, as weights of the knots."""
    return functional.interpolate(
        torch.eye(_KNOTS)[None, None], size=(size, _KNOTS), mode="bicubic", align_corners=True
    )[0, 0]


def _rotation(rng: Generator, largest: float, dims: int) -> NDArray[np.float64]:
    angles = rng.uniform(-largest, largest, size=1 if dims == 2 else 3)
    if dims == 2:
        c, s = np.cos(angles[0]), np.sin(angles[0])
        return np.array([[c, -s], [s, c]])
    whole = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (n for n in range(3) if n != axis)
        single = np.eye(3)
        single[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        whole = whole @ single
    return whole


def _sampled(case: TrainingCase, places: Tensor, axes: list[int], plane: int) -> Tensor:
    """Values at `places` (dims, *size), from the smallest box that holds them; of two axes, on slice `plane`."""
    low, high = [plane, 0, 0], [plane + 1, 1, 1]
    for axis, coordinates in zip(axes, places, strict=True):
        low[axis] = int(np.clip(torch.floor(coordinates.min()).item() - 1, 0, case.shape[axis] - 1))
        high[axis] = int(np.clip(torch.ceil(coordinates.max()).item() + 2, low[axis] + 1, case.shape[axis]))
    box = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
    parts = [case.image[box], case.masks[box], np.asarray(case.inside[None][box], np.uint8) * 255]
    values = torch.cat([unit_values(part) for part in parts])
    # grid_sample: (x, y[, z]) in -1..1 over the borders of the box (align_corners = False)
    extent = torch.tensor([high[a] - low[a] for a in axes]).float().view(-1, 1, 1, 1)
    origin = torch.tensor([low[a] for a in axes]).float().view(-1, 1, 1, 1)
    normal = (2 * (places - origin) + 1) / extent - 1
    grid = normal.flip(0).movedim(0, -1)
    if len(axes) == 2:
        sampled = functional.grid_sample(values[None, :, 0], grid, mode="bilinear", align_corners=False)
        return sampled[0][:, None]
    return functional.grid_sample(values[None], grid[None], mode="bilinear", align_corners=False)[0]
