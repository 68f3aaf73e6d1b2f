"""What bundle.toml may say, checked: each section is a frozen model that refuses unknown keys and impossible values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medpipe.identity import is_uid


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Scalar = bool | int | float | str
HyperValue = Scalar | list[Scalar | list[Scalar]]
NETWORK_FILES = {"torchscript": "model.ts", "onnx": "model.onnx"}
"""File of a network that is not built here but comes whole; every other one has model.safetensors."""
Code = Annotated[tuple[str, str, str], Field(description="code value, coding scheme, meaning")]


class Network(Section):
    """Which network of nets.registry, and its hyper-parameters: plain values only.

    Of other people's networks `monai` builds one of MONAI's by name, from its weights; `torchscript` and `onnx` are
    whole networks in a file of their own (NETWORK_FILES).
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    hyper: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], HyperValue] = Field(default_factory=dict)
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """sigmoid: one independent logit per class. softmax: channel 0 is background, classes exclude each other."""
    members: int = Field(default=1, ge=1, le=16)
    """Networks of the same kind whose probabilities are averaged: model.safetensors, model-1.safetensors, ..."""
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """When given, the weights must have this digest (of several members: the digest over all of theirs)."""

    @model_validator(mode="after")
    def _one_file(self) -> Network:
        if self.members > 1 and self.name in NETWORK_FILES:
            raise ValueError(f"members: a network of kind {self.name} comes alone")
        return self


class MeanStd(Section):
    """Values brought to 0..1 (by the possible range, not the picture's own), then (x - mean) / std per channel."""

    kind: Literal["mean-std"]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]


class Window(Section):
    """Modality values (HU) low..high -> 0..1, clipped; then (x - mean) / std."""

    kind: Literal["window"]
    low: float
    high: float
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)

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


_AXIS = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}


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
    orientation: str = Field(default="source", pattern=r"^(source|[LRAPIS]{3})$")
    """`source`: axes as they come. Else where (i, j, k) of the network run to: LPS, RAS, or in any other order."""
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

    @field_validator("orientation")
    @classmethod
    def _axes(cls, value: str) -> str:
        if value != "source" and len({_AXIS[letter] for letter in value}) != 3:
            raise ValueError(f"{value!r} names an axis of the body twice")
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
    scales: tuple[Annotated[float, Field(ge=0.25, le=4)], ...] = Field(default=(1.0,), min_length=1)
    """Sizes at which the class is looked for, in working sizes; the answers are averaged."""
    crf: bool = False

    @field_validator("scales")
    @classmethod
    def _once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names a size twice")
        return value

    @field_validator("category", "type")
    @classmethod
    def _code(cls, value: Code) -> Code:
        code, scheme, meaning = value
        if not 1 <= len(code) <= 16 or not 1 <= len(scheme) <= 16 or not 1 <= len(meaning) <= 64:
            raise ValueError("a code is [value (1..16 characters), scheme (1..16), meaning (1..64)]")
        return value


Axis = Literal["K", "J", "I"]
"""An axis of the network's patch (K, J, I): across slices, down, to the right, where `orientation` is the source's."""
AXES: tuple[Axis, ...] = ("K", "J", "I")


class WindowSpec(Section):
    """The sliding window at working size: patch in pixels along the network's axes, overlap as a fraction of it."""

    patch: tuple[Annotated[int, Field(ge=16, le=4096)], ...]
    overlap: float = Field(default=0.25, ge=0, lt=1)
    tta: bool = False
    """Always average over mirrored views, also where the site does not ask for it; gives each lesion an uncertainty."""
    mirrored: tuple[Axis, ...] | None = Field(default=None, min_length=1)
    """Axes that the views are mirrored along where it is not all of them: no ultrasound has the skin at the bottom."""

    @model_validator(mode="after")
    def _axes(self) -> WindowSpec:
        known = AXES[-len(self.patch) :]
        named = self.mirrored or ()
        for axis in named:
            if axis not in known or named.count(axis) > 1:
                raise ValueError(f"mirrored: each of {', '.join(known)} at most once, not {axis!r}")
        return self

    @property
    def mirrored_axes(self) -> tuple[Axis, ...]:
        return self.mirrored or AXES[-len(self.patch) :]


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


class Bounds(Section):
    """A number that lies between, bounds included; either may be left out."""

    min: float | None = Field(default=None, ge=0)
    max: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("needs min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min must not be above max")
        return self

    def hold(self, value: float) -> bool:
        """Whether `value` lies between."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


MEASURES = ("count", "size", "mm2", "ml")
"""What a rule of `[[summary]]` may ask of a class: lesions, pixels (voxels), area, volume; all summed over a study."""


class SummaryRule(Section):
    """What to say of a study where all conditions of `when` hold; keys are `<class id>_<measure>`. Data, no code."""

    when: dict[str, Bounds] = Field(default_factory=dict)
    says: str = Field(min_length=1, max_length=200)


class ProvenanceSpec(Section):
    data: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    training: str = ""


class Description(Section):
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    version: str = Field(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$")
    title: str = Field(min_length=1, max_length=64)
    named_only: bool = False
    """Taken only where a rule or `--bundle` names it, never for its modality alone."""
    network: Network
    input: InputSpec
    classes: tuple[ClassSpec, ...] = Field(min_length=1, max_length=8)
    window: WindowSpec
    crf: CrfSpec = CrfSpec()
    precision: PrecisionSpec = PrecisionSpec()
    summary: tuple[SummaryRule, ...] = Field(default=(), max_length=32)
    """Of these the first that holds is said of a study."""
    provenance: ProvenanceSpec

    @model_validator(mode="after")
    def _agree(self) -> Description:
        ids = [c.id for c in self.classes]
        if len(set(ids)) != len(ids):
            raise ValueError("two classes have the same id")
        if len(self.window.patch) != self.input.spatial_dims:
            raise ValueError(f"window.patch needs {self.input.spatial_dims} sizes")
        if self.input.scale != "fit" and any(spec.scales != (1.0,) for spec in self.classes):
            raise ValueError('classes: scales go with input.scale = "fit"')
        known = [f"{class_id}_{measure}" for class_id in ids for measure in MEASURES]
        for number, rule in enumerate(self.summary, 1):
            for key in rule.when:
                if key not in known:
                    raise ValueError(f"summary.{number}.when: {key!r} is none of {', '.join(known)}")
            if not rule.when and number < len(self.summary):
                raise ValueError(f"summary.{number} always holds, so the rules below it are never reached")
        return self
