"""What a run is made of besides its data: network, its moving average, optimiser; kept in one file, replaced whole."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from medpipe.errors import ConfigError
from medpipe.training.experiment import Experiment, Optimiser, split
from nets import registry
from nets.mobilenet import MobileNetV3Encoder
from nets.pretrained import load_encoder, recoloured

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
"""The averaged weights of the best measurement, kept where a run may end early."""
SAFE = ".safetensors"
LEARNED_FROM = "learned_from"


@dataclass(eq=False)
class TrainingState:
    """`steps` done and `seconds` of training spent, over all resumes. `average` is the EMA of the network."""

    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    steps: int = 0
    seconds: float = 0.0
    best: float = -1.0
    """The best mean AUPR on the threshold images so far, and the measurements since (for `budget.patience`)."""
    since: int = 0
    learned_from: frozenset[str] = frozenset()
    """Names of the pictures that the weights have been trained on, here and before."""

    def follow(self, decay: float) -> None:
        """Moves the average towards the network; early on faster, so that the start is forgotten."""
        decay = min(decay, (1 + self.steps) / (10 + self.steps))
        pairs = list(zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True))
        floating = [pair for pair in pairs if pair[0].dtype.is_floating_point]
        with torch.no_grad():
            # hundreds of small tensors: one kernel for all of them, where a GPU would wait for each to be asked for
            torch._foreach_lerp_([mean for mean, _ in floating], [new for _, new in floating], 1 - decay)
            for mean, new in pairs:
                if not mean.dtype.is_floating_point:
                    mean.copy_(new)

    def save(self, run: Path) -> None:
        """Writes the checkpoint; a kill at any moment leaves the old one or the new one."""
        half = run / f"{CHECKPOINT}.half"
        torch.save(
            {
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "steps": self.steps,
                "seconds": self.seconds,
                "best": self.best,
                "since": self.since,
                LEARNED_FROM: sorted(self.learned_from),
            },
            half,
        )
        half.replace(run / CHECKPOINT)

    def judge(self, score: float, run: Path) -> None:
        """Keeps the averaged weights in BEST where `score` is the best so far."""
        if score > self.best:
            self.best, self.since = score, 0
            half = run / f"{BEST}.half"
            torch.save({"average": self.average.state_dict(), "steps": self.steps, "score": score}, half)
            half.replace(run / BEST)
        else:
            self.since += 1

    def load(self, run: Path) -> bool:
        """Goes on from the run's checkpoint; False where there is none. ConfigError where it is another network's."""
        path = run / CHECKPOINT
        if not path.is_file():
            return False
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        try:
            self.network.load_state_dict(saved["network"])
            self.average.load_state_dict(saved["average"])
        except RuntimeError as error:
            raise ConfigError(f"{path}: not of this network; train into another folder: {error}") from error
        for then, now in zip(saved["optimiser"]["param_groups"], self.optimiser.param_groups, strict=True):
            then.update(
                {key: now[key] for key in ("weight_decay", "fused")}
            )  # the experiment's and the device's
        self.optimiser.load_state_dict(saved["optimiser"])
        if saved["scaler"]:  # none where the run was on a CPU
            self.scaler.load_state_dict(saved["scaler"])
        self.steps, self.seconds = int(saved["steps"]), float(saved["seconds"])
        self.best, self.since = float(saved.get("best", -1.0)), int(saved.get("since", 0))
        self.learned_from |= frozenset(saved.get(LEARNED_FROM, ()))
        return True


def build_network(experiment: Experiment) -> nn.Module:
    """The experiment's network with the first weights that its seed gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        hyper: dict[str, Any] = dict(experiment.network.hyper)
        try:
            return registry.build(
                experiment.network.name,
                in_channels=experiment.input.channels,
                classes=experiment.outputs,
                **hyper,
            )
        except ValueError as error:
            raise ConfigError(f"network: {error}") from error


def new_state(experiment: Experiment, device: torch.device) -> TrainingState:
    """A run before its first step."""
    network = build_network(experiment).to(device)
    if experiment.network.weights is not None:
        begin_with(network, experiment.network.weights, experiment.network.take)
    if experiment.network.encoder_weights is not None:
        begin_encoder_with(network, experiment.network.encoder_weights)
    layout = torch.channels_last if experiment.input.spatial_dims == 2 else torch.channels_last_3d
    network.to(memory_format=layout)  # type: ignore[call-overload]
    spec = experiment.optimiser
    return TrainingState(
        network=network.train(),
        average=copy.deepcopy(network).eval().requires_grad_(False),
        optimiser=torch.optim.AdamW(
            network.parameters(), lr=spec.rate, weight_decay=spec.weight_decay, fused=device.type == "cuda"
        ),
        scaler=torch.amp.GradScaler(device.type, enabled=device.type == "cuda"),
        learned_from=learned_from(experiment.network.weights) | frozenset(split(experiment.data).training),
    )


def begin_with(network: nn.Module, path: Path, take: Sequence[str] = ()) -> None:
    """Loads weights to begin with: a run's checkpoint (its averaged network) or a safetensors file.

    With `take` only the named parts of the network are loaded ("encoder", "decoder.0"), each of them whole; the others
    keep their first values. An encoder of colour pictures sees grey ones as it saw grey in colour, and the reverse.
    Raises ConfigError where something is missing, left over or of another size.
    """
    if not path.is_file():
        raise ConfigError(f"network.weights: {path} is not there")
    try:
        saved = _read(path)
        weights = saved if path.suffix == SAFE else saved["average"]
        if take:
            own = network.state_dict()
            weights = _in_our_colours(_parts(weights, take), own) | _others(own, take)
        network.load_state_dict(weights)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"network.weights: {path} does not fit this network: {error}") from error


def learned_from(path: Path | None) -> frozenset[str]:
    """Names of the pictures that weights were trained on, as far as the file says: a bundle's does not."""
    if path is None or not path.is_file():
        return frozenset()
    try:
        if path.suffix == SAFE:
            with safe_open(path, "pt") as file:
                return frozenset(json.loads((file.metadata() or {}).get(LEARNED_FROM, "[]")))
        return frozenset(_read(path).get(LEARNED_FROM, ()))
    except (OSError, ValueError, RuntimeError, SafetensorError):
        return frozenset()  # whoever loads the weights says what is wrong with them


def begin_encoder_with(network: nn.Module, path: Path) -> None:
    """Loads an ImageNet checkpoint of torchvision or timm into the network's encoder, see nets.pretrained.

    Raises ConfigError where the network has no such encoder, or the file is another's.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, MobileNetV3Encoder):
        raise ConfigError("network.encoder_weights: this network has no MobileNetV3 encoder; leave it out")
    try:
        load_encoder(encoder, _read(path))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"network.encoder_weights: {path}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    """What a .safetensors or torch file holds; ValueError where that is more than weights. Pickled code is not run."""
    if path.suffix == SAFE:
        return load_file(path)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError) as error:
        raise ValueError("not a file of weights alone; save the network's state_dict()") from error
    if not isinstance(saved, dict):
        raise ValueError(f"holds a {type(saved).__name__}, not weights by name")
    return saved


def _parts(weights: dict[str, Any], take: Sequence[str]) -> dict[str, Any]:
    """What belongs to the named parts; ConfigError where there is nothing of one."""
    for part in take:
        if not any(_within(key, (part,)) for key in weights):
            known = ", ".join(sorted({key.split(".")[0] for key in weights}))
            raise ConfigError(f"network.take: the weights have no part {part!r}; they have {known}")
    return {key: value for key, value in weights.items() if _within(key, take)}


def _in_our_colours(weights: dict[str, Any], own: Mapping[str, Tensor]) -> dict[str, Any]:
    """The first convolution's kernels for one channel where they are of three, and the reverse."""
    fitted = dict(weights)
    for key, kernel in weights.items():
        ours = own.get(key)
        if (
            ours is not None
            and kernel.dim() == ours.dim() == 4
            and {kernel.shape[1], ours.shape[1]} == {1, 3}
        ):
            fitted[key] = recoloured(kernel, ours.shape[1])
    return fitted


def _others(weights: dict[str, Any], take: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in weights.items() if not _within(key, take)}


def _within(key: str, parts: Sequence[str]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def learning_rate(spec: Optimiser, step: int, done: float) -> float:
    """Linear warm-up over the first steps, times a cosine from 1 to `floor` as `done` goes from 0 to 1."""
    warm = min(1.0, (step + 1) / spec.warm_up_steps) if spec.warm_up_steps else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
    return spec.rate * warm * (spec.floor + (1 - spec.floor) * cosine)
