"""What a network costs: its weights, and the multiply-adds of one pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    weights: int
    multiply_adds: int

    def __str__(self) -> str:
        return f"{self.weights / 1e6:.2f} M weights, {self.multiply_adds / 1e9:.2f} G multiply-adds"


def cost(network: nn.Module, image: Tensor) -> Cost:
    """Of one pass over `image` (N, channels, *spatial) in evaluation mode; convolutions and products are counted."""
    training = network.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(image)
    network.train(training)
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)
