"""Training pictures at working size: read, field of view found, scaled as for inference, kept as uint8 files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from medpipe.errors import ConfigError
from medpipe.inference.field import find_field, is_inside
from medpipe.inference.resample import resample

PRESENT = 128
"""A working pixel belongs to a class from this share (of 255) of its area on."""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")

Reduced = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class TrainingPicture:
    """One field of view at working size.

    `image` uint8 (3, j, i); `masks` uint8 (classes, j, i), the class's share of the pixel's area times 255;
    `inside` bool (j, i), the field; `places[c]` int (n, 2), the (j, i) of class c's pixels.
    """

    name: str
    image: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    places: tuple[NDArray[np.int64], ...]


def read_photograph(folder: Path, name: str) -> NDArray[np.uint8]:
    """RGB uint8 (3, J, I) of `images/<name>.*`."""
    with Pillow.open(picture_file(folder, name)) as picture:
        return np.ascontiguousarray(np.asarray(picture.convert("RGB")).transpose(2, 0, 1))


def read_masks(folder: Path, name: str, classes: int) -> NDArray[np.bool_]:
    """Truth bool (classes, J, I) of `masks/<name>.png`: bit n of the stored value (palette index) is class n."""
    path = folder / "masks" / f"{name}.png"
    try:
        with Pillow.open(path) as picture:
            if picture.mode not in ("P", "L"):
                raise ConfigError(f"{path}: masks are 8-bit (palette or grey), not {picture.mode}")
            bits = np.asarray(picture)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a mask ({error})") from error
    return np.stack([(bits >> n) & 1 for n in range(classes)]).astype(np.bool_)


def picture_file(folder: Path, name: str) -> Path:
    """The file of a picture. Raises ConfigError where there is none."""
    for suffix in _SUFFIXES:
        path = folder / "images" / f"{name}{suffix}"
        if path.is_file():
            return path
    raise ConfigError(f"{folder}: no picture images/{name}.jpg (or .png, .tif)")


def load_pictures(
    folder: Path, names: Iterable[str], *, classes: int, working_side: int, cache: Path
) -> list[TrainingPicture]:
    """The named pictures at working size, from the cache folder where they are there already."""
    pictures = []
    for name in names:
        facts = picture_file(folder, name).stat()
        key = cache_key(name, classes, working_side, facts.st_size, facts.st_mtime_ns)

        def make(name: str = name) -> Reduced:
            picture, truth = read_photograph(folder, name), read_masks(folder, name, classes)
            if picture.shape[1:] != truth.shape[1:]:
                raise ConfigError(
                    f"{name}: picture {picture.shape[1:]} and mask {truth.shape[1:]} differ in size"
                )
            return reduce(picture, truth, working_side=working_side)

        pictures.append(cached(cache, name, key, make))
    return pictures


def reduce(rgb: NDArray[np.uint8], masks: NDArray[np.bool_], *, working_side: int) -> Reduced:
    """Crops to the field of view and scales its longer side to `working_side`, as the inference does.

    (3, J, I), (classes, J, I) -> image, masks (share of area x 255), inside. Raises Refused where there is no field.
    """
    field = find_field(rgb)
    j0, i0, j1, i1 = field.box
    factor = working_side / max(j1 - j0, i1 - i0)
    shape = (1, max(1, round((j1 - j0) * factor)), max(1, round((i1 - i0) * factor)))
    image = np.stack([_to_uint8(resample(plane[None, j0:j1, i0:i1], shape)[0]) for plane in rgb])
    shares = np.stack([_area_share(mask[j0:j1, i0:i1], shape[1:]) for mask in masks])
    return image, shares, is_inside(field, shape[1:])


def cache_key(*facts: object) -> str:
    """A short digest of what a cached picture was made from."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def cached(cache: Path, name: str, key: str, make: Callable[[], Reduced]) -> TrainingPicture:
    """A reduced picture from the cache, or made and kept there; mapped into memory, not read."""
    files = [cache / f"{name}-{key}.{part}.npy" for part in ("image", "masks", "inside")]
    if not all(path.is_file() for path in files):
        cache.mkdir(parents=True, exist_ok=True)
        for path, array in zip(files, make(), strict=True):
            half = path.with_suffix(".half.npy")
            np.save(half, array)
            half.replace(path)
    image, masks, inside = (np.load(path, mmap_mode="r") for path in files)
    places = tuple(np.argwhere(np.asarray(mask) >= PRESENT) for mask in masks)
    return TrainingPicture(name, image, masks, inside, places)


def _to_uint8(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _area_share(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.uint8]:
    grey = Pillow.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize((shape[1], shape[0]), Pillow.Resampling.BOX))
