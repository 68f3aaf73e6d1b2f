"""A pruned network is smaller, finds what its weights say, and is built again from plain numbers."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from nets import registry
from nets.blocks import SeparableConv
from nets.cost import cost
from nets.pruning import narrowed, prune

SMALL: dict[str, Any] = {"aspp": 16, "decoder": [16, 12, 8, 8, 8], "full_stem": 4, "encoder": "small"}
PLAIN: dict[str, Any] = {
    "features": [8, 16],
    "kernels": [[3, 3], [3, 3]],
    "strides": [[1, 1], [2, 2]],
    "convolutions": [2, 2],
    "decoder_convolutions": [2],
}
CASES = {
    "attention-unet": (SMALL, (64, 64)),
    "plain-conv-unet": (PLAIN, (16, 16)),
    "vnet": ({"widths": [8, 12, 16]}, (16, 16, 16)),
}


def build(name: str, **more: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return registry.build(name, in_channels=3, classes=4, **CASES[name][0], **more)


@pytest.mark.parametrize("name", CASES)
def test_it_costs_less_and_is_built_again_from_its_rows(name: str) -> None:
    """The same weights in the network that the rows give: the same output, and it can be trained."""
    network, size = build(name), CASES[name][1]
    image = torch.randn(2, 3, *size)
    before = cost(network, image)
    rows = prune(network, image[:1], ratio=0.3)
    after = cost(network, image)
    assert after.weights < 0.8 * before.weights
    assert after.multiply_adds < 0.9 * before.multiply_adds
    again = build(name, pruned=rows)
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        one, two = network.eval()(image), again.eval()(image)
    assert one.shape == (2, 4, *size)
    assert torch.equal(one, two)
    again.train()(image).square().mean().backward()
    assert all(p.grad is not None for p in again.parameters())


def test_channels_of_the_smallest_norm_go() -> None:
    """Of a layer whose first half is nearly zero, the second half stays."""
    network = build("plain-conv-unet")
    before = network.state_dict()["decoder.head.weight"].shape
    first = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():
        first.weight[:4] *= 1e-3
    kept = first.weight[4:].clone()
    prune(network, torch.randn(1, 3, 16, 16), ratio=0.5)
    assert first.weight.shape[0] == 4
    assert torch.equal(first.weight, kept)
    assert network.state_dict()["decoder.head.weight"].shape[0] == before[0], "classes stay"


def test_ranked_everywhere_layers_lose_different_shares() -> None:
    image = torch.randn(1, 3, 64, 64)
    even, uneven = build("attention-unet"), build("attention-unet")
    prune(even, image, ratio=0.4)
    rows = prune(uneven, image, ratio=0.4, everywhere=True)
    again = build("attention-unet", pruned=rows)
    again.load_state_dict(uneven.state_dict())
    with torch.inference_mode():
        assert torch.equal(again.eval()(image), uneven.eval()(image)), "ASPP's pooled branch as well"

    def kept(network: torch.nn.Module) -> set[float]:
        whole = dict(build("attention-unet").named_modules())
        return {
            round(layer.out_channels / whole[name].out_channels, 1)
            for name, layer in network.named_modules()
            if isinstance(layer, torch.nn.Conv2d)
        }

    assert kept(even) <= {0.6, 0.5, 0.7, 1.0}
    assert kept(uneven) - {0.5, 0.6, 0.7, 1.0}


def test_ranked_everywhere_a_layer_keeps_a_tenth() -> None:
    """Of forty channels all but two are nearly zero."""
    torch.manual_seed(0)
    wide = {**PLAIN, "features": [40, 40]}
    network = registry.build("plain-conv-unet", in_channels=3, classes=4, **wide)
    first, second = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)][:2]
    with torch.no_grad():
        first.weight[:38] *= 1e-4
        second.weight[:, :38] *= 1e-4
    prune(network, torch.randn(1, 3, 16, 16), ratio=0.3, everywhere=True)
    assert first.out_channels == 4


def test_heads_that_speak_in_training_alone_are_pruned_along() -> None:
    network = build("attention-unet", deep_supervision=True).eval()
    prune(network, torch.randn(1, 3, 64, 64), ratio=0.3)
    outputs = network.train()(torch.randn(2, 3, 64, 64))
    assert [tuple(one.shape) for one in outputs] == [(2, 4, n, n) for n in (64, 32, 16, 8)]


def test_the_image_s_own_channels_stay() -> None:
    """A depthwise convolution right on the (padded) image filters all of its channels afterwards too."""

    class Separable(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.Sequential(
                SeparableConv(3, 16), SeparableConv(16, 16), torch.nn.Conv2d(16, 2, 1)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.parts(torch.nn.functional.pad(x, (0, 1, 0, 1), mode="replicate"))
            return y[..., :-1, :-1]

    network = Separable()
    rows = prune(network, torch.randn(1, 3, 16, 16), ratio=0.5)
    assert network(torch.randn(1, 3, 16, 16)).shape == (1, 2, 16, 16)
    assert network.parts[0][0][0].in_channels == 3
    assert narrowed(Separable(), rows)(torch.randn(1, 3, 16, 16)).shape == (1, 2, 16, 16)


def test_running_statistics_and_mode_stay() -> None:
    network = build("attention-unet").eval()
    momenta = [part.momentum for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    prune(network, torch.randn(1, 3, 64, 64), ratio=0.3)
    assert not network.training
    assert [part.momentum for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)] == momenta
    assert all(momenta)
    means = [value for name, value in network.state_dict().items() if name.endswith("running_mean")]
    assert means
    assert all(not mean.any() for mean in means)


def test_without_torch_pruning_a_pruned_network_is_built_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = prune(build("plain-conv-unet"), torch.randn(1, 3, 16, 16), ratio=0.3)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    assert build("plain-conv-unet", pruned=rows)(torch.randn(1, 3, 16, 16)).shape == (1, 4, 16, 16)
    with pytest.raises(ModuleNotFoundError):
        prune(build("plain-conv-unet"), torch.randn(1, 3, 16, 16), ratio=0.3)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["neck", 1, 1, 1], "neck"),
        (["head", 8, 4], "not a layer and its"),
        (["encoder.stem.0", 3, 7, 2], "3 to 7 channels in 2 groups"),
        (["encoder.stem.0", 3, 0, 1], "3 to 0 channels"),
        (["encoder.stem.2", 3, 3, 1], "neither a convolution"),
    ],
)
def test_a_row_that_cannot_be_is_refused(row: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        narrowed(build("attention-unet"), [row])


@pytest.mark.parametrize("ratio", [0, 1, -0.1])
def test_a_ratio_is_a_part(ratio: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        prune(build("plain-conv-unet"), torch.randn(1, 3, 16, 16), ratio=ratio)
