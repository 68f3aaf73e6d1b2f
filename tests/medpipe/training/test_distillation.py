"""A student follows its teacher's bundle; one of another input or other classes is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medpipe.errors import ConfigError
from medpipe.inference import load_backend
from medpipe.training import export_bundle
from medpipe.training.distillation import Teacher
from medpipe.training.experiment import Distil, load_experiment
from medpipe.training.state import CHECKPOINT
from medpipe.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def teacher(run: Path, tmp_path: Path) -> Path:
    return export_bundle(run, tmp_path / "teacher").folder


def test_the_teacher_s_word_is_part_of_the_loss(
    teacher: Path, experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    """With no other term the student nears what the teacher says, whatever the truth is."""
    text = experiment.read_text()
    experiment.write_text(
        text + '\n[loss]\nfocal = 0.0\ndice = 0.0\n[distil]\nteacher = "teacher"\nweight = 1.0\n'
    )
    trainer = Trainer(load_experiment(experiment), drawn_data, tmp_path / "student", CPU)
    with torch.no_grad():
        for weight in trainer.state.network.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    batch = trainer.sampler.batch(0)
    losses = [trainer.step(batch, 0.0) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_teacher_that_is_fed_otherwise_is_refused(teacher: Path, experiment: Path) -> None:
    student = load_experiment(experiment)
    wider = student.model_copy(
        update={"input": student.input.model_copy(update={"working_size": (640, 640)})}
    )
    with pytest.raises(ConfigError, match=r"fed otherwise: input\.working_size"):
        Teacher(Distil(teacher=teacher), wider, CPU)


def test_a_teacher_of_other_classes_is_refused(teacher: Path, experiment: Path) -> None:
    student = load_experiment(experiment)
    fewer = student.model_copy(update={"data": student.data.model_copy(update={"classes": ("EX",)})})
    with pytest.raises(ConfigError, match="has classes MA"):
        Teacher(Distil(teacher=teacher), fewer, CPU)


def test_several_networks_teach_what_their_bundle_says(run: Path, experiment: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    saved = torch.load(other / CHECKPOINT, weights_only=True)
    for value in saved["average"].values():
        if value.dtype.is_floating_point and value.dim() > 1:
            value.mul_(1.5)
    torch.save(saved, other / CHECKPOINT)
    both = export_bundle(run, tmp_path / "both", members=[other])
    taught = Teacher(Distil(teacher=both.folder), load_experiment(experiment), CPU)
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    said = torch.sigmoid(taught.logits(image)).numpy()
    assert np.abs(said - load_backend(both, "cpu", "torch", "f32")(image.numpy())).max() < 1e-5
    first = load_backend(both.members()[0], "cpu", "torch", "f32")(image.numpy())
    assert np.abs(said - first).max() > 1e-3


def test_a_teacher_of_classes_that_exclude_each_other_is_refused(teacher: Path, experiment: Path) -> None:
    path = teacher / "bundle.toml"
    text = path.read_text()
    path.write_text(text.replace("[network]\n", '[network]\nactivation = "softmax"\n'))
    with pytest.raises(ConfigError, match="gives one softmax of all classes"):
        Teacher(Distil(teacher=teacher), load_experiment(experiment), CPU)
