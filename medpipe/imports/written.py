"""A bundle folder from what was read of a foreign model: written, loaded, and tried once before it is given out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors.torch import save_file

from medpipe.bundle import Bundle, load_bundle
from medpipe.bundle.description import NETWORK_FILES
from medpipe.bundle.folder import DESCRIPTION, WEIGHTS
from medpipe.errors import BundleError, ConfigError
from medpipe.identity import file_sha256
from medpipe.imports.tried import try_network

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


MOST_CLASSES = 8
"""A mask of a picture is one byte per pixel, with a bit per class (docs/outputs.md)."""


def marked_as(activation: str, classes: int, *, argmax: bool) -> tuple[dict[str, Any], float]:
    """`[network]` keys of how a foreign network's classes are told apart, and the threshold that goes with it.

    The most probable of several classes and the background may be as improbable as 1 / (classes + 1).
    """
    if not argmax or activation != "softmax":
        return {"activation": activation}, 0.5
    return {"activation": activation, "argmax": True}, int(1000 / (classes + 1)) / 1000


def class_rows(names: Sequence[str], threshold: float = 0.5) -> list[dict[str, Any]]:
    """A row per class: private codes (99LOCAL) that the site replaces by real ones where it knows them.

    Raises BundleError for more classes than a mask holds.
    """
    if len(names) > MOST_CLASSES:
        raise BundleError(
            f"the network finds {len(names)} classes; medpipe takes up to {MOST_CLASSES}, a bit of a mask's byte each"
        )
    rows: list[dict[str, Any]] = []
    taken: set[str] = set()
    for number, name in enumerate(names):
        plain = (
            "".join(c if c.isalnum() and c.isascii() else "-" for c in name).strip("-")
            or f"class-{number + 1}"
        )
        identifier = plain if plain[0].isalpha() else f"c{plain}"
        short = identifier[:16]
        if short in taken:  # names that begin alike: numbered
            short = f"{identifier[:14]}-{number + 1}"
        taken.add(short)
        shown = " ".join(name.split())[:64] or identifier
        rows.append(
            {
                "id": short,
                "name": shown,
                "category": _CATEGORY,
                "type": [f"{identifier[:13].upper()}-{number + 1}", "99LOCAL", shown],
                "colour_cielab": list(_COLOURS[number % len(_COLOURS)]),
                "threshold": threshold,
                "smallest": 1,
            }
        )
    return rows


def write_bundle(out: Path, content: Mapping[str, Any], weights: Mapping[str, torch.Tensor] | Path) -> Bundle:
    """Writes bundle.toml, the weights and a card into `out`, whole or not at all. Raises BundleError, ConfigError.

    `weights` is a state dict, or the file of a network that comes whole. The network is tried (medpipe.imports.tried).
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=out.parent) as temporary:
            folder = Path(temporary) / out.name
            try:
                _fill(folder, content, weights)
            except BundleError as error:  # named as the user named it
                said = str(error)
                if isinstance(weights, Path):
                    for name in NETWORK_FILES.values():
                        said = said.replace(str(folder.absolute() / name), str(weights))
                raise BundleError(said.replace(str(folder.absolute()), str(out))) from error
            folder.rename(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror or error}") from error
    return load_bundle(out)


def _fill(folder: Path, content: Mapping[str, Any], weights: Mapping[str, torch.Tensor] | Path) -> None:
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
    try_network(bundle)
    (folder / "CARD.md").write_text(_card(bundle), encoding="utf-8")


def _card(bundle: Bundle) -> str:
    return (
        f"# {bundle.title}\n\n`{bundle.id}` {bundle.version}, imported. Not a medical device; not for diagnostic "
        f"use.\n\n## Source\n\n{bundle.provenance.data}. Licence: {bundle.provenance.licence}.\n\n"
        "## Measured\n\nNothing was measured by this import: run `medpipe evaluate` on pictures of your own whose "
        "truth you know, and choose thresholds and smallest sizes (in bundle.toml) by it.\n\n"
        "## Codes\n\nType codes are private (99LOCAL). Replace them by SNOMED CT codes where you know them.\n"
    )
