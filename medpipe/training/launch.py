"""A run from its TOML file: the folder it writes into, held against a second process; which trainer learns its task."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from medpipe.errors import ConfigError
from medpipe.training.experiment import EXPERIMENT, FOLDS, Experiment, load_experiment
from medpipe.training.ranks import joined, own_device
from medpipe.training.restoring import Restorer
from medpipe.training.state import CHECKPOINT
from medpipe.training.trainer import Trainer, TrainingReport, pick_device

TASKS: dict[str, type[Trainer]] = {"segment": Trainer, "restore": Restorer}


def train(
    experiment: Path,
    *,
    data: Path | None,
    out: Path,
    resume: bool = True,
    max_minutes: float | None = None,
    device: str = "auto",
    unlabelled: Path | None = None,
) -> TrainingReport:
    """Trains as the TOML file says and writes `<out>/<name>/`; a run that was stopped goes on where it was.

    `data` is a folder that medpipe.training.sources knows. `max_minutes` replaces the experiment's budget of minutes;
    it counts over resumes. `unlabelled` replaces the folder of its images without truth. Raises ConfigError for what
    cannot be trained.
    """
    if data is None:
        raise ConfigError(
            "training needs --data, the folder with images/ and masks/ (or imagesTr/ and labelsTr/)"
        )
    spec = load_experiment(experiment)
    if max_minutes is not None:
        spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"minutes": max_minutes})})
    if unlabelled is not None:
        spec = _with_unlabelled(spec, unlabelled)
    trainer = TASKS[spec.task]
    run = out / spec.name
    if not resume and (run / CHECKPOINT).exists():
        raise ConfigError(f"{run}: holds a run already; resume it, or move it away to start anew")
    run.mkdir(parents=True, exist_ok=True)
    chosen = own_device(pick_device(device))
    with joined(chosen) as ranks, contextlib.ExitStack() as held:
        if ranks.first:
            held.enter_context(_alone(run))
            shutil.copyfile(experiment, run / EXPERIMENT)
            shutil.copyfile(spec.data.folds, run / FOLDS)
            trainer.prepare(spec, data, run)  # the first one fills the cache, the others find it
        ranks.wait()
        return trainer(spec, data, run, chosen, ranks).run()


def _with_unlabelled(spec: Experiment, folder: Path) -> Experiment:
    if spec.unlabelled is None:
        raise ConfigError(
            f"--unlabelled {folder}: the experiment has no section [unlabelled] that learns from it"
        )
    return spec.model_copy(update={"unlabelled": spec.unlabelled.model_copy(update={"folder": folder})})


@contextlib.contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Holds the run's folder: two processes that train into one would undo each other's checkpoints."""
    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{run}: another process is training into it") from None
        yield
