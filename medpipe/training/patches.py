"""Patches to train on: where they are cut, and how they are varied. Each follows from (seed, step, place in batch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medpipe.bundle import InputSpec
from medpipe.errors import ConfigError
from medpipe.training.cases import TrainingCase, normalisation, unit_values
from medpipe.training.deform import deformed, is_rigid
from medpipe.training.experiment import Patches
from medpipe.training.intensity import vary_colour, vary_scores
from medpipe.training.pasting import Paster


@dataclass(frozen=True, eq=False)
class Views:
    """Patches without truth in two lights, `student` and `teacher` (N, channels, j, i); `valid` (N, 1, j, i) 0 or 1."""

    student: Tensor
    teacher: Tensor
    valid: Tensor

    def pin_memory(self) -> Views:
        """See Batch.pin_memory."""
        return Views(self.student.pin_memory(), self.teacher.pin_memory(), self.valid.pin_memory())


@dataclass(frozen=True, eq=False)
class Batch:
    """`image` float32 (N, channels, *P) normalised; `target` (N, classes, *P) in 0..1; `valid` (N, 1, *P) 0 or 1.

    P is (j, i) for a 2-D network and (k, j, i) for a 3-D one. `views` come with it where a mean teacher is followed.
    """

    image: Tensor
    target: Tensor
    valid: Tensor
    views: Views | None = None

    def pin_memory(self) -> Batch:
        """In memory from which a GPU copies by itself (torch's DataLoader calls this)."""
        views = self.views and self.views.pin_memory()
        return Batch(self.image.pin_memory(), self.target.pin_memory(), self.valid.pin_memory(), views)


class PatchSampler:
    """Cuts batches from training cases, a share of them from drawn ones.

    A batch depends on nothing but the seed and the step, so a resumed run sees what an unbroken one would have. A 2-D
    network is shown single slices of volumes. Raises ConfigError for sizes of patches that it cannot be shown.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        spec: Patches,
        given: InputSpec,
        *,
        seed: int,
        drawn: Sequence[TrainingCase] = (),
        drawn_share: float = 0.0,
        classes: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if not cases:
            raise ValueError("there are no pictures to train on")
        self.spec, self.seed, self._channels = spec, seed, given.channels
        self._flat = given.spatial_dims == 2
        if self._flat:
            _check_flat(spec)
        mean, std = normalisation(given)
        self._mean, self._std = torch.from_numpy(mean), torch.from_numpy(std)
        self._real = _Pool(cases, picture_weights(cases, spec.pictures, weights or {}))
        self._drawn = _Pool(drawn, picture_weights(drawn, "equal", {})) if drawn else None
        self._drawn_share = drawn_share
        self._paster = Paster(cases, spec.paste, classes) if spec.paste else None

    def batch(self, step: int, done: float = 0.0, first: int = 0) -> Batch:
        """The batch of one step, at a part `done` of the budget; its patches are numbered from `first` on."""
        spec = self.spec.at(done)
        patches = [self.patch(step, first + index, spec) for index in range(spec.batch)]
        image, target, valid = (torch.stack(parts) for parts in zip(*patches, strict=True))
        return Batch(image, target, valid)

    def patch(self, step: int, index: int, spec: Patches) -> tuple[Tensor, Tensor, Tensor]:
        """(channels, *P), (classes, *P), (1, *P): one of a batch."""
        rng = np.random.default_rng((self.seed, step, index))
        pool = self._real
        if self._drawn is not None and rng.random() < self._drawn_share:
            pool = self._drawn
        size = spec.shape(flat=self._flat)
        zoom = float(rng.uniform(*spec.zoom))
        side = np.array(
            [1 if self._flat and axis == 0 else max(1, round(n * zoom)) for axis, n in enumerate(size)]
        )
        case, corner = pool.place(rng, side, spec.background)
        if is_rigid(spec):
            stacked = _cut(case, corner, side, size)
        else:
            stacked = deformed(case, corner + (side - 1) / 2, zoom, size, rng, spec)
        stacked = _turn(stacked, rng, spec, flat=self._flat)
        if self._paster is not None and pool is self._real:
            stacked = self._paster.into(stacked, rng, zoom)
        image, target, valid = (
            stacked[: self._channels],
            stacked[self._channels : -1].clamp(0, 1),
            stacked[-1:],
        )
        if case.image.dtype == np.uint8:
            image = (vary_colour(image, rng, spec) - self._mean) / self._std
        else:
            image = vary_scores(image, rng, spec)
        valid = (valid > 0.5).float()
        parts = (image, target, valid)
        return (parts[0][:, 0], parts[1][:, 0], parts[2][:, 0]) if self._flat else parts


def _check_flat(spec: Patches) -> None:
    """Raises ConfigError where patches for a 2-D network are no single slices, or cannot be turned by a quarter."""
    sizes = (spec, *(spec.model_copy(update={"size": stage.size}) for stage in spec.stages))
    for slices, rows, columns in (patches.shape(flat=True) for patches in sizes):
        if slices != 1:
            raise ConfigError(
                f"patches.size: {slices} slices, but a 2-D network sees one: [1, {rows}, {columns}]"
            )
        if spec.quarter_turns and rows != columns:
            raise ConfigError(
                f"patches.size: {rows} x {columns} pixels cannot be turned by a quarter; say quarter_turns = false"
            )


def picture_weights(
    cases: Sequence[TrainingCase], by: Literal["equal", "lesions"], table: Mapping[str, float]
) -> NDArray[np.float64]:
    """How often each picture is cut: (classes + 1, pictures), rows that sum to 1, or to 0 where none has the class.

    Row c is for patches around class c: pictures that have it count alike, or by the square root of its area; the last
    row is for background. `table` multiplies by name; names that are not here (held out, say) are passed over.
    """
    area = np.array([[len(places) for places in case.places] for case in cases], np.float64).T
    load = np.sqrt(area) if by == "lesions" else (area > 0).astype(np.float64)
    weights = np.vstack([load, np.ones(len(cases))]) * [table.get(case.name, 1.0) for case in cases]
    return np.asarray(weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12))


class _Pool:
    """Cases, and how often each is cut for a class."""

    def __init__(self, cases: Sequence[TrainingCase], weights: NDArray[np.float64]) -> None:
        self.cases = list(cases)
        self.classes = np.flatnonzero(weights[:-1].sum(axis=1))
        self._cumulated = np.cumsum(weights, axis=1)

    def place(
        self, rng: Generator, side: NDArray[np.int64], background: float
    ) -> tuple[TrainingCase, NDArray[np.int64]]:
        """A case and the patch's first voxel (k, j, i).

        The class is drawn first, then a case that has it: a class that few pictures have is not rare here.
        """
        if not len(self.classes) or rng.random() < background:
            case = self._draw(rng, -1)
            free = np.maximum(1, np.array(case.shape) - side + 1)
            return case, np.array([int(rng.integers(n)) for n in free])
        chosen = int(self.classes[rng.integers(len(self.classes))])
        case = self._draw(rng, chosen)
        places = case.places[chosen]
        place = places[rng.integers(len(places))]
        corner = place - rng.uniform(0.1, 0.9, size=3) * side
        if side[0] == 1:
            corner[0] = place[0]  # a single slice is the very one that the class lies on
        return case, np.clip(corner.astype(np.int64), 0, np.maximum(0, np.array(case.shape) - side))

    def _draw(self, rng: Generator, row: int) -> TrainingCase:
        """A case, by the weights of a row."""
        cumulated = self._cumulated[row]
        return self.cases[int(np.searchsorted(cumulated, rng.random() * cumulated[-1], side="right"))]


def _cut(
    case: TrainingCase, corner: NDArray[np.int64], side: NDArray[np.int64], size: tuple[int, int, int]
) -> Tensor:
    """Image, masks and field of a box, resampled to `size`: float32 (channels + classes + 1, *size)."""
    box = (slice(None), *(slice(int(a), int(a + n)) for a, n in zip(corner, side, strict=True)))
    parts = [case.image[box], case.masks[box], np.asarray(case.inside[None][box], np.uint8) * 255]
    values = torch.cat([unit_values(part) for part in parts])
    short = [int(n - have) for n, have in zip(side, values.shape[1:], strict=True)]
    if any(short):  # a case smaller than the patch: beyond its border nothing is valid
        values = functional.pad(values, (0, short[2], 0, short[1], 0, short[0]))
    if tuple(side) == size:
        return values
    if size[0] == side[0] == 1:
        return functional.interpolate(
            values.transpose(0, 1),
            size=size[1:],
            mode="bilinear",
            align_corners=False,
            antialias=bool(side[1] > size[1]),
        ).transpose(0, 1)
    return functional.interpolate(values[None], size=size, mode="trilinear", align_corners=False)[0]


def _turn(stacked: Tensor, rng: Generator, spec: Patches, *, flat: bool) -> Tensor:
    """Flips along the axes that may be flipped, and quarter turns of square pictures."""
    for axis in spec.flips:
        if rng.random() < 0.5:
            stacked = stacked.flip(axis + 1)
    if flat and spec.quarter_turns:
        stacked = torch.rot90(stacked, int(rng.integers(4)), (2, 3))
    return stacked
