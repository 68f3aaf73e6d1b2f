"""Lesions of other training pictures pasted into patches without a seam, so that rare ones are seen in more places.

P. Perez, M. Gangnet, A. Blake, "Poisson image editing", SIGGRAPH 2003: a rectangle of the patch is solved anew from
gradients, the lesion's where the lesion lies and the patch's own around it, with the patch's values on its border. So
the lesion keeps its contrast and takes on the light of the place, vessels that cross the rectangle stay, and what
changes beside the lesion dies away smoothly. Gradients are those of the values' logarithm, since light multiplies: a
dark lesion on dark ground is darker by the same factor, not black.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import fft, ndimage
from torch import Tensor
from torch.nn import functional

from medpipe.training.cases import PRESENT, TrainingCase, unit_values
from medpipe.training.experiment import Paste

Plane = NDArray[np.float32]

_RIM = 2
"""Pixels around a lesion's outline that come with it: its edge is soft, and outlines are not exact."""
_MARGIN = 6
"""Further pixels to the rectangle's border, in which what is left of the seam dies away."""
_LEAST, _LARGEST = 4, 128
"""Smallest area and longest side in working pixels of a lesion that is cut out."""
_DARKEST = 1 / 32
"""Added to values in 0..1 before the logarithm: differences between nearly black pixels are noise."""
_TRIES = 10
"""Places tried in a patch; where all are taken, the lesion is left out."""


@dataclass(frozen=True)
class CutOut:
    """Where a lesion lies: the picture, the class, the slice, a pixel of it, the box around it with rim and margin."""

    case: TrainingCase
    of: int
    k: int
    seed: tuple[int, int]
    box: tuple[slice, slice]


def cut_outs(case: TrainingCase, of: int) -> list[CutOut]:
    """The lesions of class `of` in a picture, or the slices of a volume, that lie with rim and margin in its field."""
    return [cut for k in np.unique(case.places[of][:, 0]) for cut in _cut_outs_of(case, of, int(k))]


def _cut_outs_of(case: TrainingCase, of: int, k: int) -> list[CutOut]:
    """Those of slice k."""
    labels, _ = ndimage.label(np.asarray(case.masks[of, k]) >= PRESENT, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    around = _RIM + _MARGIN
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        box = (
            slice(rows.start - around, rows.stop + around),
            slice(columns.start - around, columns.stop + around),
        )
        within = all(side.start >= 0 and side.stop <= n for side, n in zip(box, case.shape[1:], strict=True))
        short = max(rows.stop - rows.start, columns.stop - columns.start) <= _LARGEST
        if within and short and areas[number] >= _LEAST and case.inside[k][box].all():
            column = int(np.flatnonzero(labels[rows.start, columns] == number)[0]) + columns.start
            found.append(CutOut(case, of, k, (rows.start, column), box))
    return found


class Paster:
    """A bank of the training pictures' lesions, and how they come into patches."""

    def __init__(self, cases: Sequence[TrainingCase], spec: Paste, classes: Sequence[str]) -> None:
        self._spec, self._classes = spec, len(cases[0].places)
        wanted = [classes.index(c) for c in spec.classes] or range(self._classes)
        banks = [[cut for case in cases for cut in cut_outs(case, of)] for of in wanted]
        self._banks = [bank for bank in banks if bank]

    def into(self, stacked: Tensor, rng: Generator, zoom: float) -> Tensor:
        """float32 (channels + classes + 1, 1, J, I) of a patch (values 0..1) with lesions pasted, or without.

        `zoom` is the patch's working pixels per pixel: lesions are scaled as the patch was.
        """
        if not self._banks or rng.random() >= self._spec.share:
            return stacked
        values = stacked[:, 0].numpy().copy()
        for _ in range(int(rng.integers(1, self._spec.most + 1))):
            bank = self._banks[rng.integers(len(self._banks))]
            lesion, near = _lifted(bank[rng.integers(len(bank))], rng, zoom)
            corner = self._free_place(values, near.shape, rng)
            if corner is not None:
                (j, i), (rows, columns) = corner, near.shape
                self._blend(values[:, j : j + rows, i : i + columns], lesion, near)
        return torch.from_numpy(values)[:, None]

    def _free_place(self, values: Plane, size: tuple[int, int], rng: Generator) -> tuple[int, int] | None:
        """First pixel of a rectangle inside the field that touches no lesion; None where none was found."""
        rows, columns = (n - side for n, side in zip(values.shape[1:], size, strict=True))
        if rows < 0 or columns < 0:
            return None
        for _ in range(_TRIES):
            j, i = int(rng.integers(rows + 1)), int(rng.integers(columns + 1))
            there = values[:, j : j + size[0], i : i + size[1]]
            if there[-1].min() > 0.999 and not there[-1 - self._classes : -1].any():
                return j, i
        return None

    def _blend(self, there: Plane, lesion: Plane, near: NDArray[np.bool_]) -> None:
        """Writes a lesion (channels + classes, rows, columns) into a rectangle of the patch, image and truth."""
        channels = len(there) - self._classes - 1
        blended = seamless(np.log(there[:channels] + _DARKEST), np.log(lesion[:channels] + _DARKEST), near)
        there[:channels] = np.clip(np.exp(blended) - _DARKEST, 0, 1)
        there[channels:-1] = np.where(near, lesion[channels:], 0)


def _lifted(cut: CutOut, rng: Generator, zoom: float) -> tuple[Plane, NDArray[np.bool_]]:
    """Image and masks of a cut-out, float32 (channels + classes, rows, columns), and the lesion with its rim.

    Scaled by 1 / `zoom`, turned by quarters and flipped at random.
    """
    box = (slice(None), slice(cut.k, cut.k + 1), *cut.box)
    masks = np.asarray(cut.case.masks[box])
    labels, _ = ndimage.label(masks[cut.of, 0] >= PRESENT, np.ones((3, 3)))
    mine = labels == labels[cut.seed[0] - cut.box[0].start, cut.seed[1] - cut.box[1].start]
    near = ndimage.binary_dilation(mine, iterations=_RIM)
    parts = [unit_values(cut.case.image[box]), unit_values(masks), torch.from_numpy(near)[None, None].float()]
    stacked = torch.cat(parts).transpose(0, 1)
    size = [max(2 * _RIM + 3, round(n / zoom)) for n in near.shape]
    stacked = functional.interpolate(stacked, size=size, mode="bilinear", antialias=zoom > 1)[0]
    stacked = torch.rot90(stacked, int(rng.integers(4)), (1, 2))
    if rng.random() < 0.5:
        stacked = stacked.flip(2)
    lifted = np.ascontiguousarray(stacked.numpy())
    near = lifted[-1] > 0.5
    near[[0, -1]] = near[:, [0, -1]] = False  # the border is the patch's own
    return lifted[:-1], near


def seamless(there: Plane, lesion: Plane, near: NDArray[np.bool_]) -> Plane:
    """The rectangle `there` (channels, rows, columns) with the gradients of `lesion` where `near` (rows, columns).

    The border keeps its values: what is added to them solves the Poisson equation with zeros on the border, exactly, by
    the sine transform, in which the five-point Laplacian is diagonal.
    """
    missing = lesion - there
    divergence = np.zeros_like(there)
    for axis in (0, 1):
        here, beyond = [slice(None)] * 3, [slice(None)] * 3
        here[axis + 1], beyond[axis + 1] = slice(None, -1), slice(1, None)
        # a step between two pixels is the lesion's where either of them is
        step = np.diff(missing, axis=axis + 1) * (near[tuple(here[1:])] | near[tuple(beyond[1:])])
        divergence[tuple(here)] += step
        divergence[tuple(beyond)] -= step
    inner = divergence[:, 1:-1, 1:-1]
    rows, columns = (2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) - 2 for n in inner.shape[1:])
    waves = fft.dstn(inner, type=1, axes=(1, 2)) / (rows[:, None] + columns).astype(np.float32)
    solved = there.copy()
    solved[:, 1:-1, 1:-1] += fft.idstn(waves, type=1, axes=(1, 2))
    return solved
