"""Size of every shipped network and what one patch costs: weights, multiply-adds, and the share of each part.

`python bench/networks.py [--patch 512]` prints one Markdown table. "75 % fewer operations" holds for single 3 x 3
convolutions with many channels; what a whole separable network saves is counted here against its full-convolution twin.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nets.attention_unet import AttentionUNet
from nets.blocks import ConvNormAct, SeparableConv


def full_twin(network: nn.Module) -> nn.Module:
    """Every separable convolution of the decoder and of ASPP replaced by a full one of the same reach."""
    for name, part in network.named_children():
        if isinstance(part, SeparableConv):
            depthwise, pointwise = part[0][0], part[1][0]
            setattr(
                network,
                name,
                ConvNormAct(
                    depthwise.in_channels,
                    pointwise.out_channels,
                    depthwise.kernel_size[0],
                    dilation=depthwise.dilation[0],
                ),
            )
        else:
            full_twin(part)
    return network


def multiply_adds(network: nn.Module, patch: int) -> dict[str, int]:
    """Multiply-adds of one patch, in all and of each part."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, patch, patch))
    totals = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    top = type(network).__name__
    parts = {}
    for part, module in network.named_children():
        # a list of modules is never called itself: its members are counted
        members = (
            [f"{top}.{part}.{n}" for n in range(len(module))] if isinstance(module, nn.ModuleList) else []
        )
        parts[part] = sum(totals.get(name, 0) for name in (members or [f"{top}.{part}"]))
    return {"all": totals["Global"], **parts}


def rows(patch: int) -> Iterator[str]:
    for name, network in (
        ("attention-unet", AttentionUNet()),
        ("its full-convolution twin", full_twin(AttentionUNet())),
    ):
        counted = multiply_adds(network, patch)
        parts = ", ".join(f"{part} {n / 1e9:.2f}" for part, n in counted.items() if part != "all")
        size = sum(p.numel() for p in network.parameters())
        yield f"| {name} | {size / 1e6:.2f} M | {counted['all'] / 1e9:.2f} G | {parts} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patch", type=int, default=512)
    patch = parser.parse_args().patch
    print(
        f"| network | weights | multiply-adds of {patch} x {patch} | of which, G |\n| --- | --- | --- | --- |"
    )
    for row in rows(patch):
        print(row)
