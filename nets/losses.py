"""Losses from logits, masked by the valid pixels, per class: focal, soft Dice, and their sum."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def focal_loss(
    logits: Tensor, target: Tensor, valid: Tensor, *, gamma: float = 2.0, alpha: float = 0.75
) -> Tensor:
    """Per-class focal loss (classes,), mean over the valid pixels (Lin, ICCV 2017, eq. 5).

    `logits`, `target` (N, classes, *spatial), target in 0..1; `valid` (N, 1, *spatial). p_t is each pixel's and
    class's own; `alpha` weighs the positive class.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = torch.sigmoid(logits)
    p_t = p * target + (1 - p) * (1 - target)
    weight = (alpha * target + (1 - alpha) * (1 - target)) * (1 - p_t).pow(gamma)
    return _over_pixels(weight * entropy * valid) / valid.sum().clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Per-class soft Dice loss (classes,) over the whole batch (Milletari, 3DV 2016).

    A class that is absent from the batch gives no loss: a correct empty prediction is not punished, and false
    positives there are the focal term's business.
    """
    p = torch.sigmoid(logits) * valid
    t = target * valid
    overlap, size = _over_pixels(p * t), _over_pixels(p) + _over_pixels(t)
    present = (_over_pixels(t) > 0).to(p.dtype)
    return present * (1 - (2 * overlap + smooth) / (size + smooth))


def _over_pixels(x: Tensor) -> Tensor:
    """Sum over the batch and all places, one value per class."""
    return x.transpose(0, 1).flatten(1).sum(dim=1)


class FocalDice(nn.Module):
    """`focal_weight` x focal + Dice, mean over the classes."""

    def __init__(self, focal_weight: float = 10.0, gamma: float = 2.0, alpha: float = 0.75) -> None:
        super().__init__()
        self.focal_weight, self.gamma, self.alpha = focal_weight, gamma, alpha

    def forward(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        focal = focal_loss(logits, target, valid, gamma=self.gamma, alpha=self.alpha)
        return (self.focal_weight * focal + dice_loss(logits, target, valid)).mean()
