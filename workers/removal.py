"""`remove`: a person decides that the files of a failed or refused study go.

The same way as retention takes: the study is marked in one transaction, then the files go one by one, and any worker
ends what was begun. The rows stay for the audit trail; the study's jobs are over, with the step `removed`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from medpipe.errors import NotFound, UsageError
from workers import audit
from workers.registry import Registry
from workers.retention import FILES_REMOVED, Janitor
from workers.tables import FINAL, REMOVED, JobState, Retention, instance, job, study
from workers.tables import audit as audit_table


@dataclass(frozen=True)
class Removable:
    """A study whose files a person may remove, and how much that is."""

    study_uid: str
    instances: int
    size: int


def check_removable(registry: Registry, study_uid: str) -> Removable:
    """One study, as it is now. Raises NotFound, or UsageError where something is still to be done with it."""
    with registry.read() as connection:
        _check_over(connection, study_uid)
        return _measured(connection, study_uid)


def find_removable(registry: Registry, states: Collection[JobState], before: float) -> list[Removable]:
    """Studies with a job in one of these states and files that are kept, where nothing has happened since `before`."""
    newest = sa.select(sa.func.max(job.c.updated_at)).where(job.c.study_uid == study.c.study_uid)
    in_state = sa.select(job.c.id).where(
        job.c.study_uid == study.c.study_uid, job.c.state.in_([state.value for state in states])
    )
    query = (
        sa.select(study.c.study_uid)
        .where(
            study.c.retention == Retention.KEPT.value,
            study.c.last_at <= before,
            newest.scalar_subquery() <= before,
            in_state.where(job.c.step != REMOVED).exists(),
        )
        .order_by(study.c.last_at)
    )
    with registry.read() as connection:
        found = list(connection.execute(query).scalars())
        open_ones = {uid for uid in found if _why_not_over(connection, uid) is not None}
        return [_measured(connection, uid) for uid in found if uid not in open_ones]


def remove(
    registry: Registry, janitor: Janitor, study_uid: str, who: str, *, before: float | None = None
) -> None:
    """Removes a study's files, unless something has happened to it meanwhile. Killed, a worker ends it.

    `before`: nothing may have happened since. Raises what `check_removable` raises.
    """
    with registry.begin() as connection:
        # locked in this order by all; what is asked afterwards can no longer change
        connection.execute(sa.select(study).where(study.c.study_uid == study_uid).with_for_update())
        jobs = connection.execute(sa.select(job).where(job.c.study_uid == study_uid).with_for_update()).all()
        _check_over(connection, study_uid)
        if before is not None and any(row.updated_at > before for row in jobs):
            raise UsageError(f"study {study_uid}: something has happened to it meanwhile; look again")
        for row in jobs:
            if row.step != REMOVED:
                _close(connection, registry, row, who)
        instances = janitor.mark_removing(connection, study_uid)
        detail = {"instances": instances, "jobs": {row.id: row.state for row in jobs}}
        audit.note(connection, who, FILES_REMOVED, study_uid, detail)
    janitor.finish(study_uid)


def find_unreadable(registry: Registry, before: float) -> list[str]:
    """Spool names of instances that belong to no study, since their header could not be read, received by then."""
    query = sa.select(instance.c.file).where(
        instance.c.study_uid.is_(None),
        instance.c.retention != Retention.REMOVED.value,  # or was about to be when somebody was killed
        instance.c.received_at <= before,
    )
    with registry.read() as connection:
        return sorted(connection.execute(query).scalars())


def remove_unreadable(registry: Registry, janitor: Janitor, files: Sequence[str], who: str) -> None:
    """Removes instances that belong to no study."""
    of_none = sa.and_(instance.c.file.in_(files), instance.c.study_uid.is_(None))
    with registry.begin() as connection:
        connection.execute(sa.update(instance).where(of_none).values(retention=Retention.REMOVING.value))
        audit.note(connection, who, FILES_REMOVED, None, {"files": list(files)})
        marked = connection.execute(
            sa.select(instance.c.sop_instance_uid, instance.c.digest).where(of_none)
        ).all()
    for one in marked:
        janitor.remove_instance(one.sop_instance_uid, one.digest)


def account_of(registry: Registry, study_uid: str) -> list[str]:
    """In plain words: what was removed of a study, when, by whom, and what had become of it. Empty: nothing was."""
    with registry.read() as connection:
        row = connection.execute(sa.select(study).where(study.c.study_uid == study_uid)).one_or_none()
        count = sa.select(sa.func.count()).where(instance.c.study_uid == study_uid)
        gone = connection.execute(count.where(instance.c.retention != Retention.KEPT.value)).scalar_one()
        whole = connection.execute(count).scalar_one()
        jobs = connection.execute(
            sa.select(job).where(job.c.study_uid == study_uid).order_by(job.c.created_at)
        ).all()
        removal = connection.execute(
            sa.select(audit_table.c.at, audit_table.c.who)
            .where(audit_table.c.study_uid == study_uid, audit_table.c.what == FILES_REMOVED)
            .order_by(audit_table.c.number.desc())
            .limit(1)
        ).one_or_none()
    if row is None or not gone:
        return []
    how = "are not here: the site was restored from a backup without them"
    if removal is not None:
        by = "because site.keep_days were over" if removal.who == "medpipe" else f"by {removal.who}"
        how = f"were removed on {_day(removal.at)} {by}"
    return [
        f"study {study_uid}: received {_day(row.last_at)}; the files of {gone} of its {whole} instances {how}",
        *(
            f"  {one.bundle or 'no bundle'}: " + ": ".join(filter(None, (one.state, one.reason)))
            for one in jobs
        ),
        f"`medpipe reprocess {study_uid}` retrieves it again",
    ]


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _close(connection: Connection, registry: Registry, row: sa.Row[tuple[object, ...]], who: str) -> None:
    """What was sent was sent, and what was confirmed stays so; what waited for a person is cancelled by one."""
    state = JobState(row.state)
    if state in (JobState.FAILED, JobState.QUARANTINED):
        reason = f"files removed by {who}; was {state.value}: {row.reason or 'no reason noted'}"
        registry.move(connection, row.id, JobState.CANCELLED, step=REMOVED, reason=reason)
    else:
        registry.move(connection, row.id, state, step=REMOVED)


def _check_over(connection: Connection, study_uid: str) -> None:
    why = _why_not_over(connection, study_uid)
    if why is not None:
        raise UsageError(f"study {study_uid}: {why}")


def _why_not_over(connection: Connection, study_uid: str) -> str | None:
    row = connection.execute(sa.select(study).where(study.c.study_uid == study_uid)).one_or_none()
    if row is None:
        raise NotFound(f"study {study_uid}: nothing received under this UID")
    if row.retention != Retention.KEPT.value:
        return "its files are removed already"
    if row.retrieval is not None:
        return "it is being retrieved; try again when that has ended"
    if row.settled < row.generation:
        return "it has not settled yet; try again when it has jobs"
    jobs = connection.execute(sa.select(job).where(job.c.study_uid == study_uid)).all()
    for one in jobs:
        over = JobState(one.state) in FINAL or (one.state == JobState.SENT.value and one.step != "confirm")
        if not over:
            return f"a job is {one.state}; `medpipe cancel {study_uid}` first"
    return None


def _measured(connection: Connection, study_uid: str) -> Removable:
    kept = sa.and_(instance.c.study_uid == study_uid, instance.c.retention == Retention.KEPT.value)
    counted = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(instance.c.size), 0)).where(kept)
    count, size = connection.execute(counted).one()
    return Removable(study_uid, int(count), int(size))


def before_days(days: float) -> float:
    """The time so many days ago."""
    return time.time() - days * 86_400.0
