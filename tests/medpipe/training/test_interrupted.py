"""A run that stops in the middle of a step, or moves to another machine, goes on from weights that are sound."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medpipe.errors import ConfigError
from medpipe.training import train
from medpipe.training.experiment import load_experiment
from medpipe.training.interrupts import put_off
from medpipe.training.state import CHECKPOINT, new_state
from medpipe.training.trainer import Trainer
from tests.medpipe.training.conftest import write_experiment

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_on_a_terminal() -> Iterator[None]:
    """Python's own answer to Ctrl-C, whatever the process that runs the tests does with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def checkpoint(run: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(run / CHECKPOINT, weights_only=True)
    return saved


def interrupt(*_: object) -> None:
    """What Python does between two steps of the main thread when SIGINT came: it calls the handler.

    No signal is raised: its delivery onto the stack that pytest's faulthandler has set up (sigaltstack) ended a process
    of the whole suite now and then, by a SIGSEGV of the kernel's.
    """
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        handler(signal.SIGINT, None)


@pytest.mark.parametrize("moment", ["before the loss", "after the optimiser"])
def test_ctrl_c_within_a_step_waits_for_its_end(
    moment: str, experiment: Path, drawn_data: Path, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    trainer = Trainer(load_experiment(experiment), drawn_data, tmp_path / "runs" / "tiny", CPU)

    def at_step_5(module: object, *_: object) -> None:
        if trainer.state.steps == 5:
            interrupt()

    if moment == "before the loss":
        trainer.state.network.register_forward_hook(at_step_5)
    else:
        trainer.state.optimiser.register_step_post_hook(at_step_5)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert checkpoint(trainer.folder)["steps"] == 6
    train(experiment, data=drawn_data, out=tmp_path / "runs", device="cpu")
    resumed, unbroken = checkpoint(trainer.folder), checkpoint(trained)
    for part in ("network", "average"):
        assert all(torch.equal(resumed[part][name], value) for name, value in unbroken[part].items())


def test_ctrl_c_twice_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), put_off():
        interrupt()
        interrupt()
        pytest.fail("the second one was put off too")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        with put_off():
            interrupt()
            interrupt()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_without_a_finite_loss_leaves_the_last_sound_weights(
    what: str, experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    class Breaking(Trainer):
        def _loss(self, batch: Any, done: float) -> Tensor:
            loss = super()._loss(batch, done)
            if self.state.steps < 7:
                return loss
            return loss * float("nan") if what == "loss" else loss + (loss - loss.detach()).sqrt()

    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    trainer = Breaking(load_experiment(experiment), drawn_data, run, CPU)
    for number in range(7):
        trainer.step(trainer.sampler.batch(number), 0.0)
    trainer.state.save(run)
    with pytest.raises(ConfigError, match=rf"step 8: the {what} is nan; .*optimiser\.rate"):
        trainer.run()
    saved = checkpoint(run)
    assert saved["steps"] == 7
    assert all(value.isfinite().all() for value in saved["average"].values())
    assert all(value.isfinite().all() for value in trainer.state.network.parameters())


def test_half_precision_that_never_gives_a_finite_gradient_ends_the_run(
    experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    """The loss scaler passes over each such step: the run would go to its end, and its weights nowhere."""

    class Breaking(Trainer):
        def _loss(self, batch: Any, done: float) -> Tensor:
            loss = super()._loss(batch, done)
            return loss + (loss - loss.detach()).sqrt()

    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    trainer = Breaking(load_experiment(experiment), drawn_data, run, CPU)
    trainer.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-8, enabled=True)
    with pytest.raises(ConfigError, match=r"step 3: the gradient is not finite, however small"):
        trainer.run()


def test_a_run_goes_on_with_the_scaler_and_the_weight_decay_of_now(run: Path, tmp_path: Path) -> None:
    """A run of a CPU has no loss scaler to hand over: on a GPU it begins with a new one."""
    path = write_experiment(tmp_path, optimiser={"warm_up_steps": 4, "weight_decay": 0.5})
    state = new_state(load_experiment(path), CPU)
    state.scaler = torch.amp.GradScaler("cpu", enabled=True)
    assert state.load(run)
    assert state.steps == 12
    assert state.optimiser.param_groups[0]["weight_decay"] == 0.5
    assert checkpoint(run)["scaler"] == {}
