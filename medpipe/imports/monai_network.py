"""The network of a MONAI bundle: its TorchScript file, or one of MONAI's by name with a state dict."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medpipe.errors import BundleError
from medpipe.imports.monai_config import Component, Config, target_of
from medpipe.imports.pickled import state_dict
from medpipe.inference.foreign import FIRST_OF_SEVERAL, MONAI_NETWORKS

_KEYS = ("network_def", "network", "net")
_GONE = {"SwinUNETR": ("img_size",)}
"""Arguments that MONAI has given up and that change nothing where they are left out."""


def network_of(
    folder: Path, config: Config, channels: int
) -> tuple[dict[str, Any], Path | dict[str, torch.Tensor]]:
    """[network] of a bundle, and its file or weights; `channels` is how many metadata.json names.

    Raises BundleError where the network is not one of MONAI's, or a setting cannot be written down.
    """
    script = folder / "models" / "model.ts"
    if script.is_file():
        return {"name": "torchscript"}, script
    path = folder / "models" / "model.pt"
    if not path.is_file():
        raise BundleError(f"{folder}: neither models/model.ts nor models/model.pt")
    definition = _definition(config)
    target = target_of(definition, f"{config.path}: network")
    if target not in MONAI_NETWORKS:
        raise BundleError(f"{config.path}: network {target} is not supported: {', '.join(MONAI_NETWORKS)}")
    given = config.value(definition.get("out_channels", channels), "network_def out_channels")
    if given != channels:
        raise BundleError(
            f"{config.path}: the network gives {given} channels, metadata.json names {channels}"
        )
    hyper = {"target": target, **_hyper(config, definition, target)}
    weights = state_dict(path, ("model", "state_dict", "network"))
    before = "network." if target in FIRST_OF_SEVERAL else ""
    return {"name": "monai", "hyper": hyper}, {f"{before}{name}": value for name, value in weights.items()}


def _definition(config: Config) -> Component:
    for key in _KEYS:  # an expression says how the network is used, its definition stands beside it
        given = config.content.get(key)
        if given is not None and not (isinstance(given, str) and given.startswith("$")):
            found = config.component(key)
            if found is not None:
                return found
    raise BundleError(f"{config.path}: no network_def that says which network models/model.pt is for")


def _hyper(config: Config, definition: Component, target: str) -> dict[str, Any]:
    from monai.networks import nets

    known = inspect.signature(getattr(nets, target)).parameters
    hyper: dict[str, Any] = {}
    for key, given in definition.items():
        if key.startswith("_") or key in ("in_channels", "out_channels", *_GONE.get(target, ())):
            continue
        value = config.value(given, f"network_def {key}")
        if key not in known:
            raise BundleError(f"{config.path}: network_def: {target} of this MONAI has no {key!r}")
        if value is None and known[key].default is None:
            continue
        if _has_null(value):
            raise BundleError(f"{config.path}: network_def {key}: null is not supported")
        hyper[key] = value
    if "pretrained" in known:
        hyper["pretrained"] = False  # all weights are in model.pt; nothing is downloaded
    return hyper


def _has_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_null(item) for item in value.values())
    return any(_has_null(item) for item in value) if isinstance(value, list) else value is None
