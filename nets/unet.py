"""The plain U-Net, the yardstick (Ronneberger, MICCAI 2015), padded and with batch norms, as it is used today."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nets.blocks import ConvNormAct, SeparableConv, padded


class UNet(nn.Module):
    """(N, in_channels, H, W) -> logits (N, classes, H, W), any H, W; one independent logit per class.

    Two 3 x 3 convolutions a level, 2 x 2 max pooling down, 2 x 2 transposed convolutions up, concatenated skips.
    `widths` are the channels from full resolution down (the paper's by default); pictures are padded to a size that
    halves evenly. `separable` makes each 3 x 3 convolution a depthwise and a pointwise one (Chollet, CVPR 2017).
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 4,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        separable: bool = False,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("unet: widths needs one number of channels per level")
        self.multiple = 2 ** (len(widths) - 1)
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            _two(a, b, separable=separable) for a, b in itertools.pairwise([in_channels, *widths])
        )
        self.rise = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(_two(2 * a, a, separable=separable) for a, _ in pairs)
        self.head = nn.Conv2d(widths[0], classes, 1)
        if self.head.bias is not None:
            nn.init.constant_(self.head.bias, -math.log((1 - prior) / prior))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        y = padded(x, self.multiple)
        skips: list[Tensor] = []
        for number, block in enumerate(self.down):
            if number:
                skips.append(y)
                y = functional.max_pool2d(y, 2)
            y = block(y)
        for number in reversed(range(len(skips))):
            y = self.up[number](torch.cat([skips[number], self.rise[number](y)], dim=1))
        logits: Tensor = self.head(y)
        return logits[..., :height, :width]


def _two(inputs: int, outputs: int, *, separable: bool) -> nn.Sequential:
    convolution: Callable[..., nn.Module] = SeparableConv if separable else ConvNormAct
    return nn.Sequential(convolution(inputs, outputs), convolution(outputs, outputs))
