"""One experiment, trained once for each fold."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import tomli_w

from medpipe.errors import ConfigError
from medpipe.training.experiment import EXPERIMENT, FOLDS, Data, Experiment, read_folds, split


def of_fold(experiment: Experiment, fold: int) -> Experiment:
    """The experiment with another fold held out, named `<name>-fold<K>`.

    The list `data.thresholds` stays as it is for a fold that has none of its pictures. For another one it is what is
    left of the list with `data.thresholds_always`; else threshold pictures are taken by `data.thresholds_share`, or as
    large a share as the list has. The result names them.
    """
    data = experiment.data
    folds = read_folds(data.folds)
    if not 0 <= fold < len(folds):
        raise ConfigError(f"{data.folds}: there is no fold {fold}, only 0 to {len(folds) - 1}")
    if data.thresholds_always:
        left = tuple(name for name in data.thresholds if name not in folds[fold])
        data = data.model_copy(update={"thresholds": left})
    elif set(data.thresholds) & set(folds[fold]):
        outside = sum(map(len, folds)) - len(folds[fold if data.fold is None else data.fold])
        share = data.thresholds_share or len(data.thresholds) / outside
        data = data.model_copy(update={"thresholds": (), "thresholds_share": share})
    data = data.model_copy(update={"held_out": fold})
    settled = data.model_copy(update={"thresholds": split(data).thresholds, "thresholds_share": None})
    return experiment.model_copy(update={"name": f"{experiment.name}-fold{fold}", "data": settled})


def copy_into(run: Path, path: Path, experiment: Experiment) -> None:
    """Keeps in the run's folder what was asked for: the file as it is, or with what `of_fold` changed in it."""
    shutil.copyfile(experiment.data.folds, run / FOLDS)
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    if content["name"] == experiment.name:
        shutil.copyfile(path, run / EXPERIMENT)
        return
    content["name"] = experiment.name
    content["data"] = {**content["data"], **_changed(experiment.data)}
    content["data"].pop("thresholds_share", None)
    text = f"# {path.name} with fold {experiment.data.held_out} held out\n{tomli_w.dumps(content)}"
    (run / EXPERIMENT).write_text(text, encoding="utf-8")


def _changed(data: Data) -> dict[str, object]:
    return {"held_out": data.held_out, "thresholds": list(data.thresholds)}
