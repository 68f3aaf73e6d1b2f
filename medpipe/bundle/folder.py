"""A bundle's folder: found by id, read, checked, hashed."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medpipe.bundle.description import (
    NETWORK_FILES,
    ClassSpec,
    CrfSpec,
    Description,
    Network,
    PrecisionSpec,
    ProvenanceSpec,
    SummaryRule,
    WindowSpec,
)
from medpipe.bundle.input_spec import InputSpec
from medpipe.bundle.nouns import noun_of
from medpipe.errors import BundleError, NotFound
from medpipe.identity import digest, file_sha256

DESCRIPTION = "bundle.toml"
WEIGHTS = "model.safetensors"
GOLDEN = "golden.json"
SHIPPED = Path(__file__).parents[1] / "bundles"

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_LARGEST_HEADER = 16 * 2**20
LARGEST_ENSEMBLE = 25 * 10**6
"""Bytes of weights that several members may have together."""


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. `hash` covers bundle.toml and the weights; `folder` and `weights` are absolute paths.

    Of several members `weights` is the first one's file, and `weights_sha256` the digest over all of theirs.
    """

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
    summary: tuple[SummaryRule, ...] = ()
    named_only: bool = False
    member_weights: tuple[tuple[Path, str], ...] = ()
    """File and SHA-256 of each member where there are several."""

    @property
    def class_ids(self) -> tuple[str, ...]:
        return tuple(c.id for c in self.classes)

    @property
    def by_modality(self) -> bool:
        """Whether it may be taken for its modality alone; the test bundles (`phantom...`) never are."""
        return not self.named_only and not self.id.startswith("phantom")

    @property
    def noun(self) -> str:
        """What one of its findings is called: lesion, structure or finding."""
        return noun_of(c.category for c in self.classes)

    @property
    def exclusive(self) -> bool:
        """Whether the classes exclude each other (softmax), so that one label per pixel says everything."""
        return self.network.activation == "softmax"

    def network_arguments(self) -> dict[str, Any]:
        """Keywords for nets.registry.build: the hyper-parameters with `in_channels` and `classes` (logit channels)."""
        channels = len(self.classes) + (1 if self.exclusive else 0)
        return {"in_channels": self.input.channels, "classes": channels, **self.network.hyper}

    def members(self) -> tuple[Bundle, ...]:
        """The bundle of each of its networks, with that one's weights; itself where there is only one."""
        if not self.member_weights:
            return (self,)
        return tuple(
            replace(self, weights=path, weights_sha256=sha256, member_weights=())
            for path, sha256 in self.member_weights
        )


def load_bundle(folder: Path) -> Bundle:
    """Reads and checks a bundle folder. Raises BundleError, one line that says what is wrong and where."""
    folder = folder.absolute()
    description = _inside(folder, DESCRIPTION)
    text = description.read_bytes()
    checked = parse_description(text, description)
    files = [_inside(folder, name) for name in weight_names(checked.network)]
    for weights in files:
        if weights.suffix == Path(WEIGHTS).suffix:
            _check_safetensors(weights)
    if len(files) > 1 and sum(path.stat().st_size for path in files) > LARGEST_ENSEMBLE:
        raise BundleError(
            f"{folder}: {len(files)} members with more than {LARGEST_ENSEMBLE / 1e6:.0f} MB of weights; "
            "use fewer, or smaller networks"
        )
    digests = [file_sha256(path) for path in files]
    sha256 = digests[0] if len(files) == 1 else digest(*digests)
    expected = checked.network.weights_sha256
    if expected is not None and expected != sha256:
        raise BundleError(
            f"{files[0]}: SHA-256 is {sha256}, but bundle.toml says {expected}: the weights were changed"
        )
    parts = {name: getattr(checked, name) for name in Description.model_fields}
    return Bundle(
        folder=folder,
        weights=files[0],
        weights_sha256=sha256,
        hash=digest(text, sha256),
        member_weights=tuple(zip(files, digests, strict=True)) if len(files) > 1 else (),
        **parts,
    )


def weight_names(network: Network) -> tuple[str, ...]:
    """Files of a network's weights, one per member."""
    first = NETWORK_FILES.get(network.name, WEIGHTS)
    stem, suffix = first.split(".")
    return (first, *(f"{stem}-{number}.{suffix}" for number in range(1, network.members)))


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


def parse_description(text: bytes, origin: Path) -> Description:
    """Checks what a bundle.toml says. Raises BundleError, one line that names `origin` and the keys at fault."""
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
