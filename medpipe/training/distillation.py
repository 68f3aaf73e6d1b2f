"""The teacher: a larger network whose probabilities a smaller one learns beside the truth (Hinton, 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from medpipe.bundle import load_bundle
from medpipe.errors import ConfigError
from medpipe.inference import load_network
from medpipe.training.experiment import Distil, Experiment
from nets.losses import distillation_loss


class Teacher:
    """A bundle's network on the training device; it sees the very patches that the student sees.

    Raises ConfigError where the bundle is fed otherwise or has other classes than the student.
    """

    def __init__(self, spec: Distil, student: Experiment, device: torch.device) -> None:
        bundle = load_bundle(spec.teacher)
        if bundle.class_ids != student.data.classes:
            raise ConfigError(f"distil.teacher: {bundle.id} has classes {', '.join(bundle.class_ids)}")
        same = (
            "channels",
            "spatial_dims",
            "working_size",
            "scale",
            "spacing",
            "orientation",
            "normalise",
            "field",
        )
        other = [key for key in same if getattr(bundle.input, key) != getattr(student.input, key)]
        if other:
            raise ConfigError(f"distil.teacher: {bundle.id} is fed otherwise: input.{', input.'.join(other)}")
        self._spec = spec
        self._network = load_network(bundle).to(device)

    def logits(self, image: Tensor) -> Tensor:
        """(N, channels, *P) -> the teacher's logits, without a gradient."""
        with torch.no_grad():
            given: Tensor = self._network(image)
        return given

    def loss(self, logits: Tensor, taught: Tensor, valid: Tensor) -> Tensor:
        """What following the teacher adds to the loss."""
        divergence = distillation_loss(logits, taught, valid, temperature=self._spec.temperature)
        return self._spec.weight * divergence.mean()
