"""What the engine may leave behind: claims that do not run, and jobs that no workflow works on any more.

A workflow can be PENDING under a live worker and yet not run there (its dispatch failed): it is queued again. A
workflow can end with an error, or be given up by the engine, while its job is under way: the job goes to the dead
letter, where a person sees it; what was sent stays sent, and is said to be unconfirmed. Without this such a job would
stand still for ever.
"""

from __future__ import annotations

import logging
import time
from collections import Counter

import sqlalchemy as sa

from medpipe.logs import Event, about
from workers.errands import UNCONFIRMED
from workers.queue import claimed_workflows, job_of, put_back, served_jobs
from workers.registry import Registry
from workers.tables import JobState, job

log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
_FORGOTTEN_SECONDS = 30.0
_FORSAKEN_SECONDS = 60.0
REASON = "ENGINE: its workflow ended without a result; `medpipe retry` runs it again"
NOT_ASKED = f"{UNCONFIRMED}: ENGINE: the workflow that asked the destination ended without a result"


class Watchdog:
    """Looks after what one worker has claimed, and after all jobs."""

    def __init__(self, registry: Registry, executor_id: str, in_flight: Counter[str]) -> None:
        self._registry, self._executor_id, self._in_flight = registry, executor_id, in_flight
        self._next_look = 0.0
        self._idle: dict[str, float] = {}
        self._forsaken: dict[tuple[str, float], float] = {}

    def look(self, leads: bool = True) -> None:
        """Each few seconds: one look, after all jobs where we lead. A database that is away is looked at later."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        try:
            self.put_back_forgotten(now)
            if leads:
                self.give_up_forsaken(now)
        except sa.exc.SQLAlchemyError as error:
            log.warning(
                "the watchdog looks again later (%s)", type(error).__name__, extra=about(Event.DATABASE_AWAY)
            )

    def put_back_forgotten(self, now: float) -> list[str]:
        """Puts this worker's own claims back that it has not been running for half a minute; returns their ids."""
        with self._registry.read() as connection:
            claimed = claimed_workflows(connection, self._executor_id)
        idle = {one for one in claimed if not self._in_flight[one]}
        self._idle = {one: self._idle.get(one, now) for one in idle}
        forgotten = [one for one, since in self._idle.items() if now - since >= _FORGOTTEN_SECONDS]
        for workflow_id in forgotten:
            with self._registry.begin() as connection:
                put_back(connection, self._executor_id, workflow_id)
            log.warning(
                "%s was claimed but not running: put back on the queue",
                workflow_id,
                extra=about(Event.JOB_PUT_BACK, job=job_of(workflow_id)),
            )
            del self._idle[workflow_id]
        return forgotten

    def give_up_forsaken(self, now: float) -> list[str]:
        """Jobs that have been under way for a minute without any change or any workflow: to the dead letter."""
        with self._registry.read() as connection:
            served = served_jobs(connection)
            rows = connection.execute(
                sa.select(job.c.id, job.c.updated_at)
                .outerjoin(served, served.c.job == job.c.id)
                .where(
                    sa.or_(
                        job.c.state.in_(
                            [JobState.QUEUED.value, JobState.RUNNING.value, JobState.SENDING.value]
                        ),
                        sa.and_(job.c.state == JobState.SENT.value, job.c.step == "confirm"),
                    ),
                    served.c.job.is_(None),
                )
            ).all()
        bare = {(row.id, row.updated_at) for row in rows}
        self._forsaken = {one: self._forsaken.get(one, now) for one in bare}
        given_up = []
        for (job_id, updated_at), since in list(self._forsaken.items()):
            if now - since < _FORSAKEN_SECONDS:
                continue
            with self._registry.begin() as connection:
                row = self._registry.job(job_id, connection)
                if row.updated_at != updated_at:
                    continue
                sent = row.state == JobState.SENT.value
                state, reason = (JobState.SENT, NOT_ASKED) if sent else (JobState.FAILED, REASON)
                self._registry.move(connection, job_id, state, reason=reason, step="")
            log.error("job %s: %s", job_id, reason, extra=about(Event.JOB_GIVEN_UP, job=job_id))
            given_up.append(job_id)
        return given_up
