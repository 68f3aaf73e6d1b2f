"""A MONAI bundle (configs/metadata.json, inference.json, models/model.ts or model.pt) as a bundle of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpipe.bundle import Bundle
from medpipe.errors import BundleError
from medpipe.imports.monai_config import Config
from medpipe.imports.monai_network import network_of
from medpipe.imports.monai_transforms import Postprocessing, Preprocessing
from medpipe.imports.monai_window import Window
from medpipe.imports.source import Choices, needed, read_json
from medpipe.imports.written import class_rows, marked_as, write_bundle

_MODALITIES = {"ct": "CT", "mr": "MR", "mri": "MR", "us": "US", "xr": "DX", "pet": "PT"}


def import_monai(folder: Path, out: Path, choices: Choices) -> Bundle:
    """Writes `out` from a MONAI bundle's folder. Raises BundleError, ConfigError."""
    metadata = read_json(folder / "configs" / "metadata.json")
    config = Config(read_json(folder / "configs" / "inference.json"), folder / "configs" / "inference.json")
    data = metadata.get("network_data_format")
    image, pred = _only(data, "inputs", folder), _only(data, "outputs", folder)
    if image.get("num_channels") != 1:
        raise BundleError(
            f"{folder}: the network takes {image.get('num_channels')} channels; medpipe feeds one"
        )
    said = str(image.get("modality", ""))
    modality = choices.modality or _MODALITIES.get(said.lower())
    window = Window.of(config, image.get("spatial_shape"))
    before = Preprocessing.of(config)
    after = Postprocessing.of(config, choices.without)
    names = _names(pred.get("channel_def"), after.activation, folder)
    marked, threshold = marked_as(after.activation, len(names), argmax=after.threshold is None)
    classes = class_rows(names, after.threshold or threshold)
    network, weights = network_of(folder, config, len(names) + (after.activation == "softmax"))
    title = str(metadata.get("name") or metadata.get("task") or "MONAI bundle")
    without = f"; without {', '.join(after.left_out)}, which its authors apply" if after.left_out else ""
    content = {
        "id": out.name,
        "version": _version(str(metadata.get("version", "0.1.0"))),
        "title": title[:64],
        "network": {**network, **marked},
        "input": {
            "modality": [needed(modality, "--modality", f"metadata.json says {said!r}")],
            "channels": 1,
            "spatial_dims": len(window.patch),
            **window.input_axes(before, choices.orientation, config),
            "normalise": before.normalise,
        },
        "classes": classes,
        "window": {"patch": window.patch, "overlap": window.overlap, "padding": window.padding},
        "provenance": {
            "data": f"MONAI bundle {title} {metadata.get('version', '')}".strip() + without,
            "licence": choices.licence or str(metadata.get("copyright") or "not stated by its metadata"),
        },
    }
    return write_bundle(out, content, weights)


def _only(data: Any, what: str, folder: Path) -> Mapping[str, Any]:
    """The only input, or output, that the metadata tell of."""
    group = data.get(what) if isinstance(data, Mapping) else None
    if not isinstance(group, Mapping) or not all(isinstance(row, Mapping) for row in group.values()):
        raise BundleError(f"{folder}: metadata.json has no network_data_format with {what}")
    if len(group) != 1:
        raise BundleError(f"{folder}: {len(group)} {what}; one is what medpipe feeds and takes")
    only: Mapping[str, Any] = next(iter(group.values()))
    return only


def _names(given: Any, activation: str, folder: Path) -> list[str]:
    """Classes by channel, from {"1": "spleen"}, {"spleen": 1} or a list; without the background of a softmax."""
    rows = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(rows, Mapping) or not rows:
        raise BundleError(f"{folder}: metadata.json names no output channel (channel_def)")
    if not all(str(key).isdecimal() for key in rows):
        rows = {number: name for name, number in rows.items()}
    if not all(str(key).isdecimal() for key in rows):
        raise BundleError(f"{folder}: metadata.json: channel_def does not number its channels")
    numbered = {int(key): str(name) for key, name in rows.items()}
    if activation == "softmax":
        numbered.setdefault(0, "background")  # some name the foreground alone
    if sorted(numbered) != list(range(len(numbered))):
        raise BundleError(f"{folder}: metadata.json: channel_def does not count its channels from 0 on")
    names = [numbered[number] for number in range(len(numbered))]
    if names[0].lower() == "background":
        if activation == "sigmoid":
            raise BundleError(
                f"{folder}: channel 0 is background under a sigmoid; that class would mark all that is healthy, "
                "so such a network is not supported"
            )
        names = names[1:]
    elif activation == "softmax":
        raise BundleError(
            f"{folder}: metadata.json: channel 0 is {names[0]!r}, not background, which a softmax needs here"
        )
    if not names:
        raise BundleError(f"{folder}: metadata.json names no output channel but the background (channel_def)")
    return names


def _version(text: str) -> str:
    parts = [*text.split("-")[0].split("."), "0", "0"][:3]
    return ".".join(str(int(p)) if p.isascii() and p.isdigit() else "0" for p in parts)
