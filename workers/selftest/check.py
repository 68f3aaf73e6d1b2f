"""One thing looked at, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    NOTE = "note"
    FAILED = "failed"
    AWAY = "unreachable"


@dataclass(frozen=True)
class Check:
    """What was looked at, its state, what was found, and what to do about it (empty where all is well)."""

    name: str
    state: State
    found: str
    advice: str = ""


def size(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.1f} GB"
