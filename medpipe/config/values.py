"""The kinds of value that settings share: sizes, AE titles, ports, names; and what a table of them is."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}


def parse_size(value: object) -> object:
    """'5 GB' -> 5000000000; a plain number is bytes."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError("a size is a number with B, KB, MB, GB, TB, KiB, MiB or GiB, such as '5 GB'")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _ae_title(value: object) -> object:
    if isinstance(value, str):
        text = value.strip()
        if not 1 <= len(text) <= 16 or not text.isascii() or not text.isprintable() or "\\" in text:
            raise ValueError("an AE title has 1 to 16 printable ASCII characters without a backslash")
        return text
    return value


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
AETitle = Annotated[str, BeforeValidator(_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Section(BaseModel):
    """A table of the settings. Of a secret, `X` and `X_file` are two ways to the same: one is given, or none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    @model_validator(mode="after")
    def _one_way_to_a_secret(self) -> Section:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if getattr(self, f"{name}_file", None) is not None and isinstance(value, str) and value:
                raise ValueError(f"{name} and {name}_file are both given: leave one out")
        return self


def is_loopback(host: str) -> bool:
    """Whether an address to bind is reached from this machine alone. A name other than localhost is not trusted."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
