"""Batches that were cut ahead are those that were asked for, in order, whoever cut them."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data._utils import signal_handling

from medpipe.bundle import InputSpec
from medpipe.errors import ConfigError
from medpipe.training.ahead import Key, cut_ahead, spare_cores
from medpipe.training.cases import TrainingCase
from medpipe.training.experiment import Patches
from medpipe.training.patches import Batch, PatchSampler

CPU = torch.device("cpu")
GREY = InputSpec.model_validate(
    {
        "modality": ["US"],
        "channels": 1,
        "spatial_dims": 2,
        "normalise": {"kind": "mean-std", "mean": [0], "std": [1]},
    }
)


def sampler() -> PatchSampler:
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 80, 80), np.uint8)
    case = TrainingCase(
        "one", image, image // 2, np.ones((1, 80, 80), np.bool_), (np.argwhere(image[0] > 250),)
    )
    return PatchSampler([case], Patches(size=32, batch=2, jpeg=0.5, noise=0.1, elastic=1.0), GREY, seed=5)


def keys() -> Iterator[Key]:
    return ((number, 0.0, 0) for number in itertools.count(3))


@pytest.mark.parametrize("processes", [0, 2])
def test_batches_come_in_order_and_are_the_same_as_cut_at_once(processes: int) -> None:
    chosen = sampler()
    batches = cut_ahead(chosen.batch, keys(), CPU, processes)
    for number in range(3, 10):
        ahead, at_once = next(batches), chosen.batch(number)
        assert torch.equal(ahead.image, at_once.image)
        assert torch.equal(ahead.target, at_once.target)
        assert torch.equal(ahead.valid, at_once.valid)
    batches.close()


def test_the_thread_is_a_step_ahead_and_ends_with_the_run() -> None:
    chosen, done = sampler(), threading.Event()
    cut = chosen.batch

    def noted(number: int, *more: float) -> Batch:
        batch = cut(number, *more)  # type: ignore[arg-type]
        if number == 4:
            done.set()
        return batch

    chosen.batch = noted  # type: ignore[method-assign]
    before = set(threading.enumerate())
    batches = cut_ahead(chosen.batch, keys(), CPU)
    next(batches)
    assert done.wait(60), "the second batch is cut before it is asked for"
    batches.close()
    assert set(threading.enumerate()) <= before, "threads of earlier tests may end meanwhile, ours has"


def test_the_processes_end_with_the_run() -> None:
    own = psutil.Process()
    before = {child.pid for child in own.children()}
    batches = cut_ahead(sampler().batch, keys(), CPU, 2)
    next(batches)
    cutting = [child for child in own.children() if child.pid not in before]
    assert len(cutting) == 2
    batches.close()
    assert not psutil.wait_procs(cutting, timeout=30)[1]


@pytest.mark.parametrize("processes", [0, 1])
def test_what_goes_wrong_while_cutting_is_raised_where_the_batch_is_taken(processes: int) -> None:
    chosen = sampler()

    def fails(*_: object) -> Batch:
        raise ConfigError("the picture is gone")

    chosen.batch = fails  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="the picture is gone"):
        next(cut_ahead(chosen.batch, keys(), CPU, processes))


def test_one_core_is_left_and_processes_of_torchrun_share_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert spare_cores() == 15
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert spare_cores() == 1


def test_torch_s_handler_of_ended_children_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # as before the first DataLoader
    before = signal.getsignal(signal.SIGCHLD)
    batches = cut_ahead(sampler().batch, keys(), CPU, 1)
    next(batches)
    batches.close()
    assert signal.getsignal(signal.SIGCHLD) is before
