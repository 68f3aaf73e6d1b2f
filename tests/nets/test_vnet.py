"""The 3-D V-Net: any size in and out, anisotropic kernels halve only the axes they look along, gradients everywhere."""

from __future__ import annotations

import pytest
import torch

from nets.registry import build
from nets.vnet import SeparableConv3d, VNet


@pytest.mark.parametrize("size", [(16, 24, 16), (17, 25, 19), (24, 40, 31)])
def test_logits_have_the_size_of_the_volume(size: tuple[int, int, int]) -> None:
    network = build("vnet", in_channels=1, classes=2, widths=[8, 12, 16]).eval()
    assert network(torch.zeros(2, 1, *size)).shape == (2, 2, *size)


def test_anisotropic_kernels_keep_the_slices_apart() -> None:
    """With kernel (1, 3, 3) what happens in one slice does not reach another, but for the norm over the volume."""
    torch.manual_seed(0)
    network = VNet(1, 1, widths=(4, 8), kernel=(1, 3, 3))
    for module in network.modules():
        if isinstance(module, SeparableConv3d):
            module[2] = torch.nn.Identity()
    volume = torch.randn(1, 1, 5, 16, 16)
    other = volume.clone()
    other[:, :, 2] += 1
    changed = (network(volume) != network(other)).flatten(3).any(dim=3)[0, 0]
    assert changed.tolist() == [False, False, True, False, False]


def test_every_weight_gets_a_gradient() -> None:
    network = VNet(1, 2, widths=(4, 8, 8))
    network(torch.randn(2, 1, 12, 16, 12)).square().mean().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_separable_convolutions_cost_a_tenth() -> None:
    separable = sum(p.numel() for p in SeparableConv3d(32, 32, (3, 3, 3)).parameters() if p.dim() > 1)
    assert separable < 0.1 * 32 * 32 * 27


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="three odd sizes"):
        VNet(kernel=(2, 3, 3))
