"""What the database knows: small typed methods over the tables. Every write is one transaction and may run twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from medpipe.errors import IntegrityError, NotFound
from medpipe.identity import digest, set_digest
from workers import audit, faults, tables
from workers.arrivals import note_transfers, take_in
from workers.database import insert, migrate, open_engine, reading, writing
from workers.spool import Sidecar
from workers.tables import REMOVED, TRANSITIONS, JobState, Retention

STAT, ROUTINE = 1, 100
"""Priorities of the queue; lower runs first."""


@dataclass(frozen=True)
class StudyRow:
    """A study whose content has changed since it was last settled."""

    study_uid: str
    calling_aes: tuple[str, ...]
    last_at: float
    instances: int
    generation: int


@dataclass(frozen=True)
class JobPlan:
    """A job to be: which instances of a study go to which bundle, and where its results are sent."""

    study_uid: str
    bundle: str
    bundle_version: str
    bundle_hash: str
    content: str
    instances: tuple[str, ...]
    rule: str
    priority: int
    destinations: tuple[str, ...]
    received_at: float
    state: JobState = JobState.QUEUED
    reason: str | None = None

    @property
    def id(self) -> str:
        """One job per study, bundle and content, whoever plans it."""
        return digest(self.study_uid, self.bundle_hash, self.content)[:32]


Enqueue = Callable[[Connection, str, int, int], None]
"""(connection, job id, priority, generation): puts the job on the engine's queue in the same transaction."""


class Registry:
    """The tables of one site. Holds an engine; `close` gives its connections back."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = open_engine(url)

    def migrate(self) -> None:
        """Creates the tables or brings them to the newest revision."""
        migrate(self.url)

    def close(self) -> None:
        self.engine.dispose()

    def begin(self) -> AbstractContextManager[Connection]:
        """One write transaction."""
        return writing(self.engine)

    def read(self) -> AbstractContextManager[Connection]:
        """One read transaction."""
        return reading(self.engine)

    # --- received ------------------------------------------------------------------------------------------------

    def register(self, sidecars: Iterable[Sidecar]) -> int:
        """Adds what the spool has received; what is known already changes nothing. Returns how many were new."""
        new: list[Sidecar] = []
        with self.begin() as connection:
            new += [sidecar for sidecar in sidecars if take_in(connection, sidecar)]
            note_transfers(connection, new)
            faults.point("in_register")
        return len(new)

    def unsettled(self) -> list[StudyRow]:
        """Studies whose content has changed since they were last turned into jobs, and that nobody is retrieving."""
        study = tables.study
        with self.read() as connection:
            rows = connection.execute(
                sa.select(study)
                .where(study.c.settled < study.c.generation, study.c.retrieval.is_(None))
                .order_by(study.c.last_at)
            ).all()
        return [
            StudyRow(r.study_uid, tuple(r.calling_aes), r.last_at, r.instances, r.generation) for r in rows
        ]

    def instances_of(self, study_uid: str) -> list[Row[Any]]:
        """The accepted instances of a study whose files are here, by name in the spool."""
        table = tables.instance
        with self.read() as connection:
            return list(
                connection.execute(
                    sa.select(table)
                    .where(
                        table.c.study_uid == study_uid,
                        table.c.aside.is_(False),
                        table.c.retention == Retention.KEPT.value,
                    )
                    .order_by(table.c.file)
                ).all()
            )

    def series_first_elsewhere(self, study_uid: str) -> dict[str, str]:
        """Those series of a study that another one had first: Series UID -> UID of that other study.

        What was received first decides, whether its files are still here or not; at one time, the study's UID.
        """
        own, table = tables.instance.alias("own"), tables.instance
        first = sa.func.min(table.c.received_at)
        series = sa.select(own.c.series_uid).where(own.c.study_uid == study_uid, own.c.aside.is_(False))
        with self.read() as connection:
            rows = connection.execute(
                sa.select(table.c.series_uid, table.c.study_uid)
                .where(
                    table.c.series_uid.in_(series), table.c.study_uid.is_not(None), table.c.aside.is_(False)
                )
                .group_by(table.c.series_uid, table.c.study_uid)
                .order_by(first.desc(), table.c.study_uid.desc())
            ).all()
        owner = {row.series_uid: row.study_uid for row in rows}  # the last one stands: the first received
        return {series_uid: study for series_uid, study in owner.items() if study != study_uid}

    def odd_instances(self) -> list[Row[Any]]:
        """Instances that are kept but belong to no study or lie aside: reported, never dropped."""
        table = tables.instance
        with self.read() as connection:
            return list(
                connection.execute(
                    sa.select(table)
                    .where(
                        sa.or_(table.c.aside, table.c.study_uid.is_(None)),
                        table.c.retention == Retention.KEPT.value,
                    )
                    .order_by(table.c.file)
                ).all()
            )

    # --- jobs ----------------------------------------------------------------------------------------------------

    def settle(
        self, study: StudyRow, plans: Sequence[JobPlan], enqueue: Enqueue, reason: str | None = None
    ) -> list[str]:
        """Turns one generation of a study into jobs, once: whoever comes second finds it done. Returns the new jobs.

        A queued job of the same study and bundle with older content is cancelled: the new one sees more. Rows that only
        said why there was no job give way to what is said now.
        """
        now = time.time()
        with self.begin() as connection:
            table = tables.study
            done = connection.execute(
                sa.update(table)
                .where(
                    table.c.study_uid == study.study_uid,
                    table.c.settled < study.generation,
                    table.c.retrieval.is_(None),  # a reprocess may have begun while the study was read
                )
                .values(settled=study.generation, reason=reason)
            )
            if not done.rowcount:
                return []
            idle = sa.and_(tables.job.c.study_uid == study.study_uid, tables.job.c.bundle == "")
            connection.execute(sa.delete(tables.job).where(idle))
            planned = [plan.id for plan in plans if self.plan(connection, plan, enqueue, now)]
            faults.point("in_settle")
        return planned

    def plan(self, connection: Connection, plan: JobPlan, enqueue: Enqueue, now: float) -> bool:
        """Adds one job and puts it on the queue; False where the job is already there.

        A job that was given up, and whose files a person then removed, is run again: its instances have come back.
        """
        row = {
            "id": plan.id,
            "study_uid": plan.study_uid,
            "bundle": plan.bundle,
            "bundle_version": plan.bundle_version,
            "bundle_hash": plan.bundle_hash,
            "content": plan.content,
            "instances": list(plan.instances),
            "rule": plan.rule,
            "priority": plan.priority,
            "destinations": list(plan.destinations),
            "state": plan.state.value,
            "reason": plan.reason,
            "received_at": plan.received_at,
            "created_at": now,
            "updated_at": now,
        }
        job = tables.job
        if not insert(connection, job, row):
            known = connection.execute(sa.select(job.c.state, job.c.step).where(job.c.id == plan.id)).one()
            if known.state != JobState.CANCELLED.value or known.step != REMOVED:
                return False
            self.again(connection, plan.id, enqueue, "medpipe", plan.priority)
            return True
        older = connection.execute(
            sa.select(job.c.id).where(
                job.c.study_uid == plan.study_uid,
                job.c.bundle == plan.bundle,
                job.c.id != plan.id,
                job.c.state == JobState.QUEUED.value,
            )
        ).scalars()
        for job_id in list(older):
            self.move(
                connection,
                job_id,
                JobState.CANCELLED,
                reason="later instances came: a newer job replaces this one",
            )
        if plan.state is JobState.QUEUED:
            enqueue(connection, plan.id, plan.priority, 1)
        audit.note(connection, "medpipe", "job planned", plan.study_uid, {"job": plan.id, "rule": plan.rule})
        return True

    def again(
        self, connection: Connection, job_id: str, enqueue: Enqueue, who: str, priority: int | None = None
    ) -> int:
        """Queues a finished job as its next generation (retry, forced reprocess); returns that generation."""
        row = self.job(job_id, connection)
        generation = int(row.generation) + 1
        self.move(
            connection, job_id, JobState.QUEUED, reason=None, generation=generation, attempts=0, step=""
        )
        enqueue(connection, job_id, row.priority if priority is None else priority, generation)
        audit.note(
            connection, who, "job queued again", row.study_uid, {"job": job_id, "generation": generation}
        )
        return generation

    def job(self, job_id: str, connection: Connection | None = None) -> Row[Any]:
        """One job's row. Raises NotFound."""
        if connection is None:
            with self.read() as own:
                return self.job(job_id, own)
        row = connection.execute(sa.select(tables.job).where(tables.job.c.id == job_id)).one_or_none()
        if row is None:
            raise NotFound(f"no job {job_id}")
        return row

    def jobs(self, study_uid: str | None = None) -> list[Row[Any]]:
        """Jobs, newest first; of one study or of all."""
        job = tables.job
        query = sa.select(job).order_by(job.c.created_at.desc(), job.c.id)
        if study_uid is not None:
            query = query.where(job.c.study_uid == study_uid)
        with self.read() as connection:
            return list(connection.execute(query).all())

    def move(self, connection: Connection, job_id: str, state: JobState, **values: Any) -> None:
        """Brings a job to another state. Raises IntegrityError where that is no way it may go."""
        job = tables.job
        row = connection.execute(
            sa.select(job.c.state, job.c.study_uid).where(job.c.id == job_id).with_for_update()
        ).one_or_none()
        if row is None:
            raise NotFound(f"no job {job_id}")
        before = JobState(row.state)
        if state is not before and state not in TRANSITIONS[before]:
            raise IntegrityError(f"job {job_id} cannot go from {before.value} to {state.value}")
        connection.execute(
            sa.update(job)
            .where(job.c.id == job_id)
            .values(state=state.value, updated_at=time.time(), **values)
        )

    # --- retrieval -----------------------------------------------------------------------------------------------

    def mark_retrieval(self, study_uid: str, token: str | None) -> None:
        """While a study is being retrieved by `reprocess` no rule starts a job of it; None ends that."""
        now = time.time()
        with self.begin() as connection:
            empty = {"study_uid": study_uid, "calling_aes": [], "first_at": now, "last_at": now}
            insert(connection, tables.study, empty)
            connection.execute(
                sa.update(tables.study)
                .where(tables.study.c.study_uid == study_uid)
                .values(retrieval=token, retrieval_at=now if token else None)
            )

    def end_stale_retrievals(self, older_than: float) -> int:
        """Frees studies whose `reprocess` died more than so many seconds ago."""
        study = tables.study
        with self.begin() as connection:
            done = connection.execute(
                sa.update(study)
                .where(study.c.retrieval.is_not(None), study.c.retrieval_at < time.time() - older_than)
                .values(retrieval=None, retrieval_at=None)
            )
        return int(done.rowcount)


def content_digest(instances: Iterable[tuple[str, str]]) -> str:
    """Digest of a job's content from (SOP Instance UID, digest of the bytes), whatever their order."""
    return set_digest(f"{uid}={content}" for uid, content in instances)
