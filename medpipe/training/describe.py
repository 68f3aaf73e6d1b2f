"""What a bundle.toml says of a run: the experiment's own words, and what was chosen on the threshold pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from medpipe.bundle import parse_description
from medpipe.errors import BundleError, ConfigError
from medpipe.training.card import TEXTS
from medpipe.training.crf_choice import CrfGain, with_rule
from medpipe.training.decision import Choice
from medpipe.training.experiment import Experiment, load_experiment

_TAKEN_OVER = ("window", "crf", "precision", "summary", "provenance")
_KEYS = {*_TAKEN_OVER, "version", "title", "named_only", "classes", "card"}


def check_describable(experiment: Path, *, bundle: Path | None = None, fold: int | None = None) -> None:
    """Checks before hours of training that a bundle can be written after them. Raises ConfigError naming the key.

    `bundle` is the folder that it is to be, of the run that holds out `fold` where one is given; its name is the id.
    """
    loaded = load_experiment(experiment)
    name = loaded.name if fold is None else f"{loaded.name}-fold{fold}"
    if bundle is not None and bundle.absolute().name != name:
        raise ConfigError(f"--export {bundle}: a bundle is found by its id; name its folder {name}")
    if bundle is not None and bundle.exists() and not bundle.is_dir():
        raise ConfigError(f"--export {bundle}: is a file; name a folder for the bundle")
    try:
        content = describe(loaded, {class_id: Choice() for class_id in loaded.data.classes})
    except ConfigError as error:
        raise ConfigError(f"{experiment}: {error}") from error
    try:
        parse_description(tomli_w.dumps(content).encode(), experiment)
    except BundleError as error:
        raise ConfigError(f"{error} (of the bundle that [bundle] describes)") from error


def describe(
    experiment: Experiment,
    choices: Mapping[str, Choice],
    gains: Sequence[CrfGain] = (),
    *,
    members: int = 1,
) -> dict[str, Any]:
    """The content of bundle.toml.

    Raises ConfigError where `[bundle]` says what nobody reads, or other classes than the data have.
    """
    given, data = experiment.bundle, experiment.data
    strange = sorted(set(given) - _KEYS)
    strange += [f"card.{key}" for key in sorted(set(given.get("card", {})) - set(TEXTS))]
    if strange:
        raise ConfigError(f"[bundle] has no {', '.join(strange)}")
    classes = {row["id"]: row for row in given.get("classes", ())}
    if list(classes) != list(data.classes):
        raise ConfigError(f"bundle.classes: {', '.join(classes) or 'none'}, but data.classes: {data.classes}")
    return {
        "id": experiment.name,
        "version": given.get("version", "0.0.0"),
        "title": given.get("title", experiment.name),
        **({"named_only": True} if given.get("named_only") else {}),
        "network": {
            "name": experiment.network.name,
            **({"members": members} if members > 1 else {}),
            "hyper": dict(experiment.network.hyper),
        },
        "input": experiment.input.model_dump(exclude_none=True, exclude_defaults=True),
        "classes": [
            {
                **row,
                "crf": with_rule(row, gains),
                "threshold": choices[class_id].threshold,
                "smallest": choices[class_id].smallest,
                **({} if (peak := choices[class_id].peak) is None else {"peak": peak}),
            }
            for class_id, row in classes.items()
        ],
        **{key: given[key] for key in _TAKEN_OVER if key in given},
    }
