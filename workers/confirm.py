"""The workflow `confirm`: a destination's word that it keeps what it was sent.

Storage commitment where the peer offers it (PS3.4 annex J; the report comes to our listener, which writes it to a
file), else, or when no report comes, C-FIND.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from sqlalchemy.engine import Connection, Row

from medpipe.config import Config, Peer
from medpipe.errors import Disposition, MedpipeError, PeerRefused, disposition
from medpipe.identity import uid_from
from medpipe.logs import Event, about
from medpipe.pacs import CommitmentReport, FailureAction, missing_instances, request_commitment
from workers import faults, trace
from workers.commitments import expect_report, find_report, forget_report
from workers.deliver import LOOKS_PER_SENDING
from workers.errands import UNCONFIRMED, Errand, Errands, Overtaken, reason_of
from workers.jobs import delay_after
from workers.tables import DeliveryState, JobState

log = logging.getLogger(__name__)

_REPORT_WAIT = 1.0
_LOOK_SECONDS = 2.0
_LOOKS_FOR_REPORT = 15
"""How often a storage commitment report is looked for before C-FIND is asked instead."""
_LOOKS_IN_ARCHIVE = 20
"""How many looks until what the archive does not list is sent again."""
_LAST_LOOK = LOOKS_PER_SENDING - 1


class Notary:
    """Has destinations confirm what they were sent."""

    def __init__(self, config: Config, errands: Errands) -> None:
        self._config, self._errands = config, errands

    def confirm(self, job_id: str, destination: str, generation: int, attempt: int) -> str:
        """One look whether the destination keeps the job's results; `attempt` counts sendings and looks."""
        try:
            errand = self._errands.begin("confirm", job_id, destination, generation, attempt)
            span = trace.open_span(job_id, "confirm", peer=destination, look=_look(errand))
            outcome = self._confirm(errand)
            span.close(outcome=outcome)
            return outcome
        except Overtaken as why:
            log.info("nothing confirmed: %s", why, extra=about(Event.RESULT_NOT_CONFIRMED, job=job_id))
            return "overtaken"

    def _confirm(self, errand: Errand) -> str:
        sent = self._errands.of(errand, DeliveryState.SENT)
        if not sent:
            return "nothing to confirm"
        faults.point("before_confirm")
        try:
            peer = self._errands.peer(errand)
            if peer.commitment and _look(errand) < _LOOKS_FOR_REPORT:
                try:
                    report = self._committed(peer, errand, sent)
                except PeerRefused as error:
                    log.info(
                        "%s; C-FIND confirms", error, extra=about(Event.REPORT_NOT_TAKEN, **errand.facts)
                    )
                else:
                    return self._reported(errand, sent, report) if report else self._wait(errand)
            return self._listed(peer, errand, sent)
        except PeerRefused as error:
            return self._unconfirmed(errand, reason_of(error))
        except (MedpipeError, OSError) as error:
            # what was sent stays `sent`, and is asked about again later and later; without end while the peer is away
            log.warning(
                "%s: not confirmed by %s: %s", errand.study, errand.destination, error,
                extra=about(Event.RESULT_NOT_CONFIRMED, **errand.facts, reason=reason_of(error)),
            )  # fmt: skip
            away = disposition(error) is Disposition.WAIT
            return self._wait(
                errand, delay_after(self._questions(errand)), reason_of(error), without_end=away
            )

    def _questions(self, errand: Errand) -> int:
        """How often the archive may have been asked by now: most looks for a report ask nobody, and do not count."""
        look = _look(errand)
        waited = self._errands.peer(errand).commitment and look >= _LOOKS_FOR_REPORT
        return look + 1 - (_LOOKS_FOR_REPORT if waited else 0)

    def _committed(self, peer: Peer, errand: Errand, sent: list[Row[Any]]) -> CommitmentReport | None:
        """The peer's report on these results; asks for it where nobody has asked yet."""
        root = self._config.site.root
        transactions = {item.transaction for item in sent}
        known = transactions.pop() if len(transactions) == 1 else None
        if known is not None:
            return find_report(root, known)
        uids = sorted(item.sop_instance_uid for item in sent)
        counters = (str(errand.generation), str(errand.attempt))
        transaction = uid_from(self._config.site.uid_root, "commitment", errand.job_id, *counters, *uids)

        def register(transaction_uid: str) -> None:
            # before the request leaves: the report may come before the call returns
            expect_report(root, transaction_uid, peer.ae_title)
            with self._errands.writing(errand) as connection:
                for item in sent:
                    self._errands.set(connection, item, DeliveryState.SENT, transaction=transaction_uid)

        report = request_commitment(
            peer,
            self._config.listener.ae_title,
            [(item.sop_class_uid, item.sop_instance_uid) for item in sent],
            transaction,
            register=register,
            wait=_REPORT_WAIT,
        )
        faults.point("after_request")
        return report or find_report(root, transaction)

    def _reported(self, errand: Errand, sent: list[Row[Any]], report: CommitmentReport) -> str:
        """Takes over what a storage commitment report says of each object."""
        committed = {uid for _, uid in report.committed}
        failed = {failure.sop_instance_uid: failure for failure in report.failed}
        ask_again = send_again = False
        with self._errands.writing(errand) as connection:
            for item in sent:
                failure = failed.get(item.sop_instance_uid)
                action = failure.action if failure is not None else FailureAction.ASK_AGAIN
                reason = failure.sentence if failure is not None else "the report does not name it"
                if failure is None and item.sop_instance_uid in committed:
                    self._keep(connection, item)
                elif action is FailureAction.ERROR:
                    self._errands.set(connection, item, DeliveryState.FAILED, reason=reason)
                elif action is FailureAction.SEND_AGAIN:
                    send_again = True
                    self._errands.set(
                        connection, item, DeliveryState.WAITING, reason=reason, transaction=None
                    )
                else:
                    ask_again = True
                    self._errands.set(connection, item, DeliveryState.SENT, reason=reason, transaction=None)
            state = self._go_on(connection, errand, ask_again=ask_again, send_again=send_again)
            faults.point("in_confirm")
        forget_report(self._config.site.root, report.transaction_uid)
        faults.point("after_confirm")
        log.info(
            "%s: %s by %s", errand.study, state.value, errand.destination,
            extra=about(Event.RESULT_CONFIRMED, **errand.facts, state=state.value),
        )  # fmt: skip
        return state.value

    def _listed(self, peer: Peer, errand: Errand, sent: list[Row[Any]]) -> str:
        """C-FIND instead of storage commitment: does the archive list them?"""
        uids = [item.sop_instance_uid for item in sent]
        missing = missing_instances(peer, self._config.listener.ae_title, errand.row.study_uid, uids)
        late = bool(missing) and _look(errand) >= _LOOKS_IN_ARCHIVE
        with self._errands.writing(errand) as connection:
            for item in sent:
                if item.sop_instance_uid not in missing:
                    self._keep(connection, item)
                elif late:
                    reason = "the archive does not list it"
                    self._errands.set(
                        connection, item, DeliveryState.WAITING, reason=reason, transaction=None
                    )
            state = self._go_on(connection, errand, ask_again=bool(missing) and not late, send_again=late)
            faults.point("in_confirm")
        faults.point("after_confirm")
        log.info(
            "%s: %s at %s", errand.study, state.value, errand.destination,
            extra=about(Event.RESULT_CONFIRMED, **errand.facts, state=state.value),
        )  # fmt: skip
        return state.value

    def _keep(self, connection: Connection, item: Row[Any]) -> None:
        now = time.time()
        self._errands.set(
            connection, item, DeliveryState.CONFIRMED, committed_at=now, reason=None, transaction=None
        )

    def _go_on(
        self, connection: Connection, errand: Errand, *, ask_again: bool, send_again: bool
    ) -> JobState:
        """The job's state, and its successors: another look, or sending again (`worker.send_attempts` times in all)."""
        waiting = self._errands.of(errand, DeliveryState.WAITING, connection)
        sendings = max((item.attempts for item in waiting), default=0)
        if send_again and sendings >= self._config.worker.send_attempts:
            send_again = False
            for item in waiting:
                reason = f"{item.reason}, though it was sent {sendings} times"
                self._errands.set(connection, item, DeliveryState.FAILED, reason=reason)
        state = self._errands.follow(connection, errand)
        if send_again:
            following = errand.attempt // LOOKS_PER_SENDING + 1
            self._errands.deliver_later(connection, errand, following, delay_after(sendings))
        elif ask_again:
            self._errands.confirm_later(connection, errand, errand.attempt + 1, _LOOK_SECONDS)
        return state

    def _wait(
        self,
        errand: Errand,
        delay: float = _LOOK_SECONDS,
        reason: str = "no report came",
        *,
        without_end: bool = False,
    ) -> str:
        """Another look later; after the last one, unless there is none, the results stay `sent`, with the reason."""
        if _look(errand) >= _LAST_LOOK and not without_end:
            return self._unconfirmed(errand, reason)
        with self._errands.writing(errand) as connection:
            for item in self._errands.of(errand, DeliveryState.SENT, connection) if without_end else ():
                self._errands.set(connection, item, DeliveryState.SENT, reason=reason)
            # beyond the last look the next sending's numbers begin: it only has to be a number that was not used
            self._errands.confirm_later(connection, errand, errand.attempt + 1, delay)
        return "asked again later"

    def _unconfirmed(self, errand: Errand, reason: str) -> str:
        """The results stay `sent`, and nobody asks any more."""
        with self._errands.writing(errand) as connection:
            for item in self._errands.of(errand, DeliveryState.SENT, connection):
                self._errands.set(
                    connection, item, DeliveryState.SENT, reason=f"{UNCONFIRMED}: {reason}", transaction=None
                )
            state = self._errands.follow(connection, errand)
        log.warning(
            "%s: sent, but %s by %s: %s", errand.study, UNCONFIRMED, errand.destination, reason,
            extra=about(Event.RESULT_NOT_CONFIRMED, **errand.facts, reason=reason),
        )  # fmt: skip
        return state.value


def _look(errand: Errand) -> int:
    return errand.attempt % LOOKS_PER_SENDING
