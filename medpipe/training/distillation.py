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
    """A bundle's networks on the training device; they see the very patches that the student sees.

    Raises ConfigError where the bundle is fed otherwise, has other classes than the student, or says them otherwise.
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
        if bundle.network.activation != "sigmoid":
            raise ConfigError(
                f"distil.teacher: {bundle.id} gives one {bundle.network.activation} of all classes"
            )
        self._spec = spec
        self._networks = [load_network(member).to(device) for member in bundle.members()]

    def logits(self, image: Tensor) -> Tensor:
        """(N, channels, *P) -> the teacher's logits, without a gradient; of several networks those of their mean."""
        with torch.no_grad():
            given: list[Tensor] = [network(image) for network in self._networks]
            if len(given) == 1:
                return given[0]
            mean = torch.stack([torch.sigmoid(logits.float()) for logits in given]).mean(dim=0)
            return torch.logit(mean, eps=1e-6)

    def loss(self, logits: Tensor, taught: Tensor, valid: Tensor) -> Tensor:
        """What following the teacher adds to the loss."""
        divergence = distillation_loss(logits, taught, valid, temperature=self._spec.temperature)
        return self._spec.weight * divergence.mean()
