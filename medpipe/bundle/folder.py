"""A bundle's folder: found by id, read, checked, hashed."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medpipe.bundle.description import (
    NETWORK_FILES,
    ClassSpec,
    CrfSpec,
    Description,
    InputSpec,
    Network,
    PrecisionSpec,
    ProvenanceSpec,
    WindowSpec,
)
from medpipe.errors import BundleError, NotFound
from medpipe.identity import digest, file_sha256

DESCRIPTION = "bundle.toml"
WEIGHTS = "model.safetensors"
GOLDEN = "golden.json"
SHIPPED = Path(__file__).parents[1] / "bundles"

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_LARGEST_HEADER = 16 * 2**20


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. `hash` covers bundle.toml and the weights; `folder` and `weights` are absolute paths."""

    id: str
    version: str
    title: str
    folder: Path
    network: Network
    input: InputSpec
    classes: tuple[ClassSpec, ...]
    window: WindowSpec
    crf: CrfSpec
    precision: PrecisionSpec
    provenance: ProvenanceSpec
    weights: Path
    weights_sha256: str
    hash: str

    @property
    def class_ids(self) -> tuple[str, ...]:
        return tuple(c.id for c in self.classes)

    @property
    def exclusive(self) -> bool:
        """Whether the classes exclude each other (softmax), so that one label per pixel says everything."""
        return self.network.activation == "softmax"

    def network_arguments(self) -> dict[str, Any]:
        """Keywords for nets.registry.build: the hyper-parameters with `in_channels` and `classes` (logit channels)."""
        channels = len(self.classes) + (1 if self.exclusive else 0)
        return {"in_channels": self.input.channels, "classes": channels, **self.network.hyper}


def load_bundle(folder: Path) -> Bundle:
    """Reads and checks a bundle folder. Raises BundleError, one line that says what is wrong and where."""
    folder = folder.absolute()
    description = _inside(folder, DESCRIPTION)
    text = description.read_bytes()
    checked = _parse(text, description)
    weights = _inside(folder, NETWORK_FILES.get(checked.network.name, WEIGHTS))
    if weights.name == WEIGHTS:
        _check_safetensors(weights)
    sha256 = file_sha256(weights)
    expected = checked.network.weights_sha256
    if expected is not None and expected != sha256:
        raise BundleError(
            f"{weights}: SHA-256 is {sha256}, but bundle.toml says {expected}: the weights were changed"
        )
    parts = {name: getattr(checked, name) for name in Description.model_fields}
    return Bundle(folder=folder, weights=weights, weights_sha256=sha256, hash=digest(text, sha256), **parts)


def find_bundle(bundle_id: str, folders: Sequence[Path] = ()) -> Bundle:
    """The bundle of this id: in `folders` (a bundle folder, or a folder of such), else among the shipped ones.

    Raises NotFound with the known ids, or BundleError where the folder is there but unsound.
    """
    if _ID.fullmatch(bundle_id):
        for folder in _candidates(folders):
            if folder.name == bundle_id:
                bundle = load_bundle(folder)
                if bundle.id != bundle_id:
                    raise BundleError(f"{folder / DESCRIPTION}: id: {bundle.id!r} is not the folder's name")
                return bundle
    known = ", ".join(sorted({folder.name for folder in _candidates(folders)})) or "none"
    raise NotFound(f"no bundle {bundle_id!r}; known: {known}")


def available_bundles(folders: Sequence[Path] = ()) -> tuple[Bundle, ...]:
    """All bundles found, by id; of two with one id the first found wins, as in find_bundle."""
    found: dict[str, Bundle] = {}
    for folder in _candidates(folders):
        if folder.name not in found:
            found[folder.name] = load_bundle(folder)
    return tuple(found[name] for name in sorted(found))


def _candidates(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in (*folders, SHIPPED):
        if (folder / DESCRIPTION).is_file():
            yield folder.absolute()
        elif folder.is_dir():
            yield from sorted(p.absolute() for p in folder.iterdir() if (p / DESCRIPTION).is_file())


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise BundleError(f"{folder}: no {name}; a bundle has {DESCRIPTION} and its weights ({WEIGHTS})")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path}: leads out of the bundle's folder")
    return path


def _parse(text: bytes, origin: Path) -> Description:
    try:
        raw = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{origin}: not valid TOML: {error}") from error
    try:
        return Description.model_validate(raw)
    except ValidationError as error:
        raise BundleError(f"{origin}: " + "; ".join(_faults(error, raw))) from error


def _faults(error: ValidationError, raw: Mapping[str, Any]) -> list[str]:
    lines: dict[str, str] = {}
    for fault in error.errors():
        key = ".".join(str(p) for p in fault["loc"] if _in_document(p, fault["loc"], raw)) or "(whole file)"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key"
        elif fault["type"] != "missing" and not isinstance(fault.get("input"), dict):
            shown = repr(fault.get("input"))
            message += f" (given: {shown if len(shown) <= 60 else shown[:57] + '...'})"
        lines.setdefault(key, f"{key}: {message}")
    return list(lines.values())


def _in_document(part: str | int, location: Sequence[str | int], raw: Mapping[str, Any]) -> bool:
    """Leaves out of a key's path what pydantic adds for the members of a union."""
    here: Any = raw
    for step in location:
        known = (
            isinstance(here, list) if isinstance(step, int) else isinstance(here, Mapping) and step in here
        )
        if step == part:
            return known or step == location[-1]
        if known:
            here = here[step]
    return True


def _check_safetensors(path: Path) -> None:
    """The file's layout: 8 bytes header length, a JSON object, tensors (github.com/huggingface/safetensors)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or not 2 <= length <= min(size - 8, _LARGEST_HEADER):
            raise BundleError(f"{path}: not a safetensors file")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path}: not a safetensors file (unreadable header)") from error
    if not isinstance(header, dict):
        raise BundleError(f"{path}: not a safetensors file (header is no object)")
