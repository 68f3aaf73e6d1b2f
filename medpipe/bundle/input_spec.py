"""How a network is fed: what pictures it is for, on which grid it sees them, and how their values are normalised."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medpipe.identity import is_uid


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    field_degrees: float | None = Field(default=None, ge=10, le=200)
    """Horizontal field of view of the photographs learned from. One that states another (PS3.3 C.8.17.4) is seen so
    much smaller or larger, within limits, that its lesions are as large as theirs."""
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
        if self.field_degrees is not None and self.field != "fundus":
            raise ValueError('field_degrees goes with field = "fundus"')
        if isinstance(self.normalise, MeanStd):
            for name in ("mean", "std"):
                if len(getattr(self.normalise, name)) != self.channels:
                    raise ValueError(f"normalise.{name} needs {self.channels} values")
        return self

    @property
    def black(self) -> tuple[float, ...] | None:
        """What the lowest value becomes in each channel; None with z-score, where every image has its own."""
        match self.normalise:
            case MeanStd(mean=means, std=stds):
                return tuple(-mean / std for mean, std in zip(means, stds, strict=True))
            case Window(mean=mean, std=std):
                return (-mean / std,) * self.channels
            case Percentile():
                return (0.0,) * self.channels
        return None
