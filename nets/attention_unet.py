"""The efficient attention U-Net: MobileNetV3 encoder, ASPP, attention gates, progressive separable decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nets.blocks import ASPP, AttentionGate, ConvNormAct, SeparableConv
from nets.mobilenet import LAYOUTS, MobileNetV3Encoder


def _resize_as(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class UpStage(nn.Module):
    """Twice the size: upsample, gate the skip by what is coming from below, two separable convolutions."""

    def __init__(self, below: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.gate = AttentionGate(skip, below, max(8, skip // 2))
        self.fuse = nn.Sequential(SeparableConv(below + skip, outputs), SeparableConv(outputs, outputs))

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        below = _resize_as(below, skip)
        fused: Tensor = self.fuse(torch.cat([below, self.gate(skip, below)], dim=1))
        return fused


class AttentionUNet(nn.Module):
    """(N, in_channels, H, W) -> logits (N, classes, H, W), any H, W >= 32; one independent logit per class.

    The decoder goes up one octave at a time (1/32 -> 1/16 -> ... -> 1), each with a gated skip; the last skip is a
    cheap full-resolution stem, because microaneurysms are a few pixels wide.
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
    ) -> None:
        super().__init__()
        if encoder not in LAYOUTS:
            raise ValueError(f"attention-unet: encoder {encoder!r} is unknown: {', '.join(LAYOUTS)}")
        self.encoder = MobileNetV3Encoder(in_channels, LAYOUTS[encoder])
        self.full = ConvNormAct(in_channels, full_stem, 3)
        channels = self.encoder.channels
        self.aspp = ASPP(channels[-1], aspp, rates)
        skips = [full_stem, *channels[:-1]][::-1]
        stages: list[nn.Module] = []
        below = aspp
        for skip, outputs in zip(skips, decoder, strict=True):
            stages.append(UpStage(below, skip, outputs))
            below = outputs
        self.decoder = nn.ModuleList(stages)
        self.head = nn.Conv2d(below, classes, 1)
        if self.head.bias is not None:
            # lesions are rare: start from their prior, or the first steps are spent on learning "nothing" (Lin 2017)
            nn.init.constant_(self.head.bias, -math.log((1 - prior) / prior))

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        skips = [self.full(x), *features[:-1]]
        y = self.aspp(features[-1])
        for stage, skip in zip(self.decoder, reversed(skips), strict=True):
            y = stage(y, skip)
        logits: Tensor = self.head(y)
        return logits
