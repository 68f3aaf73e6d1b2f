"""The pages for a browser: where they are served, and who may sign in."""

from __future__ import annotations

import re
from pathlib import Path
from ssl import SSLContext

from pydantic import Field, field_validator, model_validator

from medpipe.config.secrets import Reference, secret
from medpipe.config.values import Name, Port, Section, is_loopback
from medpipe.tls import listening_context

SCRYPT_FORM = r"scrypt:(\d{1,2}):(\d{1,2}):(\d{1,2}):([A-Za-z0-9_-]{22,}):([A-Za-z0-9_-]{43})"
"""scrypt:log2(n):r:p:salt:key, salt and key in base64url without padding (RFC 7914)."""


class Review(Section):
    """The doctor's pages. `users`: name -> what `medpipe hash-password` prints; `users_file`: `medpipe users`."""

    host: str = "127.0.0.1"
    port: Port = 8080
    pacs: str = ""
    users: dict[Name, str] = Field(default_factory=dict, repr=False)
    users_file: Path | None = None
    session_hours: float = Field(default=8, gt=0, le=24 * 7)
    certificate: Path | None = None
    private_key: Path | None = None
    passphrase: Reference = ""
    passphrase_file: Path | None = None
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
        if not self.has_sign_in and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} can be reached by others, and users is empty: add users "
                "(users_file and `medpipe users add`, or `medpipe hash-password`), or bind 127.0.0.1"
            )
        return self

    def context(self) -> SSLContext | None:
        """For HTTPS; None where plain HTTP is spoken. Raises ConfigError where a file cannot be used."""
        if self.certificate is None or self.private_key is None:
            return None
        word = secret(self, "review", "passphrase")
        return listening_context("review", self.certificate, self.private_key, None, word)

    @property
    def has_sign_in(self) -> bool:
        """Whether anybody must sign in. A `users_file` without a user lets nobody in."""
        return bool(self.users) or self.users_file is not None
