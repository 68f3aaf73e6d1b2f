"""nnU-Net's network, as its plans and its checkpoint have it, for nets.plain_conv_unet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medpipe.errors import BundleError

_NETWORK = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
_SETTINGS = {
    "norm_op": (
        "torch.nn.modules.instancenorm.InstanceNorm2d",
        "torch.nn.modules.instancenorm.InstanceNorm3d",
    ),
    "nonlin": ("torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"),
    "dropout_op": (None,),
    "nonlin_first": (None, False),
}
"""What nets.plain_conv_unet does; None where the plans do not say it."""


def hyper_of(configuration: Mapping[str, Any], order: list[int], path: Path) -> dict[str, Any]:
    """The network's plan, its axes in `order`, ours. Raises BundleError where it is another network."""
    given = _of_old_plans(configuration) or _of_plans(configuration, path)
    for key, values in _SETTINGS.items():
        if given.get(key) not in values:
            raise BundleError(f"{path}: {key} {given.get(key)!r} is not supported")
    norm, nonlin = given.get("norm_op_kwargs") or {}, given.get("nonlin_kwargs") or {}
    for key, value, only in (
        ("norm_op_kwargs eps", norm.get("eps", 1e-5), 1e-5),
        ("norm_op_kwargs affine", norm.get("affine", False), True),
        ("nonlin_kwargs negative_slope", nonlin.get("negative_slope", 0.01), 0.01),
    ):
        if value != only:
            raise BundleError(f"{path}: {key} {value!r} is not supported, only {only}")
    count = given.get("n_stages")
    if not isinstance(count, int) or not _is_count(count):
        raise BundleError(f"{path}: the network has no n_stages")

    def per_stage(key: str, stages: int) -> list[int]:
        value = given.get(key)
        row = [value] * stages if _is_count(value) else value
        if not isinstance(row, list) or len(row) != stages or not all(_is_count(n) for n in row):
            raise BundleError(f"{path}: the network's {key} are not {stages} whole numbers")
        return row

    def sizes(key: str) -> list[list[int]]:
        value = given.get(key)
        rows = [value] * count if _is_count(value) else value
        if not isinstance(rows, list) or len(rows) != count:
            raise BundleError(f"{path}: the network's {key} are not one per stage")
        whole = [[row] * len(order) if _is_count(row) else row for row in rows]
        for row in whole:
            if not isinstance(row, list) or len(row) != len(order) or not all(_is_count(n) for n in row):
                raise BundleError(f"{path}: the network's {key} are not {len(order)} sizes per stage")
        return [[row[axis] for axis in order] for row in whole]

    return {
        "features": per_stage("features_per_stage", count),
        "kernels": sizes("kernel_sizes"),
        "strides": sizes("strides"),
        "convolutions": per_stage("n_conv_per_stage", count),
        "decoder_convolutions": per_stage("n_conv_per_stage_decoder", count - 1),
        "bias": bool(given.get("conv_bias", True)),
    }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _of_plans(configuration: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    architecture = configuration.get("architecture")
    if not isinstance(architecture, Mapping):
        raise BundleError(f"{path}: the configuration says no architecture")
    if architecture.get("network_class_name") != _NETWORK:
        name = str(architecture.get("network_class_name"))
        raise BundleError(f"{path}: network {name[:100]} is not supported, only PlainConvUNet")
    given = architecture.get("arch_kwargs")
    if not isinstance(given, Mapping):
        raise BundleError(f"{path}: the architecture has no arch_kwargs")
    return given


def _of_old_plans(configuration: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The same from plans before nnU-Net 2.4, which say the sizes and leave the rest to the class; None for others."""
    if "architecture" in configuration or configuration.get("UNet_class_name") != "PlainConvUNet":
        return None
    convolutions = configuration["n_conv_per_stage_encoder"]
    first, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    return {
        "n_stages": len(convolutions),
        "features_per_stage": [min(first * 2**stage, most) for stage in range(len(convolutions))],
        "kernel_sizes": configuration["conv_kernel_sizes"],
        "strides": configuration["pool_op_kernel_sizes"],
        "n_conv_per_stage": convolutions,
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
        "norm_op": _SETTINGS["norm_op"][0],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": _SETTINGS["nonlin"][0],
        "conv_bias": True,
    }


def weights_of(given: Mapping[str, torch.Tensor], order: list[int]) -> dict[str, torch.Tensor]:
    """nnU-Net's weights by our names: each once, the last head only, spatial axes in our order."""
    weights = {k.removeprefix("_orig_mod."): v for k, v in given.items()}
    numbers = (k.split(".")[2] for k in weights if k.startswith("decoder.seg_layers."))
    heads = {int(number) for number in numbers if number.isdecimal()}
    last = f"decoder.seg_layers.{max(heads, default=0)}."
    taken = {}
    for name, value in weights.items():
        if ".all_modules." in name or name.startswith("decoder.encoder."):
            continue  # the same tensors under a second name
        if name.startswith("decoder.seg_layers.") and not name.startswith(last):
            continue  # deep supervision: of use to training only
        if value.dim() == 2 + len(order):
            value = value.permute(0, 1, *(2 + axis for axis in order))
        taken[name.replace(last, "decoder.head.")] = value
    return taken
