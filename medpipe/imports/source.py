"""What a source is, and what its metadata do not say: the choices that the user makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpipe.bundle import Bundle
from medpipe.errors import ConfigError


@dataclass(frozen=True)
class Choices:
    """What the user says about a foreign model; None where its own metadata are to say it.

    `orientation` is where the training data's (i, j, k) ran to: RAS for most NIfTI files, LPS for DICOM axial slices.
    """

    id: str | None = None
    modality: str | None = None
    orientation: str | None = None
    licence: str | None = None
    description: Path | None = None
    fold: str = "0"


def import_bundle(source: Path, out: Path, choices: Choices | None = None) -> Bundle:
    """Writes the bundle folder `out` from a MONAI bundle, an nnU-Net result folder, or a TorchScript or ONNX file.

    Raises ConfigError where a choice is missing or the source is none of these, BundleError where it cannot be taken.
    """
    from medpipe.imports.exported import import_exported
    from medpipe.imports.monai_bundle import import_monai
    from medpipe.imports.nnunet import import_nnunet

    chosen = choices or Choices()
    if source.is_file():
        return import_exported(source, out, chosen)
    if (source / "configs" / "metadata.json").is_file():
        return import_monai(source, out, chosen)
    if (source / "plans.json").is_file():
        return import_nnunet(source, out, chosen)
    raise ConfigError(
        f"{source}: neither a MONAI bundle (configs/metadata.json), an nnU-Net result folder (plans.json), nor a file"
    )


def bundle_id(text: str) -> str:
    """A bundle id out of any name: lower case, digits, hyphens."""
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in text.lower())
    return "-".join(part for part in plain.split("-") if part)[:64] or "imported"


def needed(value: Any, option: str, why: str) -> Any:
    """The value, or ConfigError that names the option which says it."""
    if value is None:
        raise ConfigError(f"{option} is needed: {why}")
    return value
