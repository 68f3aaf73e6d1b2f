"""Learning from images without truth: the network is to agree with its own moving average (mean teacher).

Tarvainen and Valpola, "Mean teachers are better role models" (NeurIPS 2017). Student and teacher see one cut of an
image in two lights: the same place, turn and bend, but each its own colours, blur and noise. The teacher is the
averaged network that every run keeps anyway; it costs a forward pass and gets no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medpipe.bundle import ZScore
from medpipe.training.cases import TrainingCase, normalisation
from medpipe.training.experiment import Experiment, Patches
from medpipe.training.intensity import vary_colour, vary_scores
from medpipe.training.patches import PatchSampler, Views
from medpipe.training.ways import Unlabelled
from nets.losses import consistency_loss

_GEOMETRY = {"size", "batch", "stages", "zoom", "flips", "quarter_turns", "rotation", "elastic"}
_AS_IT_IS: dict[str, Any] = {
    "gain": (1.0, 1.0),
    "channel_gain": (1.0, 1.0),
    "gamma": (1.0, 1.0),
    "shift": 0.0,
    "blur": 0.0,
    "noise": 0.0,
    "jpeg": 0.0,
}
_STREAM = 1_000_003
"""Added to the seed: unlabelled patches are cut elsewhere than the labelled ones of the same step."""


class MeanTeacher:
    """Cuts the views of unlabelled images, and weighs how far the student is from its average there.

    Views depend on nothing but the seed and the step, as patches do, so a resumed run goes on exactly.
    """

    def __init__(self, spec: Unlabelled, experiment: Experiment, cases: Sequence[TrainingCase]) -> None:
        given = experiment.input
        self._spec, self._seed, self._patches = spec, experiment.seed + _STREAM, experiment.patches
        self._scores = isinstance(given.normalise, ZScore)
        self._mean, self._std = (torch.from_numpy(values) for values in normalisation(given))
        names = experiment.data.classes
        self._classes = [names.index(c) for c in spec.classes or names]
        still = Patches(**experiment.patches.model_dump(include=_GEOMETRY), **_AS_IT_IS)
        self._sampler = PatchSampler(cases, still, given, seed=self._seed)

    def views(self, step: int, done: float = 0.0, rank: int = 0) -> Views:
        """The views of one step, of the size that patches have at a part `done` of the budget."""
        at = self._sampler.spec.at(done)
        first = rank * self._spec.batch
        students, teachers, fields = [], [], []
        for index in range(first, first + self._spec.batch):
            image, _, valid = self._sampler.patch(step, index, at)
            # not 0 as the last word: a seed that ends in 0 is the one without it, by which the patch was cut
            students.append(self._in_a_light(image, (self._seed, step, index, 1)))
            teachers.append(self._in_a_light(image, (self._seed, step, index, 2)))
            fields.append(valid)
        return Views(torch.stack(students), torch.stack(teachers), torch.stack(fields))

    def _in_a_light(self, image: Tensor, seed: tuple[int, ...]) -> Tensor:
        """(channels, j, i) as it is -> with colours, blur and noise of its own, normalised."""
        rng = np.random.default_rng(seed)
        plane = image[:, None]
        if self._scores:
            varied = vary_scores(plane, rng, self._patches)
        else:
            varied = (
                vary_colour(plane * self._std + self._mean, rng, self._patches) - self._mean
            ) / self._std
        noise = torch.from_numpy(rng.standard_normal(varied.shape, dtype=np.float32))
        return (varied + self._spec.noise * noise)[:, 0]

    def loss(self, logits: Tensor, average: Tensor, valid: Tensor, done: float) -> Tensor:
        """What the student's distance from its average adds to the loss, at a part `done` of the budget."""
        distance = consistency_loss(logits, average, valid)[self._classes]
        return self._spec.weight * ramp(done, self._spec.ramp) * distance.mean()


def ramp(done: float, end: float) -> float:
    """exp(-5 (1 - t)^2) with t = done / end, 1 from `end` on: early on the average knows nothing worth following."""
    t = min(1.0, done / end) if end else 1.0
    return math.exp(-5 * (1 - t) ** 2)
