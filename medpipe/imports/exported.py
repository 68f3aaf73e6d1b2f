"""A TorchScript or ONNX file with a TOML description as a bundle."""

from __future__ import annotations

import tomllib
from pathlib import Path

from medpipe.bundle import Bundle
from medpipe.errors import BundleError, ConfigError
from medpipe.imports.source import Choices, bundle_id, needed
from medpipe.imports.written import write_bundle

_KINDS = {".ts": "torchscript", ".pt": "torchscript", ".torchscript": "torchscript", ".onnx": "onnx"}


def import_exported(path: Path, out: Path, choices: Choices) -> Bundle:
    """Writes `out` from a network's file; `choices.description` is a bundle.toml without `[network] name`.

    Raises ConfigError where the description is missing or unreadable, BundleError where the two do not fit.
    """
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"{path}: not a network's file ({', '.join(sorted(_KINDS))})")
    described = needed(
        choices.description, "--description", "a network's file does not say what it is fed or gives"
    )
    try:
        content = tomllib.loads(described.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{described}: cannot be read as TOML: {error}") from error
    network = content.get("network", {})
    if not isinstance(network, dict) or set(network) - {"activation"}:
        raise BundleError(
            f"{described}: [network] says only the activation (sigmoid or softmax) of such a file"
        )
    content["network"] = {"name": kind, **network}
    content.setdefault("id", choices.id or bundle_id(out.name))
    content.setdefault("version", "0.1.0")
    content.setdefault(
        "provenance", {"data": f"file {path.name}", "licence": choices.licence or "not stated"}
    )
    return write_bundle(out, content, path)
