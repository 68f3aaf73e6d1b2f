"""An nnU-Net v2 result folder (plans.json, dataset.json, fold_N/checkpoint_final.pth) as a bundle.

What nnU-Net does that a bundle does not: mirroring at inference (turn on test-time flips for it), spline resampling
(ours is linear), an ensemble of folds (one fold is taken). nnU-Net knows no orientation: it sees arrays as their files
hold them, so the user says how the training data lay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medpipe.bundle import Bundle
from medpipe.errors import BundleError
from medpipe.imports.pickled import load_checkpoint
from medpipe.imports.source import Choices, bundle_id, needed
from medpipe.imports.written import class_rows, write_bundle

Plain = Mapping[str, Any]
_MODALITIES = {
    "ct": "CT",
    "mri": "MR",
    "mr": "MR",
    "t1": "MR",
    "t2": "MR",
    "flair": "MR",
    "us": "US",
    "pet": "PT",
}
_NETWORK = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def import_nnunet(folder: Path, out: Path, choices: Choices) -> Bundle:
    """Writes `out` from a result folder (the one with plans.json). Raises BundleError, ConfigError."""
    plans, dataset = _json(folder / "plans.json"), _json(folder / "dataset.json")
    path = folder / f"fold_{choices.fold}" / "checkpoint_final.pth"
    if not path.is_file():
        path = path.with_name("checkpoint_best.pth")
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint, Mapping) or "network_weights" not in checkpoint:
        raise BundleError(f"{path}: no nnU-Net checkpoint (network_weights)")
    name = str(checkpoint.get("init_args", {}).get("configuration", folder.name.rsplit("__", 1)[-1]))
    configuration = _configuration(plans, name, folder / "plans.json")
    channels = dataset.get("channel_names", dataset.get("modality", {}))
    if len(channels) != 1:
        raise BundleError(
            f"{folder}: the network takes {len(channels)} channels; medpipe feeds one grey channel"
        )
    said = str(next(iter(channels.values())))
    modality = choices.modality or _MODALITIES.get(said.lower())
    axes = list(plans.get("transpose_forward", [0, 1, 2]))
    dims = len(configuration["patch_size"])
    if dims == 2 and axes != [0, 1, 2]:
        raise BundleError(
            f"{folder}: a 2-D configuration whose slices are not the files' own (transpose_forward {axes})"
        )
    back = [axes.index(axis) for axis in range(3)]  # network axis of each source axis
    order = back if dims == 3 else [0, 1]
    orientation = needed(
        choices.orientation, "--orientation", "nnU-Net does not record how its data lay (RAS, LPS)"
    )
    classes, activation = _classes(dataset, folder / "dataset.json")
    hyper = _hyper(configuration, order, folder / "plans.json")
    spacing = configuration["spacing"]
    content = {
        "id": choices.id or bundle_id(str(plans.get("dataset_name", out.name))),
        "version": "0.1.0",
        "title": f"{plans.get('dataset_name', 'nnU-Net')} {name} (imported)"[:64],
        "network": {"name": "plain-conv-unet", "hyper": hyper, "activation": activation},
        "input": {
            "modality": [needed(modality, "--modality", f"the channel is called {said!r}")],
            "channels": 1,
            "spatial_dims": dims,
            "scale": "spacing",
            "spacing": [float(spacing[axis]) for axis in order],
            "orientation": orientation,
            "normalise": _normalise(configuration, plans, folder / "plans.json"),
        },
        "classes": class_rows(classes),
        "window": {
            "patch": [int(configuration["patch_size"][axis]) for axis in order],
            "overlap": 0.5,
            "padding": "zero",
        },
        "provenance": {
            "data": f"nnU-Net v2 result, {plans.get('dataset_name', folder.name)}, {name}, fold {choices.fold}",
            "licence": choices.licence or "not stated by nnU-Net; ask its authors",
        },
    }
    return write_bundle(out, content, _weights(checkpoint["network_weights"], order))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: is no JSON object")
    return content


def _configuration(plans: Plain, name: str, path: Path) -> dict[str, Any]:
    known = plans.get("configurations", {})
    if name not in known:
        raise BundleError(f"{path}: no configuration {name!r}; known: {', '.join(known)}")
    merged: dict[str, Any] = {}
    while name:  # a configuration may inherit from another
        row = known.get(name, {})
        merged = {**row, **merged}
        name = row.get("inherits_from", "")
    if merged.get("previous_stage"):
        raise BundleError(f"{path}: a cascade needs the stage before it, which is not supported")
    return merged


def _hyper(configuration: Plain, order: list[int], path: Path) -> dict[str, Any]:
    """The network's plan for nets.plain_conv_unet, with its axes in the order of ours."""
    architecture = configuration.get("architecture")
    if not isinstance(architecture, Mapping):
        raise BundleError(
            f"{path}: plans of nnU-Net before 2.4 (no architecture); open and save them with a newer one"
        )
    if architecture["network_class_name"] != _NETWORK:
        raise BundleError(
            f"{path}: network {architecture['network_class_name']} is not supported, only PlainConvUNet"
        )
    given = architecture["arch_kwargs"]
    expected = {
        "norm_op": (
            "torch.nn.modules.instancenorm.InstanceNorm2d",
            "torch.nn.modules.instancenorm.InstanceNorm3d",
        ),
        "nonlin": ("torch.nn.LeakyReLU",),
        "dropout_op": (None,),
    }
    for key, values in expected.items():
        if given.get(key) not in values:
            raise BundleError(f"{path}: {key} {given.get(key)!r} is not supported")
    count = given["n_stages"]

    def per_stage(value: Any, stages: int = count) -> list[int]:
        return [int(value)] * stages if isinstance(value, int) else [int(v) for v in value]

    def rows(value: Any) -> list[list[int]]:
        return [[int(row[axis]) for axis in order] for row in value]

    return {
        "features": per_stage(given["features_per_stage"]),
        "kernels": rows(given["kernel_sizes"]),
        "strides": rows(given["strides"]),
        "convolutions": per_stage(given["n_conv_per_stage"]),
        "decoder_convolutions": per_stage(given["n_conv_per_stage_decoder"], count - 1),
        "bias": bool(given.get("conv_bias", True)),
    }


def _normalise(configuration: Plain, plans: Plain, path: Path) -> dict[str, Any]:
    scheme = configuration["normalization_schemes"][0]
    if scheme == "CTNormalization":
        facts = plans["foreground_intensity_properties_per_channel"]["0"]
        low, high = float(facts["percentile_00_5"]), float(facts["percentile_99_5"])
        # (x - mean) / std of clipped HU, written for x brought to 0..1 first
        width = high - low
        return {
            "kind": "window",
            "low": low,
            "high": high,
            "mean": (float(facts["mean"]) - low) / width,
            "std": float(facts["std"]) / width,
        }
    if scheme == "ZScoreNormalization" and not configuration.get("use_mask_for_norm", [False])[0]:
        return {"kind": "z-score"}
    if scheme == "RescaleTo01Normalization":
        return {"kind": "percentile", "low": 0.0, "high": 100.0}
    raise BundleError(f"{path}: normalisation {scheme} (within a mask or of its own) is not supported")


def _classes(dataset: Plain, path: Path) -> tuple[list[str], str]:
    labels = dataset.get("labels")
    if not isinstance(labels, Mapping) or "background" not in labels:
        raise BundleError(f"{path}: no labels with a background")
    foreground = {name: value for name, value in labels.items() if name not in ("background", "ignore")}
    regions = any(isinstance(value, list | tuple) for value in foreground.values())
    if regions:  # each region is a channel of its own, in the order of the file
        return list(foreground), "sigmoid"
    ordered = sorted(foreground, key=lambda name: int(foreground[name]))
    if [int(foreground[name]) for name in ordered] != list(range(1, len(ordered) + 1)):
        raise BundleError(f"{path}: labels are not 1 to {len(ordered)} without gaps")
    return ordered, "softmax"


def _weights(given: Mapping[str, torch.Tensor], order: list[int]) -> dict[str, torch.Tensor]:
    """nnU-Net's weights by our names: each once, the last head only, spatial axes in our order."""
    weights = {k.removeprefix("_orig_mod."): v for k, v in given.items()}
    heads = {int(k.split(".")[2]) for k in weights if k.startswith("decoder.seg_layers.")}
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
