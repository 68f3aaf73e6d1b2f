"""A workflow can be PENDING under a live worker and yet not run there (its dispatch failed): it is queued again."""

from __future__ import annotations

import logging
import time

import sqlalchemy as sa

from workers.queue import status_table
from workers.registry import Registry

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 30.0
_first_seen: dict[str, float] = {}


def requeue_forgotten(registry: Registry, executor_id: str, in_flight: set[str]) -> list[str]:
    """Puts this worker's own claims back that it has not been running for half a minute; returns their ids."""
    with registry.read() as connection:
        pending = set(
            connection.execute(
                sa.text(
                    f"SELECT workflow_uuid FROM {status_table(connection)} "
                    "WHERE status = 'PENDING' AND executor_id = :id"
                ),
                {"id": executor_id},
            ).scalars()
        )
    idle = pending - set(in_flight)
    now = time.monotonic()
    for known in list(_first_seen):
        if known not in idle:
            del _first_seen[known]
    forgotten = [one for one in idle if now - _first_seen.setdefault(one, now) > _PATIENCE_SECONDS]
    for workflow_id in forgotten:
        with registry.begin() as connection:
            connection.execute(
                sa.text(
                    f"UPDATE {status_table(connection)} SET status = 'ENQUEUED', executor_id = NULL, owner_xid = NULL "
                    "WHERE workflow_uuid = :workflow AND status = 'PENDING' AND executor_id = :id"
                ),
                {"workflow": workflow_id, "id": executor_id},
            )
        log.warning("%s was claimed but not running: put back on the queue", workflow_id)
        del _first_seen[workflow_id]
    return forgotten
