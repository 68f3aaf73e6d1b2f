"""A bundle folder from what was read of a foreign model: written, loaded, and tried once before it is given out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from safetensors.torch import save_file

from medpipe.bundle import Bundle, load_bundle
from medpipe.bundle.description import NETWORK_FILES
from medpipe.bundle.folder import DESCRIPTION, WEIGHTS
from medpipe.errors import BundleError, ConfigError
from medpipe.identity import file_sha256
from medpipe.inference import load_backend

_COLOURS = (
    (60.0, 65.0, 50.0),
    (70.0, -45.0, 50.0),
    (55.0, 10.0, -60.0),
    (85.0, 5.0, 80.0),
    (60.0, 75.0, -40.0),
    (80.0, -35.0, -10.0),
    (50.0, 40.0, 55.0),
    (75.0, 20.0, 20.0),
)
_CATEGORY = ["123037004", "SCT", "Anatomical Structure"]


def class_rows(names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per class: private codes (99LOCAL) that the site replaces by real ones where it knows them."""
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        plain = (
            "".join(c if c.isalnum() and c.isascii() else "-" for c in name).strip("-")
            or f"class-{number + 1}"
        )
        identifier = plain if plain[0].isalpha() else f"c{plain}"
        rows.append(
            {
                "id": identifier[:16],
                "name": name[:64] or identifier,
                "category": _CATEGORY,
                "type": [f"{identifier[:13].upper()}-{number + 1}", "99LOCAL", name[:64] or identifier],
                "colour_cielab": list(_COLOURS[number % len(_COLOURS)]),
                "threshold": 0.5,
                "smallest": 1,
            }
        )
    return rows


def write_bundle(out: Path, content: Mapping[str, Any], weights: Mapping[str, torch.Tensor] | Path) -> Bundle:
    """Writes bundle.toml, the weights and a card into `out`, whole or not at all. Raises BundleError, ConfigError.

    `weights` is a state dict, or the file of a network that comes whole. The network is run once on zeros: what does
    not give one value per class and voxel is refused here, not in front of a patient's study.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        network = dict(content["network"])
        kept = folder / NETWORK_FILES.get(network["name"], WEIGHTS)
        if isinstance(weights, Path):
            shutil.copyfile(weights, kept)
        else:
            save_file({name: value.contiguous().clone() for name, value in weights.items()}, kept)
            kept.chmod(0o644)
        network["weights_sha256"] = file_sha256(kept)
        described = tomli_w.dumps({**content, "network": network})
        (folder / DESCRIPTION).write_text(described, encoding="utf-8")
        bundle = load_bundle(folder)
        _try(bundle)
        (folder / "CARD.md").write_text(_card(bundle), encoding="utf-8")
        folder.rename(out)
    return load_bundle(out)


def _try(bundle: Bundle) -> None:
    backend = load_backend(bundle, device="cpu", precision="f32")
    patch = np.zeros((1, bundle.input.channels, *bundle.window.patch), np.float32)
    try:
        given = backend(patch).shape
    except RuntimeError as error:
        raise BundleError(
            f"the network fails on a patch of {patch.shape[1:]}: {str(error).splitlines()[0]}"
        ) from error
    expected = (1, len(bundle.classes), *bundle.window.patch)
    if given != expected:
        raise BundleError(f"the network gives {given} for a patch of {patch.shape[1:]}, not {expected}")


def _card(bundle: Bundle) -> str:
    return (
        f"# {bundle.title}\n\n`{bundle.id}` {bundle.version}, imported. Not a medical device; not for diagnostic "
        f"use.\n\n## Source\n\n{bundle.provenance.data}. Licence: {bundle.provenance.licence}.\n\n"
        "## Measured\n\nNothing was measured by this import: run `medpipe evaluate` on pictures of your own whose "
        "truth you know, and choose thresholds and smallest sizes (in bundle.toml) by it.\n\n"
        "## Codes\n\nType codes are private (99LOCAL). Replace them by SNOMED CT codes where you know them.\n"
    )
