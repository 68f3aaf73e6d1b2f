"""Retention: the files of studies that are over are removed after `site.keep_days`; the rows stay for the audit.

Over is a study whose jobs are all confirmed, ignored, or replaced by a newer confirmed one, with nothing unsettled
and nobody retrieving it. What was quarantined, failed, or lies aside (same UID, other content) stays until a person
decides.

First the study and its instances are marked in one transaction, then the files go one by one, and a study that is
still marked is gone on with: a worker may be killed at any moment, and several may do it at once. An instance is
removed while its row is locked and only if it is still marked, so what arrives again meanwhile is either kept or
received anew.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from medpipe.config import Config
from medpipe.logs import Event, about
from workers import audit, faults
from workers.publish import outbox
from workers.registry import Registry
from workers.rounds import in_rounds
from workers.spool import Spool
from workers.tables import REMOVED, JobState, Retention, instance, job, study

log = logging.getLogger(__name__)

_DAY_SECONDS = 86_400.0
_ROUND_SECONDS = 60.0
_PAUSE_SECONDS = 0.01
"""After each instance: receiving and sending come first."""
_STUDIES_PER_ROUND = 200
FILES_REMOVED = "files removed"
"""In the audit trail, by whomever: retention is `medpipe`."""


class Janitor:
    """Removes what `site.keep_days` says. One thread in every worker; that of the one that leads is at work."""

    def __init__(self, config: Config, spool: Spool, registry: Registry) -> None:
        self._spool, self._registry = spool, registry
        self._keep_seconds = config.site.keep_days * _DAY_SECONDS
        self._outbox = outbox(config.site.root)

    def run(
        self,
        stop: threading.Event,
        leads: Callable[[], bool] = lambda: True,
        every: float = _ROUND_SECONDS,
    ) -> None:
        """Rounds until `stop`, while we lead. A database that is away, or a disk that refuses, is tried again later."""
        in_rounds(lambda: self.round(stop), "removing old files", stop, leads, every)

    def round(self, stop: threading.Event | None = None) -> list[str]:
        """Removes all that is due now; returns the studies that it has finished with."""
        stop = stop or threading.Event()
        before = time.time() - self._keep_seconds
        done: list[str] = []
        for study_uid in self._begun():
            done += self.finish(study_uid, stop)
        for study_uid in self._due(before):
            if not stop.is_set() and self.mark(study_uid, before):
                done += self.finish(study_uid, stop)
        if done:
            log.info(
                "removed the files of %d studies that are over (site.keep_days)", len(done),
                extra=about(Event.FILES_REMOVED, number=len(done)),
            )  # fmt: skip
        return done

    def mark(self, study_uid: str, before: float) -> bool:
        """Decides that a study's files go, unless something has happened to it meanwhile."""
        with self._registry.begin() as connection:
            # locked in this order by all; what is asked afterwards can no longer change
            connection.execute(sa.select(study).where(study.c.study_uid == study_uid).with_for_update())
            connection.execute(sa.select(job.c.id).where(job.c.study_uid == study_uid).with_for_update())
            over = is_over(before)
            if connection.execute(sa.select(study.c.study_uid).where(_this(study_uid), over)).first() is None:
                return False
            marked = self.mark_removing(connection, study_uid)
            audit.note(connection, "medpipe", FILES_REMOVED, study_uid, {"instances": marked})
        return True

    def mark_removing(self, connection: Connection, study_uid: str) -> int:
        """From the commit on, a study's files go; returns how many instances. The caller has locked and judged it."""
        kept = sa.and_(instance.c.study_uid == study_uid, instance.c.retention == Retention.KEPT.value)
        counted = sa.select(sa.func.count()).where(kept, instance.c.aside.is_(False))
        counting = connection.execute(counted).scalar_one()
        marked = connection.execute(
            sa.update(instance).where(kept).values(retention=Retention.REMOVING.value)
        ).rowcount
        connection.execute(
            sa.update(study)
            .where(_this(study_uid))
            .values(retention=Retention.REMOVING.value, instances=study.c.instances - counting)
        )
        return int(marked)

    def _due(self, before: float) -> list[str]:
        query = (
            sa.select(study.c.study_uid)
            .where(is_over(before))
            .order_by(study.c.last_at)
            .limit(_STUDIES_PER_ROUND)
        )
        with self._registry.read() as connection:
            return list(connection.execute(query).scalars())

    def _begun(self) -> list[str]:
        """Studies that were marked by a worker that did not come to the end, or has not yet."""
        query = sa.select(study.c.study_uid).where(study.c.retention == Retention.REMOVING.value)
        with self._registry.read() as connection:
            return list(connection.execute(query).scalars())

    def finish(self, study_uid: str, stop: threading.Event | None = None) -> list[str]:
        """Removes the files of a marked study; the study, where all of them are gone."""
        stop = stop or threading.Event()
        marked = sa.select(instance.c.sop_instance_uid, instance.c.digest).where(
            instance.c.study_uid == study_uid, instance.c.retention == Retention.REMOVING.value
        )
        with self._registry.read() as connection:
            going = connection.execute(marked).all()
        for one in going:
            self.remove_instance(one.sop_instance_uid, one.digest)
            if stop.wait(_PAUSE_SECONDS):
                return []
        self._empty_outbox(study_uid)
        faults.point("before_removed")
        with self._registry.begin() as connection:
            connection.execute(sa.select(study).where(_this(study_uid)).with_for_update())
            left = connection.execute(
                sa.select(instance.c.retention)
                .where(instance.c.study_uid == study_uid, instance.c.retention != Retention.REMOVED.value)
                .distinct()
            ).scalars()
            states = set(left)
            if Retention.REMOVING.value in states:  # it has just arrived again, and is registered in a moment
                return []
            after = Retention.KEPT if states else Retention.REMOVED
            changed = connection.execute(
                sa.update(study)
                .where(_this(study_uid), study.c.retention == Retention.REMOVING.value)
                .values(retention=after.value)
            ).rowcount
        return [study_uid] if changed and after is Retention.REMOVED else []

    def remove_instance(self, sop_instance_uid: str, digest: str) -> None:
        """Removes the file of one marked instance, unless it has just arrived again."""
        same = sa.and_(instance.c.sop_instance_uid == sop_instance_uid, instance.c.digest == digest)
        marked = sa.and_(same, instance.c.retention == Retention.REMOVING.value)
        with self._registry.begin() as connection:
            row = connection.execute(sa.select(instance.c.file).where(marked).with_for_update()).one_or_none()
            if row is not None and self._spool.let_go(row.file):
                faults.point("after_let_go")
                connection.execute(sa.update(instance).where(same).values(retention=Retention.REMOVED.value))

    def _empty_outbox(self, study_uid: str) -> None:
        """Published folders get the name of an attempt that is over, in one step; `tidy` knows such left-overs."""
        going = []
        with self._registry.begin() as connection:
            for job_id in _jobs_over(connection, study_uid):
                for folder in self._outbox.glob(f"{job_id}-*"):
                    left_over = folder.with_name(f".{folder.name}")
                    shutil.rmtree(left_over, ignore_errors=True)
                    going.append(folder.rename(left_over))
        for folder in going:
            shutil.rmtree(folder, ignore_errors=True)


def is_removed(connection: Connection, study_uid: str, files: Collection[str] | None = None) -> bool:
    """Whether a study's files are gone or going, or some of those named; None: some of any.

    The study's row stays locked to the end of the caller's transaction.
    """
    row = connection.execute(
        sa.select(study.c.retention).where(_this(study_uid)).with_for_update()
    ).one_or_none()
    if row is not None and row.retention != Retention.KEPT.value:
        return True
    gone = sa.select(instance.c.file).where(
        instance.c.study_uid == study_uid,
        instance.c.aside.is_(False),
        instance.c.retention != Retention.KEPT.value,
    )
    return any(files is None or one in files for one in connection.execute(gone).scalars())


def _this(study_uid: str) -> sa.ColumnElement[bool]:
    return study.c.study_uid == study_uid


def is_over(before: float) -> sa.ColumnElement[bool]:
    """Of a row of `study`: whether nothing has happened since `before`, and nothing can without a new arrival."""
    open_job = sa.select(job.c.id).where(
        job.c.study_uid == study.c.study_uid, sa.or_(job.c.updated_at > before, sa.not_(job_is_over()))
    )
    of_study = sa.select(instance.c.file).where(
        instance.c.study_uid == study.c.study_uid, instance.c.retention == Retention.KEPT.value
    )
    return sa.and_(
        study.c.retention == Retention.KEPT.value,
        study.c.settled >= study.c.generation,
        study.c.retrieval.is_(None),
        study.c.last_at <= before,
        sa.not_(open_job.exists()),
        of_study.exists(),
        sa.not_(of_study.where(instance.c.aside).exists()),
    )


def job_is_over() -> sa.ColumnElement[bool]:
    """Of a row of `job`: confirmed, ignored, removed by a person, or given way to a newer confirmed job of its kind."""
    newer = job.alias("newer")
    replaced = sa.select(newer.c.id).where(
        newer.c.study_uid == job.c.study_uid,
        newer.c.bundle == job.c.bundle,
        newer.c.created_at > job.c.created_at,
        newer.c.state == JobState.CONFIRMED.value,
    )
    return sa.or_(
        job.c.state.in_([JobState.CONFIRMED.value, JobState.IGNORED.value]),
        job.c.step == REMOVED,
        sa.and_(
            sa.or_(
                job.c.state == JobState.CANCELLED.value,
                sa.and_(job.c.state == JobState.SENT.value, job.c.step == ""),
            ),
            replaced.exists(),
        ),
    )


def _jobs_over(connection: Connection, study_uid: str) -> list[str]:
    """Jobs of a study that nobody works on; their rows stay locked, so none is queued again meanwhile."""
    query = sa.select(job.c.id).where(job.c.study_uid == study_uid, job_is_over())
    return list(connection.execute(query.with_for_update(of=job)).scalars())
