"""Who is listened to and who is called: the listener, the peers, TLS with both."""

from __future__ import annotations

import re
from pathlib import Path
from ssl import SSLContext
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from medpipe.config.values import AETitle, Port, Section, Size, is_loopback
from medpipe.tls import calling_context, listening_context


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
