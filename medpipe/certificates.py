"""Until when certificates are valid (RFC 5280 section 4.1): read from PEM files, for who has to renew them in time."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medpipe.errors import ConfigError

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_INTEGER, _SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x02, 0x30, 0x17, 0x18, 0xA0


@dataclass(frozen=True)
class Validity:
    """From when until when a certificate is valid."""

    begins: datetime
    ends: datetime


def first_end(key: str, path: Path) -> datetime:
    """When the first of a PEM file's certificates ends. Raises ConfigError, see `validities`."""
    return min(validity.ends for validity in validities(key, path))


def validities(key: str, path: Path) -> list[Validity]:
    """Of each certificate in a PEM file, in its order. Raises ConfigError, which names the key of the settings."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error.strerror})") from error
    try:
        found = [_validity(base64.b64decode(body, validate=False)) for body in _PEM.findall(content)]
    except (ValueError, IndexError, binascii.Error) as error:
        raise ConfigError(f"{key}: {path} holds a certificate that cannot be read") from error
    if not found:
        raise ConfigError(f"{key}: {path} holds no certificate in PEM form")
    return found


def _validity(der: bytes) -> Validity:
    """Certificate > TBSCertificate > [version], serialNumber, signature, issuer, validity > notBefore, notAfter."""
    _, certificate, _ = _element(der, 0, _SEQUENCE)
    _, inner, _ = _element(certificate, 0, _SEQUENCE)
    at = 0
    if inner[0] == _VERSION:
        _, _, at = _element(inner, at, _VERSION)
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):
        _, _, at = _element(inner, at, tag)
    _, validity, _ = _element(inner, at, _SEQUENCE)
    kind, begins, at = _element(validity, 0)
    later, ends, _ = _element(validity, at)
    return Validity(_time(kind, begins), _time(later, ends))


def _element(data: bytes, at: int, wanted: int | None = None) -> tuple[int, bytes, int]:
    """Tag and content of the DER element (X.690) at a place, and the place after it."""
    tag, length, at = data[at], data[at + 1], at + 2
    if wanted is not None and tag != wanted:
        raise ValueError(f"tag {tag} where {wanted} belongs")
    if length & 0x80:
        count = length & 0x7F
        length, at = int.from_bytes(data[at : at + count], "big"), at + count
    if at + length > len(data):
        raise ValueError("an element longer than what holds it")
    return tag, data[at : at + length], at + length


def _time(tag: int, content: bytes) -> datetime:
    """Always in UTC, with seconds; of two digits of a year, 50 and above are of the last century."""
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
