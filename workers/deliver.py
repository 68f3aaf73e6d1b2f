"""The workflows `deliver` and `confirm`: results to a destination by C-STORE, and its word that it keeps them.

Nothing waits inside a workflow: what has to be tried later is a successor with a delay, so no slot is held by a PACS
that is down. The state of each result at each destination is in the `delivery` table; sending twice does no harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from medpipe.config import Config, Peer
from medpipe.errors import Disposition, IntegrityError, MedpipeError, PeerRefused, disposition
from medpipe.identity import file_sha256, uid_from
from medpipe.pacs import (
    CommitmentReport,
    FailureAction,
    SendStatus,
    missing_instances,
    request_commitment,
    send,
)
from workers import faults
from workers.commitments import find_report, forget_report
from workers.jobs import delay_after
from workers.publish import outbox
from workers.queue import JobQueue
from workers.registry import Registry
from workers.tables import DeliveryState, JobState, delivery, job, result

log = logging.getLogger(__name__)

_REPORT_WAIT = 1.0
_LOOK_SECONDS = 2.0
_LOOKS = 15
"""How often a storage commitment report is looked for before C-FIND is asked instead."""


class Courier:
    """Sends and confirms the results of jobs."""

    def __init__(self, config: Config, registry: Registry, queue: JobQueue) -> None:
        self._config, self._registry, self._queue = config, registry, queue
        self._root = config.site.root

    # --- send ----------------------------------------------------------------------------------------------------

    def deliver(self, job_id: str, destination: str, generation: int, attempt: int) -> str:
        """One attempt to send what a destination has not yet got of a job's current results."""
        row = self._registry.job(job_id)
        waiting = self._deliveries(job_id, destination, (DeliveryState.WAITING,))
        if not self._open(row, generation) or not waiting:
            return "nothing to send"
        try:
            peer = self._peer(destination)
            files = [self._checked(item) for item in waiting]
            faults.point("before_send")
            statuses = send(peer, files, calling_ae=self._config.listener.ae_title)
            faults.point("after_send")
        except (MedpipeError, OSError) as error:
            return self._not_sent(row, destination, attempt, waiting, error)
        return self._sent(row, destination, attempt, waiting, statuses)

    def _checked(self, item: Row[Any]) -> Path:
        """The result's file, if its bytes are those that were published."""
        path: Path = outbox(self._root) / str(item.file)
        if not path.is_file() or file_sha256(path) != item.digest:
            raise IntegrityError(f"{item.file}: the outbox no longer holds the bytes that were published")
        return path

    def _sent(
        self,
        row: Row[Any],
        destination: str,
        attempt: int,
        waiting: list[Row[Any]],
        statuses: tuple[SendStatus, ...],
    ) -> str:
        now = time.time()
        with self._registry.begin() as connection:
            for item, status in zip(waiting, statuses, strict=True):
                became = DeliveryState.SENT if status.is_stored else DeliveryState.FAILED
                self._set(
                    connection,
                    item,
                    state=became.value,
                    status=status.status,
                    reason=None if status.is_stored else status.reason,
                    sent_at=now if status.is_stored else None,
                    attempts=delivery.c.attempts + 1,
                    transaction=None,
                )
            state = self._follow(connection, row.id)
            if any(status.is_stored for status in statuses):
                self._queue.enqueue_delivery(
                    connection, "confirm", row.id, destination, row.generation, attempt * 100, 0, row.priority
                )
        log.info("study %s: %s: %d objects sent to %s", row.study_uid, row.bundle, len(statuses), destination)
        return state.value

    def _not_sent(
        self,
        row: Row[Any],
        destination: str,
        attempt: int,
        waiting: list[Row[Any]],
        error: MedpipeError | OSError,
    ) -> str:
        again = disposition(error) is Disposition.RETRY and attempt < self._config.worker.send_attempts
        code = error.code if isinstance(error, MedpipeError) else "STORAGE"
        reason = f"{code}: {error}"
        with self._registry.begin() as connection:
            for item in waiting:
                state = DeliveryState.WAITING if again else DeliveryState.FAILED
                self._set(
                    connection, item, state=state.value, reason=reason, attempts=delivery.c.attempts + 1
                )
            outcome = self._follow(connection, row.id)
            if again:
                self._queue.enqueue_delivery(
                    connection,
                    "deliver",
                    row.id,
                    destination,
                    row.generation,
                    attempt + 1,
                    delay_after(attempt),
                    row.priority,
                )
        log.warning("study %s: %s: not sent to %s: %s", row.study_uid, row.bundle, destination, reason)
        return outcome.value

    # --- confirm -------------------------------------------------------------------------------------------------

    def confirm(self, job_id: str, destination: str, generation: int, attempt: int) -> str:
        """One look whether the destination keeps what it was sent; `attempt` % 100 counts the looks."""
        row = self._registry.job(job_id)
        sent = self._deliveries(job_id, destination, (DeliveryState.SENT,))
        if not self._open(row, generation) or not sent:
            return "nothing to confirm"
        faults.point("before_confirm")
        try:
            peer = self._peer(destination)
            if peer.commitment and attempt % 100 < _LOOKS:
                report = self._committed(peer, row, sent, attempt)
                if report is None:
                    return self._look_again(row, destination, attempt, _LOOK_SECONDS)
                return self._reported(row, destination, attempt, sent, report)
            return self._listed(peer, row, destination, attempt, sent)
        except PeerRefused as error:
            log.info("%s offers no storage commitment (%s); C-FIND confirms", destination, error)
            return self._with_peer_errors(row, destination, attempt, sent)
        except (MedpipeError, OSError) as error:
            return self._unconfirmed(row, destination, attempt, error)

    def _with_peer_errors(self, row: Row[Any], destination: str, attempt: int, sent: list[Row[Any]]) -> str:
        try:
            return self._listed(self._peer(destination), row, destination, attempt, sent)
        except (MedpipeError, OSError) as error:
            return self._unconfirmed(row, destination, attempt, error)

    def _committed(
        self, peer: Peer, row: Row[Any], sent: list[Row[Any]], attempt: int
    ) -> CommitmentReport | None:
        """The peer's report on these results; asks for it where nobody has asked yet."""
        transactions = {item.transaction for item in sent}
        known = transactions.pop() if len(transactions) == 1 else None
        if known is not None:
            return find_report(self._root, known)
        uids = sorted(item.sop_instance_uid for item in sent)
        transaction = uid_from(
            self._config.site.uid_root, "commitment", row.id, str(row.generation), str(attempt), *uids
        )

        def register(transaction_uid: str) -> None:
            # before the request leaves: the report may come before the call returns
            with self._registry.begin() as connection:
                for item in sent:
                    self._set(connection, item, transaction=transaction_uid)

        references = [(item.sop_class_uid, item.sop_instance_uid) for item in sent]
        report = request_commitment(
            peer,
            self._config.listener.ae_title,
            references,
            transaction,
            register=register,
            wait=_REPORT_WAIT,
        )
        return report or find_report(self._root, transaction)

    def _reported(
        self, row: Row[Any], destination: str, attempt: int, sent: list[Row[Any]], report: CommitmentReport
    ) -> str:
        committed = {uid for _, uid in report.committed}
        failed = {failure.sop_instance_uid: failure for failure in report.failed}
        again = resend = False
        with self._registry.begin() as connection:
            for item in sent:
                failure = failed.get(item.sop_instance_uid)
                if item.sop_instance_uid in committed:
                    self._confirmed(connection, item)
                elif failure is not None and failure.action is FailureAction.ERROR:
                    self._set(connection, item, state=DeliveryState.FAILED.value, reason=failure.sentence)
                elif failure is not None and failure.action is FailureAction.SEND_AGAIN:
                    resend = True
                    self._set(
                        connection,
                        item,
                        state=DeliveryState.WAITING.value,
                        reason=failure.sentence,
                        transaction=None,
                    )
                else:
                    again = True
                    self._set(connection, item, transaction=None)
            state = self._follow(connection, row.id)
            self._next(connection, row, destination, attempt, again=again, resend=resend)
        forget_report(self._root, report.transaction_uid)
        faults.point("after_confirm")
        log.info("study %s: %s: %s by %s", row.study_uid, row.bundle, state.value, destination)
        return state.value

    def _listed(self, peer: Peer, row: Row[Any], destination: str, attempt: int, sent: list[Row[Any]]) -> str:
        """C-FIND instead of storage commitment: does the archive list them?"""
        uids = [item.sop_instance_uid for item in sent]
        missing = missing_instances(peer, self._config.listener.ae_title, row.study_uid, uids)
        with self._registry.begin() as connection:
            for item in sent:
                if item.sop_instance_uid not in missing:
                    self._confirmed(connection, item)
            late = bool(missing) and attempt % 100 >= _LOOKS + 5
            for item in sent if late else ():
                if item.sop_instance_uid in missing:
                    self._set(
                        connection,
                        item,
                        state=DeliveryState.WAITING.value,
                        reason="not listed by the archive",
                    )
            state = self._follow(connection, row.id)
            self._next(connection, row, destination, attempt, again=bool(missing) and not late, resend=late)
        return state.value

    def _next(
        self,
        connection: Connection,
        row: Row[Any],
        destination: str,
        attempt: int,
        *,
        again: bool,
        resend: bool,
    ) -> None:
        """Successors: another look, or sending again (as often as `worker.send_attempts` allows)."""
        sends = attempt // 100
        if resend and sends < self._config.worker.send_attempts:
            self._queue.enqueue_delivery(
                connection,
                "deliver",
                row.id,
                destination,
                row.generation,
                sends + 1,
                delay_after(sends),
                row.priority,
            )
        elif resend:
            for item in self._deliveries(row.id, destination, (DeliveryState.WAITING,), connection):
                self._set(connection, item, state=DeliveryState.FAILED.value)
            self._follow(connection, row.id)
        if again:
            self._look(connection, row, destination, attempt, _LOOK_SECONDS)

    def _look_again(self, row: Row[Any], destination: str, attempt: int, delay: float) -> str:
        with self._registry.begin() as connection:
            self._look(connection, row, destination, attempt, delay)
        return "waiting for the report"

    def _look(
        self, connection: Connection, row: Row[Any], destination: str, attempt: int, delay: float
    ) -> None:
        if attempt % 100 < 98:
            self._queue.enqueue_delivery(
                connection, "confirm", row.id, destination, row.generation, attempt + 1, delay, row.priority
            )

    def _unconfirmed(
        self, row: Row[Any], destination: str, attempt: int, error: MedpipeError | OSError
    ) -> str:
        """The archive is away: what was sent stays `sent`, and is asked about again later and later."""
        log.warning("study %s: %s: not confirmed by %s: %s", row.study_uid, row.bundle, destination, error)
        return self._look_again(row, destination, attempt, delay_after(attempt % 100 + 1))

    # --- rows ----------------------------------------------------------------------------------------------------

    def _peer(self, destination: str) -> Peer:
        try:
            return self._config.peers[destination]
        except KeyError:
            raise PeerRefused(f"{destination} is no longer a peer of the settings") from None

    def _open(self, row: Row[Any], generation: int) -> bool:
        return row.generation == generation and JobState(row.state) is not JobState.CANCELLED

    def _deliveries(
        self,
        job_id: str,
        destination: str,
        states: tuple[DeliveryState, ...],
        connection: Connection | None = None,
    ) -> list[Row[Any]]:
        if connection is None:
            with self._registry.read() as own:
                return self._deliveries(job_id, destination, states, own)
        query = (
            sa.select(delivery, result.c.file, result.c.digest, result.c.sop_class_uid)
            .join(result, result.c.sop_instance_uid == delivery.c.sop_instance_uid)
            .where(
                result.c.job == job_id,
                result.c.superseded_by.is_(None),
                delivery.c.destination == destination,
                delivery.c.state.in_([state.value for state in states]),
            )
            .order_by(result.c.file)
        )
        return list(connection.execute(query).all())

    def _set(self, connection: Connection, item: Row[Any], **values: Any) -> None:
        connection.execute(
            sa.update(delivery)
            .where(
                delivery.c.sop_instance_uid == item.sop_instance_uid,
                delivery.c.destination == item.destination,
            )
            .values(**values)
        )

    def _confirmed(self, connection: Connection, item: Row[Any]) -> None:
        self._set(
            connection,
            item,
            state=DeliveryState.CONFIRMED.value,
            committed_at=time.time(),
            reason=None,
            transaction=None,
        )

    def _follow(self, connection: Connection, job_id: str) -> JobState:
        """The job's state as its deliveries say; a failed delivery makes the job failed, with its reason."""
        rows = connection.execute(
            sa.select(delivery.c.state, delivery.c.destination, delivery.c.reason)
            .join(result, result.c.sop_instance_uid == delivery.c.sop_instance_uid)
            .where(result.c.job == job_id, result.c.superseded_by.is_(None))
        ).all()
        states = {DeliveryState(row.state) for row in rows}
        present = connection.execute(sa.select(job.c.state, job.c.reason).where(job.c.id == job_id)).one()
        if JobState(present.state) in (JobState.CANCELLED, JobState.QUEUED, JobState.RUNNING):
            return JobState(present.state)
        values: dict[str, Any] = {"step": ""}
        if DeliveryState.FAILED in states:
            state = JobState.FAILED
            failed = next(row for row in rows if row.state == DeliveryState.FAILED.value)
            values["reason"] = f"{failed.destination}: {failed.reason}"
        elif DeliveryState.WAITING in states:
            state, values = JobState.SENDING, {"step": "send"}
        elif states == {DeliveryState.CONFIRMED}:
            state = JobState.CONFIRMED
        else:
            state, values = JobState.SENT, {"step": "confirm"}
        self._registry.move(connection, job_id, state, **values)
        return state


Step = Callable[[str, str, int, int], str]
