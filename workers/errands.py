"""What `deliver` and `confirm` share: the rows of a job's results at their destinations, written under the fence.

Nothing waits inside a workflow: what has to be tried later is a successor with a delay, so no slot is held by a PACS
that is down. The state of each result at each destination is in the `delivery` table; sending twice does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from medpipe.config import Config, Peer
from medpipe.errors import MedpipeError, PeerRefused, storage_error
from workers import fence
from workers.queue import JobQueue, delivery_workflow_id
from workers.registry import Registry
from workers.tables import DeliveryState, JobState, delivery, image, job, result

UNCONFIRMED = "not confirmed"
"""How the reason of a result begins that was sent and that nobody asks about any more."""


class Overtaken(Exception):
    """The job was cancelled or queued again meanwhile: this errand has nothing to do any more."""


@dataclass(frozen=True)
class Errand:
    """One run of `deliver` or `confirm`, with the claim under which it may write."""

    workflow_id: str
    token: str
    row: Row[Any]
    destination: str
    generation: int
    attempt: int

    @property
    def job_id(self) -> str:
        return str(self.row.id)

    @property
    def study(self) -> str:
        """The study and the bundle, as the log names them."""
        return f"study {self.row.study_uid}: {self.row.bundle}"

    @property
    def facts(self) -> dict[str, Any]:
        """What the log says beside it."""
        return {
            "job": self.row.id,
            "study": self.row.study_uid,
            "bundle": self.row.bundle,
            "peer": self.destination,
        }


class Errands:
    """Begins errands and keeps their rows."""

    def __init__(self, config: Config, registry: Registry, queue: JobQueue, executor_id: str) -> None:
        self._config, self._registry = config, registry
        self._queue, self._executor_id = queue, executor_id

    def begin(self, workflow: str, job_id: str, destination: str, generation: int, attempt: int) -> Errand:
        """Raises LostClaim where the workflow is not ours, Overtaken where the job has moved on."""
        workflow_id = delivery_workflow_id(workflow, job_id, generation, destination, attempt)
        with self._registry.read() as connection:
            token = fence.claim_token(connection, workflow_id, self._executor_id)
            row = self._registry.job(job_id, connection)
        errand = Errand(workflow_id, token, row, destination, generation, attempt)
        _check_open(row, errand)
        return errand

    @contextmanager
    def writing(self, errand: Errand) -> Iterator[Connection]:
        """One transaction in which the errand's outcome becomes visible, or nothing does (the fence stands in it)."""
        with self._registry.begin() as connection:
            fence.check(connection, errand.workflow_id, errand.token)
            _check_open(self._registry.job(errand.job_id, connection), errand)
            yield connection

    def peer(self, errand: Errand) -> Peer:
        """The destination, as the settings know it today. Raises PeerRefused."""
        try:
            return self._config.peers[errand.destination]
        except KeyError:
            raise PeerRefused(f"{errand.destination} is no longer a peer of the settings") from None

    def of(
        self, errand: Errand, state: DeliveryState, connection: Connection | None = None
    ) -> list[Row[Any]]:
        """The job's current results that are in this state at the destination."""
        if connection is None:
            with self._registry.read() as own:
                return self.of(errand, state, own)
        query = (
            sa.select(delivery, result.c.file, result.c.digest, result.c.sop_class_uid)
            .join(result, result.c.sop_instance_uid == delivery.c.sop_instance_uid)
            .where(
                result.c.job == errand.job_id,
                result.c.superseded_by.is_(None),
                delivery.c.destination == errand.destination,
                delivery.c.state == state.value,
            )
            .order_by(result.c.file)
        )
        return list(connection.execute(query).all())

    def set(self, connection: Connection, item: Row[Any], state: DeliveryState, **values: Any) -> None:
        """Writes where one result stands at one destination."""
        connection.execute(
            sa.update(delivery)
            .where(
                delivery.c.sop_instance_uid == item.sop_instance_uid,
                delivery.c.destination == item.destination,
            )
            .values(state=state.value, **values)
        )

    def follow(self, connection: Connection, errand: Errand) -> JobState:
        """Brings the job to the state that its deliveries say: the least of them, a failed one before all."""
        rows = connection.execute(
            sa.select(delivery.c.state, delivery.c.destination, delivery.c.reason)
            .join(result, result.c.sop_instance_uid == delivery.c.sop_instance_uid)
            .where(result.c.job == errand.job_id, result.c.superseded_by.is_(None))
        ).all()
        states = {DeliveryState(row.state) for row in rows}
        present = JobState(
            connection.execute(sa.select(job.c.state).where(job.c.id == errand.job_id)).scalar_one()
        )
        values: dict[str, Any] = {"step": ""}
        if not rows:
            return present  # a newer job has replaced all of them, and has closed this one
        if DeliveryState.FAILED in states:
            state = JobState.FAILED
            failed = next(row for row in rows if row.state == DeliveryState.FAILED.value)
            values["reason"] = f"{failed.destination}: {failed.reason}"
        elif DeliveryState.WAITING in states:
            state, values = JobState.SENDING, {"step": "send"}
        elif DeliveryState.SENT in states:
            state = JobState.SENT
            given_up = [row for row in rows if (row.reason or "").startswith(UNCONFIRMED)]
            if any(row.state == DeliveryState.SENT.value and row not in given_up for row in rows):
                values = {"step": "confirm"}
            else:
                values["reason"] = f"{given_up[0].destination}: {given_up[0].reason}"
        else:
            state = JobState.CONFIRMED if _has_finding(connection, errand.job_id) else JobState.QUARANTINED
        self._registry.move(connection, errand.job_id, state, **values)
        return state

    def deliver_later(self, connection: Connection, errand: Errand, attempt: int, delay: float) -> None:
        self._later(connection, "deliver", errand, attempt, delay)

    def confirm_later(self, connection: Connection, errand: Errand, attempt: int, delay: float) -> None:
        self._later(connection, "confirm", errand, attempt, delay)

    def _later(
        self, connection: Connection, workflow: str, errand: Errand, attempt: int, delay: float
    ) -> None:
        row = errand.row
        self._queue.enqueue_delivery(
            connection, workflow, row.id, errand.destination, errand.generation, attempt, delay, row.priority
        )


def reason_of(error: MedpipeError | OSError) -> str:
    """An error as it stands in the table."""
    return f"{code_of(error)}: {error if isinstance(error, MedpipeError) else storage_error(error)}"


def code_of(error: MedpipeError | OSError) -> str:
    return error.code if isinstance(error, MedpipeError) else storage_error(error).code


def _check_open(row: Row[Any], errand: Errand) -> None:
    if row.generation != errand.generation or JobState(row.state) in (JobState.CANCELLED, JobState.QUEUED):
        raise Overtaken(f"{errand.workflow_id}: the job is {row.state}, generation {row.generation}")


def _has_finding(connection: Connection, job_id: str) -> bool:
    """Whether any image of the job was processed: a report that only says why not leaves the job quarantined."""
    outcomes = connection.execute(sa.select(image.c.outcome).where(image.c.job == job_id)).scalars().all()
    return not outcomes or "done" in outcomes
