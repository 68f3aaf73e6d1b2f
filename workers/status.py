"""What `status` shows, and what `retry` and `cancel` do: the operator's view of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from medpipe.errors import NotFound, UsageError
from workers import audit
from workers.named import study_named
from workers.queue import JobQueue, open_workflows
from workers.registry import Registry
from workers.retention import is_removed
from workers.spool import Spool
from workers.tables import FINAL, DeliveryState, JobState, delivery, image, job, result, study

Plain = dict[str, Any]

KEPT_ASIDE = "SAME_UID_OTHER_CONTENT: kept aside"
"""Why an instance that can be read belongs to no job."""


def status_rows(
    registry: Registry,
    study_uid: str | None = None,
    *,
    states: Sequence[str] = (),
    limit: int | None = None,
) -> list[Plain]:
    """One mapping per job, newest first, as `status --json` prints them; studies that are settling come first.

    Last come studies of which everything lies aside, and (study None) what belongs to no study, one row a reason.
    `states` (none: all) and `limit` narrow the list.
    """
    with registry.read() as connection:
        waiting = sa.select(study).where(study.c.settled < study.c.generation).limit(limit)
        jobs = sa.select(job).order_by(job.c.created_at.desc(), job.c.id).limit(limit)
        if states:
            waiting = waiting.where(sa.literal(JobState.SETTLING.value in states))
            jobs = jobs.where(job.c.state.in_(states))
        if study_uid is not None:
            waiting = waiting.where(study.c.study_uid == study_uid)
            jobs = jobs.where(job.c.study_uid == study_uid)
        rows = [_settling(row) for row in connection.execute(waiting)]
        found = connection.execute(jobs).all()
        results: dict[str, list[Plain]] = {}
        query = (
            sa.select(result, delivery.c.destination, delivery.c.state, delivery.c.reason)
            .outerjoin(delivery, delivery.c.sop_instance_uid == result.c.sop_instance_uid)
            .order_by(result.c.file)
        )
        pictures = sa.select(image).order_by(image.c.job, image.c.number)
        if study_uid is not None or limit is not None:
            query = query.where(result.c.job.in_([row.id for row in found]))
            pictures = pictures.where(image.c.job.in_([row.id for row in found]))
        for one in connection.execute(query):
            results.setdefault(one.job, []).append(_result(one))
        images: dict[str, list[Plain]] = {}
        for one in connection.execute(pictures):
            images.setdefault(one.job, []).append(
                {"name": one.name, "outcome": one.outcome, "reason": one.reason, "lesions": one.lesions}
            )
    rows += [_job(row, results.get(row.id, []), images.get(row.id, [])) for row in found]
    if not states or JobState.QUARANTINED.value in states:
        rows += _lying_aside(registry, study_uid)
    return rows[:limit]


def state_counts(registry: Registry) -> dict[str, int]:
    """How many jobs each state has; those of studies that are settling count as `settling`."""
    with registry.read() as connection:
        waiting = sa.select(sa.func.count()).select_from(study).where(study.c.settled < study.c.generation)
        settling = connection.execute(waiting).scalar_one()
        found = connection.execute(sa.select(job.c.state, sa.func.count()).group_by(job.c.state)).all()
    states = {str(state): int(count) for state, count in found}
    return {JobState.SETTLING.value: settling, **states} if settling else states


def _lying_aside(registry: Registry, study_uid: str | None) -> list[Plain]:
    """Rows of instances that no job will ever see, and that no study's row stands for."""
    with registry.read() as connection:
        known = set(connection.execute(sa.select(study.c.study_uid)).scalars())
    heaps: dict[tuple[str | None, str], list[sa.Row[Any]]] = {}
    for row in registry.odd_instances():
        if row.study_uid not in known and study_uid in (None, row.study_uid):
            heaps.setdefault((row.study_uid, row.reason or KEPT_ASIDE), []).append(row)
    return [
        _without_job(
            uid,
            JobState.QUARANTINED,
            "aside",
            min(row.received_at for row in heap),
            max(row.received_at for row in heap),
        )
        | {"reason": reason, "files": [row.file for row in heap]}
        for (uid, reason), heap in heaps.items()
    ]


def _settling(row: sa.Row[Any]) -> Plain:
    step = "retrieve" if row.retrieval else "settle"
    return _without_job(row.study_uid, JobState.SETTLING, step, row.last_at, row.last_at)


def _without_job(
    study_uid: str | None, state: JobState, step: str, received_at: float, updated_at: float
) -> Plain:
    return {
        "job": None,
        "study": study_uid,
        "bundle": None,
        "bundle_version": None,
        "rule": None,
        "priority": None,
        "state": state.value,
        "step": step,
        "attempts": 0,
        "reason": None,
        "received_at": _iso(received_at),
        "updated_at": _iso(updated_at),
        "images": [],
        "seconds": {},
        "results": [],
    }


def _job(row: sa.Row[Any], results: list[Plain], images: list[Plain]) -> Plain:
    return {
        "job": row.id,
        "study": row.study_uid,
        "bundle": row.bundle or None,
        "bundle_version": row.bundle_version or None,
        "rule": row.rule or None,
        "priority": "stat" if row.priority < 100 else "routine",
        "state": row.state,
        "step": row.step,
        "attempts": row.attempts,
        "reason": row.reason or next((one["reason"] for one in results if one["reason"]), None),
        "received_at": _iso(row.received_at),
        "updated_at": _iso(row.updated_at),
        "images": images,
        "seconds": row.seconds,
        "results": results,
    }


def _result(row: sa.Row[Any]) -> Plain:
    state = "superseded" if row.superseded_by else (row.state or "published")
    return {
        "sop_instance_uid": row.sop_instance_uid,
        "sop_class": row.sop_class_uid,
        "destination": row.destination,
        "state": state,
        "reason": row.reason and f"{row.destination}: {row.reason}",
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def find_jobs(registry: Registry, study_or_job: str) -> list[sa.Row[Any]]:
    """The jobs of a study, or the one job, that an operator names. Raises NotFound."""
    study_or_job = study_named(registry, study_or_job)
    rows = registry.jobs(study_or_job)
    if rows:
        return rows
    try:
        return [registry.job(study_or_job)]
    except NotFound:
        raise NotFound(f"{study_or_job}: neither a study with jobs nor a job") from None


def retry(registry: Registry, queue: JobQueue, study_or_job: str, who: str) -> list[str]:
    """Runs failed, quarantined and cancelled jobs again; where only sending failed, only that.

    A study of which no job could be made (no rule, two patients) is settled again by today's rules. Returns the job
    ids, and the UIDs of such studies.
    """
    done: list[str] = []
    for row in find_jobs(registry, study_or_job):
        if not row.bundle:
            _settle_again(registry, row, who)
            done.append(row.study_uid)
            continue
        if JobState(row.state) not in (JobState.FAILED, JobState.QUARANTINED, JobState.CANCELLED):
            continue
        with registry.begin() as connection:
            _check_kept(connection, row)
            if not _send_again(registry, queue, connection, row):
                registry.again(connection, row.id, queue.enqueue, who)
        done.append(row.id)
    if not done:
        raise UsageError(
            f"{study_or_job}: nothing to retry (only failed, quarantined and cancelled jobs are run again)"
        )
    return done


def _check_kept(connection: sa.Connection, row: sa.Row[Any]) -> None:
    if is_removed(connection, row.study_uid, row.instances if row.bundle else None):
        raise UsageError(
            f"study {row.study_uid}: its files were removed, or some of them; "
            f"`medpipe reprocess {row.study_uid}` retrieves it again"
        )


def _settle_again(registry: Registry, row: sa.Row[Any], who: str) -> None:
    with registry.begin() as connection:
        _check_kept(connection, row)
        connection.execute(sa.delete(job).where(job.c.id == row.id))  # it only said why there is no job
        connection.execute(
            sa.update(study)
            .where(study.c.study_uid == row.study_uid)
            .values(settled=study.c.generation - 1, reason=None)
        )
        detail = {"was": row.state, "reason": row.reason}
        audit.note(connection, who, "study settled again", row.study_uid, detail)


def _send_again(registry: Registry, queue: JobQueue, connection: sa.Connection, row: sa.Row[Any]) -> bool:
    """Where the results are published and only their way out failed."""
    failed = connection.execute(
        sa.select(delivery.c.sop_instance_uid, delivery.c.destination)
        .join(result, result.c.sop_instance_uid == delivery.c.sop_instance_uid)
        .where(
            result.c.job == row.id,
            result.c.superseded_by.is_(None),
            delivery.c.state == DeliveryState.FAILED.value,
        )
    ).all()
    if row.state != JobState.FAILED.value or not failed:
        return False
    for one in failed:
        connection.execute(
            sa.update(delivery)
            .where(
                delivery.c.sop_instance_uid == one.sop_instance_uid, delivery.c.destination == one.destination
            )
            .values(state=DeliveryState.WAITING.value, reason=None, transaction=None, attempts=0)
        )
    generation = row.generation + 1  # the workflow ids of this one are used up
    registry.move(connection, row.id, JobState.SENDING, step="send", reason=None, generation=generation)
    for destination in {one.destination for one in failed}:
        queue.enqueue_delivery(connection, "deliver", row.id, destination, generation, 1, 0, row.priority)
    return True


def cancel(registry: Registry, queue: JobQueue, study_or_job: str, who: str) -> list[str]:
    """Stops jobs that wait, run or send. Returns the job ids."""
    done: list[str] = []
    for row in find_jobs(registry, study_or_job):
        if JobState(row.state) in FINAL:
            continue
        with registry.begin() as connection:
            registry.move(connection, row.id, JobState.CANCELLED, reason=f"cancelled by {who}", step="")
            audit.note(connection, who, "job cancelled", row.study_uid, {"job": row.id})
            workflows = open_workflows(connection, row.id)
        queue.cancel(workflows)
        done.append(row.id)
    if not done:
        raise UsageError(f"{study_or_job}: nothing to cancel (its jobs have ended)")
    return done


def is_idle(registry: Registry, spool: Spool) -> bool:
    """Whether nothing is left to do: no arrivals, no study settling, no job under way."""
    if spool.arrivals(limit=1):
        return False
    with registry.read() as connection:
        settling = connection.execute(
            sa.select(sa.func.count()).select_from(study).where(study.c.settled < study.c.generation)
        ).scalar_one()
        under_way = connection.execute(
            sa.select(sa.func.count())
            .select_from(job)
            .where(
                sa.or_(
                    job.c.state.in_([JobState.QUEUED.value, JobState.RUNNING.value, JobState.SENDING.value]),
                    sa.and_(job.c.state == JobState.SENT.value, job.c.step == "confirm"),
                )
            )
        ).scalar_one()
    return not settling and not under_way
