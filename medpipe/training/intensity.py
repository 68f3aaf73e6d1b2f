"""How the values of a patch are varied: light, colour, sharpness, compression, noise. The truth stays as it is."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image as Pillow
from torch import Tensor

from medpipe.training.experiment import Patches


def vary_colour(image: Tensor, rng: Generator, spec: Patches) -> Tensor:
    """Values in 0..1 of a picture (channels, 1, j, i): gain, colour of the light, gamma, blur, noise, JPEG."""
    channels = image.shape[0]
    gains = rng.uniform(*spec.gain) * rng.uniform(*spec.channel_gain, size=channels)
    image = (image * torch.from_numpy(gains.astype(np.float32)).view(-1, 1, 1, 1)).clamp(1e-4, 1)
    image = image ** float(rng.uniform(*spec.gamma))
    if rng.random() < spec.blur:
        image = _blurred(image, float(rng.uniform(0.075, 0.25)))
    if spec.noise:
        image = (image + _noise(image, rng, spec.noise)).clamp(0, 1)
    if spec.jpeg and rng.random() < spec.jpeg:
        image = _compressed(image, int(rng.integers(40, 90)))
    return image


def vary_scores(image: Tensor, rng: Generator, spec: Patches) -> Tensor:
    """Values in standard deviations: gain, a small shift, noise."""
    image = image * float(rng.uniform(*spec.gain)) + float(rng.normal(0, spec.shift))
    return image + _noise(image, rng, spec.noise) if spec.noise else image


def _blurred(image: Tensor, edge: float) -> Tensor:
    """Smoothed by (edge, 1 - 2 edge, edge) along rows and columns; of sums, which are quicker than conv2d here."""
    for axis in (2, 3):
        size = image.shape[axis]
        first, last = image.narrow(axis, 0, 1), image.narrow(axis, size - 1, 1)
        before = torch.cat([first, image.narrow(axis, 0, size - 1)], axis)
        after = torch.cat([image.narrow(axis, 1, size - 1), last], axis)
        image = torch.lerp(image, before.add_(after).mul_(0.5), 2 * edge)
    return image


def _noise(image: Tensor, rng: Generator, largest: float) -> Tensor:
    strength = float(rng.uniform(0, largest))
    drawn = torch.Generator().manual_seed(int(rng.integers(2**63)))  # quicker than NumPy's
    return torch.randn(image.shape, generator=drawn) * strength


def _compressed(image: Tensor, quality: int) -> Tensor:
    """What JPEG leaves of a picture (1 or 3 channels, k, j, i), of every slice by itself."""
    slices = []
    for pixels in (image * 255).round().to(torch.uint8).permute(1, 2, 3, 0).numpy():
        kept = io.BytesIO()
        Pillow.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
            kept, "JPEG", quality=quality
        )
        slices.append(np.atleast_3d(np.asarray(Pillow.open(kept))))
    return torch.from_numpy(np.stack(slices)).permute(3, 0, 1, 2).float() / 255
