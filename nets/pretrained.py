"""ImageNet checkpoints of MobileNetV3, in torchvision's or timm's naming, into our encoder.

Both run the published layers (Howard, ICCV 2019) in the same order as ours and give them names of their own, which
are spelled out here. Nothing is guessed: besides the classifier and the last 1 x 1 stage, which the encoder does not
have, a checkpoint must hold exactly the encoder's weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from nets.mobilenet import STEM, MobileNetV3Encoder, Row


class Naming(NamedTuple):
    """Somebody's names: of the layers in the order they run, and of what comes after the encoder.

    `eps` is what their batch norms add to the variance.
    """

    whose: str
    eps: float
    layers: list[str]
    head: tuple[str, ...]


def load_encoder(encoder: MobileNetV3Encoder, checkpoint: Mapping[str, Tensor]) -> None:
    """Copies a checkpoint's weights into the encoder. Raises ValueError, in one line, where they do not fit.

    With n channels in place of red, green and blue, each channel's kernel is the sum of the three over n: what is the
    same in all channels is seen as grey was. The encoder's `eps` must be that of the checkpoint's home: it is no
    weight, so the trained network's hyper-parameters have to say it.
    """
    naming = _naming(encoder, checkpoint)
    names = _names(encoder, naming)
    missing = [there for there in names.values() if there not in checkpoint]
    beyond = sorted(set(checkpoint) - set(names.values()))
    surplus = [key for key in beyond if not key.startswith(naming.head)]
    for what, keys in (("lacks", missing), ("has, beyond the encoder,", surplus)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(f"the checkpoint (named as {naming.whose} does) {what} {keys[0]}{more}")
    own = encoder.state_dict()
    weights = {here: checkpoint[there] for here, there in names.items()}
    weights["stem.0.weight"] = recoloured(weights["stem.0.weight"], own["stem.0.weight"].shape[1])
    for here, value in weights.items():
        if value.shape != own[here].shape:
            wanted, given = tuple(own[here].shape), tuple(value.shape)
            raise ValueError(f"the checkpoint's {names[here]} has the shape {given}, not {wanted}")
    if encoder.eps != naming.eps:
        raise ValueError(
            f"the batch norms of {naming.whose}'s checkpoint add {naming.eps:g} to the variance, this network's "
            f"{encoder.eps:g}: set the hyper-parameter encoder_eps = {naming.eps:g}"
        )
    encoder.load_state_dict(weights)


def _naming(encoder: MobileNetV3Encoder, checkpoint: Mapping[str, Tensor]) -> Naming:
    for naming in (_torchvision(encoder.rows), _timm(encoder.rows)):
        if f"{naming.layers[0]}.weight" in checkpoint:
            return naming
    raise ValueError(
        "not a MobileNetV3 checkpoint: it has neither features.0.0.weight (torchvision) nor conv_stem.weight (timm)"
    )


def _names(encoder: MobileNetV3Encoder, naming: Naming) -> dict[str, str]:
    """Each key of the encoder's state dict -> its name in the checkpoint."""
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    layers = {name: module for name, module in encoder.named_modules() if isinstance(module, kinds)}
    return {
        f"{here}.{part}": f"{there}.{part}"
        for (here, module), there in zip(layers.items(), naming.layers, strict=True)
        for part in module.state_dict()
    }


def _torchvision(rows: Sequence[Row]) -> Naming:
    layers = ["features.0.0", "features.0.1"]
    for number, parts in enumerate(_parts(rows), start=1):
        for n, part in enumerate(parts):
            pair = ("fc1", "fc2") if part == "excite" else ("0", "1")
            layers += [f"features.{number}.block.{n}.{layer}" for layer in pair]
    return Naming("torchvision", 1e-3, layers, (f"features.{len(rows) + 1}.", "classifier."))


def _timm(rows: Sequence[Row]) -> Naming:
    """Blocks of as many channels are a group; those that do not expand call their projection conv_pw."""
    layers = ["conv_stem", "bn1"]
    group, place = -1, 0
    for number, (row, parts) in enumerate(zip(rows, _parts(rows), strict=True)):
        same = number > 0 and row.outputs == rows[number - 1].outputs
        group, place = (group, place + 1) if same else (group + 1, 0)
        norms = 0
        for part in parts:
            if part == "excite":
                pair = ("se.conv_reduce", "se.conv_expand")
            else:
                norms += 1
                pair = (_TIMM[part] if "expand" in parts or part != "project" else "conv_pw", f"bn{norms}")
            layers += [f"blocks.{group}.{place}.{layer}" for layer in pair]
    return Naming("timm", 1e-5, layers, (f"blocks.{group + 1}.", "conv_head.", "classifier."))


_TIMM = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}


def _parts(rows: Sequence[Row]) -> Iterator[list[str]]:
    """What each inverted residual is made of; one that does not widen has no expansion."""
    inputs = STEM
    for row in rows:
        expand = ["expand"] if row.expanded != inputs else []
        excite = ["excite"] if row.excite else []
        yield [*expand, "depthwise", *excite, "project"]
        inputs = row.outputs


def recoloured(kernel: Tensor, channels: int) -> Tensor:
    """(outputs, colours, k, k) -> (outputs, channels, k, k) with the same answer to grey."""
    if kernel.shape[1] == channels:
        return kernel
    return (kernel.sum(dim=1, keepdim=True) / channels).expand(-1, channels, -1, -1)
