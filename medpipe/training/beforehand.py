"""What is refused before hours of training: a split without pictures, another run's folder, an impossible patch."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import nn

from medpipe.errors import ConfigError
from medpipe.training.cases import TrainingCase
from medpipe.training.experiment import EXPERIMENT, Experiment, load_run, split
from medpipe.training.state import CHECKPOINT, learned_from

_ELSEWHERE = "give the experiment another name, or the run another folder (--out)"
_MULTIPLES = (32, 64, 128)


def check_pictures(spec: Experiment, *, to_export: bool = False) -> None:
    """Raises ConfigError where no picture is left to train, or none for thresholds where something hangs on them."""
    parts = split(spec.data)
    if not parts.training:
        raise ConfigError(
            f"{spec.data.folds}: no picture is left to train: {len(parts.held_out)} are held out, "
            f"{len(parts.thresholds)} choose thresholds"
        )
    needed_by = "--export" if to_export else "budget.patience" if spec.budget.patience is not None else None
    if needed_by and not parts.thresholds:
        raise ConfigError(
            f"{needed_by} needs threshold pictures: name some in data.thresholds, or a part in data.thresholds_share"
        )


def check_begins_apart(spec: Experiment) -> None:
    """Raises ConfigError where the weights to begin with were trained on a picture that is kept out of training now."""
    parts = split(spec.data)
    known = learned_from(spec.network.weights) & {*parts.held_out, *parts.thresholds}
    if known:
        raise ConfigError(
            f"network.weights: {spec.network.weights} learned from {_some(known)}, kept out of training now; "
            "begin with a run that kept the same pictures out (other pictures of these names: rename them)"
        )


def check_goes_on(spec: Experiment, run: Path) -> None:
    """Raises ConfigError where the run's checkpoint is of another network, or learned from what is kept out now.

    Every picture that it learned from must still be one to train on, or what it knows would be measured as unseen.
    """
    if not (run / CHECKPOINT).is_file() or not (run / EXPERIMENT).is_file():
        return
    before = load_run(run)
    for what, was, now in (
        ("task", before.task, spec.task),
        ("network.name", before.network.name, spec.network.name),
        ("network.hyper", before.network.hyper, spec.network.hyper),
        ("data.classes", before.data.classes, spec.data.classes),
        ("[input]", before.input, spec.input),
    ):
        if was != now:
            raise ConfigError(f"{run}: holds a run with another {what}; {_ELSEWHERE}")
    known = set(split(before.data).training) - set(split(spec.data).training)
    if known:
        raise ConfigError(
            f"{run}: holds a run that learned from {_some(known)}, kept out of training now; {_ELSEWHERE}"
        )


def _some(names: Collection[str]) -> str:
    first = ", ".join(sorted(names)[:3])
    return f"{first} and {len(names) - 3} more" if len(names) > 3 else first


def check_classes(classes: Sequence[str], cases: Sequence[TrainingCase]) -> None:
    """Raises ConfigError for a class that no picture has: it would be learned as never there, without a word."""
    lost = [c for n, c in enumerate(classes) if not any(len(case.places[n]) for case in cases)]
    if lost:
        raise ConfigError(
            f"data.classes: no picture to train on has {', '.join(lost)} in its truth; leave it out, or look at the "
            "values of the masks"
        )


def check_fits(
    network: nn.Module, shapes: Sequence[tuple[int, ...]], channels: int, *, batches: Sequence[int] = ()
) -> None:
    """Raises ConfigError for a patch (its sizes) that the network cannot take, or answers at another size.

    `batches` are how many of each are shown at once: a single one that is one pixel large where the network normalises
    has no variance.
    """
    for shape, batch in itertools.zip_longest(shapes, batches):
        given, sizes = _answer(network, shape, channels), " x ".join(map(str, shape))
        if given != shape:
            said = f"answers {' x '.join(map(str, given))}" if given else "cannot take it"
            raise ConfigError(f"patches.size: {sizes}: the network {said}; use multiples of its strides")
        if batch == 1 and _answer(copy.deepcopy(network).train(), shape, channels) is None:
            raise ConfigError(
                f"patches: one patch of {sizes} is too little for the network to learn from; use a larger size or batch"
            )


def multiple_of(network: nn.Module, axes: int, channels: int) -> int:
    """What the sides of a whole picture are filled up to: the least of 32, 64 and 128 that the network can take."""
    for size in _MULTIPLES:
        if _answer(network, (size,) * axes, channels) == (size,) * axes:
            return size
    raise ConfigError(f"network: it takes no picture whose sides are multiples of {_MULTIPLES[-1]}")


def _answer(network: nn.Module, shape: tuple[int, ...], channels: int) -> tuple[int, ...] | None:
    """Size of the logits for a picture of zeros; None where the network fails on it."""
    device = next(network.parameters()).device
    try:
        with torch.inference_mode():
            logits = network(torch.zeros(1, channels, *shape, device=device))
    except (RuntimeError, ValueError, ArithmeticError, IndexError):
        return None
    finest = logits[0] if isinstance(logits, list) else logits
    return tuple(finest.shape[2:])
