"""Secrets of the settings: in a file (`X_file = "path"`) or in the environment (`X = "env:NAME"`), never in the text.

A setting for a secret X is two keys of its table, `X` and `X_file`, and `secret(table, place, "X")` reads it, each time
anew: what is renewed needs no new settings. Nothing here shows a secret: not an error, not a repr.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr
from pydantic_core import PydanticCustomError

from medpipe.config.values import Section
from medpipe.errors import ConfigError

IN_ENVIRONMENT = "env:"
_REFERENCE = re.compile(rf"({IN_ENVIRONMENT}[A-Za-z_][A-Za-z0-9_]*)?")
_LARGEST = 64 * 1024
MOUNTED = Path("/run/secrets")
"""Where containers find their secrets: readable by all in the container, which is one program."""


def _reference(value: object) -> object:
    if not isinstance(value, str) or _REFERENCE.fullmatch(value) is None:
        raise PydanticCustomError(
            "secret",
            'a secret does not stand in the settings: write "env:NAME", or name a file with the key ..._file',
        )
    return value


Reference = Annotated[str, BeforeValidator(_reference)]
"""The type of a key X whose value is a secret: "" or the name of a variable, such as "env:ORTHANC_PASSWORD"."""


def secret(
    table: Section, place: str, key: str, environment: Mapping[str, str] = os.environ
) -> SecretStr | None:
    """The secret under `key` of a table that stands at `place` in the settings; None where none is set.

    Raises ConfigError where file or variable is missing or empty.
    """
    reference, file = getattr(table, key), getattr(table, f"{key}_file")
    if reference:
        name = reference.removeprefix(IN_ENVIRONMENT)
        value = environment.get(name, "")
        if not value:
            raise ConfigError(f"{place}.{key}: the environment has no {name}")
        return SecretStr(value)
    if file is None:
        return None
    try:
        with file.open("rb") as opened:
            value = opened.read(_LARGEST).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{place}.{key}_file: {file} holds no text (UTF-8)") from None
    except OSError as error:
        raise ConfigError(f"{place}.{key}_file: {file} cannot be read ({error.strerror})") from error
    if not value:
        raise ConfigError(f"{place}.{key}_file: {file} is empty")
    return SecretStr(value)


def secret_keys(kind: type[Section]) -> tuple[str, ...]:
    """The keys of a table that are secrets: texts with a twin `..._file`."""
    fields = kind.model_fields
    return tuple(name for name in fields if f"{name}_file" in fields and fields[name].annotation is str)


def secrets_of(settings: Section, place: str = "") -> Iterator[tuple[str, Section, str]]:
    """Every secret that is set: the place of its table, the table, the key."""
    for name, value in _tables(settings):
        yield from secrets_of(value, f"{place}.{name}" if place else name)
    for key in secret_keys(type(settings)):
        if getattr(settings, key) or getattr(settings, f"{key}_file") is not None:
            yield place, settings, key


def files_of(settings: Section, *keys: str, place: str = "") -> Iterator[tuple[str, Path]]:
    """Every file that is set under one of these keys (certificate, ca, private_key, ...), in any table: place, path."""
    for name, value in _tables(settings):
        yield from files_of(value, *keys, place=f"{place}.{name}" if place else name)
    for key in keys:
        path = getattr(settings, key, None)
        if isinstance(path, Path):
            yield f"{place}.{key}", path


def is_open_to_others(path: Path) -> bool:
    """Whether others than owner and group may read a file, or others than the owner may write it."""
    return not path.resolve().is_relative_to(MOUNTED) and bool(path.stat().st_mode & 0o026)


def _tables(settings: Section) -> Iterator[tuple[str, Any]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Section):
            yield name, value
        elif isinstance(value, dict):
            yield from (
                (f"{name}.{one}", table) for one, table in value.items() if isinstance(table, Section)
            )
