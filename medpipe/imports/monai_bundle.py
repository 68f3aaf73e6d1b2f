"""A MONAI bundle (configs/metadata.json, inference.json, models/model.ts or model.pt) as a bundle of ours.

Its configuration is a program in JSON: `$` begins a Python expression, `@` refers to another key. References to plain
values are followed; an expression is refused where its value would matter, and left alone where it would not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from medpipe.bundle import Bundle
from medpipe.errors import BundleError
from medpipe.imports.pickled import state_dict
from medpipe.imports.source import Choices, bundle_id, needed
from medpipe.imports.written import class_rows, write_bundle
from medpipe.inference.foreign import MONAI_NETWORKS

_MODALITIES = {"ct": "CT", "mr": "MR", "mri": "MR", "us": "US", "xr": "DX", "pet": "PT"}
_NOTHING = {
    "LoadImage",
    "EnsureChannelFirst",
    "AddChannel",
    "EnsureType",
    "ToTensor",
    "CastToType",
    "SpatialPad",
    "DivisiblePad",
    "AsChannelFirst",
}
"""Transforms that change no value where a window slides over one grey volume."""


def import_monai(folder: Path, out: Path, choices: Choices) -> Bundle:
    """Writes `out` from a MONAI bundle's folder. Raises BundleError, ConfigError."""
    metadata = _json(folder / "configs" / "metadata.json")
    config = Config(_json(folder / "configs" / "inference.json"), folder / "configs" / "inference.json")
    data = metadata.get("network_data_format", {})
    (image,) = _only(data.get("inputs", {}), "inputs", folder)
    (pred,) = _only(data.get("outputs", {}), "outputs", folder)
    if image.get("num_channels") != 1:
        raise BundleError(
            f"{folder}: the network takes {image.get('num_channels')} channels; medpipe feeds one"
        )
    said = str(image.get("modality", ""))
    modality = choices.modality or _MODALITIES.get(said.lower())
    patch = config.patch(image.get("spatial_shape"))
    dims = len(patch)
    before = Preprocessing.of(config, dims)
    activation = config.activation()
    names = [
        str(name) for _, name in sorted(pred.get("channel_def", {}).items(), key=lambda item: int(item[0]))
    ]
    if activation == "softmax" and names and names[0].lower() == "background":
        names = names[1:]
    if not names:
        raise BundleError(f"{folder}: metadata.json names no output channel (channel_def)")
    network, weights = _network(folder, config, len(names) + (activation == "softmax"))
    # MONAI's arrays are (x, y, z): its axcodes say where the first axis runs to, ours where the last one does
    orientation = choices.orientation or (before.axcodes[::-1] if before.axcodes else None)
    content = {
        "id": choices.id or bundle_id(str(metadata.get("name", out.name))),
        "version": _version(str(metadata.get("version", "0.1.0"))),
        "title": str(metadata.get("name") or metadata.get("task") or "MONAI bundle")[:64],
        "network": {**network, "activation": activation},
        "input": {
            "modality": [needed(modality, "--modality", f"metadata.json says {said!r}")],
            "channels": 1,
            "spatial_dims": dims,
            "scale": "spacing" if before.spacing else "none",
            **({"spacing": before.spacing} if before.spacing else {}),
            "orientation": needed(orientation, "--orientation", "the preprocessing has no Orientationd"),
            "normalise": before.normalise,
        },
        "classes": class_rows(names),
        "window": {"patch": patch, "overlap": config.overlap(), "padding": config.padding()},
        "provenance": {
            "data": f"MONAI bundle {metadata.get('name', folder.name)} {metadata.get('version', '')}".strip(),
            "licence": choices.licence or str(metadata.get("copyright") or "not stated by its metadata"),
        },
    }
    return write_bundle(out, content, weights)


@dataclass(frozen=True)
class Config:
    """inference.json as data."""

    content: Mapping[str, Any]
    path: Path

    def value(self, given: Any, key: str) -> Any:
        """Plain value of what stands at `key`; references are followed, expressions refused."""
        for _ in range(20):
            if isinstance(given, str) and given.startswith("@"):
                given = self._referred(given[1:], key)
            elif isinstance(given, str) and given.startswith(("$", "%")):
                raise BundleError(
                    f"{self.path}: {key}: {given[:60]!r} is an expression, which is never evaluated"
                )
            elif isinstance(given, list):
                return [self.value(item, key) for item in given]
            else:
                return given
        raise BundleError(f"{self.path}: {key}: refers to itself")

    def _referred(self, name: str, key: str) -> Any:
        here: Any = self.content
        for step in name.replace("#", "::").split("::"):
            if isinstance(here, list) and step.isdigit() and int(step) < len(here):
                here = here[int(step)]
            elif isinstance(here, Mapping) and step in here:
                here = here[step]
            else:
                raise BundleError(f"{self.path}: {key}: refers to {name!r}, which is not there")
        return here

    def component(self, *keys: str) -> dict[str, Any] | None:
        """The first of `keys` that is there, as a dict with `_target_`."""
        for key in keys:
            given = self.content.get(key)
            if isinstance(given, str) and given.startswith("@"):
                given = self._referred(given[1:], key)
            if isinstance(given, Mapping) and "_target_" in given:
                return dict(given)
        return None

    def transforms(self, *keys: str) -> list[dict[str, Any]]:
        composed = self.component(*keys) or {}
        given = self.value(composed.get("transforms", []), keys[0]) if composed else []
        if not isinstance(given, list) or not all(isinstance(t, Mapping) for t in given):
            raise BundleError(f"{self.path}: {keys[0]} is not a list of transforms")
        return [dict(t) for t in given if t.get("_disabled_") is not True]

    def patch(self, shape: Any) -> list[int]:
        inferer = self.component("inferer") or {}
        given = self.value(inferer.get("roi_size", shape), "inferer roi_size")
        if not isinstance(given, list) or not all(isinstance(n, int) and n > 0 for n in given):
            raise BundleError(f"{self.path}: inferer: roi_size is not a list of sizes")
        return [int(n) for n in given]

    def overlap(self) -> float:
        inferer = self.component("inferer") or {}
        given = self.value(inferer.get("overlap", 0.25), "inferer overlap")
        return min(float(given), 0.9) if isinstance(given, int | float) else 0.25

    def padding(self) -> str:
        """What stands around a volume smaller than the window; MONAI's own choice is 0."""
        inferer = self.component("inferer") or {}
        mode = self.value(inferer.get("padding_mode", "constant"), "inferer padding_mode")
        if mode == "replicate":
            return "edge"
        if mode != "constant" or self.value(inferer.get("cval", 0), "inferer cval") != 0:
            raise BundleError(
                f"{self.path}: inferer: padding_mode {mode!r}, only replicate, and constant with cval 0"
            )
        return "zero"

    def activation(self) -> str:
        for transform in self.transforms("postprocessing", "post_transforms"):
            name = _name(transform)
            if name == "Activations":
                for kind in ("softmax", "sigmoid"):
                    if self.value(transform.get(kind), f"postprocessing {kind}") is True:
                        return kind
            if name == "AsDiscrete" and self.value(transform.get("argmax"), "postprocessing argmax") is True:
                return "softmax"
        raise BundleError(f"{self.path}: postprocessing has no Activationsd with sigmoid or softmax")


@dataclass(frozen=True)
class Preprocessing:
    """What the transforms before the network come to."""

    axcodes: str | None = None
    spacing: list[float] = field(default_factory=list)
    normalise: Mapping[str, Any] = field(
        default_factory=lambda: {"kind": "percentile", "low": 0.0, "high": 100.0}
    )

    @staticmethod
    def of(config: Config, dims: int) -> Preprocessing:
        """Raises BundleError for a transform that medpipe has no counterpart of."""
        axcodes, spacing, normalise = None, [], None
        for transform in config.transforms("preprocessing", "pre_transforms"):
            name = _name(transform)

            def get(
                key: str, default: Any = None, given: Mapping[str, Any] = transform, of: str = name
            ) -> Any:
                return config.value(given.get(key, default), f"preprocessing {of} {key}")

            if name == "Orientation":
                axcodes = str(get("axcodes"))
            elif name == "Spacing":
                pixdim = get("pixdim")
                spacing = [float(n) for n in (pixdim if isinstance(pixdim, list) else [pixdim] * dims)][:dims]
            elif name == "ScaleIntensityRange":
                normalise = _range(get)
            elif name == "ScaleIntensityRangePercentiles" and (get("b_min"), get("b_max")) == (0.0, 1.0):
                normalise = {"kind": "percentile", "low": float(get("lower")), "high": float(get("upper"))}
            elif name == "ScaleIntensity" and (get("minv", 0.0), get("maxv", 1.0)) == (0.0, 1.0):
                normalise = {"kind": "percentile", "low": 0.0, "high": 100.0}
            elif name == "NormalizeIntensity" and not get("nonzero", False) and get("subtrahend") is None:
                normalise = {"kind": "z-score"}
            elif name not in _NOTHING:
                raise BundleError(f"{config.path}: preprocessing: {name} (as set here) is not supported")
        if normalise is None:
            raise BundleError(f"{config.path}: preprocessing does not say how values are normalised")
        return Preprocessing(axcodes, spacing, normalise)


def _range(get: Any) -> dict[str, Any]:
    low, high = float(get("a_min")), float(get("a_max"))
    bottom, top = float(get("b_min", 0.0)), float(get("b_max", 1.0))
    if get("clip", False) is not True:
        raise BundleError("preprocessing: ScaleIntensityRange without clip is not supported")
    std = 1.0 / (top - bottom)
    return {"kind": "window", "low": low, "high": high, "mean": -bottom * std, "std": std}


def _network(
    folder: Path, config: Config, channels: int
) -> tuple[dict[str, Any], Path | dict[str, torch.Tensor]]:
    """The TorchScript file where there is one, else a network of MONAI's by name with its state dict."""
    script = folder / "models" / "model.ts"
    if script.is_file():
        return {"name": "torchscript"}, script
    path = folder / "models" / "model.pt"
    if not path.is_file():
        raise BundleError(f"{folder}: neither models/model.ts nor models/model.pt")
    definition = config.component("network_def", "network", "net")
    if definition is None:
        raise BundleError(f"{config.path}: no network_def that says which network models/model.pt is for")
    target = _name(definition, strip=False)
    if target not in MONAI_NETWORKS:
        raise BundleError(f"{config.path}: network {target} is not supported: {', '.join(MONAI_NETWORKS)}")
    hyper: dict[str, Any] = {"target": target}
    for key, given in definition.items():
        if key.startswith("_") or key in ("in_channels", "out_channels"):
            continue
        value = config.value(given, f"network_def {key}")
        if value is not None:
            hyper[key] = value
    given_channels = config.value(definition.get("out_channels", channels), "network_def out_channels")
    if given_channels != channels:
        raise BundleError(
            f"{config.path}: the network gives {given_channels} channels, metadata.json names {channels}"
        )
    weights = state_dict(path, ("model", "state_dict", "network"))
    wrapped = target in ("BasicUNetPlusPlus", "SegResNetDS", "DynUNet")
    return {"name": "monai", "hyper": hyper}, {
        f"network.{k}" if wrapped else k: v for k, v in weights.items()
    }


def _name(component: Mapping[str, Any], *, strip: bool = True) -> str:
    """Last part of `_target_`; of a dictionary transform (`Spacingd`) the name of the plain one."""
    name = str(component.get("_target_", "")).rsplit(".", 1)[-1]
    if not strip:
        return name
    for end in ("dict", "Dict", "d", "D"):
        plain = name.removesuffix(end)
        if plain != name and (plain in _NOTHING or plain in _KNOWN):
            return plain
    return name


_KNOWN = {
    "Activations",
    "AsDiscrete",
    "NormalizeIntensity",
    "Orientation",
    "ScaleIntensity",
    "ScaleIntensityRange",
    "ScaleIntensityRangePercentiles",
    "Spacing",
}


def _version(text: str) -> str:
    parts = [*text.split("-")[0].split("."), "0", "0"][:3]
    return ".".join(str(int(p)) if p.isdigit() else "0" for p in parts)


def _only(group: Mapping[str, Any], what: str, folder: Path) -> Sequence[Mapping[str, Any]]:
    if len(group) != 1:
        raise BundleError(f"{folder}: {len(group)} {what}; one is what medpipe feeds and takes")
    return list(group.values())


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: is no JSON object")
    return content
