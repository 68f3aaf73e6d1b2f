"""ImageNet checkpoints of others: our encoder gives the features that the published definitions give."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from published_mobilenet import FOLDER, picture, sampled, weight
from torch import Tensor

from nets.mobilenet import LAYOUTS, MobileNetV3Encoder
from nets.pretrained import load_encoder

EPS = {"torchvision": 1e-3, "timm": 1e-5}
PUBLISHED = [(whose, size) for whose in EPS for size in LAYOUTS]


def published(whose: str, size: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{whose}_{size}.json").read_text())
    return found


def checkpoint(whose: str, size: str) -> dict[str, Tensor]:
    return {key: weight(key, tuple(shape)) for key, shape in published(whose, size)["keys"].items()}


def encoder(whose: str = "torchvision", size: str = "small", channels: int = 3) -> MobileNetV3Encoder:
    return MobileNetV3Encoder(channels, LAYOUTS[size], eps=EPS[whose]).eval()


@pytest.mark.parametrize(("whose", "size"), PUBLISHED)
def test_features_are_those_of_the_published_definition(whose: str, size: str) -> None:
    network = encoder(whose, size)
    load_encoder(network, checkpoint(whose, size))
    with torch.inference_mode():
        ours = network(picture())
    for feature, expected in zip(ours, published(whose, size)["features"], strict=True):
        theirs = torch.tensor(expected)
        assert theirs.std() > 0.1, "a feature map without a signal shows nothing"
        assert torch.allclose(torch.tensor(sampled(feature)), theirs, rtol=1e-4, atol=1e-4)


def test_one_channel_sees_what_grey_was() -> None:
    colour, grey = encoder(), encoder(channels=1)
    four = encoder(channels=4)
    for network in (colour, grey, four):
        load_encoder(network, checkpoint("torchvision", "small"))
    image = picture(1)
    with torch.inference_mode():
        expected = colour(image.expand(-1, 3, -1, -1))[-1]
        assert torch.allclose(grey(image)[-1], expected, atol=1e-4)
        assert torch.allclose(four(image.expand(-1, 4, -1, -1))[-1], expected, atol=1e-4)


def test_a_checkpoint_without_its_classifier_is_enough() -> None:
    weights = checkpoint("timm", "small")
    kept = {key: value for key, value in weights.items() if not key.startswith(("classifier.", "conv_head."))}
    assert len(kept) < len(weights)
    load_encoder(encoder("timm"), kept)


@pytest.mark.parametrize("whose", EPS)
def test_a_missing_or_surplus_key_is_named(whose: str) -> None:
    weights = checkpoint(whose, "small")
    stem = "features.0.1" if whose == "torchvision" else "bn1"
    without = {key: value for key, value in weights.items() if key != f"{stem}.running_var"}
    with pytest.raises(ValueError, match=rf"{whose} does\) lacks {stem}.running_var$"):
        load_encoder(encoder(whose), without)
    with pytest.raises(ValueError, match=r"beyond the encoder, features.3.extra and 1 more$"):
        load_encoder(encoder(whose), {**weights, "features.3.extra": torch.ones(1), "zoom": torch.ones(1)})


def test_the_other_size_and_the_other_width_are_refused() -> None:
    with pytest.raises(ValueError, match="lacks features"):
        load_encoder(encoder(size="large"), checkpoint("torchvision", "small"))
    narrow = checkpoint("torchvision", "small")
    narrow["features.1.block.0.0.weight"] = torch.ones(8, 1, 3, 3)
    with pytest.raises(
        ValueError, match=r"features.1.block.0.0.weight has the shape \(8, 1, 3, 3\), not \(16"
    ):
        load_encoder(encoder(), narrow)


def test_what_is_no_mobilenet_is_refused() -> None:
    with pytest.raises(ValueError, match="not a MobileNetV3 checkpoint"):
        load_encoder(encoder(), {"conv1.weight": torch.ones(64, 3, 7, 7)})


def test_the_wrong_epsilon_is_refused_with_the_right_one() -> None:
    """It is not among the weights: a trained network that forgot it would answer otherwise."""
    network = MobileNetV3Encoder(rows=LAYOUTS["small"])
    with pytest.raises(ValueError, match=r"set the hyper-parameter encoder_eps = 0\.001"):
        load_encoder(network, checkpoint("torchvision", "small"))


def test_a_refused_checkpoint_changes_nothing() -> None:
    network = encoder()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    weights = checkpoint("torchvision", "small")
    weights["features.11.block.3.1.bias"] = torch.ones(7)
    with pytest.raises(ValueError, match="shape"):
        load_encoder(network, weights)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
