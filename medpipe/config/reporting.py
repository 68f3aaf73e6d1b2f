"""What the processes say of themselves: how the log is written, and who is told when the line needs a person."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from medpipe.config.secrets import Reference
from medpipe.config.values import Port, Section, Size, is_loopback


class Logs(Section):
    """`auto`: lines for a person where stderr is a terminal, else one JSON object per line."""

    format: Literal["auto", "json", "text"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    uids: Literal["hashed", "plain"] = "hashed"


class Webhook(Section):
    """Each address gets a POST of JSON. `authorization` is the whole value of its Authorization header."""

    urls: tuple[str, ...] = Field(min_length=1)
    authorization: Reference = ""
    authorization_file: Path | None = None
    ca: Path | None = None

    @field_validator("urls")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            try:
                parts = urlsplit(url)
                sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            except ValueError:
                sound = False
            if not sound or parts.username is not None:
                raise ValueError(
                    "each is http(s)://host/path; a secret stands in authorization_file, not in the address"
                )
        return value


class Mail(Section):
    """`starttls` begins in the clear and goes on in TLS (port 587), `tls` is TLS from the start (port 465)."""

    host: str = Field(min_length=1)
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: Reference = ""
    password_file: Path | None = None
    sender: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    to: tuple[str, ...] = Field(min_length=1)
    ca: Path | None = None

    @model_validator(mode="after")
    def _guarded(self) -> Mail:
        if self.security == "none" and not is_loopback(self.host):
            raise ValueError(
                'security = "none" is for a mail server on this machine: use "starttls" or "tls"'
            )
        return self

    @field_validator("to")
    @classmethod
    def _recipients(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            if address.count("@") != 1 or any(c.isspace() for c in address):
                raise ValueError("each is an address like night@hospital.example")
        return value


class Alerts(Section):
    """When a person is told, and how; without a webhook or mail nobody is."""

    every: float = Field(default=60, ge=1)
    queue_minutes: float = Field(default=30, gt=0)
    peer_minutes: float = Field(default=10, gt=0)
    disk: Size = 10 * 10**9
    certificate_days: int = Field(default=21, ge=0)
    quiet_minutes: float = Field(default=5, gt=0)
    webhook: Webhook | None = None
    mail: Mail | None = None

    @property
    def tells_somebody(self) -> bool:
        return self.webhook is not None or self.mail is not None
