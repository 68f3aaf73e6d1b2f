"""When a certificate ends: the one field of X.509 that we look at (RFC 5280 section 4.1)."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from medpipe.config import Config

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18


def certificate_files(config: Config) -> Iterator[tuple[str, Path]]:
    """Every file with certificates that the settings name, with its key."""
    if (tls := config.listener.tls) is not None:
        yield "listener.tls.certificate", tls.certificate
        if tls.ca is not None:
            yield "listener.tls.ca", tls.ca
    if config.review is not None and config.review.certificate is not None:
        yield "review.certificate", config.review.certificate
    for name, peer in config.peers.items():
        if peer.tls is not None:
            yield f"peers.{name}.tls.ca", peer.tls.ca
            if peer.tls.certificate is not None:
                yield f"peers.{name}.tls.certificate", peer.tls.certificate


def first_end(path: Path) -> float:
    """Seconds since 1970 at which the first of a PEM file's certificates ends. Raises OSError, ValueError."""
    ends = [not_after(ssl.PEM_cert_to_DER_cert(text)) for text in _PEM.findall(path.read_text("latin-1"))]
    if not ends:
        raise ValueError("no certificate in PEM form")
    return min(ends)


def not_after(der: bytes) -> float:
    """The end of one certificate's validity. Raises ValueError where it is none."""
    _, certificate, _ = _element(der)
    _, fields, _ = _element(certificate)
    tag, _, rest = _element(fields)
    if tag == _VERSION:
        _, _, rest = _element(rest)  # the serial number
    for _ in ("signature", "issuer"):
        _, _, rest = _element(rest)
    _, validity, _ = _element(rest)
    _, _, rest = _element(validity)  # notBefore
    tag, value, _ = _element(rest)
    return _seconds(tag, value.decode("ascii"))


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag, content and what follows of the DER element at the beginning (X.690 section 8.1)."""
    if len(data) < 2:
        raise ValueError("not a certificate: it ends early")
    tag, length, start = data[0], data[1], 2
    if length & 0x80:
        start = 2 + (length & 0x7F)
        length = int.from_bytes(data[2:start], "big")
    if start + length > len(data):
        raise ValueError("not a certificate: it ends early")
    return tag, data[start : start + length], data[start + length :]


def _seconds(tag: int, text: str) -> float:
    """UTCTime has two digits for the year, 50 to 99 being of the last century."""
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a certificate: no time where its end should be")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
