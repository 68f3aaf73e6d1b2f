"""The building blocks: shapes at odd sizes, and what each is for."""

from __future__ import annotations

import pytest
import torch

from nets.blocks import ASPP, AttentionGate, ConvNormAct, SeparableConv, SqueezeExcite

SIZES = [(1, 1), (7, 5), (12, 33), (64, 64)]


@pytest.mark.parametrize("size", SIZES)
def test_blocks_keep_the_size_at_stride_one(size: tuple[int, int]) -> None:
    x = torch.randn(2, 8, *size)
    assert ConvNormAct(8, 6, 3, dilation=4).eval()(x).shape == (2, 6, *size)
    assert SeparableConv(8, 6, 5).eval()(x).shape == (2, 6, *size)
    assert SqueezeExcite(8, 4)(x).shape == x.shape
    assert ASPP(8, 10, (6, 12, 18)).eval()(x).shape == (2, 10, *size)


def test_a_separable_convolution_has_the_weights_of_its_two_parts() -> None:
    kernels = sum(p.numel() for p in SeparableConv(32, 64, 3).parameters() if p.dim() == 4)
    assert kernels == 3 * 3 * 32 + 32 * 64  # a full one would have 3 * 3 * 32 * 64


def test_aspp_pools_over_whatever_it_is_given() -> None:
    """The global branch must follow the picture, not a size fixed when the network was built."""
    torch.manual_seed(0)
    block = ASPP(4, 4, (1,)).eval()
    x = torch.randn(1, 4, 20, 30)
    far_away = x.clone()
    far_away[..., -1, -1] += 50
    changed = (block(x) - block(far_away)).abs().amax(dim=1)[0]
    assert changed[0, 0] > 0, "a change in one corner is not seen in the other: no global context"


def test_squeeze_excite_scales_channels_and_nothing_else() -> None:
    block = SqueezeExcite(3, 8)
    x = torch.rand(1, 3, 6, 6) + 0.5
    ratio = block(x) / x
    assert torch.allclose(ratio, ratio[..., :1, :1].expand_as(ratio), atol=1e-5)
    assert ratio.min() >= 0
    assert ratio.max() <= 1


def test_the_attention_gate_can_close_and_open_a_skip() -> None:
    gate = AttentionGate(skip=4, gate=6, inner=3)
    skip, below = torch.randn(1, 4, 8, 8), torch.randn(1, 6, 8, 8)
    assert gate.weigh.bias is not None
    with torch.no_grad():
        gate.weigh.weight.zero_()
        gate.weigh.bias.fill_(-30)
        assert gate(skip, below).abs().max() < 1e-6
        gate.weigh.bias.fill_(30)
        assert torch.allclose(gate(skip, below), skip)


def test_the_attention_gate_looks_at_both_signals() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(skip=4, gate=6, inner=8)
    skip, below = torch.randn(1, 4, 8, 8), torch.randn(1, 6, 8, 8)
    assert not torch.allclose(gate(skip, below), gate(skip, below + 1))
