"""From a trained network to a narrower one that is to be trained on: an experiment's folder with pruned weights.

The folder is an experiment like any other (`network.hyper.pruned` says the widths, `network.weights` the weights), so
fine-tuning, resuming and exporting it are what they always are.
"""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors.torch import save_file

from medpipe.bundle.folder import WEIGHTS
from medpipe.errors import ConfigError, UsageError
from medpipe.training.experiment import EXPERIMENT, FOLDS, Experiment, load_experiment
from medpipe.training.state import CHECKPOINT, LEARNED_FROM, begin_with, build_network, learned_from
from nets.cost import Cost, cost
from nets.pruning import prune

PRUNED = "pruned.safetensors"


@dataclass(frozen=True)
class PruningReport:
    """The experiment that was written, and what the network costs per patch before and after."""

    experiment: Path
    before: Cost
    after: Cost

    def summary(self) -> str:
        """Two lines for a person."""
        return f"{self.before}, pruned: {self.after}\n{self.experiment}: train it on before it is used"


def prune_experiment(
    experiment: Path, weights: Path, out: Path, *, ratio: float, everywhere: bool = False
) -> PruningReport:
    """Prunes the network of an experiment with given weights and writes the experiment to go on with into `out`.

    `weights`: a run's or bundle's folder, a checkpoint or a safetensors file. `ratio` of the channels goes, see
    nets.pruning. The new experiment is the old one named `<name>-pruned`. Raises ConfigError where the weights do not
    fit or `out` holds an experiment already, UsageError where Torch-Pruning is not installed.
    """
    spec = load_experiment(experiment)
    if "pruned" in spec.network.hyper:
        raise ConfigError(f"{experiment}: its network is pruned already; prune the whole one by more")
    if (out / EXPERIMENT).exists():
        raise ConfigError(f"{out}: holds an experiment already; name another folder")
    network = build_network(spec)
    whole = _weights_of(weights)
    begin_with(network, whole)
    patch = torch.zeros(1, spec.input.channels, *_patch(spec))
    before = cost(network, patch)
    try:
        rows = prune(network, patch, ratio=ratio, everywhere=everywhere)
    except ModuleNotFoundError as error:
        raise UsageError("pruning needs Torch-Pruning: pip install 'medpipe[prune]'") from error
    except ValueError as error:
        raise ConfigError(f"--ratio: {error}") from error
    except TypeError as error:
        raise ConfigError(f"{experiment}: {spec.network.name}: {error}") from error
    after = cost(network, patch)
    out.mkdir(parents=True, exist_ok=True)
    known = json.dumps(sorted(learned_from(whole)))
    left = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(left, out / PRUNED, metadata={LEARNED_FROM: known})
    shutil.copyfile(spec.data.folds, out / FOLDS)
    content = _continued(tomllib.loads(experiment.read_text(encoding="utf-8")), experiment.parent, out)
    content["network"]["hyper"]["pruned"] = rows
    (out / EXPERIMENT).write_text(tomli_w.dumps(content), encoding="utf-8")
    return PruningReport(out / EXPERIMENT, before, after)


def _weights_of(place: Path) -> Path:
    """The weights in a run's or a bundle's folder; a file is taken as it is."""
    if not place.is_dir():
        return place
    for name in (CHECKPOINT, WEIGHTS):
        if (place / name).is_file():
            return place / name
    raise ConfigError(f"{place}: neither a run ({CHECKPOINT}) nor a bundle ({WEIGHTS})")


def _patch(spec: Experiment) -> tuple[int, ...]:
    shape = spec.patches.shape(flat=spec.input.spatial_dims == 2)
    return shape[-spec.input.spatial_dims :]


def _continued(content: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    """The experiment's TOML as it is said in `out`: its paths lead where they led from `folder`."""
    content["name"] = f"{content['name']}-pruned"
    content["data"]["folds"] = FOLDS
    network = content["network"]
    for key in ("take", "encoder_weights"):
        network.pop(key, None)
    network["weights"] = PRUNED
    network.setdefault("hyper", {})
    for section, key in (("distil", "teacher"), ("unlabelled", "folder")):
        if key in content.get(section, {}):
            content[section][key] = os.path.relpath(folder / content[section][key], out)
    return content
