"""A network with fixed weights that finds bright spots: it smooths and compares. For tests and self-tests only."""

from __future__ import annotations

import torch
from torch import nn


class Phantom(nn.Module):
    """Binomial smoothing of the channels' mean, then one logit per class: sharpness * (brightness - level).

    `classes` logit channels with the levels of `levels`: ascending, so that class n is what is brighter than its level.
    Input (N, in_channels, *spatial) of `spatial_dims` 2 or 3, output (N, classes, *spatial).
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 1,
        spatial_dims: int = 2,
        width: int = 3,
        levels: tuple[float, ...] | list[float] = (0.5,),
        sharpness: float = 20.0,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is 2 or 3, not {spatial_dims}")
        if width < 1 or width % 2 == 0:
            raise ValueError(f"width is odd, not {width}")
        if len(levels) != classes:
            raise ValueError(f"{classes} classes need as many levels, not {len(levels)}")
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.smooth = convolution(
            in_channels, 1, width, padding=width // 2, padding_mode="replicate", bias=False
        )
        self.compare = convolution(1, classes, 1)
        line = torch.tensor([1.0])
        for _ in range(width - 1):
            line = torch.nn.functional.pad(line, (1, 1)).unfold(0, 2, 1).sum(dim=1)
        kernel = line / line.sum()
        for _ in range(spatial_dims - 1):
            kernel = kernel[..., None] * (line / line.sum())
        with torch.no_grad():
            self.smooth.weight.copy_(kernel.expand_as(self.smooth.weight) / in_channels)
            self.compare.weight.fill_(sharpness)
            assert self.compare.bias is not None
            self.compare.bias.copy_(-sharpness * torch.tensor(list(levels)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, *spatial) -> logits (N, classes, *spatial)."""
        logits: torch.Tensor = self.compare(self.smooth(image))
        return logits
