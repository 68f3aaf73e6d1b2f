"""The training loop: batches, loss, optimiser, moving average; checkpoints and measurements on the way."""

from __future__ import annotations

import contextlib
import fcntl
import math
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from medpipe.errors import ConfigError
from medpipe.training.cases import PRESENT, TrainingCase, load_cases, normalisation, unit_values
from medpipe.training.distillation import Teacher
from medpipe.training.drawn import draw_pictures
from medpipe.training.experiment import Experiment, load_experiment, split
from medpipe.training.export import averaged_weights
from medpipe.training.folds import copy_into, of_fold
from medpipe.training.journal import Journal, Standing, Tell
from medpipe.training.metrics import PooledScores
from medpipe.training.patches import Batch, PatchSampler
from medpipe.training.ranks import Ranks, joined, own_device
from medpipe.training.run_report import write_run_report
from medpipe.training.sources import open_source
from medpipe.training.state import CHECKPOINT, TrainingState, learning_rate, new_state
from nets.losses import WeightedLoss

CACHE = "cache"
_LOG_STEPS = 50


@dataclass(frozen=True)
class TrainingReport:
    """How a run ended. `scores`: AUPR per class at working size, `held_out` and `thresholds` pictures."""

    run: Path
    steps: int
    minutes: float
    loss: float
    patches_per_second: float
    waited: float = 0.0
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [
            f"{self.run}: {self.steps} steps in {self.minutes:.1f} min, "
            f"{self.patches_per_second:.1f} patches/s ({100 * self.waited:.1f} % of the time waited for them), "
            f"loss {self.loss:.4f}"
        ]
        for part, scores in self.scores.items():
            shown = ", ".join(f"{c} {'-' if v is None else f'{v:.3f}'}" for c, v in scores.items())
            lines.append(f"AUPR at working size, {part.replace('_', ' ')} pictures: {shown}")
        return "\n".join(lines)


def train(
    experiment: Path,
    *,
    data: Path | None,
    out: Path,
    resume: bool = True,
    max_minutes: float | None = None,
    device: str = "auto",
    fold: int | None = None,
    report: bool = False,
    tell: Tell | None = None,
) -> TrainingReport:
    """Trains as the TOML file says and writes `<out>/<name>/`; a run that was stopped goes on where it was.

    `data` is a folder that medpipe.training.sources knows. `max_minutes` replaces the experiment's budget of minutes;
    it counts over resumes. `fold` holds out another fold than the file says, as run `<name>-fold<K>`; `report` writes
    the report of the held-out pictures in the end; `tell` hears of every step. Raises ConfigError for what cannot be
    trained.
    """
    if data is None:
        raise ConfigError(
            "training needs --data, the folder with images/ and masks/ (or imagesTr/ and labelsTr/)"
        )
    spec = load_experiment(experiment)
    if fold is not None:
        spec = of_fold(spec, fold)
    if max_minutes is not None:
        spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"minutes": max_minutes})})
    run = out / spec.name
    if not resume and (run / CHECKPOINT).exists():
        raise ConfigError(f"{run}: holds a run already; resume it, or move it away to start anew")
    run.mkdir(parents=True, exist_ok=True)
    chosen = own_device(pick_device(device))
    with joined(chosen) as ranks, contextlib.ExitStack() as held:
        if ranks.first:
            held.enter_context(_alone(run))
            copy_into(run, experiment, spec)
            Trainer.prepare(spec, data, run)  # the first one fills the cache, the others find it
        ranks.wait()
        trainer = Trainer(spec, data, run, chosen, ranks)
        done = trainer.run(tell)
        if report and ranks.first:
            trainer.state.average.load_state_dict(averaged_weights(spec, run))
            write_run_report(run, spec, trainer.measured["held_out"], trainer.probabilities)
        return done


@contextlib.contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Holds the run's folder: two processes that train into one would undo each other's checkpoints."""
    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{run}: another process is training into it") from None
        yield


def pick_device(device: str) -> torch.device:
    """`auto`: CUDA where there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is unknown: auto, cpu, cuda or cuda:n") from error


def autocast(device: torch.device, *, flat: bool = True) -> contextlib.AbstractContextManager[Any]:
    """fp16 on CUDA; bf16 on a CPU that computes in it, of pictures (`flat`): volumes are slower in it than in f32."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.float16)
    if device.type == "cpu" and flat and torch.cpu.get_capabilities().get("avx512_bf16", False):
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return contextlib.nullcontext()


class Trainer:
    """One run: its pictures, its state and its folder."""

    def __init__(
        self, spec: Experiment, data: Path, run: Path, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.spec, self.folder, self.device, self.ranks = spec, run, device, ranks or Ranks()
        self._flat = spec.input.spatial_dims == 2
        self.training, self.measured, drawn = Trainer.prepare(spec, data, run)
        self.sampler = PatchSampler(
            self.training,
            spec.patches,
            spec.input,
            seed=spec.seed,
            drawn=drawn,
            drawn_share=spec.drawn.share if spec.drawn else 0.0,
        )
        self.loss = WeightedLoss(**spec.loss.model_dump())
        self.teacher = Teacher(spec.distil, spec, device) if spec.distil else None
        self.state: TrainingState = new_state(spec, device)
        self.state.load(run)
        self.network = self.ranks.spread(self.state.network, device)
        self.journal = Journal(run, silent=not self.ranks.first)

    @staticmethod
    def prepare(
        spec: Experiment, data: Path, run: Path
    ) -> tuple[list[TrainingCase], dict[str, list[TrainingCase]], list[TrainingCase]]:
        """Training cases, measured ones by part, drawn ones; from the run's cache where they are there."""
        source, parts = open_source(data, spec.input, spec.labels), split(spec.data)

        def load(names: Sequence[str]) -> list[TrainingCase]:
            return load_cases(source, names, spec.input, classes=len(spec.data.classes), cache=run / CACHE)

        measured = {"thresholds": load(parts.thresholds), "held_out": load(parts.held_out)}
        drawn = draw_pictures(spec.drawn, spec.data.classes, spec.input, run / CACHE) if spec.drawn else []
        return load(parts.training), measured, drawn

    def run(self, tell: Tell | None = None) -> TrainingReport:
        """Trains to the end of the budget; saves on the way, at the end, and when interrupted."""
        budget, state = self.spec.budget, self.state
        started, before, first = time.monotonic(), state.seconds, state.steps
        saved = validated = started
        losses: list[float] = []
        patches, waited = 0, 0.0
        self._note("start", seconds=round(state.seconds), pictures=len(self.training))
        batches = self._batches(first)
        try:
            while (done := self.ranks.agreed(self._done(), self.device)) < 1:
                asked = time.monotonic()
                taken = [next(batches) for _ in range(self.spec.optimiser.accumulate)]
                waited += time.monotonic() - asked
                patches += sum(len(batch.image) for batch in taken)
                losses.append(self.step(taken, done))
                now = time.monotonic()
                state.seconds = before + now - started
                if tell is not None and self.ranks.first:
                    rate = patches / (now - started)
                    tell(Standing(self._done(), state.steps, losses[-1], rate, state.seconds))
                if state.steps % _LOG_STEPS == 0:
                    self._note(
                        "train",
                        loss=_mean(losses[-_LOG_STEPS:]),
                        rate=state.optimiser.param_groups[0]["lr"],
                        minutes=round(state.seconds / 60, 2),
                        patches_per_second=round(patches / (now - started), 2),
                        waited=round(waited / (now - started), 4),
                    )
                if self.ranks.first and now - saved > 60 * budget.save_minutes:
                    state.save(self.folder)
                    saved = now
                if self.ranks.first and now - validated > 60 * budget.validate_minutes:
                    self.validate()
                    validated = time.monotonic()
        finally:
            batches.close()
            if self.ranks.first:
                state.save(self.folder)
        scores = self.validate() if self.ranks.first else {}
        self.journal.close()
        spent = max(time.monotonic() - started, 1e-9)
        return TrainingReport(
            run=self.folder,
            steps=state.steps,
            minutes=state.seconds / 60,
            loss=_mean(losses[-_LOG_STEPS:]),
            patches_per_second=patches * self.ranks.world / spent,
            waited=waited / spent,
            scores=scores,
        )

    def step(self, batches: Sequence[Batch] | Batch, done: float) -> float:
        """One step of the optimiser on one batch, or on several whose gradients are added up; gives the mean loss."""
        taken = [batches] if isinstance(batches, Batch) else batches
        state, spec = self.state, self.spec.optimiser
        rate = learning_rate(spec, state.steps, done)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.zero_grad(set_to_none=True)
        value = 0.0
        for number, batch in enumerate(taken):
            # gradients travel between processes once a step, with the last batch
            last = number == len(taken) - 1
            with contextlib.nullcontext() if last else unsynchronised(self.network):
                loss = self._loss(batch) / len(taken)
                torch.autograd.backward(state.scaler.scale(loss))
            value += float(loss.detach())
        state.scaler.unscale_(state.optimiser)
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), spec.clip)
        state.scaler.step(state.optimiser)
        state.scaler.update()
        state.steps += 1
        state.follow(spec.ema)
        if not math.isfinite(value):
            raise ConfigError(f"step {state.steps}: the loss is {value}; lower optimiser.rate")
        return value

    def _loss(self, batch: Batch) -> Tensor:
        image, valid = self._laid_out(batch.image), batch.valid.to(self.device)
        with autocast(self.device, flat=self._flat):
            logits = self.network(image)
            taught = self.teacher.logits(image) if self.teacher else None
        loss: Tensor = self.loss(logits.float(), batch.target.to(self.device), valid)
        if self.teacher is not None and taught is not None:
            loss = loss + self.teacher.loss(logits.float(), taught.float(), valid)
        return loss

    def validate(self) -> dict[str, dict[str, float | None]]:
        """AUPR per class of the averaged network at working size; of the held-out pictures only to be looked at."""
        scores: dict[str, dict[str, float | None]] = {}
        for part, cases in self.measured.items():
            pooled = [PooledScores() for _ in self.spec.data.classes]
            dices: list[list[float]] = [[] for _ in pooled]
            for case in cases:
                probability, inside = self.probabilities(case), np.asarray(case.inside)
                for c, score in enumerate(pooled):
                    values, truth = probability[c][inside], (case.masks[c] >= PRESENT)[inside]
                    score.add(values, truth)
                    if truth.any():
                        marked = values >= 0.5
                        dices[c].append(2 * float((marked & truth).sum()) / float(marked.sum() + truth.sum()))
            scores[part] = dict(zip(self.spec.data.classes, (s.aupr for s in pooled), strict=True))
            mean_dice = {
                c: round(_mean(d), 4) if d else None
                for c, d in zip(self.spec.data.classes, dices, strict=True)
            }
            self._note("validate", part=part, aupr=scores[part], mean_dice=mean_dice)
        if self.spec.budget.patience is not None:
            known = [value for value in scores["thresholds"].values() if value is not None]
            self.state.judge(_mean(known), self.folder)
        return scores

    def probabilities(self, case: TrainingCase) -> NDArray[np.float32]:
        """The averaged network's probabilities (classes, k, j, i) float32 of a whole case on its working grid."""
        image = unit_values(case.image[:])
        if case.image.dtype == np.uint8:
            mean, std = normalisation(self.spec.input)
            image = (image - torch.from_numpy(mean)) / torch.from_numpy(std)
        fed = image.transpose(0, 1) if self._flat else image[None]
        short = [-n % 32 for n in fed.shape[2:]]
        padded = functional.pad(fed, [n for size in reversed(short) for n in (0, size)])
        with torch.inference_mode(), autocast(self.device, flat=self._flat):
            logits = self.state.average(self._laid_out(padded))
        kept = logits.float()[(..., *(slice(n) for n in fed.shape[2:]))]
        probability = torch.sigmoid(kept).cpu()
        return np.asarray((probability.transpose(0, 1) if self._flat else probability[0]).numpy())

    def _laid_out(self, image: Tensor) -> Tensor:
        layout = torch.channels_last if self._flat else torch.channels_last_3d
        return image.to(self.device, memory_format=layout)

    def _done(self) -> float:
        """The spent part of the budget, 1 at its end."""
        budget = self.spec.budget
        parts = [0.0]
        if budget.steps is not None:
            parts.append(self.state.steps / budget.steps)
        if budget.minutes is not None:
            parts.append(self.state.seconds / (60 * budget.minutes))
        if budget.patience is not None and self.state.since >= budget.patience:
            parts.append(1.0)
        return max(parts)

    def _batches(self, step: int) -> Generator[Batch, None, None]:
        """Batches from a step on, this process's share of each; beside a GPU they are cut ahead of time."""
        number = step * self.spec.optimiser.accumulate

        def cut(number: int, done: float) -> Batch:
            return self.sampler.batch(number, done, self.ranks.rank * self.spec.patches.at(done).batch)

        if self.device.type != "cuda":
            while True:
                yield cut(number, self.ranks.agreed(self._done(), self.device))
                number += 1
        with ThreadPoolExecutor(8) as pool:
            ahead: list[Future[Batch]] = [pool.submit(cut, number + n, self._done()) for n in range(16)]
            try:
                while True:
                    yield ahead.pop(0).result()
                    ahead.append(pool.submit(cut, number + 16, self._done()))
                    number += 1
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _note(self, kind: str, **facts: Any) -> None:
        self.journal.note(kind, self.state.steps, **facts)


def unsynchronised(network: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Backward passes in here stay in this process."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
