"""A run that also learns from pictures without truth: what it sees of them, may not see, and that it resumes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medpipe.errors import ConfigError
from medpipe.training import train
from medpipe.training.experiment import Stage, load_experiment
from medpipe.training.mean_teacher import MeanTeacher, ramp
from medpipe.training.patches import PatchSampler
from medpipe.training.state import CHECKPOINT
from medpipe.training.trainer import Trainer
from medpipe.training.ways import Unlabelled

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


AS_IT_IS = {
    "gain": [1.0, 1.0],
    "channel_gain": [1.0, 1.0],
    "gamma": [1.0, 1.0],
    "shift": 0.0,
    "blur": 0.0,
    "noise": 0.0,
}


def test_every_view_has_a_noise_of_its_own_over_the_picture_as_it_is(
    unlabelled: Path, drawn_data: Path, tmp_path: Path
) -> None:
    still = load_experiment(
        write_experiment(tmp_path, unlabelled=UNLABELLED, patches={"size": 64, "batch": 2, **AS_IT_IS})
    )
    lit = still.model_copy(update={"patches": load_experiment(write_experiment(tmp_path)).patches})
    cases = Trainer(still, drawn_data, tmp_path / "run", CPU).cases.unlabelled
    teacher = MeanTeacher(Unlabelled.model_validate(UNLABELLED), still, cases)
    plain = PatchSampler(cases, still.patches, still.input, seed=teacher._sampler.seed)
    cut_of_lit = MeanTeacher(Unlabelled.model_validate(UNLABELLED), lit, cases)._sampler
    noises = []
    for step in (7, 8):
        views = teacher.views(step)
        for index in range(2):
            picture = plain.patch(step, index, still.patches)[0]
            assert torch.equal(cut_of_lit.patch(step, index, cut_of_lit.spec)[0], picture)
            noises += [(view[index] - picture).flatten() for view in (views.student, views.teacher)]
    assert [float(noise.std()) for noise in noises] == pytest.approx([0.1] * 8, rel=0.05)
    assert np.abs(np.corrcoef(np.stack(noises)) - np.eye(8)).max() < 0.1


def test_no_two_draws_of_a_patch_are_the_same_stream(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is cut, and the light of either view: NumPy takes a seed with a 0 at its end for the one without."""
    assert trainer.mean_teacher is not None
    first: list[float] = []
    make = np.random.default_rng

    def noting(seed: tuple[int, ...]) -> np.random.Generator:
        first.append(float(make(seed).random()))
        return make(seed)

    monkeypatch.setattr(np.random, "default_rng", noting)
    trainer.mean_teacher.views(3)
    trainer.sampler.batch(3)
    assert len(first) == 2 * 3 + 2
    assert len(set(first)) == len(first)


def test_every_view_has_colours_of_its_own(trainer: Trainer) -> None:
    silent = Unlabelled.model_validate({**UNLABELLED, "noise": 0.0})
    views = MeanTeacher(silent, trainer.spec, trainer.cases.unlabelled).views(0)
    assert not torch.allclose(views.student, views.teacher, atol=0.1)


def test_no_process_sees_what_another_sees_nor_the_labelled_pictures_places(trainer: Trainer) -> None:
    assert trainer.mean_teacher is not None
    first, second = trainer.mean_teacher.views(3, rank=0), trainer.mean_teacher.views(3, rank=1)
    assert not any(torch.allclose(one, two) for one in first.student for two in second.student)
    assert trainer.mean_teacher._sampler.seed != trainer.sampler.seed


def test_views_grow_with_the_patches(trainer: Trainer) -> None:
    stages = (Stage(until=0.5, size=32, batch=4),)
    patches = trainer.spec.patches.model_copy(update={"stages": stages})
    growing = trainer.spec.model_copy(update={"patches": patches})
    spec = Unlabelled.model_validate(UNLABELLED)
    teacher = MeanTeacher(spec, growing, trainer.cases.unlabelled)
    assert [teacher.views(0, done).student.shape[-1] for done in (0.0, 0.5)] == [32, 64]


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


def test_the_term_is_the_distance_inside_by_its_weight_and_the_ramp(trainer: Trainer) -> None:
    assert trainer.mean_teacher is not None
    logits, average, inside = (
        torch.zeros(1, 4, 2, 2),
        torch.full((1, 4, 2, 2), -50.0),
        torch.zeros(1, 1, 2, 2),
    )
    inside[..., 0] = 1
    logits[..., 1] = 50.0  # outside of the picture they may differ
    term = trainer.mean_teacher.loss(logits, average, inside, 0.25)
    assert float(term) == pytest.approx(10 * ramp(0.25, 0.5) * 0.5**2)


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
