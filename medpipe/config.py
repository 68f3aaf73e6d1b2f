"""One TOML file -> typed, checked settings. A fault names the key, the value and what is allowed."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from ssl import SSLContext
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from medpipe.errors import ConfigError
from medpipe.identity import is_uid
from medpipe.tls import calling_context, listening_context

ENVIRONMENT_VARIABLE = "MEDPIPE_CONFIG"
SEARCH_PATH = (Path("medpipe.toml"), Path("/etc/medpipe/medpipe.toml"))

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
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Site(Section):
    root: Path = Path("/var/lib/medpipe")
    database: str = "sqlite"
    uid_root: str = "2.25"
    keep_days: int = Field(default=30, ge=0)
    minimum_free: Size = 5 * 10**9

    @field_validator("uid_root")
    @classmethod
    def _uid_root(cls, value: str) -> str:
        if not is_uid(value) or len(value) > 38:
            raise ValueError("a UID root is digits and dots (PS3.5 section 9.1), at most 38 characters")
        return value

    @field_validator("database")
    @classmethod
    def _database(cls, value: str) -> str:
        if value != "sqlite":
            try:
                url = make_url(value)
            except ArgumentError as error:
                raise ValueError("'sqlite' or postgresql+psycopg://user@host:5432/db") from error
            if url.drivername not in ("postgresql+psycopg", "sqlite"):
                raise ValueError("'sqlite' or postgresql+psycopg://user@host:5432/db")
        return value

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the registry and the engine."""
        if self.database == "sqlite":
            return f"sqlite:///{self.root.absolute() / 'medpipe.sqlite'}"
        return self.database


class ListenerTls(Section):
    """With it the listener speaks TLS only. With `ca`, callers must show a certificate that it has signed."""

    certificate: Path
    private_key: Path
    ca: Path | None = None

    def context(self) -> SSLContext:
        """Raises ConfigError where a file cannot be used."""
        return listening_context("listener.tls", self.certificate, self.private_key, self.ca)


class Listener(Section):
    ae_title: AETitle = "MEDPIPE"
    host: str = "127.0.0.1"
    port: Port = 11112
    processes: int = Field(default=1, ge=1, le=64)
    calling: tuple[AETitle, ...] = ("*",)
    check_called: bool = True
    settle_seconds: float = Field(default=30, ge=0)
    maximum_associations: int = Field(default=50, ge=1)
    maximum_connections: int = Field(default=100, ge=1)
    maximum_connections_per_address: int = Field(default=50, ge=1)
    maximum_instance: Size = 4 * 10**9
    pdu_seconds: float = Field(default=30, gt=0)
    network_timeout: float = Field(default=60, gt=0)
    tls: ListenerTls | None = None

    @model_validator(mode="after")
    def _guarded(self) -> Listener:
        if not self.calling:
            raise ValueError('calling is empty: name the AE titles that may call, or ["*"] for anyone')
        if "calling" not in self.model_fields_set and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} can be reached by others: say who may call, "
                'calling = ["YOURPACS"], or ["*"] for anyone'
            )
        return self


class Worker(Section):
    device: str = "auto"
    slots: int = Field(default=1, ge=1, le=64)
    kill_stalled_after: float = Field(default=3600, gt=0)
    backend: Literal["auto", "torch", "openvino"] = "auto"
    precision: Literal["auto", "f32", "bf16", "fp16"] = "auto"
    tta: bool = False
    threads: int = Field(default=0, ge=0)
    attempts: int = Field(default=4, ge=1, le=100)
    send_attempts: int = Field(default=12, ge=1, le=1000)
    bundle_folders: tuple[Path, ...] = ()
    scratch: Path | None = None

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
            raise ValueError("auto, cpu, cuda or cuda:N")
        return value


class Reading(Section):
    """Limits of the guarded child and tolerances of the regularity check (dimensionless unless said)."""

    memory: Size = 6 * 10**9
    seconds: float = Field(default=300, gt=0)
    maximum_pixels: int = Field(default=2 * 10**9, ge=1)
    minimum_slices: int = Field(default=3, ge=2)
    spacing_tolerance: float = Field(default=0.01, gt=0, lt=0.5)
    perpendicular_tolerance: float = Field(default=1e-3, gt=0, lt=0.1)


class Results(Section):
    seg: bool = True
    sr: bool = True
    no_lesion: Literal["sr", "empty-seg"] = "sr"
    refused_sr: bool = False
    not_for_diagnostic_use: bool = True
    institution_department: str = Field(default="", max_length=64)
    series_number: int = Field(default=9100, ge=1, le=2**31 - 1)
    omit_empty_frames: bool = True


class OrthancRest(Section):
    """An Orthanc's REST interface, for `reconcile`; `modality` is our name in its DicomModalities."""

    url: str
    user: str = ""
    password_file: Path | None = None
    modality: str = Field(default="medpipe", pattern=r"^[A-Za-z0-9_.-]+$")
    only: tuple[str, ...] = ()
    every: float = Field(default=60, ge=1)

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[^/@\s?#]+(/[^@\s?#]*)?", value):
            raise ValueError("http(s)://host:port, with user and password_file as keys of their own")
        return value.rstrip("/")


class PeerTls(Section):
    """`ca` signs the peer's certificate, which must be for `server_name` (default: the peer's host)."""

    ca: Path
    certificate: Path | None = None
    private_key: Path | None = None
    server_name: str = Field(default="", pattern=r"^([A-Za-z0-9:][A-Za-z0-9.:_-]*)?$")

    @model_validator(mode="after")
    def _pair(self) -> PeerTls:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key belong together")
        return self

    def context(self, place: str = "tls") -> SSLContext:
        """Raises ConfigError where a file cannot be used; `place` is this table, for the message."""
        return calling_context(place, self.ca, self.certificate, self.private_key)


class Peer(Section):
    ae_title: AETitle
    host: str
    port: Port
    commitment: bool = False
    retrieve: Literal["get", "move"] = "get"
    dicomweb: str = ""
    timeout: float = Field(default=30, gt=0)
    orthanc: OrthancRest | None = None
    tls: PeerTls | None = None

    @field_validator("dicomweb")
    @classmethod
    def _dicomweb(cls, value: str) -> str:
        if not value:
            return value
        try:
            parts = urlsplit(value)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            sound = False
        if not sound or parts.query or parts.fragment:
            raise ValueError(
                "http(s)://host:port/dicom-web, with user:password@ before the host where needed"
            )
        return value.rstrip("/")


class Review(Section):
    """The doctor's pages. `users`: name -> what `medpipe hash-password` prints."""

    host: str = "127.0.0.1"
    port: Port = 8080
    pacs: str = ""
    users: dict[Name, str] = Field(default_factory=dict)
    session_hours: float = Field(default=8, gt=0, le=24 * 7)
    certificate: Path | None = None
    private_key: Path | None = None
    viewer: Path | None = None

    @field_validator("users")
    @classmethod
    def _hashes(cls, value: dict[str, str]) -> dict[str, str]:
        for name, stored in value.items():
            if not re.fullmatch(SCRYPT_FORM, stored):
                raise ValueError(f"{name}: not a password hash; `medpipe hash-password` makes one")
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Review:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key belong together")
        if not self.users and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} can be reached by others, and users is empty: add users "
                "(`medpipe hash-password`), or bind 127.0.0.1"
            )
        return self


SCRYPT_FORM = r"scrypt:(\d{1,2}):(\d{1,2}):(\d{1,2}):([A-Za-z0-9_-]{22,}):([A-Za-z0-9_-]{43})"
"""scrypt:log2(n):r:p:salt:key, salt and key in base64url without padding (RFC 7914)."""


def is_loopback(host: str) -> bool:
    """Whether an address to bind is reached from this machine alone. A name other than localhost is not trusted."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


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


class Config(Section):
    site: Site = Site()
    listener: Listener = Listener()
    worker: Worker = Worker()
    reading: Reading = Reading()
    results: Results = Results()
    review: Review | None = None
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
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def parse_config(raw: Mapping[str, Any], origin: str = "configuration") -> Config:
    """Checks an already parsed TOML document."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{origin}: {line}" for line in describe(error))) from error


def describe(error: ValidationError) -> list[str]:
    """One line per fault: key, what is wrong, the value given, and for an unknown key the known ones."""
    lines: dict[str, str] = {}
    for fault in error.errors():
        location = [part for part in fault["loc"] if not (isinstance(part, str) and part in _UNION_TAGS)]
        key = ".".join(str(part) for part in location) or "(whole file)"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            known = _known_keys(location[:-1])
            message = "unknown key" + (f"; known here: {', '.join(known)}" if known else "")
        elif fault["type"] != "missing" and location and not _SECRET & {*map(str, location)}:
            message += f" (given: {_shown(fault.get('input'))})"
        lines.setdefault(key, f"{key}: {message}")
    return list(lines.values())


_SECRET = {"users", "dicomweb", "review"}
"""What is given under these keys is not repeated in messages: it may hold a password or its hash."""
_UNION_TAGS = {"str", "int", "float", "bool", "list[union[str,int,float,bool]]", "Range", "Matches"}
_SECTIONS: dict[str, type[Section]] = {
    "site": Site,
    "listener": Listener,
    "worker": Worker,
    "reading": Reading,
    "results": Results,
    "review": Review,
    "peers": Peer,
    "rules": Rule,
}
_TABLES: dict[tuple[str, str], type[Section]] = {
    ("listener", "tls"): ListenerTls,
    ("peers", "tls"): PeerTls,
    ("peers", "orthanc"): OrthancRest,
}
"""Tables within them, by the last part of their place."""


def _known_keys(location: list[Any]) -> list[str]:
    if not location:
        return list(Config.model_fields)
    section = _TABLES.get((str(location[0]), str(location[-1])), _SECTIONS.get(str(location[0])))
    return list(section.model_fields) if section is not None else []


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def masked(config: Config) -> dict[str, Any]:
    """The settings as a plain mapping with secrets hidden: passwords in URLs, the users' password hashes."""
    plain: dict[str, Any] = config.model_dump(mode="json")
    if plain["site"]["database"] != "sqlite":
        plain["site"]["database"] = make_url(plain["site"]["database"]).render_as_string(hide_password=True)
    for peer in plain["peers"].values():
        peer["dicomweb"] = _without_password(peer["dicomweb"])
    if plain["review"] is not None:
        plain["review"]["users"] = dict.fromkeys(plain["review"]["users"], "***")
    return plain


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{place}"))
