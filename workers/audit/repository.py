"""The trail on its way to an audit record repository: in order, none left out, from where it came to last time.

Where it came to is a file under `<site.root>/audit`, for all workers; one of them at a time sends. After a failure the
same records are sent again: a repository may get one twice, and none never.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import sqlalchemy as sa

from medpipe.config import Config
from medpipe.errors import MedpipeError
from medpipe.logs import Event, about
from workers.audit.message import Source, audit_message
from workers.audit.notices import alone, folder, take_in
from workers.audit.syslog import send, syslog_message
from workers.audit.trail import chain_at, records
from workers.durable import write_json
from workers.registry import Registry

log = logging.getLogger(__name__)

_AT_ONCE = 500
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


def source_of(config: Config) -> Source:
    """Who we are in audit messages."""
    return Source(config.audit.source or config.listener.ae_title, config.audit.site)


@dataclass(frozen=True)
class Place:
    """The last record that was delivered, and its digest."""

    number: int = 0
    chain: str = ""


def delivered(root: Path) -> Place:
    """How far the repository has the trail."""
    try:
        said = json.loads(_place(root).read_text(encoding="utf-8"))
        return Place(int(said["number"]), str(said["chain"]))
    except FileNotFoundError:
        return Place()
    except (ValueError, KeyError, TypeError):
        log.error(
            "%s cannot be read: the audit trail is delivered again from its beginning",
            _place(root),
            extra=about(Event.TRAIL_NOT_DELIVERED),
        )
        return Place()


class Clerk:
    """Takes notices into the trail, and the trail to the repository. `round` may be killed and repeated at any time."""

    def __init__(self, config: Config, registry: Registry) -> None:
        self._config, self._registry = config, registry
        self._root = config.site.root

    def run(self, stop: threading.Event) -> None:
        """Rounds until told to stop. What does not answer is waited for, longer and longer."""
        pause = _FIRST_PAUSE
        while not stop.wait(pause):
            try:
                self.round()
                pause = _FIRST_PAUSE
            except (MedpipeError, OSError, sa.exc.SQLAlchemyError) as error:
                if pause == _FIRST_PAUSE:
                    said = error if isinstance(error, MedpipeError) else type(error).__name__
                    log.warning("the audit trail waits: %s", said, extra=about(Event.TRAIL_NOT_DELIVERED))
                pause = min(2 * pause, _LONGEST_PAUSE)

    def round(self) -> int:
        """Takes in what there is and delivers it; how many records were delivered. Raises what stands in the way."""
        while take_in(self._root, self._registry):
            pass
        if not self._config.audit.repository:
            return 0
        folder(self._root).mkdir(parents=True, exist_ok=True)
        with alone(folder(self._root) / ".delivering") as is_alone:
            count = 0
            while is_alone and (sent := self._deliver()):
                count += sent
            return count

    def _deliver(self) -> int:
        place, source, host = delivered(self._root), source_of(self._config), socket.gethostname()
        with self._registry.read() as connection:
            if place.number and chain_at(connection, place.number) != place.chain:
                log.error(
                    "record %d is not what was delivered: the audit trail is delivered anew", place.number,
                    extra=about(Event.TRAIL_NOT_DELIVERED),
                )  # fmt: skip
                place = Place()
            waiting = list(islice(records(connection, after=place.number), _AT_ONCE))
        if not waiting:
            return 0
        messages = [syslog_message(one, audit_message(one, source), host) for one in waiting]
        send(self._config.audit, messages)
        write_json(_place(self._root), {"number": waiting[-1].number, "chain": waiting[-1].chain})
        return len(waiting)


def _place(root: Path) -> Path:
    return folder(root) / "delivered.json"
