"""A student follows its teacher's bundle; one of another input or other classes is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medpipe.errors import ConfigError
from medpipe.training import export_bundle
from medpipe.training.distillation import Teacher
from medpipe.training.experiment import Distil, load_experiment
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
