"""What is told: as JSON for a webhook, as text for a person."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from medpipe import __version__
from workers.alerts.memory import Alert

Plain = dict[str, Any]


@dataclass(frozen=True)
class Message:
    """The news of one moment: what began, and what is over. `site` is the listener's AE title and the machine."""

    site: str
    at: float
    began: tuple[Alert, ...]
    over: tuple[Alert, ...]

    @property
    def subject(self) -> str:
        parts = [f"{len(self.began)} new"] if self.began else []
        parts += [f"{len(self.over)} over"] if self.over else []
        kinds = dict.fromkeys(alert.key.partition(":")[0] for alert in (*self.began, *self.over))
        return f"medpipe {self.site}: {', '.join(kinds)} ({', '.join(parts)})"

    @property
    def text(self) -> str:
        """One line per alert, with what to do."""
        lines = [
            f"{_name(one)}: {one.sentence} (since {_iso(one.since)}). {one.advice}" for one in self.began
        ]
        lines += [f"{_name(one)} is over: {one.sentence} (it began {_iso(one.since)})" for one in self.over]
        return "\n".join([f"medpipe {self.site}", *lines])

    def plain(self) -> Plain:
        """As JSON has it; docs/monitoring.md describes each field."""
        alerts = [_plain(one, "began") for one in self.began] + [_plain(one, "over") for one in self.over]
        return {
            "source": "medpipe",
            "version": __version__,
            "site": self.site,
            "at": _iso(self.at),
            "text": self.text,
            "alerts": alerts,
        }


def site_name(ae_title: str) -> str:
    return f"{ae_title}@{socket.gethostname()}"


def trial_message(ae_title: str, now: float) -> Message:
    """What `medpipe doctor --send-test-alert` sends."""
    sentence = "this is a test: nothing is wrong"
    alert = Alert("test", sentence, "Nothing is to be done", 0.0, now, True)
    return Message(site_name(ae_title), now, (alert,), ())


def _plain(alert: Alert, state: str) -> Plain:
    kind, _, about = alert.key.partition(":")
    return {
        "alert": kind,
        "about": about,
        "state": state,
        "since": _iso(alert.since),
        "sentence": alert.sentence,
        "advice": alert.advice,
    }


def _name(alert: Alert) -> str:
    kind, _, about = alert.key.partition(":")
    return f"{kind} {about}" if about else kind


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
