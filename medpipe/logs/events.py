"""The events that a log line may be about, and the facts that go with one.

Names are stable: alarms and searches hold on to them. docs/monitoring.md explains each; a test compares both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from types import MappingProxyType
from typing import Any

Facts = Mapping[str, Any]


class Event(StrEnum):
    """What happened. The part before the dot is what it happened to."""

    # processes
    PROCESS_READY = "process.ready"
    PROCESS_STOPS = "process.stops"
    PROCESS_ENDED = "process.ended"
    PROCESS_STUMBLED = "process.stumbled"
    PROCESS_NOTE = "process.note"
    DATABASE_AWAY = "database.away"
    DATABASE_BACK = "database.back"
    WORK_TAKEN_OVER = "work.taken_over"
    # the wire
    CONNECTION_BROKEN = "connection.broken"
    CONNECTION_REFUSED = "connection.refused"
    # instances and studies
    DISK_FULL = "disk.full"
    INSTANCE_NOT_STORED = "instance.not_stored"
    INSTANCE_ASIDE = "instance.aside"
    INSTANCE_UNREADABLE = "instance.unreadable"
    STUDY_SETTLED = "study.settled"
    STUDY_NOT_SETTLED = "study.not_settled"
    # jobs
    JOB_CLAIMED = "job.claimed"
    JOB_ENDED = "job.ended"
    JOB_ATTEMPT_FAILED = "job.attempt_failed"
    JOB_GIVEN_UP = "job.given_up"
    JOB_PUT_BACK = "job.put_back"
    BUNDLE_NOT_LOADED = "bundle.not_loaded"
    # results and peers
    RESULT_SENT = "result.sent"
    RESULT_NOT_SENT = "result.not_sent"
    RESULT_CONFIRMED = "result.confirmed"
    RESULT_NOT_CONFIRMED = "result.not_confirmed"
    REPORT_NOT_TAKEN = "report.not_taken"
    PEER_AWAY = "peer.away"
    PEER_RECONCILED = "peer.reconciled"
    PEER_NOT_RECONCILED = "peer.not_reconciled"
    FILES_REMOVED = "files.removed"
    QUEUE_TIDIED = "queue.tidied"
    # telling a person
    ALERT_SENT = "alert.sent"
    ALERT_NOT_SENT = "alert.not_sent"
    # the audit trail
    TRAIL_NOT_WRITTEN = "trail.not_written"
    TRAIL_NOT_DELIVERED = "trail.not_delivered"
    # people
    USERS_NOT_READ = "person.users_not_read"
    SIGNED_IN = "person.signed_in"
    SIGN_IN_REFUSED = "person.refused"
    # everything else
    COMMAND_FAILED = "command.failed"
    LIBRARY = "library"
    """A library spoke, or a line of ours is about no event in particular."""


_present: ContextVar[Facts] = ContextVar("medpipe_facts", default=MappingProxyType({}))


def about(event: Event, **facts: Any) -> dict[str, Any]:
    """For a log call's `extra`: the event, and facts as plain values (a study's UID under `study`, and so on)."""
    return {"event": event, "facts": facts}


@contextmanager
def concerning(**facts: Any) -> Iterator[None]:
    """Every line within, whoever writes it, has these facts too."""
    token = _present.set({**_present.get(), **facts})
    try:
        yield
    finally:
        _present.reset(token)


def present() -> Facts:
    """The facts of the `concerning` that surround us."""
    return _present.get()
