"""The example settings are valid, name every key, and show the defaults."""

import tomllib
from pathlib import Path

from medpipe.config import Config, Review, Section, load_config

EXAMPLE = Path(__file__).parents[2] / "deploy" / "medpipe.example.toml"


def keys(section: type[Section]) -> set[str]:
    return set(section.model_fields)


def test_the_example_is_valid_and_names_every_key() -> None:
    config = load_config(EXAMPLE)
    raw = tomllib.loads(EXAMPLE.read_text())
    for name in ("site", "listener", "worker", "reading", "results", "review"):
        known = keys(type(getattr(config, name)))
        commented = {key for key in known if f"# {key} =" in EXAMPLE.read_text()}
        assert set(raw[name]) | commented == known, name
    assert set(raw["peers"]["PACS"]) == keys(type(config.peers["PACS"]))
    assert set(raw["rules"][0]) == keys(type(config.rules[0]))


def test_the_example_shows_the_defaults() -> None:
    config, default = load_config(EXAMPLE), Config()
    assert config.site == default.site
    assert config.worker == default.worker
    assert config.reading == default.reading
    assert config.results == default.results
    assert config.review == Review()
