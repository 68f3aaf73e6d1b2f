"""The training loop: batches, loss, optimiser, moving average; checkpoints and measurements on the way."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from medpipe.errors import ConfigError
from medpipe.training.ahead import Key, cut_ahead
from medpipe.training.beforehand import check_classes, check_fits, multiple_of
from medpipe.training.cases import PRESENT, TrainingCase, load_cases, normalisation, unit_values
from medpipe.training.distillation import Teacher
from medpipe.training.drawn import draw_pictures
from medpipe.training.experiment import Experiment, split
from medpipe.training.interrupts import put_off
from medpipe.training.journal import Journal, Standing, Tell
from medpipe.training.mean_teacher import MeanTeacher
from medpipe.training.metrics import PooledScores
from medpipe.training.patches import Batch, PatchSampler
from medpipe.training.ranks import Ranks
from medpipe.training.sources import open_source
from medpipe.training.state import TrainingState, learning_rate, new_state
from medpipe.training.unlabelled import unlabelled_cases
from nets.losses import WeightedLoss, deep_supervision

CACHE = "cache"
_LOG_STEPS = 50
_LEAST_SCALE = 2.0**-10
"""Of the loss in half precision: it begins with 2^16, and is halved at each step whose gradient is not finite."""


@dataclass(frozen=True)
class TrainingReport:
    """How a run ended. `scores`: what `measure` names, of the `held_out` and `thresholds` pictures."""

    run: Path
    steps: int
    minutes: float
    loss: float
    patches_per_second: float
    waited: float = 0.0
    measure: str = "AUPR at working size"
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    first: bool = True
    """False in the other processes of a run by torchrun, which neither measure nor export."""

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [
            f"{self.run}: {self.steps} steps in {self.minutes:.1f} min, "
            f"{self.patches_per_second:.1f} patches/s ({100 * self.waited:.1f} % of the time waited for them), "
            f"loss {self.loss:.4f}"
        ]
        for part, scores in self.scores.items():
            shown = ", ".join(f"{c} {'-' if v is None else f'{v:.3f}'}" for c, v in scores.items())
            lines.append(f"{self.measure}, {part.replace('_', ' ')} pictures: {shown}")
        return "\n".join(lines)


def pick_device(device: str) -> torch.device:
    """`auto`: CUDA where there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is unknown: auto, cpu, cuda or cuda:n") from error


def autocast(device: torch.device, network: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """fp16 on CUDA; bf16 on a CPU that has it, but for networks that convolve volumes channel by channel: those are
    twice as slow in it as in f32, dense ones twice as fast."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.float16)
    computes = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
    if computes and not any(isinstance(part, nn.Conv3d) and part.groups > 1 for part in network.modules()):
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return contextlib.nullcontext()


@dataclass(frozen=True, eq=False)
class Cases:
    """What a run learns from, and what it is measured on, by part."""

    training: list[TrainingCase]
    measured: dict[str, list[TrainingCase]]
    drawn: list[TrainingCase] = field(default_factory=list)
    unlabelled: list[TrainingCase] = field(default_factory=list)

    @property
    def unseen(self) -> list[TrainingCase]:
        """What the report is of: the fold held out, else the threshold pictures."""
        return self.measured["held_out"] or self.measured["thresholds"]


class Trainer:
    """One run: its pictures, its state and its folder."""

    measure = "AUPR at working size"

    def __init__(
        self, spec: Experiment, data: Path, run: Path, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.spec, self.folder, self.device, self.ranks = spec, run, device, ranks or Ranks()
        self._flat = spec.input.spatial_dims == 2
        self._midway = False  # in a step: network, optimiser and average do not belong together
        self.cases = self.prepare(spec, data, run)
        if spec.task == "segment":
            check_classes(spec.data.classes, [*self.cases.training, *self.cases.drawn])
        self.sampler = PatchSampler(
            self.cases.training,
            spec.patches,
            spec.input,
            seed=spec.seed,
            drawn=self.cases.drawn,
            drawn_share=spec.drawn.share if spec.drawn else 0.0,
            classes=spec.data.classes,
            weights=spec.data.weights,
        )
        self.loss = WeightedLoss(**spec.loss.model_dump())
        self.teacher = Teacher(spec.distil, spec, device) if spec.distil else None
        self.mean_teacher = (
            MeanTeacher(spec.unlabelled, spec, self.cases.unlabelled)
            if spec.unlabelled and self.cases.unlabelled
            else None
        )
        self.state: TrainingState = new_state(spec, device)
        stages = [spec.patches.at(done) for done in (*(s.until - 1e-9 for s in spec.patches.stages), 1.0)]
        shapes = [patches.shape(flat=self._flat)[-spec.input.spatial_dims :] for patches in stages]
        batches = [patches.batch for patches in stages]
        check_fits(self.state.average, shapes, spec.input.channels, batches=batches)
        self._multiple = multiple_of(self.state.average, spec.input.spatial_dims, spec.input.channels)
        self.state.load(run)
        self.network = self.ranks.spread(self.state.network, device)
        self.journal = Journal(run, silent=not self.ranks.first)

    @staticmethod
    def prepare(spec: Experiment, data: Path, run: Path) -> Cases:
        """The cases on their working grid, from the run's cache where they are there."""
        source, parts, cache = open_source(data, spec.input, spec.labels), split(spec.data), run / CACHE

        def load(names: Sequence[str]) -> list[TrainingCase]:
            return load_cases(source, names, spec.input, classes=len(spec.data.classes), cache=cache)

        return Cases(
            training=load(parts.training),
            measured={"thresholds": load(parts.thresholds), "held_out": load(parts.held_out)},
            drawn=draw_pictures(spec.drawn, spec.data.classes, spec.input, cache) if spec.drawn else [],
            unlabelled=unlabelled_cases(spec, cache),
        )

    def run(self, tell: Tell | None = None) -> TrainingReport:
        """Trains to the end of the budget; saves on the way, at the end, and when stopped after a whole step."""
        budget, state = self.spec.budget, self.state
        started, before, first = time.monotonic(), state.seconds, state.steps
        saved = validated = started
        losses: list[float] = []
        patches, waited = 0, 0.0
        self._note("start", seconds=round(state.seconds), pictures=len(self.cases.training))
        batches = self._batches(first)
        try:
            while (done := self.ranks.agreed(self._done(), self.device)) < 1:
                asked = time.monotonic()
                taken = [next(batches) for _ in range(self.spec.optimiser.accumulate)]
                waited += time.monotonic() - asked
                patches += sum(len(batch.image) for batch in taken)
                with put_off():
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
            if self.ranks.first and not self._midway:
                state.save(self.folder)
        spent = max(time.monotonic() - started, 1e-9)
        scores = self.validate() if self.ranks.first else {}
        self.journal.close()
        return TrainingReport(
            run=self.folder,
            steps=state.steps,
            minutes=state.seconds / 60,
            loss=_mean(losses[-_LOG_STEPS:]),
            patches_per_second=patches * self.ranks.world / spent,
            waited=waited / spent,
            measure=self.measure,
            scores=scores,
            first=self.ranks.first,
        )

    def step(self, batches: Sequence[Batch] | Batch, done: float) -> float:
        """One step of the optimiser on one batch, or on several whose gradients are added up; gives the mean loss."""
        taken = [batches] if isinstance(batches, Batch) else batches
        state, spec = self.state, self.spec.optimiser
        self._midway = True
        rate = learning_rate(spec, state.steps, done)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.zero_grad(set_to_none=True)
        value = 0.0
        for number, batch in enumerate(taken):
            # gradients travel between processes once a step, with the last batch
            last = number == len(taken) - 1
            with contextlib.nullcontext() if last else unsynchronised(self.network), self._chance(number):
                loss = self._loss(batch, done) / len(taken)
                torch.autograd.backward(state.scaler.scale(loss))
            value += float(loss.detach())
        _check_finite(value, "loss", state.steps)
        state.scaler.unscale_(state.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(state.network.parameters(), spec.clip)
        if not state.scaler.is_enabled():  # which passes over such a step by itself
            _check_finite(float(norm), "gradient", state.steps)
        state.scaler.step(state.optimiser)
        state.scaler.update()
        if state.scaler.is_enabled() and state.scaler.get_scale() < _LEAST_SCALE:
            raise ConfigError(
                f"step {state.steps + 1}: the gradient is not finite, however small the loss is scaled; "
                "go on with a lower optimiser.rate"
            )
        state.steps += 1
        state.follow(spec.ema)
        self._midway = False
        return value

    @contextlib.contextmanager
    def _chance(self, number: int) -> Iterator[None]:
        """What a network leaves to chance (dropped branches) hangs on the seed and the step, not on what ran before."""
        seed = np.random.SeedSequence((self.spec.seed, self.state.steps, number, self.ranks.rank))
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
            yield

    def _loss(self, batch: Batch, done: float) -> Tensor:
        image, valid = self._laid_out(batch.image), batch.valid.to(self.device, non_blocking=True)
        target = batch.target.to(self.device, non_blocking=True)
        views = batch.views if self.mean_teacher is not None else None
        fed = image if views is None else torch.cat([image, self._laid_out(views.student)])
        with self._autocast():
            given = self.network(fed)
            taught = self.teacher.logits(image) if self.teacher else None
        # with deep supervision the coarser logits follow
        outputs = [part.float() for part in (given if isinstance(given, list) else [given])]
        labelled = [part[: len(image)] for part in outputs]
        loss = deep_supervision(self.loss, labelled, target, valid)
        if self.teacher is not None and taught is not None:
            loss = loss + self.teacher.loss(labelled[0], taught.float(), valid)
        if self.mean_teacher is not None and views is not None:
            average, inside = self._average_of(views.teacher), views.valid.to(self.device)
            loss = loss + self.mean_teacher.loss(outputs[0][len(image) :], average, inside, done)
        return loss

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        amp = self.spec.optimiser.amp
        return autocast(self.device, self.state.network) if amp else contextlib.nullcontext()

    def _average_of(self, image: Tensor) -> Tensor:
        """The averaged network's logits, float32, without a gradient."""
        with torch.no_grad(), self._autocast():
            return torch.as_tensor(self.state.average(self._laid_out(image))).float()

    def validate(self) -> dict[str, dict[str, float | None]]:
        """What `measure` names, of the averaged network; of the held-out pictures only to be looked at."""
        scores: dict[str, dict[str, float | None]] = {}
        for part, cases in self.cases.measured.items():
            scores[part], noted = self._measured(cases)
            self._note("validate", part=part, **noted)
        if self.spec.budget.patience is not None:
            known = [value for value in scores["thresholds"].values() if value is not None]
            self.state.judge(_mean(known), self.folder)
            self.state.save(self.folder)  # BEST and what is known of it go together
        return scores

    def _measured(self, cases: Sequence[TrainingCase]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """AUPR per class at working size, and what the journal is told."""
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
        aupr = dict(zip(self.spec.data.classes, (s.aupr for s in pooled), strict=True))
        mean_dice = {
            c: round(_mean(d), 4) if d else None for c, d in zip(self.spec.data.classes, dices, strict=True)
        }
        return aupr, {"aupr": aupr, "mean_dice": mean_dice}

    def probabilities(self, case: TrainingCase) -> NDArray[np.float32]:
        """The averaged network's probabilities (classes, k, j, i) float32 of a whole case on its working grid."""
        image = unit_values(case.image[:])
        if case.image.dtype == np.uint8:
            mean, std = normalisation(self.spec.input)
            image = (image - torch.from_numpy(mean)) / torch.from_numpy(std)
        fed = image.transpose(0, 1) if self._flat else image[None]
        padded = self._surrounded(fed)
        with torch.inference_mode(), self._autocast():
            logits = self.state.average(self._laid_out(padded))
        kept = logits.float()[(..., *(slice(n) for n in fed.shape[2:]))]
        probability = torch.sigmoid(kept).cpu()
        return np.asarray((probability.transpose(0, 1) if self._flat else probability[0]).numpy())

    def _surrounded(self, fed: Tensor) -> Tensor:
        """An image (1, channels, ..., J, I) with sides that the network takes, surrounded as in the bundle's window."""
        short = [-n % self._multiple for n in fed.shape[2:]]
        sides = [n for size in reversed(short) for n in (0, size)]
        padding = self.spec.bundle.get("window", {}).get("padding", "edge")
        if padding == "edge":
            return functional.pad(fed, sides, mode="replicate")
        black = self.spec.input.black if padding == "black" else None
        around = fed.new_tensor(black or (0.0,) * fed.shape[1]).reshape(1, -1, *[1] * (fed.dim() - 2))
        return functional.pad(fed - around, sides) + around

    def _laid_out(self, image: Tensor) -> Tensor:
        layout = torch.channels_last if self._flat else torch.channels_last_3d
        return image.to(self.device, memory_format=layout, non_blocking=True)

    def _done(self, step: int | None = None) -> float:
        """The spent part of the budget, 1 at its end; as it will be at a step, as far as steps say."""
        budget = self.spec.budget
        parts = [0.0]
        if budget.steps is not None:
            parts.append((self.state.steps if step is None else step) / budget.steps)
        if budget.minutes is not None:
            parts.append(self.state.seconds / (60 * budget.minutes))
        if budget.patience is not None and self.state.since >= budget.patience:
            parts.append(1.0)
        return max(parts)

    def _batches(self, step: int) -> Generator[Batch, None, None]:
        """Batches from a step on, this process's share of each; cut ahead of time."""
        accumulate = self.spec.optimiser.accumulate

        def keys() -> Iterator[Key]:
            for number in itertools.count(step * accumulate):
                yield number, self._done(number // accumulate), self.ranks.rank

        return cut_ahead(self._cut, keys(), self.device)

    def _cut(self, number: int, done: float, rank: int) -> Batch:
        batch = self.sampler.batch(number, done, rank * self.spec.patches.at(done).batch)
        if self.mean_teacher is None:
            return batch
        return replace(batch, views=self.mean_teacher.views(number, done, rank))

    def _note(self, kind: str, **facts: Any) -> None:
        self.journal.note(kind, self.state.steps, **facts)


def unsynchronised(network: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Backward passes in here stay in this process."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def _check_finite(value: float, what: str, steps: int) -> None:
    if not math.isfinite(value):
        raise ConfigError(f"step {steps + 1}: the {what} is {value}; go on with a lower optimiser.rate")
