"""Runs whose networks are to speak together: what they must have in common, and what none of them may have seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medpipe.errors import ConfigError
from medpipe.training.experiment import Experiment, load_run, read_folds, split


def together(first: Experiment, runs: Sequence[Path]) -> Experiment:
    """The experiment that the mean of several runs is a bundle of: the first one's, or of their folds together.

    Where the runs held out different folds no fold is kept out of all of them: thresholds are chosen on the pictures
    that none has learned from (`data.thresholds_always`). Raises ConfigError where there is none, or the lists of folds
    differ.
    """
    others = [load_run(run) for run in runs]
    held_out = {one.data.fold for one in (first, *others)}
    if None in held_out or len(held_out) == 1:
        return first
    dealt = read_folds(first.data.folds)
    for run, other in zip(runs, others, strict=True):
        if read_folds(other.data.folds) != dealt:
            raise ConfigError(f"{run}: its list of folds is not that of {first.name}")
    parts = split(first.data)
    unseen = {*parts.thresholds, *parts.held_out}
    for other in others:
        unseen -= set(split(other.data).training)
    if not unseen:
        raise ConfigError(
            f"{first.name}: no picture is left that none of the runs learned from, to choose thresholds on; train each "
            "fold with data.thresholds_always"
        )
    data = first.data.model_copy(update={"held_out": "none", "thresholds": tuple(sorted(unseen))})
    name = first.name.removesuffix(f"-fold{first.data.fold}")
    return first.model_copy(update={"name": name, "data": data})


def check_members(first: Experiment, runs: Sequence[Path]) -> None:
    """Checks that runs can be averaged with the first one. Raises ConfigError that names the run and what differs.

    Network, input and classes must be the same, and no run may have been trained on a picture that the first one's
    thresholds are chosen on or that its figures come from.
    """
    parts = split(first.data)
    unseen = {*parts.thresholds, *parts.held_out}
    for run in runs:
        other = load_run(run)
        for what, ours, theirs in (
            ("network", (first.network.name, first.network.hyper), (other.network.name, other.network.hyper)),
            ("input", first.input, other.input),
            ("classes", first.data.classes, other.data.classes),
        ):
            if ours != theirs:
                raise ConfigError(
                    f"{run}: its {what} is not that of {first.name}, so they cannot be averaged"
                )
        seen = sorted(unseen & set(split(other.data).training))
        if seen:
            raise ConfigError(
                f"{run}: was trained on {', '.join(seen[:3])}{' ...' if len(seen) > 3 else ''}, which {first.name} "
                "chooses thresholds or is measured on; train it on the same split with another seed"
            )
