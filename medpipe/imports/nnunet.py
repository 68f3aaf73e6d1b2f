"""An nnU-Net v2 result folder (plans.json, dataset.json, fold_N/checkpoint_final.pth) as a bundle.

What nnU-Net does that a bundle does not: mirroring at inference (turn on test-time flips for it), spline resampling
(ours is linear), an ensemble of folds (one fold is taken). nnU-Net knows no orientation: it sees arrays as their files
hold them, so the user says how the training data lay; but one of its readers turns every file to RAS.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpipe.bundle import Bundle
from medpipe.errors import BundleError, ConfigError
from medpipe.imports.nnunet_network import hyper_of, weights_of
from medpipe.imports.pickled import dense, load_checkpoint
from medpipe.imports.source import Choices, needed, read_json
from medpipe.imports.written import class_rows, marked_as, write_bundle

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
_TURNING_READER = "NibabelIOWithReorient"
"""Of nnU-Net's readers the one that brings every file to RAS; arrays are (K, J, I) all the same."""


def import_nnunet(folder: Path, out: Path, choices: Choices) -> Bundle:
    """Writes `out` from a result folder (the one with plans.json). Raises BundleError, ConfigError."""
    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    path = folder / f"fold_{choices.fold}" / "checkpoint_final.pth"
    if not path.is_file() and path.with_name("checkpoint_best.pth").is_file():
        path = path.with_name("checkpoint_best.pth")
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint, Mapping) or "network_weights" not in checkpoint:
        raise BundleError(f"{path}: no nnU-Net checkpoint (network_weights)")
    init = checkpoint.get("init_args")
    trained = init.get("configuration") if isinstance(init, Mapping) else None
    name = str(trained or folder.name.rsplit("__", 1)[-1])
    configuration = _configuration(plans, name, folder / "plans.json")
    channels = dataset.get("channel_names", dataset.get("modality", {}))
    if not isinstance(channels, Mapping) or len(channels) != 1:
        raise BundleError(
            f"{folder}: the network takes {len(channels)} channels; medpipe feeds one grey channel (channel_names)"
        )
    said = str(next(iter(channels.values())))
    modality = choices.modality or _MODALITIES.get(said.lower())
    axes = list(plans.get("transpose_forward", [0, 1, 2]))
    if sorted(axes) != [0, 1, 2]:
        raise BundleError(f"{folder}: transpose_forward {axes} is no order of three axes")
    dims = len(configuration["patch_size"])
    if dims == 2 and axes != [0, 1, 2]:
        raise BundleError(
            f"{folder}: a 2-D configuration whose slices are not the files' own (transpose_forward {axes})"
        )
    back = [axes.index(axis) for axis in range(3)]  # network axis of each source axis
    order = back if dims == 3 else [0, 1]
    classes, activation = _classes(dataset, folder / "dataset.json")
    marked, threshold = marked_as(activation, len(classes), argmax=True)
    hyper = hyper_of(configuration, order, folder / "plans.json")
    spacing = configuration["spacing"]
    content = {
        "id": out.name,
        "version": "0.1.0",
        "title": f"{plans.get('dataset_name', 'nnU-Net')} {name} (imported)"[:64],
        "network": {"name": "plain-conv-unet", "hyper": hyper, **marked},
        "input": {
            "modality": [needed(modality, "--modality", f"the channel is called {said!r}")],
            "channels": 1,
            "spatial_dims": dims,
            "scale": "spacing",
            "spacing": [float(spacing[axis]) for axis in order],
            "orientation": _orientation(plans, choices.orientation),
            "normalise": _normalise(configuration, plans, folder / "plans.json"),
        },
        "classes": class_rows(classes, threshold),
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
    weights = weights_of(dense(checkpoint["network_weights"], path), order)
    return write_bundle(out, content, weights)


def _orientation(plans: Plain, said: str | None) -> str:
    """Where (i, j, k) of what nnU-Net saw ran to. Raises ConfigError where the user has to say it, or may not."""
    if plans.get("image_reader_writer") == _TURNING_READER:
        if said not in (None, "RAS"):
            raise ConfigError(f"--orientation {said}: plans.json says that every file was turned to RAS")
        return "RAS"
    known: str = needed(said, "--orientation", "nnU-Net does not record how its data lay (RAS, LPS)")
    return known


_NEEDED = ("patch_size", "spacing", "normalization_schemes")


def _configuration(plans: Plain, name: str, path: Path) -> dict[str, Any]:
    known = plans.get("configurations")
    if not isinstance(known, Mapping) or name not in known:
        raise BundleError(f"{path}: no configuration {name!r}; known: {', '.join(known or ()) or 'none'}")
    merged: dict[str, Any] = {}
    visited: set[str] = set()
    while name:  # a configuration may inherit from another
        row = known.get(name)
        if name in visited or not isinstance(row, Mapping):
            raise BundleError(f"{path}: configuration {name!r} inherits from itself, or is not there")
        visited.add(name)
        merged = {**row, **merged}
        name = row.get("inherits_from", "")
    if merged.get("previous_stage"):
        raise BundleError(f"{path}: a cascade needs the stage before it, which is not supported")
    for key in _NEEDED:
        if not isinstance(merged.get(key), list) or not merged[key]:
            raise BundleError(f"{path}: the configuration has no {key}")
    dims = len(merged["patch_size"])
    if dims not in (2, 3) or len(merged["spacing"]) != dims:
        raise BundleError(f"{path}: patch_size and spacing are not two or three sizes each")
    return merged


def _normalise(configuration: Plain, plans: Plain, path: Path) -> dict[str, Any]:
    scheme = configuration["normalization_schemes"][0]
    if scheme == "CTNormalization":
        facts = plans.get("foreground_intensity_properties_per_channel")
        facts = facts.get("0") if isinstance(facts, Mapping) else None
        wanted = ("percentile_00_5", "percentile_99_5", "mean", "std")
        if not isinstance(facts, Mapping) or not all(isinstance(facts.get(k), int | float) for k in wanted):
            raise BundleError(f"{path}: no intensities of channel 0 ({', '.join(wanted)})")
        low, high = float(facts["percentile_00_5"]), float(facts["percentile_99_5"])
        if not low < high or not facts["std"] > 0:
            raise BundleError(f"{path}: the intensities of channel 0 have no spread")
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
    if any(isinstance(value, list) and len(value) > 1 for value in foreground.values()):
        return list(foreground), "sigmoid"  # each region is a channel of its own, in the order of the file
    numbers = {
        name: value[0] if isinstance(value, list) and value else value for name, value in foreground.items()
    }
    if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers.values()):
        raise BundleError(f"{path}: labels are not whole numbers")
    ordered = sorted(numbers, key=lambda name: int(numbers[name]))
    if [numbers[name] for name in ordered] != list(range(1, len(ordered) + 1)):
        raise BundleError(f"{path}: labels are not 1 to {len(ordered)} without gaps")
    return ordered, "softmax"
