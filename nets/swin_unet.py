"""Swin-Unet: a U-Net of shifted-window transformers, for pictures (Cao, ECCV-W 2022; blocks of Liu, ICCV 2021).

Inside, a picture is (N, H, W, C) on a grid of 4 x 4 pixel patches. No shape is frozen: one trace serves every size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nets.blocks import padded

PATCH = 4
HEAD = 32
"""Channels of one attention head."""


class WindowAttention(nn.Module):
    """Self-attention among the `window` x `window` cells of each window, with a learned bias per relative position.

    With `shift` the windows lie half a window further, so that neighbours of the other layer meet. Cells that are only
    there to fill the last window, or that come from the other border by the shift, are not attended to.
    """

    relative: Tensor
    """Of each pair of cells, the row of `bias`."""

    def __init__(self, channels: int, window: int, *, shift: bool) -> None:
        super().__init__()
        if channels % HEAD:
            raise ValueError(f"swin-unet: width must be a multiple of {HEAD}, not {channels}")
        self.window, self.shift, self.heads = window, window // 2 if shift else 0, channels // HEAD
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, self.heads))
        nn.init.trunc_normal_(self.bias, std=0.02)
        row, column = (axis.flatten() for axis in torch.meshgrid([torch.arange(window)] * 2, indexing="ij"))
        down, right = (axis[:, None] - axis[None] + window - 1 for axis in (row, column))
        self.register_buffer("relative", down * (2 * window - 1) + right, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        x = functional.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        high, wide = x.shape[1:3]
        windows = self._windows(torch.roll(x, (-self.shift, -self.shift), (1, 2)))
        cells = self.window**2
        q, k, v = self.qkv(windows).view(-1, cells, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        mask = self._mask((height, width), (high, wide)).to(q.dtype)
        # windows and heads together: the pictures of a batch share the mask
        q, k, v = (t.reshape(-1, mask.shape[0], cells, HEAD) for t in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, mask)
        y = self.project(y.reshape(-1, self.heads, cells, HEAD).transpose(1, 2).reshape(-1, cells, channels))
        rows, columns = high // self.window, wide // self.window
        y = y.view(-1, rows, columns, self.window, self.window, channels).transpose(2, 3)
        y = y.reshape(-1, high, wide, channels)
        return torch.roll(y, (self.shift, self.shift), (1, 2))[:, :height, :width]

    def _windows(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N x windows, cells, C)."""
        _, high, wide, channels = x.shape
        rows, columns = high // self.window, wide // self.window
        x = x.view(-1, rows, self.window, columns, self.window, channels).transpose(2, 3)
        return x.reshape(-1, self.window**2, channels)

    def _mask(self, size: tuple[int, int], filled: tuple[int, int]) -> Tensor:
        """(windows x heads, cells, cells), added to the logits: the bias, and -100 between cells that lie apart."""
        row, column = (self._regions(end, whole) for end, whole in zip(size, filled, strict=True))
        regions = self._windows((3 * row[:, None] + column)[None, :, :, None])
        apart = regions.transpose(1, 2) != regions  # (windows, cells, cells)
        bias = self.bias[self.relative].permute(2, 0, 1)  # (heads, cells, cells)
        return bias.masked_fill(apart[:, None], -100.0).flatten(0, 1)

    def _regions(self, end: int, whole: int) -> Tensor:
        """Along one axis, as shifted: 0, 1 for what the shift brought from the other border, 2 for the padding."""
        place = torch.roll(torch.arange(whole, device=self.bias.device), -self.shift)
        return torch.where(place < end, (place < self.shift).to(torch.int64), 2)


class SwinBlock(nn.Module):
    """Norm, window attention, norm, two-layer perceptron; both residual, whole cases dropped while training."""

    def __init__(self, channels: int, window: int, drop: float, *, shift: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, window, shift=shift)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
        )
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._sometimes(self.attention(self.norm(x)))
        return x + self._sometimes(self.perceptron(x))

    def _sometimes(self, branch: Tensor) -> Tensor:
        """Stochastic depth (Huang, ECCV 2016)."""
        if not self.training or not self.drop:
            return branch
        kept = branch.new_empty(len(branch), 1, 1, 1).bernoulli_(1 - self.drop)
        return branch * kept / (1 - self.drop)


class Merge(nn.Module):
    """Half the size, twice the channels: 2 x 2 cells side by side, normalised, mixed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        four = 4 * channels
        self.mix = nn.Sequential(nn.LayerNorm(four), nn.Linear(four, 2 * channels, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        x = x.view(-1, height // 2, 2, width // 2, 2, channels).transpose(2, 3)
        mixed: Tensor = self.mix(x.reshape(-1, height // 2, width // 2, 4 * channels))
        return mixed


class Expand(nn.Module):
    """`factor` times the size: each cell becomes factor x factor cells of `outputs` channels, normalised."""

    def __init__(self, channels: int, outputs: int, factor: int) -> None:
        super().__init__()
        self.factor, self.outputs = factor, outputs
        self.spread = nn.Linear(channels, factor**2 * outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        f = self.factor
        x = self.spread(x).view(-1, height, width, f, f, self.outputs).transpose(2, 3)
        grown: Tensor = self.norm(x.reshape(-1, height * f, width * f, self.outputs))
        return grown


class SwinUNet(nn.Module):
    """(N, in_channels, H, W) -> logits (N, classes, H, W), any H, W; one independent logit per class.

    `width` is the channels of the finest level (at 1/4 of the size), doubled on each of the levels below; `depths` are
    the blocks of each level, plain and shifted in turn, on the way down and again on the way up. The paper has width
    96 and windows of 7; 8 divides the usual patches.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 4,
        width: int = 64,
        depths: Sequence[int] = (2, 2, 2, 2),
        window: int = 8,
        drop: float = 0.1,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(len(depths))]
        pairs = list(itertools.pairwise(widths))
        self.multiple = PATCH * 2 ** len(pairs)
        self.embed = nn.Conv2d(in_channels, width, PATCH, PATCH)
        self.start = nn.LayerNorm(width)
        self.down = nn.ModuleList(_level(w, n, window, drop) for w, n in zip(widths, depths, strict=True))
        self.merge = nn.ModuleList(Merge(a) for a, _ in pairs)
        self.rise = nn.ModuleList(Expand(b, a, 2) for a, b in pairs)
        self.join = nn.ModuleList(nn.Linear(2 * a, a) for a, _ in pairs)
        self.up = nn.ModuleList(_level(a, n, window, drop) for (a, _), n in zip(pairs, depths, strict=False))
        self.finish = Expand(width, width, PATCH)
        self.head = nn.Conv2d(width, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.head.bias is not None:
            nn.init.constant_(self.head.bias, -math.log((1 - prior) / prior))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        y = self.start(self.embed(padded(x, self.multiple)).permute(0, 2, 3, 1))
        skips: list[Tensor] = []
        for number, level in enumerate(self.down):
            if number:
                skips.append(y)
                y = self.merge[number - 1](y)
            y = level(y)
        for number in reversed(range(len(skips))):
            joined = torch.cat([self.rise[number](y), skips[number]], dim=-1)
            y = self.up[number](self.join[number](joined))
        logits: Tensor = self.head(self.finish(y).permute(0, 3, 1, 2))
        return logits[..., :height, :width]


def _level(channels: int, depth: int, window: int, drop: float) -> nn.Sequential:
    return nn.Sequential(*(SwinBlock(channels, window, drop, shift=n % 2 == 1) for n in range(depth)))
