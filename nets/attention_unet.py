"""The efficient attention U-Net: MobileNetV3 encoder, ASPP, attention gates, progressive separable decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nets.blocks import ASPP, AttentionGate, ConvNormAct, SeparableConv
from nets.mobilenet import LAYOUTS, MobileNetV3Encoder


def _resize_as(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class UpStage(nn.Module):
    """Twice the size: upsample, gate the skip by what is coming from below, two 3 x 3 convolutions."""

    def __init__(
        self, below: int, skip: int, outputs: int, *, separable: bool = True, attention: bool = True
    ) -> None:
        super().__init__()
        convolution: Callable[..., nn.Module] = SeparableConv if separable else ConvNormAct
        self.gate = AttentionGate(skip, below, max(8, skip // 2)) if attention else None
        self.fuse = nn.Sequential(convolution(below + skip, outputs), convolution(outputs, outputs))

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        below = _resize_as(below, skip)
        if self.gate is not None:
            skip = self.gate(skip, below)
        fused: Tensor = self.fuse(torch.cat([below, skip], dim=1))
        return fused


class AttentionUNet(nn.Module):
    """(N, in_channels, H, W) -> logits (N, classes, H, W), any H, W >= 32; one independent logit per class.

    The decoder goes up one octave at a time (1/32 -> 1/16 -> ... -> 1), each with a gated skip; the last skip is a
    cheap full-resolution stem, because microaneurysms are a few pixels wide.

    Each part can be taken out, to see what it is good for: `separable` off gives the full-convolution twin (3 x 3
    convolutions of decoder and ASPP), `attention` off plain skips, `pyramid` off one 1 x 1 convolution for ASPP, and
    `progressive` off DeepLabv3+'s way: the last two octaves in one bilinear jump of the logits (Chen, ECCV 2018).

    With `deep_supervision` the network in training mode gives a list: the logits, then those of the coarser stages,
    finest first, each at its own size (Lee, AISTATS 2015); see nets.losses.deep_supervision. In evaluation it gives
    the logits alone.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 4,
        aspp: int = 128,
        rates: Sequence[int] = (6, 12, 18),
        decoder: Sequence[int] = (96, 64, 48, 32, 24),
        full_stem: int = 8,
        prior: float = 0.01,
        encoder: str = "large",
        encoder_eps: float = 1e-5,
        separable: bool = True,
        attention: bool = True,
        pyramid: bool = True,
        progressive: bool = True,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if encoder not in LAYOUTS:
            raise ValueError(f"attention-unet: encoder {encoder!r} is unknown: {', '.join(LAYOUTS)}")
        if len(decoder) != 5:
            raise ValueError(f"attention-unet: decoder needs five widths, coarse to fine, not {len(decoder)}")
        self.encoder = MobileNetV3Encoder(in_channels, LAYOUTS[encoder], eps=encoder_eps)
        self.full = ConvNormAct(in_channels, full_stem, 3) if progressive else None
        channels = self.encoder.channels
        self.aspp = (
            ASPP(channels[-1], aspp, rates, separable=separable)
            if pyramid
            else ConvNormAct(channels[-1], aspp, 1)
        )
        skips = [*channels[-2::-1], full_stem]
        octaves = len(decoder) if progressive else len(decoder) - 2
        stages: list[nn.Module] = []
        below = aspp
        for skip, outputs in zip(skips[:octaves], decoder[:octaves], strict=True):
            stages.append(UpStage(below, skip, outputs, separable=separable, attention=attention))
            below = outputs
        self.decoder = nn.ModuleList(stages)
        self.head = _head(below, classes, prior)
        self.auxiliary = (
            nn.ModuleList(_head(width, classes, prior) for width in decoder[1 : octaves - 1])
            if deep_supervision
            else None
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        features = self.encoder(x)
        skips = features[-2::-1]
        if self.full is not None:
            skips.append(self.full(x))
        y = self.aspp(features[-1])
        rising: list[Tensor] = []
        for stage, skip in zip(self.decoder, skips, strict=False):  # without `progressive` the finest is left
            y = stage(y, skip)
            rising.append(y)
        logits: Tensor = self.head(y)
        if self.full is None:
            logits = _resize_as(logits, x)
        if self.auxiliary is None or not self.training:
            return logits
        coarser = [head(y) for head, y in zip(self.auxiliary, rising[1:-1], strict=True)]
        return [logits, *coarser[::-1]]


def _head(inputs: int, classes: int, prior: float) -> nn.Conv2d:
    """1 x 1 to logits. Lesions are rare: from their prior on, or the first steps learn "nothing" (Lin, ICCV 2017)."""
    head = nn.Conv2d(inputs, classes, 1)
    assert head.bias is not None
    nn.init.constant_(head.bias, -math.log((1 - prior) / prior))
    return head
