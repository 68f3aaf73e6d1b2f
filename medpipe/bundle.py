"""A trained model as a folder: bundle.toml (what it is for, how it is fed) and model.safetensors (its weights).

Everything is checked when it is loaded, so a Bundle that exists is sound. Nothing in the folder is executed: the
network is a name of nets.registry with plain numbers, the weights are safetensors (no pickle), and no path leaves
the folder. Each fault is one line that names the key, the value and what is allowed.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medpipe.errors import BundleError, NotFound
from medpipe.identity import digest, file_sha256, is_uid

DESCRIPTION = "bundle.toml"
WEIGHTS = "model.safetensors"
GOLDEN = "golden.json"
SHIPPED = Path(__file__).parent / "bundles"

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_LARGEST_HEADER = 16 * 2**20


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


HyperValue = bool | int | float | str | list[bool | int | float | str]
Code = Annotated[tuple[str, str, str], Field(description="code value, coding scheme, meaning")]


class Network(Section):
    """Which network of nets.registry, and its hyper-parameters: plain values only."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    hyper: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], HyperValue] = Field(default_factory=dict)
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """sigmoid: one independent logit per class. softmax: channel 0 is background, classes exclude each other."""
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """When given, the weights must have this digest."""


class MeanStd(Section):
    """Values brought to 0..1 (by the possible range, not the picture's own), then (x - mean) / std per channel."""

    kind: Literal["mean-std"]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]


class Window(Section):
    """Modality values (HU) low..high -> 0..1, clipped."""

    kind: Literal["window"]
    low: float
    high: float

    @model_validator(mode="after")
    def _order(self) -> Window:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        return self


class Percentile(Section):
    """The image's own percentiles low..high (0..100, padding left out) -> 0..1, clipped."""

    kind: Literal["percentile"]
    low: float = Field(ge=0, le=100)
    high: float = Field(ge=0, le=100)

    @model_validator(mode="after")
    def _order(self) -> Percentile:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        return self


class ZScore(Section):
    """(x - mean) / std of the image itself, per channel, padding left out."""

    kind: Literal["z-score"]


Normalise = Annotated[MeanStd | Window | Percentile | ZScore, Field(discriminator="kind")]


class Extent(Section):
    """Physical size in mm that the network is meant for, along (k, j, i) after reorientation."""

    min: tuple[float, float, float] = (0, 0, 0)
    max: tuple[float, float, float] = (1e6, 1e6, 1e6)


class InputSpec(Section):
    """What the network is meant for and how it is fed.

    `scale = "fit"` (2-D): the longer side of the picture, or of the field of view where one is looked for, is
    resampled to the longer side of `working_size`, keeping the aspect. For a round field that the camera cut off
    at top and bottom the longer side is the field's diameter, so a lesion keeps its size in working pixels.
    `"spacing"`: resampled so that neighbours lie `spacing` mm apart, over the same extent. `"none"`: as it is.
    """

    modality: tuple[Annotated[str, Field(pattern=r"^[A-Z0-9_ ]{1,16}$")], ...] = Field(min_length=1)
    sop_classes: tuple[str, ...] = ()
    channels: Literal[1, 3]
    spatial_dims: Literal[2, 3]
    working_size: tuple[Annotated[int, Field(ge=16, le=16384)], ...] = ()
    scale: Literal["fit", "spacing", "none"] = "none"
    spacing: tuple[Annotated[float, Field(gt=0, le=100)], ...] = ()
    orientation: Literal["source", "LPS"] = "source"
    normalise: Normalise
    field: Literal["fundus", "none"] = "none"
    minimum_size: tuple[int, int] = (16, 16)
    extent_mm: Extent | None = None

    @field_validator("sop_classes")
    @classmethod
    def _uids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for uid in value:
            if not is_uid(uid):
                raise ValueError(f"{uid!r} is not a UID")
        return value

    @model_validator(mode="after")
    def _agree(self) -> InputSpec:
        if self.scale == "fit" and (self.spatial_dims != 2 or len(self.working_size) != 2):
            raise ValueError('scale = "fit" needs spatial_dims = 2 and working_size = [J, I]')
        if self.scale == "spacing" and len(self.spacing) != self.spatial_dims:
            raise ValueError(f'scale = "spacing" needs spacing in mm along {self.spatial_dims} axes')
        if self.scale != "fit" and self.working_size:
            raise ValueError('working_size goes with scale = "fit"')
        if self.scale != "spacing" and self.spacing:
            raise ValueError('spacing goes with scale = "spacing"')
        if self.field == "fundus" and (self.channels != 3 or self.spatial_dims != 2):
            raise ValueError('field = "fundus" needs a 2-D colour picture (channels = 3, spatial_dims = 2)')
        if isinstance(self.normalise, MeanStd):
            for name in ("mean", "std"):
                if len(getattr(self.normalise, name)) != self.channels:
                    raise ValueError(f"normalise.{name} needs {self.channels} values")
        return self


class ClassSpec(Section):
    """One class of finding: what it is called, how it is coded and shown, and from when on it counts."""

    id: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,15}$")
    name: str = Field(min_length=1, max_length=64)
    category: Code
    type: Code
    colour_cielab: tuple[
        Annotated[float, Field(ge=0, le=100)],
        Annotated[float, Field(ge=-128, le=127)],
        Annotated[float, Field(ge=-128, le=127)],
    ]
    threshold: float = Field(gt=0, lt=1)
    smallest: int = Field(default=1, ge=1)
    """Pixels or voxels at source resolution; smaller components are dropped."""
    crf: bool = False

    @field_validator("category", "type")
    @classmethod
    def _code(cls, value: Code) -> Code:
        code, scheme, meaning = value
        if not 1 <= len(code) <= 16 or not 1 <= len(scheme) <= 16 or not 1 <= len(meaning) <= 64:
            raise ValueError("a code is [value (1..16 characters), scheme (1..16), meaning (1..64)]")
        return value


class WindowSpec(Section):
    """The sliding window at working size: patch in pixels along the network's axes, overlap as a fraction of it."""

    patch: tuple[Annotated[int, Field(ge=16, le=4096)], ...]
    overlap: float = Field(default=0.25, ge=0, lt=1)


class CrfSpec(Section):
    """Parameters of the conditional random field; distances in source pixels (2-D) or mm (3-D), grey values 0..255.

    `guarded`: it may move a boundary within `band`, it may not decide. `seed`: the unguarded setting of the
    literature over the whole picture, to show the difference.
    """

    mode: Literal["guarded", "seed"] = "guarded"
    seconds: float = Field(default=3.0, gt=0, le=600)
    """Budget per image, counted as work (pixels x iterations at a fixed rate), so results do not depend on load."""
    iterations: int = Field(default=5, ge=1, le=50)
    gaussian_sxy: float = Field(default=3.0, gt=0)
    gaussian_compat: float = Field(default=0.0, ge=0)
    """0 leaves the Gaussian kernel out: it is the one that erases small lesions of clear contrast."""
    bilateral_diameters: float = Field(default=0.5, gt=0, le=10)
    """Spatial sigma of the bilateral kernel in diameters of the component, bounded by `bilateral_sxy`."""
    bilateral_sxy: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.5, 20.0)
    bilateral_srgb: float = Field(default=10.0, gt=0)
    bilateral_compat: float = Field(default=3.0, ge=0)
    band: float = Field(default=3.0, gt=0, le=100)
    smallest: int = Field(default=120, ge=0)
    """Components of fewer pixels (voxels) are left alone."""
    confident: float = Field(default=0.6, ge=0, le=1)
    """A component of at least this mean probability keeps at least `keep` of its pixels, else it is left as it was."""
    keep: float = Field(default=0.5, ge=0, le=1)


class PrecisionSpec(Section):
    cpu_bf16: bool = False
    """True only where the bundle's own lesion check passed in bfloat16."""


class ProvenanceSpec(Section):
    data: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    training: str = ""


class _Description(Section):
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    version: str = Field(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$")
    title: str = Field(min_length=1, max_length=64)
    network: Network
    input: InputSpec
    classes: tuple[ClassSpec, ...] = Field(min_length=1, max_length=8)
    window: WindowSpec
    crf: CrfSpec = CrfSpec()
    precision: PrecisionSpec = PrecisionSpec()
    provenance: ProvenanceSpec

    @model_validator(mode="after")
    def _agree(self) -> _Description:
        ids = [c.id for c in self.classes]
        if len(set(ids)) != len(ids):
            raise ValueError("two classes have the same id")
        if len(self.window.patch) != self.input.spatial_dims:
            raise ValueError(f"window.patch needs {self.input.spatial_dims} sizes")
        return self


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
    weights = _inside(folder, WEIGHTS)
    text = description.read_bytes()
    checked = _parse(text, description)
    _check_safetensors(weights)
    sha256 = file_sha256(weights)
    expected = checked.network.weights_sha256
    if expected is not None and expected != sha256:
        raise BundleError(
            f"{weights}: SHA-256 is {sha256}, but bundle.toml says {expected}: the weights were changed"
        )
    parts = {name: getattr(checked, name) for name in _Description.model_fields}
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
        raise BundleError(f"{folder}: no {name}; a bundle has {DESCRIPTION} and {WEIGHTS}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path}: leads out of the bundle's folder")
    return path


def _parse(text: bytes, origin: Path) -> _Description:
    try:
        raw = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{origin}: not valid TOML: {error}") from error
    try:
        return _Description.model_validate(raw)
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
