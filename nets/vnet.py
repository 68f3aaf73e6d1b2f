"""A 3-D V-Net with depthwise-separable residual blocks and, where voxels are not cubes, anisotropic kernels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


class SeparableConv3d(nn.Sequential):
    """Depthwise convolution, then pointwise, normalised per case: batches of volumes are too small for batch norms."""

    def __init__(self, inputs: int, outputs: int, kernel: Sequence[int]) -> None:
        size = (int(kernel[0]), int(kernel[1]), int(kernel[2]))
        padding = (size[0] // 2, size[1] // 2, size[2] // 2)
        super().__init__(
            nn.Conv3d(inputs, inputs, size, padding=padding, groups=inputs, bias=False),
            nn.Conv3d(inputs, outputs, 1, bias=False),
            nn.InstanceNorm3d(outputs, affine=True),
        )


class ResidualBlock(nn.Module):
    """x + two separable convolutions of x (Milletari, 3DV 2016, with He's identity shortcut)."""

    def __init__(self, channels: int, kernel: Sequence[int], depth: int = 2) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(SeparableConv3d(channels, channels, kernel) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number, convolution in enumerate(self.convolutions):
            y = convolution(y if number == 0 else functional.leaky_relu(y, 0.01))
        return functional.leaky_relu(x + y, 0.01)


class VNet(nn.Module):
    """(N, in_channels, D, H, W) -> logits (N, classes, D, H, W), any sizes; one independent logit per class.

    `widths` are the channels from full resolution down; each step halves the axes that `kernel` is larger than 1 on
    (`kernel = [1, 3, 3]` suits slices far apart). The way up adds the skip to what comes from below, as V-Net does.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 2,
        widths: Sequence[int] = (16, 32, 64, 128),
        kernel: Sequence[int] = (3, 3, 3),
        prior: float = 0.05,
    ) -> None:
        super().__init__()
        if len(kernel) != 3 or any(size % 2 == 0 for size in kernel):
            raise ValueError("vnet: kernel needs three odd sizes along (k, j, i)")
        k, j, i = (2 if size > 1 else 1 for size in kernel)
        self.stem = nn.Conv3d(in_channels, widths[0], (kernel[0], kernel[1], kernel[2]), padding="same")
        self.down = nn.ModuleList(ResidualBlock(width, kernel) for width in widths)
        self.shrink = nn.ModuleList(
            nn.Conv3d(a, b, (k, j, i), stride=(k, j, i)) for a, b in itertools.pairwise(widths)
        )
        pairs = list(itertools.pairwise(widths))
        self.rise = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in pairs)
        self.up = nn.ModuleList(ResidualBlock(a, kernel) for a, _ in pairs)
        self.head = nn.Conv3d(widths[0], classes, 1)
        if self.head.bias is not None:
            nn.init.constant_(self.head.bias, -math.log((1 - prior) / prior))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        skips: list[Tensor] = []
        for number, block in enumerate(self.down):
            if number:
                skips.append(y)
                y = self.shrink[number - 1](_even(y, self.shrink[number - 1]))
            y = block(y)
        for number in reversed(range(len(skips))):
            skip = skips[number]
            risen = functional.interpolate(self.rise[number](y), size=skip.shape[2:], mode="trilinear")
            y = self.up[number](skip + risen)
        logits: Tensor = self.head(y)
        return logits


def _even(x: Tensor, convolution: nn.Module) -> Tensor:
    """Repeats the last plane along an odd axis, so that halving loses nothing."""
    assert isinstance(convolution, nn.Conv3d)
    short = [-n % s for n, s in zip(x.shape[2:], convolution.stride, strict=True)]
    if not any(short):
        return x
    return functional.pad(x, (0, short[2], 0, short[1], 0, short[0]), mode="replicate")
