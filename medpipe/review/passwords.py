"""Passwords of the review's users as scrypt hashes (RFC 7914), from the standard library."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from functools import cache

from medpipe.config import SCRYPT_FORM

_LOG_N, _R, _P = 15, 8, 3
"""32 MiB and about 0.2 s for one guess (OWASP's advice for scrypt)."""
_MOST_MEMORY = 1 << 28


def hash_password(password: str, salt: bytes | None = None) -> str:
    """What stands in `[review] users`: scrypt:log2(n):r:p:salt:key."""
    salt = salt or secrets.token_bytes(16)
    return f"scrypt:{_LOG_N}:{_R}:{_P}:{_text(salt)}:{_text(_key(password, salt, _LOG_N, _R, _P))}"


def is_password(stored: str, password: str) -> bool:
    """Whether this is the password of a stored hash, in a time that does not depend on how wrong it is."""
    match = re.fullmatch(SCRYPT_FORM, stored)
    if match is None:
        return False
    log_n, r, p = (int(number) for number in match.group(1, 2, 3))
    try:
        key = _key(password, _bytes(match[4]), log_n, r, p)
    except ValueError:  # numbers that nobody can afford
        return False
    return hmac.compare_digest(key, _bytes(match[5]))


@cache
def nobodys() -> str:
    """A hash to compare with where no such user exists, so that the time does not say who does."""
    return hash_password(secrets.token_hex(16))


def _key(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << log_n, r=r, p=p, maxmem=_MOST_MEMORY, dklen=32)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
