"""The engine's rows of workflows that have ended are forgotten after `site.keep_queue_days`: else they grow for ever.

They say only which step ended when. What became of a study is in the registry and in the audit trail, which stay. A row
is needed while its workflow waits or runs, to go on with; and while its job is under way, or another workflow of it is
(a second destination), so that the same step put on the queue twice is one. A job that is over never uses the ids of
its workflows again: run again, it is a further generation (registry, status).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from medpipe.config import Config
from medpipe.logs import Event, about
from workers.queue import ENDED, JobQueue, job_in_sql, served_jobs, status_table
from workers.registry import Registry
from workers.rounds import in_rounds
from workers.tables import JobState, job

log = logging.getLogger(__name__)

_DAY_SECONDS = 86_400.0
_ROUND_SECONDS = 600.0
_BATCH = 500
_PAUSE_SECONDS = 0.2
"""After each batch: claims and publications come first."""


class Forgetter:
    """One thread in every worker; that of the one that leads is at work."""

    def __init__(self, config: Config, registry: Registry, queue: JobQueue) -> None:
        self._registry, self._queue = registry, queue
        self._keep_seconds = config.site.keep_queue_days * _DAY_SECONDS

    def run(
        self,
        stop: threading.Event,
        leads: Callable[[], bool] = lambda: True,
        every: float = _ROUND_SECONDS,
    ) -> None:
        """Rounds until `stop`, while we lead. A database that is away is asked again later."""
        in_rounds(lambda: self.round(stop), "forgetting old workflows", stop, leads, every)

    def round(self, stop: threading.Event | None = None) -> int:
        """Forgets all that is due now, some at a time; how many rows of workflows that were."""
        stop, before, count = stop or threading.Event(), time.time() - self._keep_seconds, 0
        while not stop.is_set():
            with self._registry.read() as connection:
                due = ended_before(connection, before, _BATCH)
            self._queue.forget(due)
            count += len(due)
            if len(due) < _BATCH or stop.wait(_PAUSE_SECONDS):
                break
        if count:
            log.info("forgot %d workflows that ended long ago (site.keep_queue_days)", count,
                     extra=about(Event.QUEUE_TIDIED, number=count))  # fmt: skip
        return count


def ended_before(connection: Connection, before: float, limit: int) -> list[str]:
    """Ids of workflows that ended before a time, oldest first, whose jobs are not under way any more."""
    under_way = sa.or_(
        job.c.state.in_([JobState.QUEUED.value, JobState.RUNNING.value, JobState.SENDING.value]),
        sa.and_(job.c.state == JobState.SENT.value, job.c.step == "confirm"),
    )
    its_job = sa.literal_column(job_in_sql(connection), sa.String)
    served = served_jobs(connection)
    query = (
        sa.select(sa.literal_column("workflow_uuid", sa.String))
        .select_from(sa.text(status_table(connection)))
        .where(
            sa.text("completed_at IS NOT NULL AND completed_at < :before").bindparams(
                before=int(before * 1000)
            ),
            sa.literal_column("status").in_(ENDED),
            its_job.not_in(sa.select(job.c.id).where(under_way)),
            its_job.not_in(sa.select(served.c.job)),
        )
        .order_by(sa.literal_column("completed_at"))
        .limit(limit)
    )
    return list(connection.execute(query).scalars())
