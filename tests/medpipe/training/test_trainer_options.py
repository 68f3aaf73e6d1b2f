"""What an experiment may ask of the loop besides: sizes that grow, larger batches, an early end, several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medpipe.training import train
from medpipe.training.experiment import Patches, load_experiment
from medpipe.training.journal import read_notes
from medpipe.training.state import BEST, CHECKPOINT
from medpipe.training.trainer import Trainer

from .conftest import write_experiment

CPU = torch.device("cpu")


def parameters(trainer: Trainer) -> list[Tensor]:
    return [value.detach().clone() for value in trainer.state.network.parameters()]


def test_patches_grow_as_the_budget_is_spent() -> None:
    stages = ({"until": 0.25, "size": 64, "batch": 8}, {"until": 0.5, "size": 96, "batch": 4})
    spec = Patches.model_validate({"size": 128, "batch": 2, "stages": stages})
    seen = [(spec.at(done).size, spec.at(done).batch) for done in (0.0, 0.25, 0.49, 0.5, 1.0)]
    assert seen == [(64, 8), (96, 4), (96, 4), (128, 2), (128, 2)]


def test_a_run_with_stages_cuts_each_at_its_size(drawn_data: Path, tmp_path: Path) -> None:
    stages = [{"until": 0.5, "size": 32, "batch": 4}]
    path = write_experiment(tmp_path, patches={"size": 64, "batch": 2, "stages": stages}, budget={"steps": 4})
    trainer = Trainer(load_experiment(path), drawn_data, tmp_path, CPU)
    sizes: list[tuple[int, ...]] = []
    step = trainer.step

    def looking(batches: object, done: float) -> float:
        sizes.extend(tuple(batch.image.shape) for batch in batches)  # type: ignore[attr-defined]
        return step(batches, done)  # type: ignore[arg-type]

    trainer.step = looking  # type: ignore[method-assign, assignment]
    trainer.run()
    assert sizes == [(4, 3, 32, 32)] * 2 + [(2, 3, 64, 64)] * 2


def test_gradients_of_several_batches_make_one_step(drawn_data: Path, tmp_path: Path) -> None:
    """The same batch twice is, in the mean, that batch once."""
    spec = load_experiment(write_experiment(tmp_path))
    once = Trainer(spec, drawn_data, tmp_path / "once", CPU)
    twice = Trainer(spec, drawn_data, tmp_path / "twice", CPU)
    batch = once.sampler.batch(0)
    assert once.step(batch, 0.0) == pytest.approx(twice.step([batch, batch], 0.0))
    assert twice.state.steps == 1
    for one, two in zip(parameters(once), parameters(twice), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_a_run_without_progress_ends_early_and_keeps_its_best(
    drawn_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_experiment(tmp_path, budget={"steps": 500, "patience": 2, "validate_minutes": 1e-9})
    scores = iter([0.4, 0.5, 0.3, 0.5, 0.4])

    def graded(trainer: Trainer) -> dict[str, dict[str, float | None]]:
        trainer.state.judge(next(scores), trainer.folder)
        return {}

    monkeypatch.setattr(Trainer, "validate", graded)
    report = train(path, data=drawn_data, out=tmp_path / "runs", device="cpu")
    assert (
        report.steps == 4
    )  # measured after each step: the third and the fourth are no better than the second
    best = torch.load(report.run / BEST, weights_only=True)
    assert (best["score"], best["steps"]) == (0.5, 2)


@pytest.mark.timeout(240)
def test_two_processes_average_their_gradients(drawn_data: Path, tmp_path: Path) -> None:
    """What torchrun's two processes learn is what one learns from the batches of both; one of them exports it."""
    path = write_experiment(tmp_path, budget={"steps": 3})
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "medpipe.cli"]
    places = [
        "--data",
        str(drawn_data),
        "--out",
        str(tmp_path),
        "--export",
        str(tmp_path / "bundles" / "tiny"),
    ]
    told = subprocess.run(
        [sys.executable, *command, "train", str(path), *places],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    run = tmp_path / "tiny"
    assert [note["step"] for note in read_notes(run, "start")] == [0]  # one of the two speaks
    assert told.stdout.count(f"{tmp_path / 'bundles' / 'tiny'}\n") == 1
    assert "## Thresholds" in (tmp_path / "bundles" / "tiny" / "CARD.md").read_text()
    alone = Trainer(load_experiment(path), drawn_data, tmp_path / "alone", CPU)
    for n in range(3):
        alone.step([alone.sampler.batch(n, n / 3, first) for first in (0, 2)], n / 3)
    learned = torch.load(run / CHECKPOINT, weights_only=True)["network"]
    for name, value in alone.state.network.named_parameters():
        assert torch.allclose(learned[name], value, atol=1e-4), name


def test_figures_become_curves(drawn_data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report = train(write_experiment(tmp_path), data=drawn_data, out=tmp_path, device="cpu")
    board = EventAccumulator(str(report.run / "tensorboard"))
    board.Reload()
    tags = board.Tags()["scalars"]
    assert {"validate/held_out/aupr/MA", "validate/thresholds/mean_dice/EX"} <= set(tags)


@pytest.mark.parametrize("amp", [True, False])
def test_half_precision_can_be_switched_off(amp: bool, drawn_data: Path, tmp_path: Path) -> None:
    path = write_experiment(tmp_path, optimiser={"amp": amp})
    trainer = Trainer(load_experiment(path), drawn_data, tmp_path, CPU)
    seen: list[torch.dtype] = []
    trainer.state.network.register_forward_hook(lambda module, given, logits: seen.append(logits.dtype))
    trainer.step(trainer.sampler.batch(0), 0.0)
    computes_in_bf16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
    assert seen == [torch.bfloat16 if amp and computes_in_bf16 else torch.float32]
