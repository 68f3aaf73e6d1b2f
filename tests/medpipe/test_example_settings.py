"""The example settings name every key there is, live or behind a "# ", are valid both ways, and show the defaults."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from medpipe.config import Config, Review, Section, load_config, parse_config

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLE = DEPLOY / "medpipe.example.toml"


def uncommented() -> dict[str, Any]:
    """The example with every key and table that is off switched on."""
    return tomllib.loads(re.sub(r"(?m)^# (?=\[[a-z[]|[a-z_]+ = )", "", EXAMPLE.read_text()))


def sections_in(annotation: object) -> Iterator[type[Section]]:
    """The tables that a key's type can hold: itself, or within a list, a mapping or an `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from sections_in(argument)


def keys_of(section: type[Section], place: str = "") -> Iterator[str]:
    """Every key there is, as `peers.*.orthanc.url`. The conditions of a rule are keys of the site's own."""
    for name, field in section.model_fields.items():
        inner = list(sections_in(field.annotation)) if name != "when" else []
        many = "dict[" in str(field.annotation) and inner
        if not inner:
            yield f"{place}{name}"
        for kind in inner:
            yield from keys_of(kind, f"{place}{name}.*." if many else f"{place}{name}.")


def keys_in(value: dict[str, Any], place: str = "") -> Iterator[str]:
    for name, inner in value.items():
        here = f"{place}{name}"
        if place == "peers.":
            here = "peers.*"
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            inner = inner[0]
        if isinstance(inner, dict) and name not in ("when", "users"):
            yield from keys_in(inner, f"{here}.")
        else:
            yield here


def test_every_key_there_is_is_in_the_example() -> None:
    there_is, shown = set(keys_of(Config)), set(keys_in(uncommented()))
    assert {"site.root", "peers.*.host", "peers.*.orthanc.url", "rules.when"} <= there_is
    assert there_is - shown == set(), "keys that the example lacks"
    assert shown - there_is == set(), "keys that there are no more"


def test_the_example_is_valid_with_and_without_what_is_off() -> None:
    assert load_config(EXAMPLE).rules[0].send == ("PACS",)
    everything = uncommented()
    everything["site"]["database"] = "postgresql+psycopg://medpipe@db/medpipe"  # what has a password
    everything["peers"]["PACS"]["dicomweb_user"] = "medpipe"
    assert parse_config(everything).peers["PACS"].orthanc is not None


def test_the_example_shows_the_defaults() -> None:
    config, default = load_config(EXAMPLE), Config()
    for name in Config.model_fields.keys() - {"listener", "peers", "review", "rules"}:
        assert getattr(config, name) == getattr(default, name), name
    assert config.review == Review()


def test_nearly_every_key_is_explained() -> None:
    """A comment stands beside each key, unless the key above and its name say it all."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if re.match(r"(# )?[a-z_]+ = ", line)]
    plain = {line.removeprefix("# ").split(" =")[0] for line in lines if "  # " not in line}
    assert plain <= {"host", "port", "root", "session_hours", "certificate", "private_key"}


@pytest.mark.parametrize("name", ["medpipe.compose.toml"])
def test_the_other_settings_that_ship_are_valid(name: str) -> None:
    config = load_config(DEPLOY / name)
    assert config.rules and all(rule.send for rule in config.rules)
