"""One transaction makes an attempt's results visible, or nothing does (the fence stands in it)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from workers import audit, faults, fence
from workers.database import insert
from workers.durable import publish_folder, write_json
from workers.fence import LostClaim
from workers.queue import JobQueue
from workers.registry import Registry
from workers.tables import DeliveryState, JobState, delivery, image, job, result

Plain = dict[str, Any]


def outbox(root: Path) -> Path:
    """Where published results lie."""
    return root / "outbox"


def had_attempts(row: Row[Any]) -> bool:
    """Whether a job that runs was tried before. Else nothing of it can lie about, and no folder need be read for it."""
    return bool(row.attempts > 1 or row.generation > 1)


def publish(
    registry: Registry,
    queue: JobQueue,
    root: Path,
    row: Row[Any],
    folder: Path,
    outcome: Plain,
    workflow_id: str,
    token: str,
) -> JobState:
    """Moves the attempt's folder into the outbox and publishes it, fenced; returns the job's new state.

    `folder` holds the files that `outcome` names. Twice the same is once: the folder's name carries the attempt's
    token, and rows that are there stay. Raises LostClaim when another worker holds the job by now; nothing is visible
    then, and the folder is gone.
    """
    final = outbox(root) / f"{row.id}-{token[:16]}"
    if not final.exists():
        faults.point("before_folder")
        write_json(folder / "manifest.json", {"job": row.id, "bundle": row.bundle, **outcome})
        publish_folder(folder, final)
    faults.point("after_folder")
    try:
        with registry.begin() as connection:
            fence.check(connection, workflow_id, token)
            state = _publish_rows(connection, registry, queue, row, final, outcome)
            faults.point("in_publish")
    except LostClaim:
        _remove_unnamed(registry, row.id, final)
        raise
    if had_attempts(row):
        _remove_older(registry, root, row.id, final.name)
    return state


def _publish_rows(
    connection: Connection, registry: Registry, queue: JobQueue, row: Row[Any], final: Path, outcome: Plain
) -> JobState:
    newer = _newer_results(connection, row)
    _write_images(connection, row.id, outcome["images"])
    _write_results(connection, row, final, outcome["results"], newer)
    waiting: list[str] = []
    if newer is None:
        _supersede(connection, row, outcome["results"])
        waiting = _deliveries(connection, row, outcome["results"])
    state = _state_after(row, outcome, waiting, newer)
    registry.move(
        connection,
        row.id,
        state,
        step="send" if waiting else "",
        reason=outcome["reason"] if newer is None else "a newer job of this study has already published",
        seconds=outcome["seconds"],
    )
    for destination in waiting:
        queue.enqueue_delivery(connection, "deliver", row.id, destination, row.generation, 1, 0, row.priority)
    if newer is None:
        _close_superseded(connection, registry, row)
    detail = {"job": row.id, "results": len(outcome["results"])}
    audit.note(connection, "medpipe", "results published", row.study_uid, detail)
    return state


def _newer_results(connection: Connection, row: Row[Any]) -> str | None:
    """A later job of the same study and bundle that has already published: then ours come superseded."""
    return connection.execute(
        sa.select(job.c.id)
        .join(result, result.c.job == job.c.id)
        .where(
            job.c.study_uid == row.study_uid,
            job.c.bundle == row.bundle,
            job.c.id != row.id,
            job.c.created_at > row.created_at,
        )
        .limit(1)
    ).scalar()


def _write_images(connection: Connection, job_id: str, images: Sequence[Plain]) -> None:
    connection.execute(sa.delete(image).where(image.c.job == job_id))
    for number, one in enumerate(images):
        connection.execute(
            sa.insert(image).values(
                job=job_id,
                number=number,
                name=one["name"],
                series_uid=one["series_uid"],
                outcome=one["state"],
                reason=one["reason"],
                lesions=one["lesions"],
            )
        )


def _write_results(
    connection: Connection, row: Row[Any], final: Path, results: Sequence[Plain], newer: str | None
) -> None:
    """A result's UID is its content: the same one from another job simply belongs to the newest job that gave it."""
    for one in results:
        values = {
            "sop_instance_uid": one["sop_instance_uid"],
            "job": row.id,
            "image": one["image_name"],
            "sop_class_uid": one["sop_class_uid"],
            "series_uid": one["series_instance_uid"],
            "file": f"{final.name}/{one['path']}",
            "digest": one["sha256"],
            "superseded_by": newer,
            "created_at": time.time(),
        }
        if not insert(connection, result, values) and newer is None:
            connection.execute(
                sa.update(result).where(result.c.sop_instance_uid == one["sop_instance_uid"]).values(**values)
            )


def _supersede(connection: Connection, row: Row[Any], results: Sequence[Plain]) -> None:
    """Older current results of the same study and bundle give way to these."""
    ours = [one["sop_instance_uid"] for one in results]
    same = sa.select(job.c.id).where(job.c.study_uid == row.study_uid, job.c.bundle == row.bundle)
    connection.execute(
        sa.update(result)
        .where(
            result.c.job.in_(same), result.c.superseded_by.is_(None), result.c.sop_instance_uid.not_in(ours)
        )
        .values(superseded_by=row.id)
    )


def _close_superseded(connection: Connection, registry: Registry, row: Row[Any]) -> None:
    """Older jobs that were still sending or being confirmed and have no current result left are over."""
    current = sa.select(result.c.job).where(result.c.superseded_by.is_(None))
    older = connection.execute(
        sa.select(job.c.id, job.c.state).where(
            job.c.study_uid == row.study_uid,
            job.c.bundle == row.bundle,
            job.c.id != row.id,
            sa.or_(
                job.c.state == JobState.SENDING.value,
                sa.and_(job.c.state == JobState.SENT.value, job.c.step == "confirm"),
            ),
            job.c.id.not_in(current),
        )
    ).all()
    for one in older:
        # what was sent was sent; what was not is not sent any more
        state = JobState.SENT if one.state == JobState.SENT.value else JobState.CANCELLED
        registry.move(
            connection, one.id, state, step="", reason="its results were replaced by those of a newer job"
        )


def _deliveries(connection: Connection, row: Row[Any], results: Sequence[Plain]) -> list[str]:
    """Rows for what is to be sent; destinations that have something to get or to confirm.

    A result that a destination holds already is not sent again, unless this is a repeated generation (retry, --force).
    """
    waiting: list[str] = []
    fresh = {
        "state": DeliveryState.WAITING.value,
        "attempts": 0,
        **dict.fromkeys(("reason", "transaction", "committed_at")),
    }
    for destination in row.destinations:
        for one in results:
            key = {"sop_instance_uid": one["sop_instance_uid"], "destination": destination}
            where = [
                delivery.c.sop_instance_uid == one["sop_instance_uid"],
                delivery.c.destination == destination,
            ]
            values = {**key, "state": DeliveryState.WAITING.value}
            new = insert(connection, delivery, values)
            failed = (
                delivery.c.state == DeliveryState.FAILED.value
            )  # under an older job: this one tries again
            if not new:
                again = where if row.generation > 1 else [*where, failed]
                connection.execute(sa.update(delivery).where(*again).values(**fresh))
            state = connection.execute(sa.select(delivery.c.state).where(*where)).scalar_one()
            if state != DeliveryState.CONFIRMED.value and destination not in waiting:
                waiting.append(destination)
    return waiting


def _state_after(row: Row[Any], outcome: Plain, waiting: Sequence[str], newer: str | None) -> JobState:
    if newer is not None:
        return JobState.CANCELLED
    if waiting:
        return JobState.SENDING
    if outcome["state"] == "quarantined":
        return JobState.QUARANTINED
    return JobState.CONFIRMED if row.destinations and outcome["results"] else JobState.SENT


def _remove_unnamed(registry: Registry, job_id: str, final: Path) -> None:
    """A fenced-off attempt's folder, unless its publication was committed before (and only the answer was lost)."""
    with registry.read() as connection:
        named = connection.execute(
            sa.select(sa.func.count()).where(result.c.job == job_id, result.c.file.like(f"{final.name}/%"))
        ).scalar_one()
    if not named:
        shutil.rmtree(final, ignore_errors=True)


def _remove_older(registry: Registry, root: Path, job_id: str, current: str) -> None:
    """Folders of the job's earlier attempts that no row names any more."""
    with registry.read() as connection:
        named = set(connection.execute(sa.select(result.c.file).where(result.c.job == job_id)).scalars())
    kept = {current, *(file.split("/", 1)[0] for file in named)}
    for folder in outbox(root).glob(f"{job_id}-*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)
