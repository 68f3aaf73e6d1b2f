"""Training cases: images and their truth on the working grid, exactly as inference prepares them, kept as files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from medpipe.bundle import InputSpec, MeanStd, Window, ZScore
from medpipe.errors import ConfigError
from medpipe.inference.resample import resample
from medpipe.training.meant import prepare_to_train
from medpipe.training.sources import Source
from medpipe.types import Image

PRESENT = 128
"""A working voxel belongs to a class from this share (of 255) of its area on."""
_FORMAT = 5
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
            check_size(image, truth)
            return reduce(image, truth, spec)

        cases.append(cached(cache, name, cache_key(name, classes, spec, source.stamp(name)), make))
    return cases


def check_size(image: Image, truth: NDArray[np.bool_]) -> None:
    """Raises ConfigError where a truth (classes, K, J, I) does not have the image's size."""
    if truth.shape[1:] == image.grid.shape:
        return
    if image.is_volume:
        raise ConfigError(
            f"{image.name}: volume {_by(image.grid.shape)} and label {_by(truth.shape[1:])} differ in size"
        )
    raise ConfigError(
        f"{image.name}: picture {_by(image.grid.shape[1:])} and mask {_by(truth.shape[2:])} (rows x columns) "
        "differ in size; a mask lies on the picture as it is shown, turned as its EXIF says"
    )


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def reduce(image: Image, truth: NDArray[np.bool_], spec: InputSpec) -> Reduced:
    """(channels, K, J, I) and truth (classes, K, J, I) -> image, masks, inside of a TrainingCase.

    Raises Refused where inference would refuse the image.
    """
    prepared = prepare_to_train(image, spec)
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
    mean, std = (0.0,) * spec.channels, (1.0,) * spec.channels
    if isinstance(given, MeanStd):
        mean, std = given.mean, given.std
    elif isinstance(given, Window):
        mean, std = (given.mean,) * spec.channels, (given.std,) * spec.channels
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
