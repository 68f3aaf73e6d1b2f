"""A run that begins with an ImageNet encoder: read safely, whole or not at all, and the bundle stays true to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from published_mobilenet import FOLDER, weight
from safetensors.torch import save_file
from torch import Tensor, nn

from medpipe.errors import ConfigError
from medpipe.inference import load_network
from medpipe.training import export_bundle, train
from medpipe.training.experiment import load_experiment
from medpipe.training.state import new_state

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint() -> dict[str, Tensor]:
    """As torchvision would save mobilenet_v3_small."""
    keys = json.loads((FOLDER / "torchvision_small.json").read_text())["keys"]
    return {key: weight(key, tuple(shape)) for key, shape in keys.items()}


@pytest.fixture
def begun(experiment: Path) -> Path:
    """The experiment with a small encoder that begins with encoder.pth beside it."""
    text = experiment.read_text()
    text = text.replace('name = "attention-unet"', 'name = "attention-unet"\nencoder_weights = "encoder.pth"')
    text = text.replace("aspp = 16", 'aspp = 16\nencoder = "small"\nencoder_eps = 0.001')
    experiment.write_text(text)
    return experiment


def encoder(network: nn.Module) -> nn.Module:
    part = network.encoder
    assert isinstance(part, nn.Module)
    return part


@pytest.mark.parametrize("name", ["encoder.pth", "encoder.safetensors"])
def test_network_and_average_begin_with_the_checkpoint(
    begun: Path, checkpoint: dict[str, Tensor], name: str
) -> None:
    begun.write_text(begun.read_text().replace("encoder.pth", name))
    write = torch.save if name.endswith(".pth") else save_file
    write(checkpoint, begun.parent / name)
    state = new_state(load_experiment(begun), CPU)
    for network in (state.network, state.average):
        own = encoder(network).state_dict()
        assert torch.equal(own["stem.0.weight"], checkpoint["features.0.0.weight"])
        assert torch.equal(own["stages.4.2.block.3.1.bias"], checkpoint["features.11.block.3.1.bias"])


def test_the_bundle_computes_as_the_run_did(
    begun: Path, checkpoint: dict[str, Tensor], drawn_data: Path, tmp_path: Path
) -> None:
    """The epsilon of the checkpoint's home goes along, and the checkpoint is not needed any more."""
    torch.save(checkpoint, begun.parent / "encoder.pth")
    begun.write_text(begun.read_text().replace("steps = 12", "steps = 1"))
    run = train(begun, data=drawn_data, out=tmp_path / "runs", device="cpu").run
    (begun.parent / "encoder.pth").unlink()
    norms = [
        part
        for part in encoder(load_network(export_bundle(run, tmp_path / "tiny"))).modules()
        if isinstance(part, nn.BatchNorm2d)
    ]
    assert norms
    assert {norm.eps for norm in norms} == {1e-3}


class Code:
    """What a pickle could run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Code(), "weights alone"),
        ([1, 2], "holds a list"),
        ({"conv1.weight": torch.ones(1)}, "not a MobileNetV3 checkpoint"),
        ({"features.0.0.weight": torch.ones(16, 3, 3, 3)}, r"lacks features\.0\.1\.weight"),
    ],
)
def test_another_file_is_refused_in_one_line(begun: Path, content: object, said: str) -> None:
    torch.save(content, begun.parent / "encoder.pth")
    with pytest.raises(ConfigError, match=said) as caught:
        new_state(load_experiment(begun), CPU)
    assert str(caught.value).startswith("network.encoder_weights: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(begun: Path) -> None:
    with pytest.raises(ConfigError, match=r"network\.encoder_weights: .*encoder\.pth"):
        new_state(load_experiment(begun), CPU)


def test_a_network_without_such_an_encoder_is_told(begun: Path) -> None:
    text = begun.read_text().split("[network.hyper]")[0].replace("attention-unet", "unet")
    rest = begun.read_text().split("[data]")[1]
    begun.write_text(f"{text}[network.hyper]\nwidths = [4, 8]\n[data]{rest}")
    with pytest.raises(ConfigError, match="no MobileNetV3 encoder"):
        new_state(load_experiment(begun), CPU)


def test_two_beginnings_are_one_too_many(begun: Path) -> None:
    begun.write_text(begun.read_text().replace("encoder_weights", 'weights = "a.pt"\nencoder_weights'))
    with pytest.raises(ConfigError, match="leave out encoder_weights, or weights"):
        load_experiment(begun)
