"""Losses from logits, masked by the valid pixels, per class; of pictures and of volumes.

`logits` and `target` are (N, classes, *spatial), target in 0..1; `valid` (N, 1, *spatial) is 1 where a pixel counts. A
class that is absent from the batch is not punished by an overlap: false marks there are the focal term's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional


def focal_map(logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float = 0.75) -> Tensor:
    """Focal loss of each pixel and class (Lin, ICCV 2017, eq. 5); `alpha` weighs the positive."""
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = torch.sigmoid(logits)
    p_t = p * target + (1 - p) * (1 - target)
    missing = (1 - p_t).clamp(min=1e-6)  # at 0 a power below 1 has no slope
    return (alpha * target + (1 - alpha) * (1 - target)) * missing.pow(gamma) * entropy


def focal_loss(
    logits: Tensor,
    target: Tensor,
    valid: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float = 0.75,
    hardest: float = 1.0,
) -> Tensor:
    """Per-class focal loss (classes,), mean over the valid pixels.

    With `hardest` below 1 only that share of the valid pixels counts, those of the largest loss per class: online hard
    example mining (Shrivastava, CVPR 2016), here over pixels.
    """
    values = focal_map(logits, target, gamma=gamma, alpha=alpha) * valid
    count = valid.sum().clamp(min=1)
    if hardest >= 1:
        return _over_pixels(values) / count
    kept = max(1, int(float(count) * hardest))
    return values.transpose(0, 1).flatten(1).topk(kept, dim=1).values.sum(dim=1) / kept


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Per-class soft Dice loss (classes,) over the whole batch (Milletari, 3DV 2016).

    A class that is absent from the batch gives no loss: a correct empty prediction is not punished, and false
    positives there are the focal term's business.
    """
    p = torch.sigmoid(logits)
    t = target * valid
    overlap, size = _over_pixels(p * t), _over_pixels(p * valid) + _over_pixels(t)
    present = (_over_pixels(t) > 0).to(p.dtype)
    return present * (1 - (2 * overlap + smooth) / (size + smooth))


def tversky_loss(
    logits: Tensor,
    target: Tensor,
    valid: Tensor,
    *,
    missed: float = 0.7,
    exponent: float = 1.0,
    smooth: float = 1.0,
) -> Tensor:
    """Per-class Tversky loss (classes,) over the batch (Salehi, MLMI 2017): a miss costs `missed`.

    A false mark costs the rest, 1 - `missed`. `exponent` below 1 (.75) is the focal Tversky loss (Abraham, ISBI 2019),
    which dwells on what overlaps badly.
    """
    p, t = torch.sigmoid(logits), target * valid
    overlap = _over_pixels(p * t)
    lost, false = _over_pixels((1 - p) * t), _over_pixels(p * (valid - t))
    index = (overlap + smooth) / (overlap + missed * lost + (1 - missed) * false + smooth)
    present = (_over_pixels(t) > 0).to(p.dtype)
    return present * (1 - index).clamp(min=1e-7).pow(exponent)


def blob_loss(logits: Tensor, target: Tensor, valid: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Per-class blob loss (classes,) (Kofler, IPMI 2023): soft Dice of each lesion by itself, the others masked out.

    A lesion of ten pixels weighs as much as one of a thousand. Lesions are connected by faces, edges and corners.
    """
    p = torch.sigmoid(logits) * valid
    losses = [
        torch.stack([_blobs(p[n, c], target[n, c], valid[n, 0], smooth) for n in range(len(p))])
        for c in range(p.shape[1])
    ]
    means = []
    for of_class in losses:
        there = ~torch.isnan(of_class)
        means.append(of_class[there].mean() if there.any() else p.sum() * 0)
    return torch.stack(means)


def _blobs(p: Tensor, target: Tensor, valid: Tensor, smooth: float) -> Tensor:
    """Mean soft Dice loss over the lesions of one picture and class; NaN where there is none."""
    present = (target.detach() >= 0.5) & (valid > 0)
    labels, count = ndimage.label(present.cpu().numpy(), np.ones((3,) * target.dim(), np.int8))
    if count == 0:
        return p.new_tensor(float("nan"))
    of_pixel = torch.from_numpy(labels.astype(np.int64).ravel()).to(p.device)
    marked = p.new_zeros(count + 1).index_add(0, of_pixel, p.flatten())
    sizes = p.new_zeros(count + 1).index_add(0, of_pixel, valid.to(p.dtype).flatten())
    # a lesion's own pixels and the background, which all lesions share
    dice = (2 * marked[1:] + smooth) / (marked[1:] + marked[0] + sizes[1:] + smooth)
    return (1 - dice).mean()


def distillation_loss(logits: Tensor, teacher: Tensor, valid: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Per-class divergence (classes,) of the student's softened probabilities from the teacher's (Hinton, 2015).

    `teacher` are logits too; the square of the temperature keeps gradients of one size.
    """
    soft = torch.sigmoid(teacher / temperature)
    entropy = functional.binary_cross_entropy_with_logits(logits / temperature, soft, reduction="none")
    own = functional.binary_cross_entropy(
        soft, soft, reduction="none"
    )  # what the best student could not avoid
    return temperature**2 * _over_pixels((entropy - own) * valid) / valid.sum().clamp(min=1)


def consistency_loss(logits: Tensor, average: Tensor, valid: Tensor) -> Tensor:
    """Per-class mean squared difference (classes,) of probabilities from the averaged network's (Tarvainen, 2017)."""
    difference = torch.sigmoid(logits) - torch.sigmoid(average).detach()
    return _over_pixels(difference.square() * valid) / valid.sum().clamp(min=1)


def _over_pixels(x: Tensor) -> Tensor:
    """Sum over the batch and all places, one value per class."""
    return x.transpose(0, 1).flatten(1).sum(dim=1)


def deep_supervision(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    outputs: Sequence[Tensor],
    target: Tensor,
    valid: Tensor,
) -> Tensor:
    """The mean of `loss` over outputs of several sizes, finest first, each weighing half of the one before it.

    A coarser output answers for the shares of its larger pixels: target and valid pixels are averaged over each
    (Lee, AISTATS 2015; weights of nnU-Net).
    """
    total, weights = loss(outputs[0], target, valid), 1.0
    for number, logits in enumerate(outputs[1:], start=1):
        size, weight = logits.shape[2:], 0.5**number
        inside = functional.interpolate(valid, size=size, mode="area")
        share = functional.interpolate(target * valid, size=size, mode="area") / inside.clamp(min=1e-6)
        total, weights = total + weight * loss(logits, share.clamp(max=1), inside), weights + weight
    return total / weights


class WeightedLoss(nn.Module):
    """A weighted sum of terms, mean over the classes; a weight of 0 leaves a term out.

    `gamma`, `alpha` and `hardest` are the focal term's, `missed` and `exponent` the Tversky term's.
    """

    def __init__(
        self,
        focal: float = 10.0,
        dice: float = 1.0,
        tversky: float = 0.0,
        blob: float = 0.0,
        *,
        gamma: float = 2.0,
        alpha: float = 0.75,
        hardest: float = 1.0,
        missed: float = 0.7,
        exponent: float = 1.0,
    ) -> None:
        super().__init__()
        self.focal, self.dice, self.tversky, self.blob = focal, dice, tversky, blob
        self.gamma, self.alpha, self.hardest = gamma, alpha, hardest
        self.missed, self.exponent = missed, exponent

    def forward(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        total = logits.sum() * 0
        if self.focal:
            focal = focal_loss(
                logits, target, valid, gamma=self.gamma, alpha=self.alpha, hardest=self.hardest
            )
            total = total + self.focal * focal.mean()
        if self.dice:
            total = total + self.dice * dice_loss(logits, target, valid).mean()
        if self.tversky:
            tversky = tversky_loss(logits, target, valid, missed=self.missed, exponent=self.exponent)
            total = total + self.tversky * tversky.mean()
        if self.blob:
            total = total + self.blob * blob_loss(logits, target, valid).mean()
        return total
