"""One TOML file -> typed, checked settings. A fault names the key, the value and what is allowed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, ValidationError, model_validator
from sqlalchemy.engine import make_url

from medpipe.config.audit import Audit
from medpipe.config.faults import describe
from medpipe.config.network import Listener, Peer
from medpipe.config.processing import Reading, Results, Site, Worker
from medpipe.config.reporting import Alerts, Logs
from medpipe.config.review import Review
from medpipe.config.rules import Rule
from medpipe.config.values import Name, Section
from medpipe.errors import ConfigError

ENVIRONMENT_VARIABLE = "MEDPIPE_CONFIG"
SEARCH_PATH = (Path("medpipe.toml"), Path("/etc/medpipe/medpipe.toml"))


class Config(Section):
    site: Site = Site()
    listener: Listener = Listener()
    worker: Worker = Worker()
    reading: Reading = Reading()
    results: Results = Results()
    review: Review | None = None
    audit: Audit = Audit()
    logs: Logs = Logs()
    alerts: Alerts = Alerts()
    peers: dict[Name, Peer] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        for rule in self.rules:
            for peer in rule.send:
                if peer not in self.peers:
                    known = ", ".join(sorted(self.peers)) or "none"
                    raise ValueError(
                        f"rule {rule.name!r} sends to {peer!r}, which is no peer (peers: {known})"
                    )
        if self.review is not None and self.review.pacs and self.review.pacs not in self.peers:
            raise ValueError(
                f"review.pacs is {self.review.pacs!r}, which is no peer (peers: {', '.join(sorted(self.peers))})"
            )
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("two rules have the same name")
        return self

    def peer_named(self, ae_title: str) -> tuple[str, Peer] | None:
        """The configured peer with this AE title."""
        for name, peer in self.peers.items():
            if peer.ae_title == ae_title:
                return name, peer
        return None

    def viewed_peer(self) -> tuple[str, Peer] | None:
        """The PACS whose pictures the review shows: `review.pacs`, else the first peer that has DICOMweb."""
        chosen = self.review.pacs if self.review is not None else ""
        names = [chosen] if chosen else list(self.peers)
        return next(((name, self.peers[name]) for name in names if self.peers[name].dicomweb), None)


def find_config(explicit: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file in force: --config, $MEDPIPE_CONFIG, ./medpipe.toml, /etc/medpipe/medpipe.toml, or None."""
    if explicit is not None:
        return explicit
    if environment.get(ENVIRONMENT_VARIABLE):
        return Path(environment[ENVIRONMENT_VARIABLE])
    return next((path for path in SEARCH_PATH if path.is_file()), None)


def load_config(path: Path | None) -> Config:
    """Reads and checks one TOML file; the defaults without one. Raises ConfigError with one line per fault.

    The files of TLS are tried too: better now than when the first study comes.
    """
    if path is None:
        return Config()
    try:
        with path.open("rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    config = parse_config(raw, str(path))
    try:
        if config.listener.tls is not None:
            config.listener.tls.context()
        for name, peer in config.peers.items():
            if peer.tls is not None:
                peer.tls.context(f"peers.{name}.tls")
        if config.audit.tls is not None:
            config.audit.tls.context("audit.tls")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def parse_config(raw: Mapping[str, Any], origin: str = "configuration") -> Config:
    """Checks an already parsed TOML document."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{origin}: {line}" for line in describe(error))) from error


def masked(config: Config) -> dict[str, Any]:
    """The settings as a plain mapping with secrets hidden: in URLs, and the users' password hashes."""
    plain: dict[str, Any] = config.model_dump(mode="json")
    if plain["site"]["database"] != "sqlite":
        plain["site"]["database"] = make_url(plain["site"]["database"]).render_as_string(hide_password=True)
    for peer in plain["peers"].values():
        peer["dicomweb"] = _without_password(peer["dicomweb"])
    if plain["alerts"]["webhook"] is not None:  # the path of such an address often is the secret
        urls = plain["alerts"]["webhook"]["urls"]
        plain["alerts"]["webhook"]["urls"] = [
            f"{urlsplit(u).scheme}://{urlsplit(u).netloc}/***" for u in urls
        ]
    if plain["review"] is not None:
        plain["review"]["users"] = dict.fromkeys(plain["review"]["users"], "***")
    return plain


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{place}"))
