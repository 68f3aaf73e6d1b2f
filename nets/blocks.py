"""The building blocks: depthwise-separable convolution, squeeze-and-excite, ASPP, additive attention gate.

All take and give (N, C, H, W) and know no size in advance, so a graph traced once serves any H and W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNormAct(nn.Sequential):
    """k x k convolution, batch normalisation, activation (None: linear). Padding keeps H and W at stride 1."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activation: type[nn.Module] | None = nn.ReLU,
        eps: float = 1e-5,
    ) -> None:
        padding = dilation * (kernel - 1) // 2
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
            nn.BatchNorm2d(outputs, eps),
        ]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)


class SeparableConv(nn.Sequential):
    """Depthwise k x k, then pointwise 1 x 1 (Chollet, CVPR 2017): k*k*C + C*D weights instead of k*k*C*D."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__(
            ConvNormAct(
                inputs, inputs, kernel, stride=stride, dilation=dilation, groups=inputs, activation=None
            ),
            ConvNormAct(inputs, outputs, 1),
        )


class SqueezeExcite(nn.Module):
    """Channel weights from the global mean (Hu, CVPR 2018), hard sigmoid as in MobileNetV3 (Howard, ICCV 2019)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = x.mean(dim=(2, 3), keepdim=True)
        weights = functional.relu(self.reduce(weights))
        return x * functional.hardsigmoid(self.expand(weights))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling, its branches separable unless told otherwise (Chen, ECCV 2018).

    One 1 x 1 branch, one 3 x 3 branch per rate, one global-pooling branch that broadcasts to any H, W.
    On a grid of g cells a branch of rate >= g sees padding only besides its centre: choose the rates for the tile.
    """

    def __init__(
        self, inputs: int, outputs: int, rates: Sequence[int] = (6, 12, 18), *, separable: bool = True
    ) -> None:
        super().__init__()
        convolution: Callable[..., nn.Module] = SeparableConv if separable else ConvNormAct
        self.point = ConvNormAct(inputs, outputs, 1)
        self.atrous = nn.ModuleList(convolution(inputs, outputs, 3, dilation=rate) for rate in rates)
        self.pooled = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.ReLU())
        self.project = ConvNormAct(outputs * (len(rates) + 2), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.point(x), *(branch(x) for branch in self.atrous)]
        pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True))
        branches.append(pooled.expand(-1, -1, *branches[0].shape[2:]))  # pruned, it has channels of its own
        merged: Tensor = self.project(torch.cat(branches, dim=1))
        return merged


def padded(x: Tensor, multiple: int) -> Tensor:
    """H and W up to the next multiple, at their ends, by repeating the last row and column."""
    height, width = x.shape[-2:]
    return functional.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


class AttentionGate(nn.Module):
    """Additive attention on a skip connection (Oktay, MIDL 2018): the coarser signal says where the skip matters.

    `skip` (N, C, H, W) and `gate` (N, G, H, W) have the same size here: the decoder upsamples before it asks.
    """

    def __init__(self, skip: int, gate: int, inner: int) -> None:
        super().__init__()
        self.of_skip = nn.Conv2d(skip, inner, 1, bias=False)
        self.of_gate = nn.Conv2d(gate, inner, 1)
        self.weigh = nn.Conv2d(inner, 1, 1)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        weights = torch.sigmoid(self.weigh(functional.relu(self.of_skip(skip) + self.of_gate(gate))))
        return skip * weights
