"""The registry's tables (SQLAlchemy Core, the same on SQLite and PostgreSQL). No pixels and no patient data in them."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMING)
UID = String(64)
DIGEST = String(64)
"""Times are seconds since 1970 UTC, from the clock of the process that wrote them unless said otherwise."""


class JobState(StrEnum):
    """Where a job stands; each state maps to one UPS state (PS3.4 CC.1.1)."""

    SETTLING = "settling"
    QUEUED = "queued"
    RUNNING = "running"
    SENDING = "sending"
    SENT = "sent"
    CONFIRMED = "confirmed"
    IGNORED = "ignored"
    QUARANTINED = "quarantined"
    FAILED = "failed"
    CANCELLED = "cancelled"


UPS_STATE: dict[JobState, str] = {
    JobState.SETTLING: "SCHEDULED",
    JobState.QUEUED: "SCHEDULED",
    JobState.RUNNING: "IN PROGRESS",
    JobState.SENDING: "IN PROGRESS",
    JobState.SENT: "COMPLETED",
    JobState.CONFIRMED: "COMPLETED",
    JobState.IGNORED: "CANCELED",
    JobState.QUARANTINED: "CANCELED",
    JobState.FAILED: "CANCELED",
    JobState.CANCELLED: "CANCELED",
}

FINAL = frozenset(
    {JobState.CONFIRMED, JobState.IGNORED, JobState.QUARANTINED, JobState.FAILED, JobState.CANCELLED}
)

REMOVED = "removed"
"""The step of a job whose files a person has removed; it is over, whatever its state."""

_ANYWHERE = frozenset({JobState.CANCELLED, JobState.FAILED})
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.SETTLING: frozenset({JobState.QUEUED, JobState.IGNORED}) | _ANYWHERE,
    JobState.QUEUED: frozenset({JobState.RUNNING}) | _ANYWHERE,
    JobState.RUNNING: frozenset(
        {
            JobState.RUNNING,
            JobState.QUEUED,
            JobState.SENDING,
            JobState.SENT,
            JobState.CONFIRMED,
            JobState.QUARANTINED,
        }
    )
    | _ANYWHERE,
    JobState.SENDING: frozenset(
        {JobState.SENDING, JobState.SENT, JobState.CONFIRMED, JobState.QUARANTINED, JobState.QUEUED}
    )
    | _ANYWHERE,
    JobState.SENT: frozenset({JobState.CONFIRMED, JobState.SENDING, JobState.QUARANTINED, JobState.QUEUED})
    | _ANYWHERE,
    JobState.CONFIRMED: frozenset({JobState.QUEUED, JobState.SENDING}),
    JobState.IGNORED: frozenset({JobState.QUEUED}),
    JobState.QUARANTINED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.FAILED: frozenset(
        {JobState.QUEUED, JobState.SENDING, JobState.SENT, JobState.CONFIRMED, JobState.CANCELLED}
    ),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}
"""From -> to. A retry or a forced reprocess queues a finished job again as its next generation."""


class Retention(StrEnum):
    """What is left of a study's or an instance's files; the rows stay. Marked first, then removed."""

    KEPT = "kept"
    REMOVING = "removing"
    REMOVED = "removed"


class DeliveryState(StrEnum):
    """Where one result stands at one destination."""

    WAITING = "waiting"
    SENT = "sent"
    CONFIRMED = "confirmed"
    FAILED = "failed"


study = Table(
    "study",
    metadata,
    Column("study_uid", UID, primary_key=True),
    Column("calling_aes", JSON, nullable=False, default=list),
    Column("first_at", Float, nullable=False),
    Column("last_at", Float, nullable=False),
    Column("instances", Integer, nullable=False, default=0, comment="those whose files are kept"),
    Column("generation", Integer, nullable=False, default=0, comment="counts changes of content"),
    Column(
        "settled", Integer, nullable=False, default=0, comment="the last generation that was turned into jobs"
    ),
    Column("reason", Text, comment="why nothing became of it, where that concerns the whole study"),
    Column(
        "retrieval", String(32), comment="token of the reprocess that is retrieving: no rule starts a job"
    ),
    Column("retrieval_at", Float),
    Column("retention", String(16), nullable=False, default=Retention.KEPT.value),
)
"""Each of its indexes holds the few studies that something is still to be done for, however many there have been."""
for _name, _column, _open in (
    ("unsettled", study.c.last_at, study.c.settled < study.c.generation),
    ("retrieved", study.c.retrieval_at, study.c.retrieval.is_not(None)),
    ("kept", study.c.last_at, study.c.retention == Retention.KEPT.value),
):
    Index(f"ix_study_{_name}", _column, postgresql_where=_open, sqlite_where=_open)

instance = Table(
    "instance",
    metadata,
    Column("sop_instance_uid", UID, primary_key=True),
    Column("digest", DIGEST, primary_key=True),
    Column("study_uid", UID, index=True, comment="null where the header could not be read"),
    Column("series_uid", UID, index=True),
    Column("sop_class_uid", UID, nullable=False),
    Column("transfer_syntax", UID, nullable=False),
    Column("file", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("received_at", Float, nullable=False),
    Column("aside", Boolean, nullable=False, default=False),
    Column("reason", Text),
    Column("retention", String(16), nullable=False, server_default=Retention.KEPT.value),
)

job = Table(
    "job",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("study_uid", UID, nullable=False, index=True),
    Column("bundle", String(64), nullable=False),
    Column("bundle_version", String(64), nullable=False),
    Column("bundle_hash", DIGEST, nullable=False),
    Column("content", DIGEST, nullable=False, comment="digest of the instances used"),
    Column("instances", JSON, nullable=False, comment="spool names of the instances used"),
    Column("rule", String(100), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("destinations", JSON, nullable=False),
    Column("generation", Integer, nullable=False, default=1),
    Column("state", String(16), nullable=False, index=True),
    Column("step", String(16), nullable=False, default=""),
    Column("attempts", Integer, nullable=False, default=0),
    Column("reason", Text),
    Column("seconds", JSON, nullable=False, default=dict),
    Column("received_at", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("study_uid", "bundle_hash", "content"),
)

image = Table(
    "image",
    metadata,
    Column("job", String(32), ForeignKey("job.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("name", String(80), nullable=False),
    Column("series_uid", UID, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reason", Text),
    Column("lesions", JSON, nullable=False, default=dict),
)

result = Table(
    "result",
    metadata,
    Column("sop_instance_uid", UID, primary_key=True),
    Column("job", String(32), ForeignKey("job.id"), nullable=False, index=True),
    Column("image", String(80)),
    Column("sop_class_uid", UID, nullable=False),
    Column("series_uid", UID, nullable=False),
    Column("file", Text, nullable=False, comment="relative to the outbox"),
    Column("digest", DIGEST, nullable=False),
    Column("superseded_by", String(32), comment="job whose results replaced this one; null while current"),
    Column("created_at", Float, nullable=False),
)

delivery = Table(
    "delivery",
    metadata,
    Column("sop_instance_uid", UID, ForeignKey("result.sop_instance_uid"), primary_key=True),
    Column("destination", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("status", Integer, comment="the last DIMSE status"),
    Column("reason", Text),
    Column("sent_at", Float),
    Column("committed_at", Float),
    Column("transaction", UID, comment="of the storage commitment asked for"),
    Index("ix_delivery_state", "state"),
)

executor = Table(
    "executor",
    metadata,
    Column("executor_id", String(128), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("boot_id", String(36), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("beat_at", Float, nullable=False, comment="by the database's clock"),
)

audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("who", String(128), nullable=False),
    Column("what", String(64), nullable=False),
    Column("study_uid", UID),
    Column("detail", JSON, nullable=False),
    Column("chain", DIGEST, nullable=False, comment="digest of this row and of the chain before it"),
)
