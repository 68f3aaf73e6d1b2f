"""The workflow `deliver`: results to a destination by C-STORE."""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection, Row

from medpipe.config import Config
from medpipe.errors import Disposition, IntegrityError, MedpipeError, disposition
from medpipe.identity import file_sha256
from medpipe.logs import Event, about
from medpipe.pacs import SendStatus, send
from workers import audit, faults, trace
from workers.errands import Errand, Errands, Overtaken, code_of, reason_of
from workers.jobs import delay_after
from workers.publish import outbox
from workers.tables import DeliveryState, delivery

log = logging.getLogger(__name__)

LOOKS_PER_SENDING = 100
"""`confirm` counts sendings and its own looks in one number: sending * 100 + look."""
_LONGEST_TRUST = 30.0
"""Seconds for which a destination that was away is taken to be so still, and is not asked for each result."""


class Courier:
    """Sends the results of jobs."""

    def __init__(self, config: Config, errands: Errands) -> None:
        self._config, self._errands = config, errands
        self._away: dict[str, tuple[float, MedpipeError]] = {}

    def deliver(self, job_id: str, destination: str, generation: int, attempt: int) -> str:
        """One attempt to send what a destination has not yet got of a job's current results; the job's state after."""
        try:
            return self._deliver(self._errands.begin("deliver", job_id, destination, generation, attempt))
        except Overtaken as why:
            log.info("nothing sent: %s", why, extra=about(Event.RESULT_NOT_SENT, job=job_id))
            return "overtaken"

    def _deliver(self, errand: Errand) -> str:
        waiting = self._errands.of(errand, DeliveryState.WAITING)
        if not waiting:
            return self._sent(errand, [], ())
        span = trace.open_span(errand.job_id, "send", peer=errand.destination, attempt=errand.attempt)
        try:
            self._check_there(errand.destination)
            peer = self._errands.peer(errand)
            files = [self._checked(item) for item in waiting]
            faults.point("before_send")
            statuses = send(
                peer,
                files,
                calling_ae=self._config.listener.ae_title,
                after_each=lambda: faults.point("after_instance"),
            )
            faults.point("after_send")
        except (MedpipeError, OSError) as error:
            span.close(error=code_of(error))
            return self._not_sent(errand, waiting, error)
        refused = sum(not status.is_stored for status in statuses)
        span.close(error="PEER_REFUSED" if refused else None, number=len(statuses))
        log.info(
            "%s: %d objects sent to %s", errand.study, len(statuses), errand.destination,
            extra=about(Event.RESULT_SENT, **errand.facts, number=len(statuses)),
        )  # fmt: skip
        return self._sent(errand, waiting, statuses)

    def _check_there(self, destination: str) -> None:
        """Raises what a destination that is away has just raised: a time-out for each result would hold all slots."""
        until, error = self._away.get(destination, (0.0, None))
        if error is not None and time.monotonic() < until:
            raise error
        self._away.pop(destination, None)

    def _checked(self, item: Row[Any]) -> Path:
        """The result's file, if its bytes are those that were published."""
        path: Path = outbox(self._config.site.root) / str(item.file)
        if not path.is_file() or file_sha256(path) != item.digest:
            raise IntegrityError(f"{item.file}: the outbox no longer holds the bytes that were published")
        return path

    def _sent(self, errand: Errand, waiting: list[Row[Any]], statuses: tuple[SendStatus, ...]) -> str:
        """Also where nothing was left to send: the destination may have got it from an older job, unconfirmed yet."""
        now = time.time()
        with self._errands.writing(errand) as connection:
            for item, status in zip(waiting, statuses, strict=True):
                values: dict[str, Any] = {
                    "status": status.status,
                    "attempts": delivery.c.attempts + 1,
                    "transaction": None,
                }
                if status.is_stored:
                    values |= {"sent_at": now, "reason": None}
                    self._errands.set(connection, item, DeliveryState.SENT, **values)
                else:
                    self._errands.set(connection, item, DeliveryState.FAILED, reason=status.reason, **values)
            state = self._errands.follow(connection, errand)
            if self._errands.of(errand, DeliveryState.SENT, connection):
                self._errands.confirm_later(connection, errand, errand.attempt * LOOKS_PER_SENDING, 0)
            self._note(connection, errand, waiting, statuses)
            faults.point("in_sent")
        return state.value

    def _note(
        self, connection: Connection, errand: Errand, items: list[Row[Any]], statuses: tuple[SendStatus, ...]
    ) -> None:
        """For the audit trail: what went out, and what the destination refused."""
        ways = {
            "source": self._config.listener.ae_title,
            "destination": self._errands.peer(errand).ae_title if items else "",
        }
        outcomes = {"instances sent": Counter[str](), "instances refused": Counter[str]()}
        for item, status in zip(items, statuses, strict=True):
            what = "instances sent" if status.is_stored else "instances refused"
            outcomes[what][item.sop_class_uid] += 1
        for what, classes in outcomes.items():
            if classes:
                detail = {**ways, "job": errand.job_id, "classes": dict(classes)}
                audit.note(connection, "medpipe", what, errand.row.study_uid, detail)

    def _not_sent(self, errand: Errand, waiting: list[Row[Any]], error: MedpipeError | OSError) -> str:
        """Tried again later: without end while the destination is away, else `worker.send_attempts` times in all."""
        outcome, delay = disposition(error), delay_after(errand.attempt)
        away = outcome is Disposition.WAIT
        tried = max(item.attempts for item in waiting) + 1
        again = away or (outcome is Disposition.RETRY and tried < self._config.worker.send_attempts)
        state = DeliveryState.WAITING if again else DeliveryState.FAILED
        reason = reason_of(error)
        if away and isinstance(error, MedpipeError):
            until = time.monotonic() + min(delay, _LONGEST_TRUST)
            self._away.setdefault(errand.destination, (until, error))
        with self._errands.writing(errand) as connection:
            for item in waiting:
                count = delivery.c.attempts + int(not away)
                self._errands.set(connection, item, state, reason=reason, attempts=count)
            after = self._errands.follow(connection, errand)
            if again:
                self._errands.deliver_later(connection, errand, errand.attempt + 1, delay)
        log.warning(
            "%s: not sent to %s: %s", errand.study, errand.destination, reason,
            extra=about(Event.RESULT_NOT_SENT, **errand.facts, reason=reason),
        )  # fmt: skip
        return after.value
