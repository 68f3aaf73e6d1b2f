"""Patches to train on: where they are cut, and how they are varied. Each follows from (seed, step, place in batch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

from medpipe.training.experiment import Patches
from medpipe.training.pictures import TrainingPicture


@dataclass(frozen=True, eq=False)
class Batch:
    """`image` float32 (N, 3, P, P) normalised; `target` (N, classes, P, P) in 0..1; `valid` (N, 1, P, P) 0 or 1."""

    image: Tensor
    target: Tensor
    valid: Tensor


class PatchSampler:
    """Cuts batches from pictures, a share of them from drawn ones.

    A batch depends on nothing but the seed and the step, so a resumed run sees what an unbroken one would have.
    """

    def __init__(
        self,
        pictures: Sequence[TrainingPicture],
        spec: Patches,
        *,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        drawn: Sequence[TrainingPicture] = (),
        drawn_share: float = 0.0,
    ) -> None:
        if not pictures:
            raise ValueError("there are no pictures to train on")
        self.spec, self.seed = spec, seed
        self._mean = torch.tensor(mean).view(-1, 1, 1)
        self._std = torch.tensor(std).view(-1, 1, 1)
        self._real, self._drawn = _Pool(pictures), _Pool(drawn) if drawn else None
        self._drawn_share = drawn_share

    def batch(self, step: int) -> Batch:
        """The batch of one step."""
        patches = [self.patch(step, index) for index in range(self.spec.batch)]
        image, target, valid = (torch.stack(parts) for parts in zip(*patches, strict=True))
        return Batch(image, target, valid)

    def patch(self, step: int, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """(3, P, P), (classes, P, P), (1, P, P): one of a batch."""
        rng = np.random.default_rng((self.seed, step, index))
        pool = self._real
        if self._drawn is not None and rng.random() < self._drawn_share:
            pool = self._drawn
        side = max(8, round(self.spec.size * float(rng.uniform(*self.spec.zoom))))
        picture, j, i = pool.place(rng, side, self.spec.background)
        stacked = _cut(picture, j, i, side, self.spec.size)
        if rng.random() < 0.5:
            stacked = stacked.flip(2)
        stacked = torch.rot90(stacked, int(rng.integers(4)), (1, 2))
        image = _vary(stacked[:3], rng, self.spec)
        target, valid = stacked[3:-1].clamp(0, 1), (stacked[-1:] > 0.5).float()
        return (image - self._mean) / self._std, target, valid


class _Pool:
    """Pictures, and which of them have a class."""

    def __init__(self, pictures: Sequence[TrainingPicture]) -> None:
        self.pictures = list(pictures)
        classes = range(len(pictures[0].places))
        self.having = {c: [p for p in pictures if len(p.places[c])] for c in classes}
        self.classes = [c for c in classes if self.having[c]]

    def place(self, rng: Generator, side: int, background: float) -> tuple[TrainingPicture, int, int]:
        """A picture and the patch's first row and column.

        The class is drawn first, then a picture that has it: a class that few pictures have is not rare here.
        """
        if not self.classes or rng.random() < background:
            picture = self.pictures[rng.integers(len(self.pictures))]
            j, i = (int(rng.integers(max(1, n - side + 1))) for n in picture.inside.shape)
            return picture, j, i
        chosen = self.classes[rng.integers(len(self.classes))]
        candidates = self.having[chosen]
        picture = candidates[rng.integers(len(candidates))]
        places = picture.places[chosen]
        corner = places[rng.integers(len(places))] - rng.uniform(0.1, 0.9, size=2) * side
        j, i = (
            int(min(max(c, 0), max(0, n - side))) for c, n in zip(corner, picture.inside.shape, strict=True)
        )
        return picture, j, i


def _cut(picture: TrainingPicture, j: int, i: int, side: int, size: int) -> Tensor:
    """Image, masks and field of a square, resampled to `size`: float32 (3 + classes + 1, size, size) in 0..1."""
    window = (slice(None), slice(j, j + side), slice(i, i + side))
    field = np.asarray(picture.inside[None][window], dtype=np.uint8) * 255
    stacked = np.concatenate([picture.image[window], picture.masks[window], field])
    short = (side - stacked.shape[1], side - stacked.shape[2])
    if any(short):  # a picture smaller than the patch: beyond its border nothing is valid
        stacked = np.pad(stacked, ((0, 0), (0, short[0]), (0, short[1])))
    values = torch.from_numpy(stacked).float()[None] / 255
    if side == size:
        return values[0]
    return functional.interpolate(
        values, size=(size, size), mode="bilinear", align_corners=False, antialias=side > size
    )[0]


def _vary(image: Tensor, rng: Generator, spec: Patches) -> Tensor:
    """Light, colour of the light, gamma, and sometimes a slight blur, of values in 0..1."""
    gains = rng.uniform(*spec.gain) * rng.uniform(*spec.channel_gain, size=3)
    image = (image * torch.from_numpy(gains.astype(np.float32)).view(3, 1, 1)).clamp(1e-4, 1)
    image = image ** float(rng.uniform(*spec.gamma))
    if rng.random() < spec.blur:
        edge = float(rng.uniform(0.075, 0.25))
        taps = torch.tensor([edge, 1 - 2 * edge, edge])
        padded = functional.pad(image[:, None], (1, 1, 1, 1), mode="replicate")
        rows = functional.conv2d(padded, taps.view(1, 1, 3, 1))
        image = functional.conv2d(rows, taps.view(1, 1, 1, 3))[:, 0]
    return image
