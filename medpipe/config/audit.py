"""The audit trail's way out: who we are in it, and the audit record repository that gets it (PS3.15 A.5 and A.6)."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from medpipe.config.network import PeerTls
from medpipe.config.values import Section


class Audit(Section):
    """`source` and `site` name us in each message; `repository` is sent each one by syslog, none where it is empty."""

    source: str = Field(default="", pattern=r"^[!-~]{0,64}$")
    site: str = Field(default="", max_length=64)
    repository: str = ""
    tls: PeerTls | None = None

    @field_validator("repository")
    @classmethod
    def _repository(cls, value: str) -> str:
        if not value:
            return value
        try:
            parts = urlsplit(value)
            sound = parts.scheme in ("tls", "udp") and parts.hostname and parts.port
        except ValueError:
            sound = False
        if not sound or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("tls://host:6514 (RFC 5425) or udp://host:514 (RFC 5426), with its port")
        return value

    @model_validator(mode="after")
    def _trusted(self) -> Audit:
        if self.repository.startswith("tls:") and self.tls is None:
            raise ValueError(
                "a repository behind tls:// needs a table [audit.tls] that says whom to trust (ca)"
            )
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the repository."""
        parts = urlsplit(self.repository)
        return parts.hostname or "", parts.port or 0
