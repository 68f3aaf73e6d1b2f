"""Housekeeping in rounds: a thread in every worker, of which that of the one that leads is at work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from medpipe.logs import Event, about
from workers.database import is_away

log = logging.getLogger(__name__)


def in_rounds(
    work: Callable[[], object], name: str, stop: threading.Event, leads: Callable[[], bool], every: float
) -> None:
    """`work` every so many seconds until `stop`, while we lead; a database that is away is asked again later."""
    while not stop.wait(every):
        try:
            if leads():
                work()
        except Exception as error:
            if is_away(error):
                log.warning("the database is away; %s waits", name, extra=about(Event.DATABASE_AWAY))
            else:
                log.exception("%s failed; it is tried again", name, extra=about(Event.PROCESS_STUMBLED))
