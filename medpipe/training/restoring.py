"""A beginning without truth: the whole network learns to restore patches that were damaged.

Of the ways of self-supervision this one (Models Genesis: Zhou et al., Medical Image Analysis 2021; in-painting goes
back to Pathak et al., CVPR 2016) trains the encoder and the decoder with its skips, needs no pairs, no negatives and no
large batch, and costs no more than a step of plain training, so it suits few pictures and two CPU cores. SimSiam and
BYOL train the encoder alone, on the likeness of whole images, which lesions of a few pixels hardly move. The last layer
gives the channels of the image instead of classes; whoever begins with the weights leaves it out (`network.take`).

Parts of a patch are covered with blocks of noise, its pixels are shuffled within small windows elsewhere, its values
go through a random curve. Lesions must not be hidden whole each time, or the network would learn to paint them
over: blocks are of many sizes, and most of a patch stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from medpipe.training.cases import TrainingCase
from medpipe.training.experiment import Experiment, split
from medpipe.training.patches import Batch, PatchSampler
from medpipe.training.sources import open_source
from medpipe.training.trainer import CACHE, Cases, Trainer
from medpipe.training.unlabelled import load_without_truth, unlabelled_cases
from medpipe.training.ways import Restore

_STREAM = 2_000_003
_MEASURED = 8
"""Batches that a part of the pictures is measured on, the same at every measurement."""


class Restorer(Trainer):
    """Trains on the training pictures and the unlabelled ones; looks at no mask, and at no picture kept out."""

    measure = "part of the damage that is undone"

    @staticmethod
    def prepare(spec: Experiment, data: Path, run: Path) -> Cases:
        source, parts, cache = open_source(data, spec.input, spec.labels), split(spec.data), run / CACHE

        def load(names: Sequence[str]) -> list[TrainingCase]:
            return load_without_truth(source, names, spec.input, cache=cache)

        measured = {"thresholds": load(parts.thresholds), "held_out": load(parts.held_out)}
        return Cases(load(parts.training) + unlabelled_cases(spec, cache), measured)

    def _cut(self, number: int, done: float, rank: int) -> Batch:
        size = self.spec.patches.at(done).batch
        whole = self.sampler.batch(number, done, rank * size)
        return self._damaged(whole, (self.spec.seed + _STREAM, number, rank))

    def _damaged(self, whole: Batch, seed: tuple[int, ...]) -> Batch:
        rng = np.random.default_rng(seed)
        hurt = [damaged(image, rng, self.spec.restore) for image in whole.image]
        return replace(whole, image=torch.stack(hurt), target=whole.image)

    def _loss(self, batch: Batch, done: float) -> Tensor:
        with self._autocast():
            given = self.network(self._laid_out(batch.image))
        restored = (
            given[0] if isinstance(given, list) else given
        )  # with deep supervision the coarser ones follow
        return error(restored.float(), batch.target.to(self.device), batch.valid.to(self.device))

    def _measured(self, cases: Sequence[TrainingCase]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """1 - error of the restored patches / error of the damaged ones: 1 for all undone, 0 for nothing."""
        if not cases:
            return {"restored": None}, {"restored": None}
        sampler = PatchSampler(cases, self.spec.patches, self.spec.input, seed=self.spec.seed)
        left = before = 0.0
        for number in range(_MEASURED):
            batch = self._damaged(sampler.batch(number), (self.spec.seed + _STREAM, number))
            restored = self._average_of(batch.image).cpu()
            left += float(error(restored, batch.target, batch.valid))
            before += float(error(batch.image, batch.target, batch.valid))
        score = 1 - left / max(before, 1e-9)
        return {"restored": score}, {"restored": score, "error": left / _MEASURED}


def error(restored: Tensor, image: Tensor, valid: Tensor) -> Tensor:
    """Mean squared difference over the valid pixels and the channels, in units of the input's deviation."""
    counted = valid.sum().clamp(min=1) * image.shape[1]
    return ((restored - image).square() * valid).sum() / counted


def damaged(image: Tensor, rng: Generator, spec: Restore) -> Tensor:
    """A patch (channels, *P) as the network is to restore it: its values curved, shuffled, covered; a copy."""
    out = image.clone()
    if rng.random() < spec.tone:
        out = _curved(out, rng)
    for box in _boxes(rng, image.shape[1:], spec.window, spec.shuffled):
        out[box] = _shuffled(out[box], rng)
    for box in _boxes(rng, image.shape[1:], spec.block, spec.hidden):
        noise = rng.standard_normal(tuple(out[box].shape), dtype=np.float32)
        out[box] = torch.from_numpy(noise)
    return out


def _curved(image: Tensor, rng: Generator) -> Tensor:
    """Values through a random rising curve between the patch's own least and greatest, per channel."""
    out = torch.empty_like(image)
    for channel, values in enumerate(image):
        low, high = float(values.min()), float(values.max())
        span = max(high - low, 1e-6)
        inner: NDArray[np.float64] = np.sort(rng.uniform(size=(2, 3)), axis=1)
        knots = np.concatenate([np.zeros((2, 1)), inner, np.ones((2, 1))], axis=1)
        unit = ((values - low) / span).numpy()
        out[channel] = torch.from_numpy(np.interp(unit, knots[0], knots[1]).astype(np.float32)) * span + low
    return out


def _shuffled(part: Tensor, rng: Generator) -> Tensor:
    """The pixels of a window in another order, the same in every channel."""
    flat = part.reshape(len(part), -1)
    return flat[:, torch.from_numpy(rng.permutation(flat.shape[1]))].reshape(part.shape)


def _boxes(
    rng: Generator, shape: Sequence[int], sides: tuple[int, int], share: float
) -> Iterator[tuple[slice, ...]]:
    """Boxes at random places until their sizes add up to a share of the patch; all channels of each."""
    wanted, covered = share * float(np.prod(shape)), 0.0
    while covered < wanted:
        size = [min(int(rng.integers(sides[0], sides[1] + 1)), n) for n in shape]
        corner = [int(rng.integers(n - s + 1)) for n, s in zip(shape, size, strict=True)]
        yield (slice(None), *(slice(c, c + s) for c, s in zip(corner, size, strict=True)))
        covered += float(np.prod(size))
