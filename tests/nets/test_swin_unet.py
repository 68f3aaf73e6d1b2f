"""Shifted windows: who attends to whom, what padding may not do, and that what goes down comes up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nets.registry import build
from nets.swin_unet import Expand, Merge, SwinBlock, SwinUNet, WindowAttention


def reached(attention: WindowAttention, size: tuple[int, int], row: int, column: int) -> Tensor:
    """Which cells change when one cell does (H, W) bool."""
    torch.manual_seed(0)
    x = torch.randn(1, *size, 32)
    other = x.clone()
    other[0, row, column] += 10
    with torch.inference_mode():
        return (attention(x) - attention(other))[0].abs().amax(dim=-1) > 1e-6


def box(size: tuple[int, int], rows: slice, columns: slice) -> Tensor:
    expected = torch.zeros(size, dtype=torch.bool)
    expected[rows, columns] = True
    return expected


def test_a_cell_is_seen_in_its_window_alone() -> None:
    seen = reached(WindowAttention(32, 4, shift=False), (8, 12), 1, 6)
    assert torch.equal(seen, box((8, 12), slice(0, 4), slice(4, 8)))


def test_shifted_windows_lie_across_those_of_the_layer_before() -> None:
    seen = reached(WindowAttention(32, 4, shift=True), (8, 12), 3, 6)
    assert torch.equal(seen, box((8, 12), slice(2, 6), slice(6, 10)))


def test_the_shift_lets_opposite_borders_not_see_each_other() -> None:
    seen = reached(WindowAttention(32, 4, shift=True), (8, 12), 0, 0)
    assert torch.equal(seen, box((8, 12), slice(0, 2), slice(0, 2)))


@pytest.mark.parametrize("shift", [False, True])
def test_cells_that_fill_the_last_window_are_not_attended_to(shift: bool) -> None:
    """The padding is zeros, which the linear layers turn into something: it must not enter any mean."""
    torch.manual_seed(0)
    attention = WindowAttention(32, 4, shift=shift)
    torch.nn.init.zeros_(attention.bias)
    with torch.inference_mode():
        attention.qkv.weight[:64].zero_()
        attention.qkv.bias.zero_()  # all attended to alike: the mean of the values
        attention.qkv.weight[64:].copy_(torch.eye(32))
        attention.project.weight.copy_(torch.eye(32))
        attention.project.bias.zero_()
        assert torch.allclose(attention(torch.ones(1, 5, 7, 32)), torch.ones(1, 5, 7, 32), atol=1e-5)


def test_the_bias_is_that_of_the_relative_position() -> None:
    """Two pairs of cells equally far apart share it; moving one window's picture by a window changes nothing."""
    torch.manual_seed(0)
    attention = WindowAttention(32, 4, shift=False)
    where = attention.relative
    assert where[0, 5] == where[1, 6] == where[10, 15]
    assert where[0, 1] != where[1, 0]
    assert sorted(where.unique().tolist()) == list(range(49))


def test_the_pictures_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    block = SwinBlock(64, 4, 0.0, shift=True).eval()
    x = torch.randn(3, 6, 9, 64)
    with torch.inference_mode():
        alone = torch.cat([block(picture[None]) for picture in x])
        assert torch.allclose(block(x), alone, atol=1e-5)


def test_attention_laid_out_as_on_a_gpu_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's kernel gives (windows, cells, heads) in memory, of which a batch of two cannot be viewed as one row."""
    torch.manual_seed(0)
    block = SwinBlock(64, 4, 0.0, shift=True).eval()
    x = torch.randn(2, 6, 9, 64)
    attend = torch.nn.functional.scaled_dot_product_attention

    def as_there(*given: Tensor) -> Tensor:
        return attend(*given).transpose(1, 2).contiguous().transpose(1, 2)

    with torch.inference_mode():
        expected = block(x)
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", as_there)
        assert torch.equal(block(x), expected)


def test_merging_and_expanding_keep_cells_in_their_place() -> None:
    x = torch.zeros(1, 8, 8, 32)
    x[0, 2:4, 4:6] = torch.randn(2, 2, 32)
    with torch.inference_mode():
        merged = Merge(32)(x)
        assert merged.abs().amax(dim=-1)[0].nonzero().tolist() == [[1, 2]]
        grown = Expand(64, 32, 2)(merged)
        assert grown.abs().amax(dim=-1)[0].nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]


def test_branches_are_dropped_in_training_only_and_their_mean_is_kept() -> None:
    torch.manual_seed(0)
    block = SwinBlock(32, 4, 0.5, shift=False)
    branch = torch.ones(4000, 1, 1, 1)
    dropped = block.train()._sometimes(branch)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert float(dropped.mean()) == pytest.approx(1, abs=0.1)
    assert torch.equal(block.eval()._sometimes(branch), branch)


def test_the_default_is_of_moderate_size_and_the_paper_s_can_be_had() -> None:
    assert 12e6 < sum(p.numel() for p in SwinUNet().parameters()) < 13e6
    paper = SwinUNet(width=96, window=7)
    assert 26e6 < sum(p.numel() for p in paper.parameters()) < 28e6  # 27.17 M there


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32, not 48"):
        build("swin-unet", width=48)
