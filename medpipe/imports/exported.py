"""A TorchScript or ONNX file with a TOML description as a bundle."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpipe.bundle import Bundle
from medpipe.errors import BundleError, ConfigError
from medpipe.imports.source import Choices, needed
from medpipe.imports.written import write_bundle

_KINDS = {".ts": "torchscript", ".pt": "torchscript", ".torchscript": "torchscript", ".onnx": "onnx"}


def import_exported(path: Path, out: Path, choices: Choices) -> Bundle:
    """Writes `out` from a network's file; `choices.description` is a bundle.toml without `[network] name`.

    What `choices` say holds over the description. Raises ConfigError where the description is missing or unreadable,
    BundleError where the two do not fit.
    """
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"{path}: not a network's file ({', '.join(sorted(_KINDS))})")
    described = needed(
        choices.description, "--description", "a network's file does not say what it is fed or gives"
    )
    try:
        content = tomllib.loads(described.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ConfigError(f"{described}: cannot be read as TOML: nested too deep") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{described}: cannot be read as TOML: {error}") from error
    network = content.get("network", {})
    if not isinstance(network, dict) or set(network) - {"activation", "argmax"}:
        raise BundleError(
            f"{described}: [network] says only the activation (sigmoid or softmax) and argmax of such a file"
        )
    if content.setdefault("id", out.name) != out.name:
        raise ConfigError(
            f"{described}: id {content['id']!r} is not the name of the folder {out}, by which a bundle is found"
        )
    content["network"] = {"name": kind, **network}
    content.setdefault("version", "0.1.0")
    content.setdefault("provenance", {"data": f"file {path.name}", "licence": "not stated"})
    _over(content, "provenance", {"licence": choices.licence}, described)
    fed = {"modality": [choices.modality] if choices.modality else None, "orientation": choices.orientation}
    _over(content, "input", fed, described)
    if content.get("input", {}).get("spatial_dims") == 3:
        why = f"neither a network's file nor {described} says how the volumes that it learned from lay"
        needed(content["input"].get("orientation"), "--orientation", why)
    return write_bundle(out, content, path)


def _over(content: dict[str, Any], section: str, said: Mapping[str, Any], described: Path) -> None:
    """Puts what the user said over a section of the description."""
    before = content.get(section, {})
    if not isinstance(before, dict):
        raise BundleError(f"{described}: [{section}] is no table")
    after = {**before, **{key: value for key, value in said.items() if value is not None}}
    if after:
        content[section] = after
