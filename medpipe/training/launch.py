"""A run from its TOML file: the folder it writes into, held against a second process; which trainer learns its task."""

from __future__ import annotations

import contextlib
import fcntl
import math
from collections.abc import Iterator
from pathlib import Path

from medpipe.errors import ConfigError
from medpipe.training.beforehand import check_begins_apart, check_goes_on, check_pictures
from medpipe.training.experiment import Experiment, load_experiment
from medpipe.training.export import averaged_weights
from medpipe.training.journal import Tell
from medpipe.training.per_fold import copy_into, of_fold
from medpipe.training.ranks import joined, own_device
from medpipe.training.restoring import Restorer
from medpipe.training.run_report import write_run_report
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
    fold: int | None = None,
    report: bool = False,
    to_export: bool = False,
    tell: Tell | None = None,
) -> TrainingReport:
    """Trains as the TOML file says and writes `<out>/<name>/`; a run that was stopped goes on where it was.

    `data` is a folder that medpipe.training.sources knows. `max_minutes` replaces the experiment's budget of minutes;
    it counts over resumes. `unlabelled` replaces the folder of its images without truth. `fold` holds out another fold
    than the file says, as run `<name>-fold<K>`; `report` writes the report of the held-out pictures in the end;
    `to_export` asks for what a bundle will need; `tell` hears of every step. Raises ConfigError for what cannot be
    trained, and where the run's folder holds what another experiment learned.
    """
    if data is None:
        raise ConfigError(
            "training needs --data, the folder with images/ and masks/ (or imagesTr/ and labelsTr/)"
        )
    spec = load_experiment(experiment)
    if fold is not None:
        spec = of_fold(spec, fold)
    if max_minutes is not None:
        if not 0 < max_minutes < math.inf:
            raise ConfigError(f"--max-minutes: {max_minutes:g} is no time to train; more than 0 is needed")
        spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"minutes": max_minutes})})
    if unlabelled is not None:
        spec = _with_unlabelled(spec, unlabelled)
    run = out / spec.name
    if not resume and (run / CHECKPOINT).exists():
        raise ConfigError(f"{run}: holds a run already; resume it, or move it away to start anew")
    check_pictures(spec, to_export=to_export)
    check_begins_apart(spec)
    run.mkdir(parents=True, exist_ok=True)
    chosen = own_device(pick_device(device))
    with joined(chosen) as ranks, contextlib.ExitStack() as held:
        if ranks.first:
            held.enter_context(_alone(run))
            check_goes_on(spec, run)
            copy_into(run, experiment, spec)
            TASKS[spec.task].prepare(spec, data, run)  # the first one fills the cache, the others find it
        ranks.wait()
        trainer = TASKS[spec.task](spec, data, run, chosen, ranks)
        done = trainer.run(tell)
        if report and ranks.first and spec.task == "segment":
            trainer.state.average.load_state_dict(averaged_weights(run))
            write_run_report(run, spec, trainer.cases.unseen, trainer.probabilities)
        return done


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
