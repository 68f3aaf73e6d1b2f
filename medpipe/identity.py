"""UIDs and digests derived from content: the same finding gives the same name, on every machine, at any time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

UID_GRAMMAR = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
"""PS3.5 section 9.1: components of digits without leading zeros."""

SOFTWARE_NAME = "medpipe"
MANUFACTURER = "medpipe"
MANUFACTURER_MODEL_NAME = "medpipe"
"""(0008,1090) of everything that we make: with the UID root, how our own output is recognised."""


def is_uid(text: str) -> bool:
    """Whether `text` is a valid UID (PS3.5 section 9.1: at most 64 characters)."""
    return len(text) <= 64 and UID_GRAMMAR.fullmatch(text) is not None


_UID_CHARACTERS = frozenset("0123456789.")


def resembles_uid(text: str) -> bool:
    """Whether `text` can be taken for a UID that somebody made: digits and dots, at most 64 characters.

    Components with leading zeros are against PS3.5 section 9.1, but common, and harm nobody.
    """
    return 0 < len(text) <= 64 and _UID_CHARACTERS.issuperset(text)


def digest(*parts: bytes | str) -> str:
    """SHA-256 (hex) over the parts, each prefixed by its length so that no two part lists collide."""
    sha = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        sha.update(len(raw).to_bytes(8, "little"))
        sha.update(raw)
    return sha.hexdigest()


def uid_from(root: str, *parts: bytes | str) -> str:
    """A UID under `root` from a digest of `parts`: 122 bits under 2.25, as many as fit in 64 characters elsewhere."""
    number = int(digest(*parts), 16)
    room = 64 - len(root) - 1
    bits = min(122, int(room * 3.32) - 1)
    if bits < 64:
        raise ValueError(f"UID root {root!r} leaves too little room for a unique number")
    return f"{root}.{number % (1 << bits) + (1 << bits)}"


def safe_name(uid: str) -> str:
    """A UID as a file name: itself when it obeys the UI grammar, else a hash (no path is built from foreign text)."""
    return uid if is_uid(uid) else "uid-" + digest(uid)[:32]


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_digest(items: Iterable[str]) -> str:
    """Digest of a set of strings, whatever their order."""
    return digest(*sorted(set(items)))
