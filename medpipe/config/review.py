"""The pages for a browser: where they are served, and who may sign in."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from medpipe.config.values import Name, Port, Section, is_loopback

SCRYPT_FORM = r"scrypt:(\d{1,2}):(\d{1,2}):(\d{1,2}):([A-Za-z0-9_-]{22,}):([A-Za-z0-9_-]{43})"
"""scrypt:log2(n):r:p:salt:key, salt and key in base64url without padding (RFC 7914)."""


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
