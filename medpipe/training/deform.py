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
    turn = _rotation(rng, np.deg2rad(spec.rotation), len(axes)) * zoom
    places = _turned(turn, [size[axis] for axis in axes])
    if spec.elastic:
        places = places + _bend(rng, spec.elastic, [size[axis] for axis in axes])
    around = centre[axes].reshape(-1, *(1,) * len(axes)).astype(np.float32)
    wanted = torch.from_numpy(places + around)
    return _sampled(case, wanted[:, None] if flat else wanted, axes, min(int(centre[0]), case.shape[0] - 1))


def _turned(turn: NDArray[np.float64], sizes: list[int]) -> NDArray[np.float32]:
    """(dims, *sizes): where the voxels of a patch come to lie around its middle."""
    dims = len(sizes)
    along = [
        (np.arange(n, dtype=np.float32) - (n - 1) / 2).reshape([n if a == axis else 1 for a in range(dims)])
        for axis, n in enumerate(sizes)
    ]
    rows = turn.astype(np.float32)
    return np.stack([sum((row[a] * along[a] for a in range(1, dims)), row[0] * along[0]) for row in rows])


def _bend(rng: Generator, strength: float, sizes: list[int]) -> NDArray[np.float32]:
    """(dims, *sizes): smooth displacements.

    No matrix product of torch or NumPy: in a forked process (cut_ahead) MKL may wait for its memory for ever, and
    OpenBLAS would keep a pool of threads for each process.
    """
    bend = rng.normal(0, strength, (len(sizes), *(_KNOTS,) * len(sizes))).astype(np.float32)
    for size in sizes:
        bend = np.einsum("a...k,ki->a...i", np.moveaxis(bend, 1, -1), _curve(size))
    return bend


@lru_cache(maxsize=32)
def _curve(size: int) -> NDArray[np.float32]:
    """(knots, size): a smooth curve through knots spread over `size` pixels, as weights of the knots."""
    knots = torch.eye(_KNOTS)[None, None]
    curve = functional.interpolate(knots, size=(_KNOTS, size), mode="bicubic", align_corners=True)
    return np.asarray(curve[0, 0])


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
