"""What a source is, and what its metadata do not say: the choices that the user makes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpipe.bundle import Bundle
from medpipe.errors import BundleError, ConfigError, MedpipeError

_UNFORESEEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a file that is not as its format says makes of the code that reads it."""


@dataclass(frozen=True)
class Choices:
    """What the user says about a foreign model; None where its own metadata are to say it.

    `orientation` is where the training data's (i, j, k) ran to: RAS for most NIfTI files, LPS for DICOM axial slices.
    `without` names the cleaning of masks (KeepLargestConnectedComponentd) that a MONAI bundle is taken without.
    """

    id: str | None = None
    modality: str | None = None
    orientation: str | None = None
    licence: str | None = None
    description: Path | None = None
    fold: str = "0"
    without: tuple[str, ...] = ()


def import_bundle(source: Path, out: Path, choices: Choices | None = None) -> Bundle:
    """Writes the bundle folder `out` from a MONAI bundle, an nnU-Net result folder, or a TorchScript or ONNX file.

    The bundle's id is the name of `out`. Raises ConfigError where a choice is missing or impossible or the source is
    none of these, BundleError where it cannot be taken; each is one line.
    """
    chosen = choices or Choices()
    _check_id(out, chosen)
    try:
        return _import(source, out, chosen)
    except MedpipeError as error:
        if "\n" not in str(error):
            raise
        raise type(error)(telling_line(error)) from error
    except _UNFORESEEN as error:
        raise BundleError(f"{source}: cannot be taken: {telling_line(error)}") from error


def _import(source: Path, out: Path, chosen: Choices) -> Bundle:
    from medpipe.imports.exported import import_exported
    from medpipe.imports.monai_bundle import import_monai
    from medpipe.imports.nnunet import import_nnunet

    monai = (source / "configs" / "metadata.json").is_file()
    if chosen.without and not monai:
        raise ConfigError("--without goes with MONAI bundles, whose postprocessing it leaves out")
    if source.is_file():
        return import_exported(source, out, chosen)
    if monai:
        return import_monai(source, out, chosen)
    if (source / "plans.json").is_file():
        return import_nnunet(source, out, chosen)
    raise ConfigError(
        f"{source}: neither a MONAI bundle (configs/metadata.json), an nnU-Net result folder (plans.json), nor a file"
    )


def _check_id(out: Path, chosen: Choices) -> None:
    """A bundle is found by its folder's name, so that is its id."""
    fitting = bundle_id(out.name)
    if out.name != fitting:
        raise ConfigError(
            f"--out {out}: the folder's name is the bundle's id, lower case letters, digits and hyphens: {fitting}"
        )
    if chosen.id not in (None, out.name):
        wanted = out.parent / bundle_id(str(chosen.id))
        raise ConfigError(f"--id {chosen.id}: the folder's name is the bundle's id; say --out {wanted}")


def bundle_id(text: str) -> str:
    """A bundle id out of any name: lower case, digits, hyphens."""
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in text.lower())
    return "-".join(part for part in plain.split("-") if part)[:64].rstrip("-") or "imported"


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises BundleError where it cannot be read or is another value."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise BundleError(f"{path}: cannot be read as JSON: nested too deep") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: is no JSON object")
    return content


def needed(value: Any, option: str, why: str) -> Any:
    """The value, or ConfigError that names the option which says it."""
    if value is None:
        raise ConfigError(f"{option} is needed: {why}")
    return value


_WHERE_IN_THEIR_CODE = re.compile(r"\s*(Exception from |Check .* failed at |Exception:|Loading input model$)")


def telling_line(error: BaseException) -> str:
    """The first line of an error that says something; OpenVINO's begin with where in its own code it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not _WHERE_IN_THEIR_CODE.match(line)]
    line = (told or lines or [""])[0].rstrip(":")
    if isinstance(error, LookupError) or not line:
        return f"{type(error).__name__} {line}".strip()
    return line
