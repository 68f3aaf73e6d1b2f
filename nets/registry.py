"""Networks by name: what a bundle or an experiment names is built here, from plain hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from nets.attention_unet import AttentionUNet
from nets.phantom import Phantom
from nets.plain_conv_unet import PlainConvUNet
from nets.pruning import narrowed
from nets.swin_unet import SwinUNet
from nets.unet import UNet
from nets.vnet import VNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "attention-unet": AttentionUNet,
    "phantom": Phantom,
    "plain-conv-unet": PlainConvUNet,
    "swin-unet": SwinUNet,
    "unet": UNet,
    "vnet": VNet,
}


def build(name: str, *, pruned: Sequence[Sequence[Any]] = (), **hyper: Any) -> nn.Module:
    """The network of that name, with the widths that `pruned` (nets.pruning) leaves it.

    Raises ValueError for an unknown name or hyper-parameter, naming the known ones.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(sorted(NETWORKS))}")
    try:
        if not 0 < hyper.get("prior", 0.5) < 1:
            raise ValueError(f"network {name!r}: prior: {hyper['prior']} does not lie between 0 and 1")
        return narrowed(NETWORKS[name](**hyper), pruned)
    except (TypeError, ArithmeticError, IndexError, RuntimeError) as error:
        raise ValueError(f"network {name!r}: {error}") from error
