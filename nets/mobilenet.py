"""MobileNetV3-Large and -Small as encoders: features at strides 2 to 32, finest first (Howard, ICCV 2019)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from nets.blocks import ConvNormAct, SqueezeExcite


class Row(NamedTuple):
    """One inverted residual of tables 1 and 2: kernel, expanded channels, output channels, SE, activation, stride."""

    kernel: int
    expanded: int
    outputs: int
    excite: bool
    activation: type[nn.Module]
    stride: int


LARGE: tuple[Row, ...] = (
    Row(3, 16, 16, False, nn.ReLU, 1),
    Row(3, 64, 24, False, nn.ReLU, 2),
    Row(3, 72, 24, False, nn.ReLU, 1),
    Row(5, 72, 40, True, nn.ReLU, 2),
    Row(5, 120, 40, True, nn.ReLU, 1),
    Row(5, 120, 40, True, nn.ReLU, 1),
    Row(3, 240, 80, False, nn.Hardswish, 2),
    Row(3, 200, 80, False, nn.Hardswish, 1),
    Row(3, 184, 80, False, nn.Hardswish, 1),
    Row(3, 184, 80, False, nn.Hardswish, 1),
    Row(3, 480, 112, True, nn.Hardswish, 1),
    Row(3, 672, 112, True, nn.Hardswish, 1),
    Row(5, 672, 160, True, nn.Hardswish, 2),
    Row(5, 960, 160, True, nn.Hardswish, 1),
    Row(5, 960, 160, True, nn.Hardswish, 1),
)

SMALL: tuple[Row, ...] = (
    Row(3, 16, 16, True, nn.ReLU, 2),
    Row(3, 72, 24, False, nn.ReLU, 2),
    Row(3, 88, 24, False, nn.ReLU, 1),
    Row(5, 96, 40, True, nn.Hardswish, 2),
    Row(5, 240, 40, True, nn.Hardswish, 1),
    Row(5, 240, 40, True, nn.Hardswish, 1),
    Row(5, 120, 48, True, nn.Hardswish, 1),
    Row(5, 144, 48, True, nn.Hardswish, 1),
    Row(5, 288, 96, True, nn.Hardswish, 2),
    Row(5, 576, 96, True, nn.Hardswish, 1),
    Row(5, 576, 96, True, nn.Hardswish, 1),
)
LAYOUTS = {"large": LARGE, "small": SMALL}
STEM = 16
"""Channels of the first convolution, of both."""


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project; a residual where the shape allows."""

    def __init__(self, inputs: int, row: Row, eps: float = 1e-5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if row.expanded != inputs:
            layers.append(ConvNormAct(inputs, row.expanded, 1, activation=row.activation, eps=eps))
        layers.append(
            ConvNormAct(
                row.expanded,
                row.expanded,
                row.kernel,
                stride=row.stride,
                groups=row.expanded,
                activation=row.activation,
                eps=eps,
            )
        )
        if row.excite:
            layers.append(SqueezeExcite(row.expanded, max(8, (row.expanded // 4 + 7) // 8 * 8)))
        layers.append(ConvNormAct(row.expanded, row.outputs, 1, activation=None, eps=eps))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and inputs == row.outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class MobileNetV3Encoder(nn.Module):
    """(N, C, H, W) -> features at strides 2, 4, 8, 16, 32, finest first; `channels` are theirs.

    `eps` is what the batch norms add to the variance; see nets.pretrained for checkpoints of others.
    """

    def __init__(self, in_channels: int = 3, rows: tuple[Row, ...] = LARGE, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.rows, self.eps = rows, eps
        self.stem = ConvNormAct(in_channels, STEM, 3, stride=2, activation=nn.Hardswish, eps=eps)
        stages: list[list[nn.Module]] = [[]]
        self.channels: list[int] = []
        inputs = STEM
        for row in rows:
            if row.stride == 2:
                self.channels.append(inputs)
                stages.append([])
            stages[-1].append(InvertedResidual(inputs, row, eps))
            inputs = row.outputs
        self.channels.append(inputs)
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features
