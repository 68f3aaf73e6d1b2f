"""What was wrong before, and who has been told: a small file, so that a restart repeats nothing.

A condition becomes an alert once it has lasted as long as it must, and is over once it has been away for a quiet time:
what comes and goes within it is one alert. Each channel has its own list of what it has told, so that one that does
not work catches up later and the others do not repeat themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from workers.alerts.conditions import Look
from workers.durable import write_json

LONGEST_PAUSE = 3600.0


@dataclass(frozen=True)
class Alert:
    """A condition with its history. `due`: it has lasted long enough to be told; `gone`: since when it is away."""

    key: str
    sentence: str
    advice: str
    mark: float
    since: float
    due: bool
    gone: float | None = None


@dataclass(frozen=True)
class Told:
    """What one channel has told, when it last did, and when it may again (after a failure: later and later)."""

    alerts: dict[str, Alert] = field(default_factory=dict)
    not_before: float = 0.0
    failures: int = 0


@dataclass(frozen=True)
class Memory:
    alerts: dict[str, Alert] = field(default_factory=dict)
    channels: dict[str, Told] = field(default_factory=dict)

    def after(self, look: Look, now: float, quiet: float) -> Memory:
        """The memory after one more look."""
        alerts: dict[str, Alert] = {}
        for one in look.conditions:
            known = self.alerts.get(one.key)
            since = known.since if known is not None else now
            due = (known is not None and known.due) or now - since >= one.after
            mark = max(one.mark, known.mark) if known is not None else one.mark
            alerts[one.key] = Alert(one.key, one.sentence, one.advice, mark, since, due)
        for key, known in self.alerts.items():
            if key in alerts:
                continue
            if key.partition(":")[0] in look.unknown:
                alerts[key] = known
            elif known.due:
                gone = known.gone if known.gone is not None else now
                if now - gone < quiet:
                    alerts[key] = replace(known, gone=gone)
        return replace(self, alerts=alerts)

    def news_for(self, channel: str, now: float) -> tuple[list[Alert], list[Alert]]:
        """What this channel has yet to tell: what began (or got worse), what is over. Nothing while it must rest."""
        told = self.channels.get(channel, Told())
        if now < told.not_before:
            return [], []
        began = [
            alert
            for key, alert in self.alerts.items()
            if alert.due and (key not in told.alerts or alert.mark > told.alerts[key].mark)
        ]
        return began, [alert for key, alert in told.alerts.items() if key not in self.alerts]

    def with_told(self, channel: str, now: float, quiet: float) -> Memory:
        """After the channel has told its news."""
        due = {key: alert for key, alert in self.alerts.items() if alert.due}
        return self._with(channel, Told(due, now + quiet))

    def with_failure(self, channel: str, now: float, quiet: float) -> Memory:
        """After it could not: it tries again after the quiet time, then after twice as long, and so on."""
        told = self.channels.get(channel, Told())
        pause = min(quiet * 2.0 ** min(told.failures, 10), LONGEST_PAUSE)
        return self._with(channel, replace(told, not_before=now + pause, failures=told.failures + 1))

    def without_channels_but(self, names: Iterable[str]) -> Memory:
        """Forgets channels that the settings no longer have."""
        kept = set(names)
        return replace(self, channels={name: told for name, told in self.channels.items() if name in kept})

    def _with(self, channel: str, told: Told) -> Memory:
        return replace(self, channels={**self.channels, channel: told})


def load(path: Path) -> Memory:
    """The memory in a file; an empty one where there is none, or none that can be read (then something is repeated)."""
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Memory(
            _alerts(plain["alerts"]),
            {
                name: Told(_alerts(told["alerts"]), float(told["not_before"]), int(told["failures"]))
                for name, told in plain["channels"].items()
            },
        )
    except FileNotFoundError:
        return Memory()
    except (ValueError, KeyError, TypeError, AttributeError):
        return Memory()


def save(path: Path, memory: Memory) -> None:
    """Durably: after a crash the file is this one or the one before."""
    write_json(path, asdict(memory))


def _alerts(plain: dict[str, Any]) -> dict[str, Alert]:
    return {key: Alert(**values) for key, values in plain.items()}
