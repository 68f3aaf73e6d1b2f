"""Where things lie, how they are read and computed, and what a result is: site, worker, reading, results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from medpipe.config.secrets import Reference, secret
from medpipe.config.values import Section, Size
from medpipe.identity import is_uid


class Site(Section):
    root: Path = Path("/var/lib/medpipe")
    database: str = Field(default="sqlite", repr=False)
    database_password: Reference = ""
    database_password_file: Path | None = None
    uid_root: str = "2.25"
    keep_days: int = Field(default=30, ge=0)
    keep_queue_days: int = Field(default=30, ge=1)
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

    @model_validator(mode="after")
    def _one_password(self) -> Site:
        if self.database_password or self.database_password_file is not None:
            if not self.database.startswith("postgresql"):
                raise ValueError("database_password is for a PostgreSQL server, and database names none")
            if make_url(self.database).password is not None:
                raise ValueError(
                    "database holds a password, and database_password is another one: leave one out"
                )
        return self

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the registry and the engine, its password in it. Raises ConfigError."""
        if self.database == "sqlite":
            return f"sqlite:///{self.root.absolute() / 'medpipe.sqlite'}"
        word = secret(self, "site", "database_password")
        if word is None:
            return self.database
        return (
            make_url(self.database)
            .set(password=word.get_secret_value())
            .render_as_string(hide_password=False)
        )


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
