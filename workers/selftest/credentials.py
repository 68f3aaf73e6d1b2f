"""What lets us in and others know us: certificates that are about to expire, secrets that are missing or lie open."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from medpipe.certificates import validities
from medpipe.config import Config, files_of, is_open_to_others, secret, secrets_of
from medpipe.errors import ConfigError, MedpipeError
from workers.selftest.check import Check, State

SOON = timedelta(days=30)
"""A hospital's certificate takes weeks to come."""


def check_certificates(config: Config, now: datetime | None = None) -> Iterator[Check]:
    """Every certificate and every authority that the settings name."""
    now = now or datetime.now(UTC)
    for key, path in files_of(config, "certificate", "ca"):
        try:
            yield _judged(key, path, now)
        except ConfigError as error:
            yield Check(key, State.FAILED, str(error), "correct the settings, or the file")


def _judged(key: str, path: Path, now: datetime) -> Check:
    """By the certificate in the file that ends first; it may be followed by the authorities above it."""
    found = validities(key, path)
    first = min(found, key=lambda one: one.ends)
    which = path.name if len(found) == 1 else f"{path.name} (one of {len(found)})"
    until = f"{first.ends:%Y-%m-%d}"
    if first.ends <= now:
        return Check(key, State.FAILED, f"{which} expired on {until}", "put a new one there")
    if any(one.begins > now for one in found):
        return Check(key, State.FAILED, f"{which} is not valid yet", "is this machine's clock right?")
    if first.ends - now < SOON:
        days = (first.ends - now).days
        return Check(key, State.NOTE, f"{which} expires on {until}, in {days} days", "have it renewed")
    return Check(key, State.OK, f"{which} is valid until {until}")


def check_secrets(config: Config) -> Iterator[Check]:
    """Each secret that the settings name is there, and its file is not for everybody."""
    good = 0
    for place, table, key in secrets_of(config):
        file, name = getattr(table, f"{key}_file"), f"{place}.{key}"
        try:
            secret(table, place, key)
            opened = file is not None and is_open_to_others(file)
        except MedpipeError as error:
            yield Check(name, State.FAILED, str(error), "put it there, readable by the user of medpipe alone")
            continue
        if opened:
            yield Check(name, State.NOTE, f"{file} can be read or written by others", f"chmod 0640 {file}")
        else:
            good += 1
    yield from _open_keys(config)
    if good:
        yield Check("secrets", State.OK, f"{good} in files or variables of their own")
    for place, written in _written_out(config).items():
        advice = f'put it into a file and name that: {place}_password_file = "..."'
        if written:
            yield Check(place, State.NOTE, "a password stands in the settings", advice)


def _open_keys(config: Config) -> Iterator[Check]:
    """Private keys and the file of users, which are no settings but as secret."""
    for name, path in files_of(config, "private_key", "users_file"):
        if path.is_file() and is_open_to_others(path):
            yield Check(name, State.NOTE, f"{path} can be read or written by others", f"chmod 0640 {path}")


def _written_out(config: Config) -> dict[str, bool]:
    """The two settings that may hold a password in an address."""
    found = {"site.database": _has_password(config.site.database)}
    found |= {f"peers.{name}.dicomweb": _has_password(peer.dicomweb) for name, peer in config.peers.items()}
    return found


def _has_password(address: str) -> bool:
    login, at, _ = address.partition("://")[2].rpartition("@")
    return bool(at) and ":" in login
