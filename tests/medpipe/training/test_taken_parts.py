"""Parts of a network that another one begins with, though it looks at other colours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medpipe.errors import ConfigError
from medpipe.training.experiment import Experiment, load_experiment
from medpipe.training.state import begin_with, build_network


@pytest.fixture
def colour(experiment: Path) -> Experiment:
    return load_experiment(experiment)


@pytest.fixture
def grey(colour: Experiment) -> Experiment:
    return colour.model_copy(update={"input": colour.input.model_copy(update={"channels": 1}), "seed": 9})


def seen(network: nn.Module, picture: torch.Tensor) -> torch.Tensor:
    """What the encoder's first stage says; the deeper ones say little before any training."""
    part = network.eval().encoder
    assert isinstance(part, nn.Module)
    with torch.inference_mode():
        found: torch.Tensor = part(picture)[0]
    return found


@pytest.mark.parametrize(("first", "second"), [("colour", "grey"), ("grey", "colour")])
def test_an_encoder_sees_grey_as_the_one_it_was_taken_from(
    first: str, second: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    taught: Experiment = request.getfixturevalue(first)
    begun: Experiment = request.getfixturevalue(second)
    teacher, network = build_network(taught), build_network(begun)
    save_file(teacher.state_dict(), tmp_path / "model.safetensors")
    begin_with(network, tmp_path / "model.safetensors", ["encoder", "aspp"])
    picture = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs = seen(teacher, picture.expand(-1, taught.input.channels, -1, -1))
    ours = seen(network, picture.expand(-1, begun.input.channels, -1, -1))
    assert theirs.std() > 1e-3, "a difference must show"
    torch.testing.assert_close(ours, theirs)


def test_a_part_of_another_width_is_refused(colour: Experiment, grey: Experiment, tmp_path: Path) -> None:
    save_file(build_network(colour).state_dict(), tmp_path / "model.safetensors")
    wider = grey.network.model_copy(update={"hyper": {**grey.network.hyper, "aspp": 24}})
    network = build_network(grey.model_copy(update={"network": wider}))
    with pytest.raises(ConfigError, match="does not fit this network"):
        begin_with(network, tmp_path / "model.safetensors", ["encoder", "aspp"])
