"""What bundle.toml may say, checked: each section is a frozen model that refuses unknown keys and impossible values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from medpipe.bundle.input_spec import InputSpec, Section

Scalar = bool | int | float | str
HyperRow = dict[str, Scalar | list[Scalar]]
HyperValue = Scalar | list[Scalar | list[Scalar] | HyperRow]
"""A plain value of a network's: a number or name, sizes per stage, or a layer's name with its settings."""
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
    argmax: bool = False
    """A class is also less probable than the background nowhere that it is marked (softmax): with thresholds of
    1 / (classes + 1) that is what MONAI and nnU-Net mark."""
    members: int = Field(default=1, ge=1, le=16)
    """Networks of the same kind whose probabilities are averaged: model.safetensors, model-1.safetensors, ..."""
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """When given, the weights must have this digest (of several members: the digest over all of theirs)."""

    @model_validator(mode="after")
    def _one_file(self) -> Network:
        if self.members > 1 and self.name in NETWORK_FILES:
            raise ValueError(f"members: a network of kind {self.name} comes alone")
        if self.argmax and self.activation != "softmax":
            raise ValueError('argmax: goes with activation = "softmax", which knows a background')
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
    """Pixels or voxels of the grid that the network sees (`input.scale`); smaller components are dropped. So a lesion
    has to be as large on a camera of half the resolution, where it has a quarter of the pixels; 1 drops nothing."""
    peak: float | None = Field(default=None, gt=0, lt=1)
    """Components that are nowhere as probable as this are dropped; it does not change how far the others reach."""
    scales: tuple[Annotated[float, Field(ge=0.25, le=4)], ...] = Field(default=(1.0,), min_length=1)
    """Sizes at which the class is looked for, in working sizes; the answers are averaged."""
    crf: bool = False

    @model_validator(mode="after")
    def _above(self) -> ClassSpec:
        if self.peak is not None and self.peak < self.threshold:
            raise ValueError("peak must not be below threshold")
        return self

    @property
    def needed(self) -> float:
        """What a component's highest probability must reach."""
        return self.threshold if self.peak is None else self.peak

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

    patch: tuple[Annotated[int, Field(ge=4, le=4096)], ...]
    overlap: float = Field(default=0.25, ge=0, lt=1)
    tta: bool = False
    """Always average over mirrored views, also where the site does not ask for it; gives each lesion an uncertainty."""
    mirrored: tuple[Axis, ...] | None = Field(default=None, min_length=1)
    """Axes that the views are mirrored along where it is not all of them: no ultrasound has the skin at the bottom."""
    padding: Literal["edge", "zero", "black"] = "edge"
    """What surrounds an image smaller than the patch: its outermost values, 0 after normalisation, or the lowest value
    before it, as in training."""

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
        if self.window.padding == "black" and self.input.black is None:
            raise ValueError(
                'window.padding: with z-score black has no value; "zero" is what training puts there'
            )
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
