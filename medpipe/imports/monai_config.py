"""A MONAI configuration (inference.json, metadata.json) as data.

It is a program in JSON: `$` begins a Python expression, `@` refers to another key, `%` to another file. References to
plain values are followed; an expression is refused where its value would matter, and left alone where it would not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpipe.errors import BundleError

Component = Mapping[str, Any]
"""What `_target_` says is built, with its arguments as they are written down."""
_DEEPEST = 50
_MOST = 100_000
"""Values under one key: a list of references to lists of references grows without end in a small file."""


def target_of(component: Component, where: str) -> str:
    """Name of MONAI's own class that a component asks for; BundleError where it is somebody else's."""
    target = component.get("_target_")
    if not isinstance(target, str):
        raise BundleError(f"{where}: has no _target_")
    if "." in target and not target.startswith("monai."):
        raise BundleError(f"{where}: {target} is not MONAI's own, and foreign code is not run")
    return target.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class Config:
    """inference.json as data."""

    content: Mapping[str, Any]
    path: Path

    def value(self, given: Any, key: str) -> Any:
        """Plain value of what stands at `key`, whole; references are followed, expressions refused."""
        left = _MOST

        def plain(item: Any, depth: int) -> Any:
            nonlocal left
            left -= 1
            if depth > _DEEPEST or left < 0:
                raise BundleError(f"{self.path}: {key}: refers to itself, or is too large")
            item = self.followed(item, key)
            if isinstance(item, list):
                return [plain(one, depth + 1) for one in item]
            if isinstance(item, Mapping):
                return {name: plain(one, depth + 1) for name, one in item.items()}
            return item

        return plain(given, 0)

    def followed(self, given: Any, key: str) -> Any:
        """What stands at the end of a reference, its own parts as they are written. Raises BundleError."""
        for _ in range(_DEEPEST):
            if not isinstance(given, str) or not given.startswith(("@", "$", "%")):
                return given
            if not given.startswith("@"):
                raise BundleError(
                    f"{self.path}: {key}: {given[:60]!r} is an expression, which is never evaluated"
                )
            given = self._referred(given[1:], key)
        raise BundleError(f"{self.path}: {key}: refers to itself")

    def _referred(self, name: str, key: str) -> Any:
        here: Any = self.content
        for _ in range(_DEEPEST):
            before, _, name = name.replace("#", "::").partition("::")
            if isinstance(here, list) and before.isdecimal() and int(before) < len(here):
                here = here[int(before)]
            elif isinstance(here, Mapping) and before in here:
                here = here[before]
            else:
                raise BundleError(f"{self.path}: {key}: refers to {before[:60]!r}, which is not there")
            if not name:
                return here
            if isinstance(here, str) and here.startswith("@"):  # the rest lies in what this one refers to
                here, name = self.content, f"{here[1:]}::{name}"
        raise BundleError(f"{self.path}: {key}: refers to itself")

    def component(self, key: str) -> Component | None:
        """The component at `key`, None where there is none or it is switched off."""
        given = self.followed(self.content.get(key), key)
        if given is None:
            return None
        if not isinstance(given, Mapping):
            raise BundleError(f"{self.path}: {key}: is no component (_target_)")
        return given if self.is_on(given, key) else None

    def transforms(self, *keys: str) -> list[tuple[str, Component]]:
        """Name and arguments of each transform of the first of `keys` that is there."""
        key = next((key for key in keys if key in self.content), keys[0])
        composed = self.component(key)
        if composed is None:
            return []
        if target_of(composed, f"{self.path}: {key}") != "Compose":
            raise BundleError(f"{self.path}: {key}: {composed['_target_']} is not supported, only Compose")
        listed = self.followed(composed.get("transforms", []), key)
        if not isinstance(listed, list):
            raise BundleError(f"{self.path}: {key} is not a list of transforms")
        found = []
        for item in listed:
            transform = self.followed(item, key)
            if not isinstance(transform, Mapping):
                raise BundleError(f"{self.path}: {key} is not a list of transforms")
            if self.is_on(transform, key):
                found.append((target_of(transform, f"{self.path}: {key}"), transform))
        return found

    def is_on(self, component: Component, key: str) -> bool:
        """Whether a component counts; `_disabled_` takes it out."""
        off = self.value(component.get("_disabled_", False), f"{key} _disabled_")
        return not (off is True or (isinstance(off, str) and off.strip().lower() == "true"))

    def argument(self, component: Component, key: str, where: str, default: Any = None) -> Any:
        """An argument's plain value, or `default`; of a list of one, as dictionary transforms may have, the item."""
        given = self.value(component.get(key, default), f"{where} {key}")
        return given[0] if isinstance(given, list) and len(given) == 1 else given

    def number(self, component: Component, key: str, where: str, default: float | None = None) -> float:
        """The same for a number. Raises BundleError where it is none."""
        given = self.argument(component, key, where, default)
        if isinstance(given, bool) or not isinstance(given, int | float) or abs(given) > 1e12:
            raise BundleError(f"{self.path}: {where} {key}: {given!r} is not a number")
        return float(given)


def plain_name(name: str, known: frozenset[str]) -> str:
    """Of a dictionary transform (`Spacingd`, `SpacingDict`) the name of the plain one where that is in `known`."""
    for end in ("dict", "Dict", "d", "D"):
        if name.endswith(end) and name.removesuffix(end) in known:
            return name.removesuffix(end)
    return name
