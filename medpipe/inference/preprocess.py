"""From an Image to what a network sees, and the exact way back to the source grid.

The way back is a view, not a formula: orientation and crop of a source-grid array are numpy views (transpose, flip,
slice), so what is written through the view lands where the pixels came from; only resampling needs arithmetic.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.bundle import Bundle, InputSpec, MeanStd, Percentile, Window
from medpipe.errors import ReasonCode, Refused
from medpipe.inference.field import find_field, is_inside
from medpipe.inference.grey import without_colour
from medpipe.inference.resample import resample, resample_bands
from medpipe.types import Image

Shape = tuple[int, int, int]
_PERCENTILE_SAMPLES = 4_000_000
_PARTS_OF_FIELD = (0.5, 1.25)
"""Below, little of the picture would be left; above, it would be dear."""
_SQUARE = 0.01
_DIMMEST, _MOST_LIGHT = 140.0, 4.0
"""Light (of 255) that dark fundus photographs are raised to, that of the darkest learned from; and how far at most."""
_LARGEST_WORKING_GRID = 2**31
"""Voxels: 8 GB of float32. More comes of a spacing that is not the image's own, not of a patient."""


@dataclass(frozen=True)
class WayBack:
    """Between the source grid (K, J, I) and the working grid (k, j, i): axes permuted, flipped, cropped, resampled."""

    source: Shape
    axes: tuple[int, int, int] = (0, 1, 2)
    """Source axis that each working axis comes from."""
    flipped: tuple[bool, bool, bool] = (False, False, False)
    """Whether the working axis runs against its source axis."""
    box: tuple[int, int, int, int, int, int] | None = None
    """Crop (k0, j0, i0, k1, j1, i1) after permutation and flips; None for all of it."""
    working: Shape = (1, 1, 1)

    def view(self, array: NDArray[Any]) -> NDArray[Any]:
        """The crop that the working grid covers, as a view of a source-grid array (..., K, J, I), in working order."""
        lead = array.ndim - 3
        view = array.transpose(*range(lead), *(lead + axis for axis in self.axes))
        k, j, i = (slice(None, None, -1 if flip else 1) for flip in self.flipped)
        view = view[..., k, j, i]
        if self.box is not None:
            k0, j0, i0, k1, j1, i1 = self.box
            view = view[..., k0:k1, j0:j1, i0:i1]
        return view

    def bands(self, working: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """One class's values on the working grid (k, j, i) -> bands along the first axis of `view`, at source size."""
        return resample_bands(working, self.cropped_shape)

    def to_source(self, working: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Writes one class's values on the working grid into `out` (K, J, I) on the source grid; 0 beyond the crop."""
        out[...] = 0
        view = self.view(out)
        for band, values in self.bands(working):
            view[band] = values

    @property
    def cropped_shape(self) -> Shape:
        if self.box is None:
            k, j, i = (self.source[axis] for axis in self.axes)
            return k, j, i
        k0, j0, i0, k1, j1, i1 = self.box
        return k1 - k0, j1 - j0, i1 - i0


@dataclass(frozen=True, eq=False)
class Prepared:
    """`array` float32 (channels, k, j, i), normalised, on the working grid; `inside` bool (k, j, i), the field.

    `lightened` says how many times as bright as it is a dark photograph is seen.
    """

    array: NDArray[np.float32]
    inside: NDArray[np.bool_] | None
    way_back: WayBack
    lightened: float = 1.0


def prepare(image: Image, bundle: Bundle, scale: float = 1.0) -> Prepared:
    """Field of view, crop, orientation, scale and normalisation, as `bundle.input` says, at `scale` working sizes.

    Raises Refused(NOT_FOR_BUNDLE or FOV_NOT_FOR_BUNDLE) where the image is not what the bundle is meant for.
    """
    image = without_colour(image, bundle.input)
    check_meant_for(image, bundle.input, bundle.id)
    spec = bundle.input
    if scale != 1:
        sizes = tuple(round(n * scale) for n in spec.working_size)
        spec = spec.model_copy(update={"working_size": sizes})
    return to_working_grid(image, spec)


def to_working_grid(image: Image, spec: InputSpec) -> Prepared:
    """The same for an image that is known to be meant: what training and inference share, so both see one picture.

    Raises Refused where a field of view is looked for and there is none, or where the grid would fill the memory.
    """
    way = WayBack(image.grid.shape, working=image.grid.shape)
    if spec.orientation != "source":
        axes, flipped = closest_canonical(image.grid.affine, spec.orientation)
        way = WayBack(image.grid.shape, axes, flipped)
    field = find_field(image.array[:, 0]) if spec.field == "fundus" else None
    if field is not None:
        j0, i0, j1, i1 = field.box
        way = WayBack(way.source, way.axes, way.flipped, (0, j0, i0, 1, j1, i1))
    spacing = [image.grid.spacing[axis] for axis in way.axes]
    working = working_shape(
        way.cropped_shape, (spacing[0], spacing[1], spacing[2]), spec, part_of_field(image, spec)
    )
    if math.prod(working) > _LARGEST_WORKING_GRID:
        shown = " x ".join(str(n) for n in working)
        raise Refused(ReasonCode.TOO_LARGE, f"{image.name}: {shown} voxels at the bundle's spacing")
    way = WayBack(way.source, way.axes, way.flipped, way.box, working)
    lightened = 1.0 if field is None else min(_MOST_LIGHT, max(1.0, _DIMMEST / field.light))
    values = to_unit_scale(image, spec).brighter(lightened)
    array = np.empty((spec.channels, *working), np.float32)
    for channel in range(spec.channels):
        array[channel] = resample(way.view(image.array[channel]), working)
        values.apply(array[channel], channel)
    inside = None if field is None else is_inside(field, working[1:])[None]
    return Prepared(array, inside, way, lightened)


def check_meant_for(image: Image, spec: InputSpec, bundle_id: str) -> None:
    """Raises Refused where modality, class, colour, dimensions or size are not what a bundle's input is meant for."""

    def refuse(code: ReasonCode, what: str) -> Refused:
        return Refused(code, f"bundle {bundle_id} {what}")

    if image.modality and image.modality not in spec.modality:
        raise refuse(ReasonCode.NOT_FOR_BUNDLE, f"is for {', '.join(spec.modality)}, not {image.modality}")
    given = {s.sop_class_uid for s in image.sources if s.sop_class_uid}  # a camera's JPEG file has none
    foreign = given - set(spec.sop_classes) if spec.sop_classes else set()
    if foreign:
        raise refuse(ReasonCode.NOT_FOR_BUNDLE, f"is not for SOP class {', '.join(sorted(foreign))}")
    if image.array.shape[0] != spec.channels:
        needed = "colour pictures" if spec.channels == 3 else "grey pictures"
        raise refuse(ReasonCode.NOT_FOR_BUNDLE, f"is for {needed}, not {_colours(image)}")
    if spec.spatial_dims == 3 and not image.is_volume:
        raise refuse(ReasonCode.NOT_FOR_BUNDLE, "is for volumes, not a single slice")
    if spec.field != "none" and image.is_volume:
        raise refuse(ReasonCode.NOT_FOR_BUNDLE, "is for single pictures, not volumes")
    if spec.field != "none" and not is_square(image.grid.spacing):
        height = image.grid.spacing[1] / image.grid.spacing[2]
        raise refuse(
            ReasonCode.FOV_NOT_FOR_BUNDLE,
            f"needs square pixels, to find a round field of view; these are {height:.3g} times as high as wide",
        )
    if spec.scale == "spacing" and not image.calibrated:
        raise refuse(ReasonCode.NOT_FOR_BUNDLE, "needs a calibrated image (sizes in mm), and this one is not")
    rows, columns = image.grid.shape[1:]
    if rows < spec.minimum_size[0] or columns < spec.minimum_size[1]:
        least = "x".join(str(n) for n in spec.minimum_size)
        raise refuse(
            ReasonCode.FOV_NOT_FOR_BUNDLE,
            f"needs at least {least} pixels (rows x columns), not {rows}x{columns}",
        )
    if spec.extent_mm is not None:
        axes = (
            (0, 1, 2)
            if spec.orientation == "source"
            else closest_canonical(image.grid.affine, spec.orientation)[0]
        )
        extent = [image.grid.shape[a] * image.grid.spacing[a] for a in axes]
        low, high = spec.extent_mm.min, spec.extent_mm.max
        if not image.calibrated or any(not a <= e <= b for a, e, b in zip(low, extent, high, strict=True)):
            unit = "mm" if image.calibrated else "pixels of unknown size"
            raise refuse(
                ReasonCode.FOV_NOT_FOR_BUNDLE,
                f"is meant for {_range(low)} to {_range(high)} mm ({_directions(spec.orientation)}); "
                f"this image covers {' x '.join(f'{e:.0f}' for e in extent)} {unit}",
            )


def _range(sizes: tuple[float, float, float]) -> str:
    return " x ".join(f"{s:g}" for s in sizes)


def _colours(image: Image) -> str:
    """How a reader would call the image's channels."""
    count = image.array.shape[0]
    return {1: "grey ones", 3: "colour pictures"}.get(count, f"pictures of {count} channels")


def _directions(orientation: str) -> str:
    """What the sizes along (k, j, i) are, in words, for a bundle's `orientation` (of i, j, k)."""
    if orientation == "source":
        return "slices x rows x columns"
    words = {"R": "right-left", "A": "front-back", "S": "head-foot"}
    opposite = {"L": "R", "P": "A", "I": "S"}
    return " x ".join(words[opposite.get(letter, letter)] for letter in reversed(orientation))


_TOWARDS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
"""Patient axis (x, y, z) and sign that a letter stands for, in LPS millimetres."""


def closest_canonical(
    affine: NDArray[np.float64], orientation: str = "LPS"
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Permutation and flips of the (k, j, i) axes that bring them closest to an orientation.

    The letters say where (i, j, k) of the working grid run to: with "LPS" working axis 0 (k) runs to the head, 1 (j) to
    the back, 2 (i) to the patient's left. Returns (source axis of each working axis, whether it is flipped).
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = directions[:, ::-1]  # columns k, j, i; rows x, y, z
    wanted = [_TOWARDS[letter] for letter in reversed(orientation)]  # of working axes k, j, i
    best = max(
        itertools.permutations(range(3)), key=lambda p: sum(abs(along[wanted[w][0], p[w]]) for w in range(3))
    )
    flips = [bool(along[wanted[w][0], best[w]] * wanted[w][1] < 0) for w in range(3)]
    return (best[0], best[1], best[2]), (flips[0], flips[1], flips[2])


def part_of_field(image: Image, spec: InputSpec) -> float:
    """The part of the working size at which a photograph of another field of view shows lesions at the learned size."""
    if image.field_degrees is None or spec.field_degrees is None:
        return 1.0
    low, high = _PARTS_OF_FIELD
    return min(high, max(low, image.field_degrees / spec.field_degrees))


def is_square(spacing: tuple[float, ...]) -> bool:
    """Whether rows and columns are as far apart as each other, but for what rounding makes of it."""
    return abs(spacing[1] / spacing[2] - 1) <= _SQUARE


def working_shape(
    cropped: Shape, spacing: tuple[float, float, float], spec: InputSpec, part: float = 1.0
) -> Shape:
    """Size of the working grid over a crop of `cropped` source voxels, `spacing` mm apart; "fit": `part` of it.

    Its pixels are square with "fit", whatever the source's are: networks learn true shapes.
    """
    if spec.scale == "fit":
        k, j, i = cropped
        high, wide = (j, i) if is_square(spacing) else (j * spacing[1], i * spacing[2])
        factor = part * max(spec.working_size) / max(high, wide)
        return k, max(1, round(high * factor)), max(1, round(wide * factor))
    if spec.scale == "spacing":
        target = (spacing[0], *spec.spacing) if len(spec.spacing) == 2 else spec.spacing
        sizes = [
            max(1, round(n * have / want)) for n, have, want in zip(cropped, spacing, target, strict=True)
        ]
        return sizes[0], sizes[1], sizes[2]
    return cropped


@dataclass(frozen=True)
class UnitScale:
    """value -> (value * gain + offset), clipped to 0..1 where `clip`, then (x - mean) / std; per channel."""

    gain: tuple[float, ...]
    offset: tuple[float, ...]
    clip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def brighter(self, times: float) -> UnitScale:
        """The same of a picture that is so many times as bright, where the scale begins with black."""
        return dataclasses.replace(
            self, gain=tuple(g * times for g in self.gain), offset=tuple(o * times for o in self.offset)
        )

    def apply(self, values: NDArray[np.float32], channel: int) -> None:
        """Normalises float32 values of one channel in place."""
        values *= np.float32(self.gain[channel])
        values += np.float32(self.offset[channel])
        if self.clip:
            np.clip(values, 0.0, 1.0, out=values)
        values -= np.float32(self.mean[channel])
        values /= np.float32(self.std[channel])


def to_unit_scale(image: Image, spec: InputSpec) -> UnitScale:
    """The linear map that the bundle's normalisation means for this image; MONOCHROME1 runs from white to black."""
    channels = image.array.shape[0]
    ones, zeros = (1.0,) * channels, (0.0,) * channels
    inverted = image.photometric == "MONOCHROME1"
    normalise = spec.normalise
    if isinstance(normalise, MeanStd):
        low, high = _possible_values(image)
        gain, offset = _linear(low, high, inverted)
        return UnitScale((gain,) * channels, (offset,) * channels, True, normalise.mean, normalise.std)
    if isinstance(normalise, Window):
        gain, offset = _linear(normalise.low, normalise.high, inverted)
        mean, std = (normalise.mean,) * channels, (normalise.std,) * channels
        return UnitScale((gain,) * channels, (offset,) * channels, True, mean, std)
    sampled = [_sample(image, channel) for channel in range(channels)]
    if isinstance(normalise, Percentile):
        maps = []
        for values in sampled:
            low, high = (float(v) for v in np.percentile(values, (normalise.low, normalise.high)))
            maps.append(_linear(low, high, inverted))
        return UnitScale(tuple(g for g, _ in maps), tuple(o for _, o in maps), True, zeros, ones)
    sign = -1.0 if inverted else 1.0
    means = tuple(sign * float(v.mean(dtype=np.float64)) for v in sampled)
    stds = tuple(float(v.std(dtype=np.float64)) or 1.0 for v in sampled)
    return UnitScale((sign,) * channels, zeros, False, means, stds)


def display_values(image: Image, spec: InputSpec) -> Callable[[tuple[slice, ...]], NDArray[np.float32]]:
    """Gives the values of a box (k, j, i) of the source grid as float32 (channels, ...) in 0..255, for the CRF."""
    if image.array.dtype == np.uint8 and image.array.shape[0] == 3:
        return lambda box: image.array[(slice(None), *box)].astype(np.float32)
    scale = to_unit_scale(image, spec)
    # an unbounded z-score is shown from -3 to +3 standard deviations
    low, high = (
        (0.0, 1.0) if scale.clip else (scale.mean[0] - 3 * scale.std[0], scale.mean[0] + 3 * scale.std[0])
    )

    def values(box: tuple[slice, ...]) -> NDArray[np.float32]:
        unit = image.array[(slice(None), *box)].astype(np.float32) * np.float32(scale.gain[0]) + np.float32(
            scale.offset[0]
        )
        return np.asarray(np.clip((unit - low) * (255 / (high - low)), 0, 255), dtype=np.float32)

    return values


def _linear(low: float, high: float, inverted: bool) -> tuple[float, float]:
    if not high > low:
        high = low + 1.0  # a constant image: everything becomes 0
    gain = 1.0 / (high - low)
    return (-gain, high * gain) if inverted else (gain, -low * gain)


def _possible_values(image: Image) -> tuple[float, float]:
    if image.value_range is not None:
        return image.value_range
    return 0.0, float(2**image.bits_stored - 1)


def _sample(image: Image, channel: int) -> NDArray[Any]:
    """Values of one channel without padding, thinned evenly along each axis where there are very many."""
    array, padding = image.array[channel], image.padding
    step = max(1, int(np.ceil((array.size / _PERCENTILE_SAMPLES) ** (1 / 3))))
    if step > 1:
        thin = tuple(slice(None, None, step if n > step else 1) for n in array.shape)
        array, padding = array[thin], None if padding is None else padding[thin]
    values: NDArray[Any] = array.ravel() if padding is None else array[~padding]
    return values if values.size else array.ravel()
