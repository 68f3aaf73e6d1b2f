"""Who is listened to and who is called: the listener, the peers, TLS with both."""

from __future__ import annotations

import re
from pathlib import Path
from ssl import SSLContext
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from medpipe.config.secrets import Reference, secret
from medpipe.config.values import AETitle, Port, Section, Size, is_loopback
from medpipe.tls import calling_context, listening_context


class ListenerTls(Section):
    """With it the listener speaks TLS only. With `ca`, callers must show a certificate that it has signed."""

    certificate: Path
    private_key: Path
    passphrase: Reference = ""
    passphrase_file: Path | None = None
    ca: Path | None = None

    def context(self) -> SSLContext:
        """Raises ConfigError where a file cannot be used."""
        word = secret(self, "listener.tls", "passphrase")
        return listening_context("listener.tls", self.certificate, self.private_key, self.ca, word)


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
    least_rate: Size = Field(default=1000, gt=0)
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


class OrthancRest(Section):
    """An Orthanc's REST interface, for `reconcile`; `modality` is our name in its DicomModalities."""

    url: str
    user: str = ""
    password: Reference = ""
    password_file: Path | None = None
    modality: str = Field(default="medpipe", pattern=r"^[A-Za-z0-9_.-]+$")
    only: tuple[str, ...] = ()
    every: float = Field(default=60, ge=1)

    def login(self, place: str = "orthanc") -> tuple[str, str]:
        """User and password. `place` is this table, for messages. Raises ConfigError."""
        return self.user, _plain(secret(self, place, "password"))

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
    passphrase: Reference = ""
    passphrase_file: Path | None = None
    server_name: str = Field(default="", pattern=r"^([A-Za-z0-9:][A-Za-z0-9.:_-]*)?$")

    @model_validator(mode="after")
    def _pair(self) -> PeerTls:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key belong together")
        return self

    def context(self, place: str = "tls") -> SSLContext:
        """Raises ConfigError where a file cannot be used; `place` is this table, for the message."""
        word = secret(self, place, "passphrase")
        return calling_context(place, self.ca, self.certificate, self.private_key, word)


class Peer(Section):
    ae_title: AETitle
    host: str
    port: Port
    commitment: bool = False
    retrieve: Literal["get", "move"] = "get"
    dicomweb: str = Field(default="", repr=False)
    dicomweb_user: str = ""
    dicomweb_password: Reference = ""
    dicomweb_password_file: Path | None = None
    timeout: float = Field(default=30, gt=0)
    orthanc: OrthancRest | None = None
    tls: PeerTls | None = None

    @model_validator(mode="after")
    def _one_user(self) -> Peer:
        if self.dicomweb_user and "@" in urlsplit(self.dicomweb).netloc:
            raise ValueError("dicomweb has a user, and dicomweb_user is another one: leave one out")
        if (self.dicomweb_password or self.dicomweb_password_file) and not self.dicomweb_user:
            raise ValueError("dicomweb_user is missing: whose password is it?")
        return self

    def dicomweb_login(self, place: str) -> tuple[str, str] | None:
        """User and password for `dicomweb`: its own keys, those in its address, or those of an Orthanc at that address.

        `place` is this table, for messages. Raises ConfigError where the password cannot be read.
        """
        parts = urlsplit(self.dicomweb)
        if self.dicomweb_user:
            return self.dicomweb_user, _plain(secret(self, place, "dicomweb_password"))
        if "@" in parts.netloc:
            return unquote(parts.username or ""), unquote(parts.password or "")
        if (
            self.orthanc is not None
            and self.orthanc.user
            and _server(self.orthanc.url) == _server(self.dicomweb)
        ):
            return self.orthanc.login(f"{place}.orthanc")
        return None

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


def _plain(word: SecretStr | None) -> str:
    return word.get_secret_value() if word is not None else ""


def _server(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of an address: a password goes to no other server than the one that it is for."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
