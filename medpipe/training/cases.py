"""Training cases: images and their truth on the working grid, exactly as inference prepares them, kept as files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from medpipe.bundle import InputSpec, MeanStd, ZScore
from medpipe.errors import ConfigError
from medpipe.inference.grey import without_colour
from medpipe.inference.preprocess import to_working_grid
from medpipe.inference.resample import resample
from medpipe.training.sources import Source
from medpipe.types import Image

PRESENT = 128
"""A working voxel belongs to a class from this share (of 255) of its area on."""
_FORMAT = 2
"""Part of every cache key: raised when what is cached is made in another way."""

Reduced = tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """One image on the working grid (k, j, i); a picture has k = 1.

    `image` (channels, k, j, i): uint8, values of 0..1 times 255, or float16 in standard deviations where the input is
    z-scored. `masks` uint8 (classes, k, j, i), the class's share of the voxel times 255. `inside` bool (k, j, i), the
    field of view. `places[c]` int (n, 3), the (k, j, i) of class c's voxels.
    """

    name: str
    image: NDArray[Any]
    masks: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    places: tuple[NDArray[np.int64], ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        k, j, i = self.inside.shape
        return k, j, i


def load_cases(
    source: Source, names: Iterable[str], spec: InputSpec, *, classes: int, cache: Path
) -> list[TrainingCase]:
    """The named cases on the working grid, from the cache folder where they are there already."""
    cases = []
    for name in names:

        def make(name: str = name) -> Reduced:
            image, truth = source.image(name), source.truth(name, classes)
            if truth.shape[1:] != image.grid.shape:
                raise ConfigError(
                    f"{name}: picture {image.grid.shape[1:]} and mask {truth.shape[2:]} differ in size"
                    if not image.is_volume
                    else f"{name}: volume {image.grid.shape} and label {truth.shape[1:]} differ in size"
                )
            return reduce(image, truth, spec)

        cases.append(cached(cache, name, cache_key(name, classes, spec, source.stamp(name)), make))
    return cases


def reduce(image: Image, truth: NDArray[np.bool_], spec: InputSpec) -> Reduced:
    """(channels, K, J, I) and truth (classes, K, J, I) -> image, masks, inside of a TrainingCase.

    Raises Refused where a field of view is looked for and there is none.
    """
    prepared = to_working_grid(without_colour(image, spec), spec)
    way = prepared.way_back
    shares = np.stack([_share(way.view(mask), way.working) for mask in truth])
    inside = np.ones(way.working, np.bool_) if prepared.inside is None else prepared.inside
    if isinstance(spec.normalise, ZScore):
        return prepared.array.astype(np.float16), shares, inside
    mean, std = normalisation(spec)
    unit = prepared.array * std + mean
    return np.clip(np.rint(unit * 255), 0, 255).astype(np.uint8), shares, inside


def normalisation(spec: InputSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation (channels, 1, 1, 1) that a value in 0..1 is normalised with; 0 and 1 else."""
    given = spec.normalise
    mean = given.mean if isinstance(given, MeanStd) else (0.0,) * spec.channels
    std = given.std if isinstance(given, MeanStd) else (1.0,) * spec.channels
    shape = (-1, 1, 1, 1)
    return np.asarray(mean, np.float32).reshape(shape), np.asarray(std, np.float32).reshape(shape)


def unit_values(part: NDArray[np.generic]) -> Tensor:
    """uint8 as 0..1, anything else as it is, in float32."""
    values = torch.from_numpy(np.array(part))  # a copy: the file mapped into memory is read-only
    return values.float() / 255 if values.dtype == torch.uint8 else values.float()


def cache_key(*facts: object) -> str:
    """A short digest of what a cached case was made from."""
    return hashlib.sha256(repr((_FORMAT, *facts)).encode()).hexdigest()[:16]


def cached(cache: Path, name: str, key: str, make: Callable[[], Reduced]) -> TrainingCase:
    """A reduced case from the cache, or made and kept there; mapped into memory, not read."""
    files = [cache / f"{name}-{key}.{part}.npy" for part in ("image", "masks", "inside")]
    if not all(path.is_file() for path in files):
        cache.mkdir(parents=True, exist_ok=True)
        for path, array in zip(files, make(), strict=True):
            half = path.with_suffix(".half.npy")
            np.save(half, array)
            half.replace(path)
    image, masks, inside = (np.load(path, mmap_mode="r") for path in files)
    places = tuple(np.argwhere(np.asarray(mask) >= PRESENT) for mask in masks)
    return TrainingCase(name, image, masks, inside, places)


def _share(mask: NDArray[np.bool_], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Share of each working voxel's area that the class covers, times 255."""
    if mask.shape == shape:
        return np.ascontiguousarray(mask).astype(np.uint8) * 255
    if mask.shape[0] != shape[0]:
        return np.clip(np.rint(resample(mask, shape) * 255), 0, 255).astype(np.uint8)
    size = (shape[2], shape[1])
    planes = [Pillow.fromarray(np.ascontiguousarray(plane).astype(np.uint8) * 255) for plane in mask]
    return np.stack([np.asarray(plane.resize(size, Pillow.Resampling.BOX)) for plane in planes])
