"""A record as a line: JSON for programs, or a sentence for a person at a terminal."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any

from medpipe.logs.discretion import Discretion
from medpipe.logs.events import Event, present

_UIDS = frozenset({"study", "series", "instance"})
"""Facts under these names are UIDs."""


class _Line(logging.Formatter):
    def __init__(self, role: str, discretion: Discretion) -> None:
        super().__init__()
        self._role, self._discretion = role, discretion

    def _told(self, record: logging.LogRecord) -> dict[str, Any]:
        """Everything that a line says, in the order in which it says it."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": str(getattr(record, "event", Event.LIBRARY)),
            "role": self._role,
            "pid": os.getpid(),
            "message": self._discretion.sentence(record),
        }
        for name, value in {**present(), **getattr(record, "facts", {})}.items():
            tell = self._discretion.uid if name in _UIDS else self._discretion.fact
            told.setdefault(name, tell(value))
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            told["error"] = self._discretion.error(error)
        return told


class JsonLine(_Line):
    """One JSON object: time (UTC), level, event, role, pid, message, the event's facts, an error if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self._told(record), ensure_ascii=False, separators=(",", ":"))


class TextLine(_Line):
    """The same in a line for a person; the facts stay away, the sentence names what matters."""

    def format(self, record: logging.LogRecord) -> str:
        told = self._told(record)
        line = f"{told['time']} {told['level']} {told['role']}: {told['message']}"
        if "error" in told:
            error = told["error"]
            line += f" ({error['class']} at {' < '.join(error['at'])})"
        return line
