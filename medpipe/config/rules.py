"""Which series goes to which bundle: conditions on DICOM keywords."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from medpipe.config.values import Name, Section


class Range(Section):
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self


class Matches(Section):
    matches: str

    @field_validator("matches")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


Scalar = str | int | float | bool
Condition = Scalar | list[Scalar] | Range | Matches


class Rule(Section):
    name: str = Field(min_length=1, max_length=100)
    when: dict[str, Condition] = Field(default_factory=dict)
    bundle: Name
    priority: Literal["routine", "stat"] = "routine"
    send: tuple[Name, ...] = ()
