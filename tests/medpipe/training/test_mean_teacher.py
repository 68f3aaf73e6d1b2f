"""A run that also learns from pictures without truth: what it sees of them, may not see, and that it resumes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medpipe.errors import ConfigError
from medpipe.training import train
from medpipe.training.experiment import load_experiment
from medpipe.training.mean_teacher import ramp
from medpipe.training.state import CHECKPOINT
from medpipe.training.trainer import Trainer

from .conftest import NAMES, write_experiment

CPU = torch.device("cpu")
UNLABELLED: dict[str, object] = {"folder": "unlabelled", "batch": 2, "ramp": 0.5, "classes": ["HE", "EX"]}


@pytest.fixture
def unlabelled(drawn_data: Path, tmp_path: Path) -> Path:
    """`images/` alone: two pictures under names that no fold knows."""
    folder = tmp_path / "unlabelled"
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(NAMES[2:4]):
        shutil.copyfile(drawn_data / "images" / f"{name}.png", folder / "images" / f"other_{number}.png")
    return folder


@pytest.fixture
def trainer(unlabelled: Path, drawn_data: Path, tmp_path: Path) -> Trainer:
    path = write_experiment(tmp_path, unlabelled=UNLABELLED)
    return Trainer(load_experiment(path), drawn_data, tmp_path / "run", CPU)


def test_student_and_teacher_see_one_place_in_two_lights(trainer: Trainer) -> None:
    """The lights differ, but not where things are: edges lie on edges."""
    assert trainer.mean_teacher is not None
    alike, elsewhere = [], []
    for step in range(6):
        views = trainer.mean_teacher.views(step)
        assert views.student.shape == views.teacher.shape == (2, 3, 64, 64)
        assert not torch.allclose(views.student, views.teacher, atol=0.1)
        for one, two in zip(views.student[:, 1], views.teacher[:, 1], strict=True):
            alike.append(np.corrcoef(one.flatten(), two.flatten())[0, 1])
            elsewhere.append(np.corrcoef(one.flatten(), two.flip(0).flatten())[0, 1])
    assert min(alike) > 0.4  # a dim patch is mostly its own noise
    assert np.mean(alike) > 0.7
    assert np.mean(alike) > np.mean(elsewhere) + 0.3


def test_views_follow_from_seed_and_step_alone(trainer: Trainer) -> None:
    assert trainer.mean_teacher is not None
    one, two = trainer.mean_teacher.views(7), trainer.mean_teacher.views(7)
    other = trainer.mean_teacher.views(8)
    assert torch.equal(one.student, two.student)
    assert torch.equal(one.teacher, two.teacher)
    assert not torch.equal(one.student, other.student)


def test_the_student_comes_to_agree_with_its_average(trainer: Trainer) -> None:
    """With nothing else in the loss, steps on one batch bring the network nearer to the average."""
    trainer.loss.focal = trainer.loss.dice = 0.0
    torch.manual_seed(0)
    with torch.no_grad():
        for network in (trainer.state.network, trainer.state.average):
            network.get_submodule("head").bias.zero_()
        for weight in trainer.state.network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    trainer.state.follow = lambda decay: None  # type: ignore[method-assign]
    batch = trainer._cut(0, 1.0, 0)
    losses = [trainer.step(batch, 0.0) for _ in range(12)]
    assert 0 < losses[-1] < 0.7 * losses[0]


def test_a_class_that_is_not_counted_gets_no_gradient(trainer: Trainer) -> None:
    assert trainer.mean_teacher is not None
    logits = torch.randn(2, 4, 8, 8, requires_grad=True)
    trainer.mean_teacher.loss(logits, torch.zeros(2, 4, 8, 8), torch.ones(2, 1, 8, 8), 1.0).backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(dim=(0, 2, 3)) > 0
    assert moved.tolist() == [False, True, True, False]


def test_the_term_grows_to_its_weight() -> None:
    assert ramp(0.0, 0.4) == pytest.approx(np.exp(-5))
    assert ramp(0.2, 0.4) == pytest.approx(np.exp(-1.25))
    assert ramp(0.4, 0.4) == ramp(0.9, 0.4) == ramp(0.0, 0.0) == 1.0


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    unlabelled: Path, drawn_data: Path, tmp_path: Path
) -> None:
    path = write_experiment(tmp_path, unlabelled=UNLABELLED, budget={"steps": 4})
    whole = train(path, data=drawn_data, out=tmp_path / "whole", device="cpu")
    halves = tmp_path / "halves" / "tiny"
    broken = Trainer(load_experiment(path), drawn_data, halves, CPU)
    for step in range(2):
        done = step / 4
        broken.step(broken._cut(step, done, 0), done)
    broken.state.save(halves)
    train(path, data=drawn_data, out=tmp_path / "halves", device="cpu")
    one, two = (torch.load(run / CHECKPOINT, weights_only=True)["network"] for run in (whole.run, halves))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", NAMES[:2], ids=["held out", "thresholds"])
def test_a_picture_that_is_measured_is_refused(
    name: str, unlabelled: Path, drawn_data: Path, tmp_path: Path
) -> None:
    name = name.upper()
    shutil.copyfile(drawn_data / "images" / f"{name.lower()}.png", unlabelled / "images" / f"{name}.png")
    path = write_experiment(tmp_path, unlabelled=UNLABELLED)
    with pytest.raises(ConfigError, match=f"{name}: kept out of training") as caught:
        train(path, data=drawn_data, out=tmp_path / "runs", device="cpu")
    assert "\n" not in str(caught.value)


def test_the_folder_is_the_command_s_or_the_experiment_s(
    unlabelled: Path, drawn_data: Path, tmp_path: Path
) -> None:
    bare = {key: value for key, value in UNLABELLED.items() if key != "folder"}
    path = write_experiment(tmp_path, unlabelled=bare, budget={"steps": 1})
    with pytest.raises(ConfigError, match="--unlabelled DIR"):
        train(path, data=drawn_data, out=tmp_path / "runs", device="cpu")
    report = train(path, data=drawn_data, out=tmp_path / "runs", device="cpu", unlabelled=unlabelled)
    assert report.steps == 1
    with pytest.raises(ConfigError, match="holds no images"):
        train(path, data=drawn_data, out=tmp_path / "runs", device="cpu", unlabelled=tmp_path)
    plain = write_experiment(tmp_path)
    with pytest.raises(ConfigError, match=r"no section \[unlabelled\]"):
        train(plain, data=drawn_data, out=tmp_path / "runs", device="cpu", unlabelled=unlabelled)


def test_a_class_that_is_not_the_experiment_s_is_refused(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, unlabelled={**UNLABELLED, "classes": ["OD"]})
    with pytest.raises(ConfigError, match=r"unlabelled\.classes: OD"):
        load_experiment(path)
