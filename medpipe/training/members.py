"""Runs whose networks are to speak together: what they must have in common, and what none of them may have seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medpipe.errors import ConfigError
from medpipe.training.experiment import Experiment, load_run, split


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
