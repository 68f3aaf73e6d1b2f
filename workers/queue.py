"""The engine's queue as others see it: put a job on it within a transaction, ask for it again, take it off.

The engine is DBOS Transact on the registry's own database, so that a row and its place on the queue are one commit.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer
from sqlalchemy.engine import Connection

from workers.database import is_sqlite, open_engine

WORKFLOW_VERSION = "medpipe-wf-1"
"""Raised only when the order of steps changes; workers of another version leave the jobs alone."""

JOBS, SENDING = "gpu", "send"
SEND_SLOTS = 8
FRONT = 1
"""The priority of what was interrupted: that of STAT. Lower runs first; 0 is what the engine takes for "unset"."""


ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
"""Statuses of workflows that never run again (we resume none; what is done again is a workflow of its own)."""


def migrate_engine(url: str) -> None:
    """Creates or migrates the engine's own tables."""
    if url.startswith("sqlite"):
        engine = open_engine(url)
        with engine.connect():
            pass  # the file, in WAL mode
        engine.dispose()
    DBOS.migrate(url)  # its command-line form swallows what went wrong


def status_table(connection: Connection) -> str:
    """The engine's table of workflows, as named in SQL."""
    return "workflow_status" if is_sqlite(connection) else "dbos.workflow_status"


def job_workflow_id(job_id: str, generation: int, attempt: int = 1) -> str:
    return f"job:{job_id}:g{generation}:a{attempt}"


def delivery_workflow_id(workflow: str, job_id: str, generation: int, destination: str, attempt: int) -> str:
    return f"{workflow}:{job_id}:g{generation}:{destination}:a{attempt}"


def job_of(workflow_id: str) -> str:
    """The job that a workflow works for."""
    return workflow_id.split(":", 2)[1]


class JobQueue:
    """A client of the engine for processes that run no workflows themselves (and for workers, within transactions)."""

    def __init__(self, url: str) -> None:
        self._client = DBOSClient(
            system_database_url=url,
            serializer=DBOSPortableJSONSerializer(),
            application_name="medpipe",
            lazy=True,
        )

    def close(self) -> None:
        self._client.destroy()

    def enqueue(self, connection: Connection, job_id: str, priority: int, generation: int) -> None:
        """Puts a job's next generation on the queue, in the caller's transaction."""
        self.enqueue_attempt(connection, job_id, priority, generation, 1, 0)

    def enqueue_attempt(
        self, connection: Connection, job_id: str, priority: int, generation: int, attempt: int, delay: float
    ) -> None:
        """A further attempt after `delay` seconds; the same attempt twice is one."""
        self._put(
            connection,
            "job",
            JOBS,
            job_workflow_id(job_id, generation, attempt),
            priority,
            delay,
            (job_id, generation, attempt),
        )

    def enqueue_delivery(
        self,
        connection: Connection,
        workflow: str,
        job_id: str,
        destination: str,
        generation: int,
        attempt: int,
        delay: float,
        priority: int,
    ) -> None:
        """`deliver` or `confirm` for one job and destination."""
        workflow_id = delivery_workflow_id(workflow, job_id, generation, destination, attempt)
        arguments = (job_id, destination, generation, attempt)
        self._put(connection, workflow, SENDING, workflow_id, priority, delay, arguments)

    def _put(
        self,
        connection: Connection,
        workflow: str,
        queue: str,
        workflow_id: str,
        priority: int,
        delay: float,
        arguments: tuple[Any, ...],
    ) -> None:
        options: dict[str, Any] = {
            "workflow_name": workflow,
            "queue_name": queue,
            "app_version": WORKFLOW_VERSION,
            "workflow_id": workflow_id,
            "priority": priority,
        }
        if delay > 0:
            options["delay_seconds"] = delay
        self._client.enqueue_in_transaction(connection, options, *arguments)  # type: ignore[arg-type]

    def cancel(self, workflow_ids: list[str]) -> None:
        """Takes workflows off the queue, or has running ones stop at their next look at the fence."""
        for workflow_id in workflow_ids:
            self._client.cancel_workflow(workflow_id)

    def forget(self, workflow_ids: list[str]) -> None:
        """Removes all that the engine has of workflows, in one transaction. Only for those that have ended."""
        if workflow_ids:
            self._client.delete_workflows(workflow_ids)


def open_workflows(connection: Connection, job_id: str) -> list[str]:
    """Ids of a job's workflows that wait or run."""
    rows = connection.execute(
        sa.text(
            f"SELECT workflow_uuid FROM {status_table(connection)} "
            "WHERE workflow_uuid LIKE :pattern AND status IN ('ENQUEUED', 'DELAYED', 'PENDING')"
        ),
        {"pattern": f"%:{job_id}:g%"},
    )
    return [row[0] for row in rows]


def job_in_sql(connection: Connection) -> str:
    """The job that a workflow works for, as an expression over the engine's table."""
    if is_sqlite(connection):
        return "substr(workflow_uuid, instr(workflow_uuid, ':') + 1, 32)"
    return "split_part(workflow_uuid, ':', 2)"


def served_jobs(connection: Connection) -> sa.Subquery:
    """The jobs that a workflow waits or runs for, as something to join: its only column is `job`."""
    query = sa.text(
        f"SELECT DISTINCT {job_in_sql(connection)} AS job FROM {status_table(connection)} "
        "WHERE status IN ('ENQUEUED', 'DELAYED', 'PENDING')"
    )
    return query.columns(sa.column("job", sa.String)).subquery("served")


def is_waited_for(connection: Connection, queue: str) -> bool:
    """Whether anything on a queue waits for a worker."""
    query = (
        f"SELECT 1 FROM {status_table(connection)} WHERE queue_name = :queue AND status = 'ENQUEUED' LIMIT 1"
    )
    return connection.execute(sa.text(query), {"queue": queue}).first() is not None


def claimed_workflows(connection: Connection, executor_id: str) -> list[str]:
    """Ids of the workflows that a worker has claimed and not finished."""
    rows = connection.execute(
        sa.text(
            f"SELECT workflow_uuid FROM {status_table(connection)} "
            "WHERE status = 'PENDING' AND executor_id = :id"
        ),
        {"id": executor_id},
    )
    return [row[0] for row in rows]


def put_back(connection: Connection, executor_id: str, workflow_id: str) -> None:
    """Gives one of a worker's own claims back, in front of what waits; whoever still runs it is fenced off.

    The same columns as in the engine's own recovery, which only a launched engine can run.
    """
    connection.execute(
        sa.text(
            f"UPDATE {status_table(connection)} "
            "SET status = 'ENQUEUED', owner_xid = NULL, started_at_epoch_ms = NULL, priority = :front "
            "WHERE workflow_uuid = :workflow AND status = 'PENDING' AND executor_id = :id"
        ),
        {"workflow": workflow_id, "id": executor_id, "front": FRONT},
    )


def bring_forward(connection: Connection, workflow_id: str) -> None:
    """Moves a waiting workflow in front of the others: it has waited before (SQLite's queue order has 1 s steps)."""
    connection.execute(
        sa.text(
            f"UPDATE {status_table(connection)} SET priority = :front "
            "WHERE workflow_uuid = :workflow AND status = 'ENQUEUED'"
        ),
        {"workflow": workflow_id, "front": FRONT},
    )
