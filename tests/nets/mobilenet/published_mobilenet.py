"""Writes the JSON files here: what torchvision's and timm's own MobileNetV3 give for weights made by a formula.

Needs an environment of its own, for torchvision wants another torch than medpipe has:

    python -m venv tv && tv/bin/pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31
    tv/bin/python tests/nets/mobilenet/published_mobilenet.py

A file holds each key of the state dict with its shape, and of the features at strides 2 to 32 of one picture some
values each. The test makes the same weights, loads them through nets.pretrained and compares.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

FOLDER = Path(__file__).parent
SIZE = (96, 64)
SAMPLES = 97
"""Values kept of each feature map, evenly over channels, rows and columns."""


def uniform(key: str, count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) that depend on the key alone: a hash in whole numbers, the same on every machine."""
    x = np.arange(count, dtype=np.uint64) + (np.uint64(zlib.crc32(key.encode())) << np.uint64(32))
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(factor)
    return (x >> np.uint64(11)).astype(np.float64) / 2.0**53


def weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """The value of one key: kernels that keep the signal's size, variances small enough for epsilon to matter."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(1000)
    u = uniform(key, int(np.prod(shape))).reshape(shape)
    if key.endswith("running_var"):
        u = 0.02 + 0.1 * u
    elif len(shape) > 1:
        u = (u - 0.5) * 1.2 / np.sqrt(np.prod(shape[1:]))
    elif key.endswith("weight"):
        u = 0.4 + 0.6 * u
    else:
        u = 0.8 * (u - 0.5)
    return torch.from_numpy(u.astype(np.float32))


def picture(channels: int = 3) -> Tensor:
    """(1, channels, *SIZE) in -1..1, the same for the same number of channels."""
    u = uniform("picture", channels * SIZE[0] * SIZE[1]).reshape(1, channels, *SIZE)
    return torch.from_numpy((2 * u - 1).astype(np.float32))


def sampled(feature: Tensor) -> list[float]:
    """SAMPLES values of a (1, C, H, W) feature map."""
    flat = feature.flatten()
    places = torch.linspace(0, len(flat) - 1, SAMPLES).long()
    return [float(value) for value in flat[places]]


def features(layers: list[nn.Module], x: Tensor) -> list[Tensor]:
    """The last output of each size, going through layers one by one."""
    last: dict[tuple[int, ...], Tensor] = {}
    for layer in layers:
        x = layer(x)
        last[tuple(x.shape[2:])] = x
    return list(last.values())


def main() -> None:
    import timm
    import torchvision

    for size in ("large", "small"):
        theirs = getattr(torchvision.models, f"mobilenet_v3_{size}")()
        write(f"torchvision_{size}", theirs, list(theirs.features[:-1]))
        theirs = timm.create_model(f"mobilenetv3_{size}_100", pretrained=False)
        # the last group is the 1 x 1 stage that our encoder does not have
        blocks = [block for group in theirs.blocks[:-1] for block in group]
        write(f"timm_{size}", theirs, [theirs.conv_stem, theirs.bn1, *blocks])


def write(name: str, network: nn.Module, layers: list[nn.Module]) -> None:
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict({key: weight(key, tuple(shape)) for key, shape in shapes.items()})
    network.eval()
    with torch.inference_mode():
        values = [sampled(feature) for feature in features(layers, picture())]
    rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(shape)}" for key, shape in shapes.items())
    lines = ",\n".join(f"  [{', '.join(f'{value:.7g}' for value in row)}]" for row in values)
    text = f'{{"keys": {{\n{rows}\n}},\n"features": [\n{lines}\n]}}\n'
    (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
