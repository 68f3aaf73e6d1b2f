"""nnU-Net's plain convolutional U-Net, for weights that were trained there (Isensee, Nature Methods 2021).

Convolution, instance norm, leaky ReLU; strided convolutions down, transposed ones up; concatenated skips. Its plans say
features, kernels and strides per stage. The names of the weights are those of nnU-Net's `PlainConvUNet`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Sizes = Sequence[int]


class _Convolution(nn.Module):
    """k x k convolution, instance norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Sizes, stride: Sizes, *, bias: bool) -> None:
        super().__init__()
        padding = tuple((size - 1) // 2 for size in kernel)
        if len(kernel) == 2:
            self.conv: nn.Module = nn.Conv2d(
                inputs,
                outputs,
                (kernel[0], kernel[1]),
                (stride[0], stride[1]),
                (padding[0], padding[1]),
                bias=bias,
            )
            self.norm: nn.Module = nn.InstanceNorm2d(outputs, eps=1e-5, affine=True)
        else:
            k, s, p = (_three(sizes) for sizes in (kernel, stride, padding))
            self.conv = nn.Conv3d(inputs, outputs, k, s, p, bias=bias)
            self.norm = nn.InstanceNorm3d(outputs, eps=1e-5, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.norm(self.conv(x)), 0.01)


class _Stage(nn.Module):
    """Several convolutions, the first of which may shrink."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Sizes, stride: Sizes, count: int, *, bias: bool
    ) -> None:
        super().__init__()
        still = [1] * len(kernel)
        self.convs = nn.Sequential(
            _Convolution(inputs, outputs, kernel, stride, bias=bias),
            *(_Convolution(outputs, outputs, kernel, still, bias=bias) for _ in range(count - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convs(x)
        return y


class _Encoder(nn.Module):
    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.Sequential(*(nn.Sequential(stage) for stage in stages))


class _Decoder(nn.Module):
    def __init__(self, rises: Sequence[nn.Module], stages: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.transpconvs = nn.ModuleList(rises)
        self.stages = nn.ModuleList(stages)
        self.head = head


class PlainConvUNet(nn.Module):
    """(N, in_channels, *spatial) -> logits (N, classes, *spatial); sizes are multiples of the product of the strides.

    `features` per stage; `kernels` and `strides` are one row of 2 or 3 sizes per stage (the first stride is all 1);
    `convolutions` and `decoder_convolutions` count them per stage.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        features: Sizes,
        kernels: Sequence[Sizes],
        strides: Sequence[Sizes],
        convolutions: Sizes,
        decoder_convolutions: Sizes,
        bias: bool = True,
    ) -> None:
        super().__init__()
        count = len(features)
        if not len(kernels) == len(strides) == len(convolutions) == len(decoder_convolutions) + 1 == count:
            raise ValueError(
                "plain-conv-unet: features, kernels, strides and convolutions differ in their stages"
            )
        if any(len(sizes) != len(kernels[0]) for sizes in (*kernels, *strides)) or len(kernels[0]) not in (
            2,
            3,
        ):
            raise ValueError("plain-conv-unet: kernels and strides have 2 or 3 sizes each")
        inputs = [in_channels, *features[:-1]]
        self.encoder = _Encoder(
            [
                _Stage(inputs[s], features[s], kernels[s], strides[s], convolutions[s], bias=bias)
                for s in range(count)
            ]
        )
        rises: list[nn.Module] = []
        stages: list[nn.Module] = []
        for n, s in enumerate(range(count - 2, -1, -1)):
            rises.append(_rise(features[s + 1], features[s], strides[s + 1], bias=bias))
            still = [1] * len(kernels[s])
            stages.append(
                _Stage(2 * features[s], features[s], kernels[s], still, decoder_convolutions[n], bias=bias)
            )
        head = (nn.Conv2d if len(kernels[0]) == 2 else nn.Conv3d)(features[0], classes, 1)
        self.decoder = _Decoder(rises, stages, head)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for stage in self.encoder.stages:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for rise, stage in zip(self.decoder.transpconvs, self.decoder.stages, strict=True):
            x = stage(torch.cat((rise(x), skips.pop()), dim=1))
        logits: Tensor = self.decoder.head(x)
        return logits


def _rise(inputs: int, outputs: int, stride: Sizes, *, bias: bool) -> nn.Module:
    if len(stride) == 2:
        flat = (stride[0], stride[1])
        return nn.ConvTranspose2d(inputs, outputs, flat, flat, bias=bias)
    step = _three(stride)
    return nn.ConvTranspose3d(inputs, outputs, step, step, bias=bias)


def _three(sizes: Sizes) -> tuple[int, int, int]:
    return sizes[0], sizes[1], sizes[2]
