"""How often the workers ask the queue for work: while nothing waits, all of them together so many times a second.

A worker asks every POLL_SECONDS. Fifty that do so with nothing to have are a load for the database and for themselves,
and one study more needs only one that asks. So the pause of an idle queue grows with the workers, and a study finds one
within moments still; as soon as something waits, each asks at its own pace again. The engine reads a queue's pause from
the database at every turn, so the worker that leads sets it for all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import sqlalchemy as sa
from dbos import Queue

from medpipe.logs import Event, about
from workers.database import clock
from workers.lease import TTL_SECONDS
from workers.queue import is_waited_for
from workers.registry import Registry
from workers.tables import executor

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
ASKINGS_PER_SECOND = 20.0
_LOOK_SECONDS = 1.0


def pause_for(workers: int, waiting: bool) -> float:
    """Seconds between two looks of a worker at a queue, for so many living workers."""
    return POLL_SECONDS if waiting else max(POLL_SECONDS, workers / ASKINGS_PER_SECOND)


class Pace:
    """Sets the pause of the engine's queues."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._next_look = 0.0

    def look(self, queues: Sequence[Queue]) -> None:
        """Each second: one look. A database that is away is looked at later."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        try:
            for queue, pause in zip(queues, self.pauses([queue.name for queue in queues]), strict=True):
                if (
                    queue.polling_interval_sec != pause
                ):  # as it stands in the database: a new worker resets it
                    queue.set_polling_interval_sec(pause)
        except sa.exc.SQLAlchemyError as error:
            log.warning("the pace is set later (%s)", type(error).__name__, extra=about(Event.DATABASE_AWAY))

    def pauses(self, queues: Sequence[str]) -> list[float]:
        """The pause that each queue should have now."""
        with self._registry.read() as connection:
            alive = sa.select(sa.func.count()).where(executor.c.beat_at > clock(connection) - TTL_SECONDS)
            workers = connection.execute(alive).scalar_one()
            return [pause_for(workers, is_waited_for(connection, name)) for name in queues]
