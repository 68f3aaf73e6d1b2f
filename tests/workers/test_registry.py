"""The registry: idempotent, each generation of a study settled once, states only along their ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import Connection

from medpipe.errors import IntegrityError
from workers.audit import is_whole, note, records
from workers.registry import JobPlan, Registry
from workers.spool import Sidecar
from workers.tables import JobState, audit, metadata

SIDECAR = Sidecar(
    "f1", "1.2.3", "1.2.840.10008.5.1.4.1.1.7", "1.2", "1.2.1", "1.2.840.10008.1.2.1", "d1", 10, "A", "M", 5.0
)
PLAN = JobPlan("1.2", "fundus", "1", "hash", "content", ("f1",), "rule", 100, ("PACS",), 5.0)


class Queue:
    """What would be on the engine's queue."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, int, int]] = []

    def enqueue(self, connection: Connection, job_id: str, priority: int, generation: int) -> None:
        self.waiting.append((job_id, priority, generation))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = Registry(f"sqlite:///{tmp_path / 'medpipe.sqlite'}")
    made.migrate()
    yield made
    made.close()


def test_migrations_and_tables_never_drift(registry: Registry) -> None:
    with registry.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "medpipe_revision"})
        assert compare_metadata(context, metadata) == []


def test_what_is_open_is_found_without_reading_every_study(registry: Registry) -> None:
    plans: list[str] = []

    @sa.event.listens_for(registry.engine, "before_cursor_execute")
    def explain(connection: Connection, cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if " study" in statement:
            plans.extend(
                row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
            )

    registry.unsettled()
    registry.end_stale_retrievals(60.0)
    assert [plan.split(" USING ")[-1].split(" (")[0] for plan in plans] == [
        "INDEX ix_study_unsettled",
        "INDEX ix_study_retrieved",
    ]


def test_registering_twice_is_registering_once(registry: Registry) -> None:
    assert registry.register([SIDECAR]) == 1
    assert registry.register([SIDECAR]) == 0
    (study,) = registry.unsettled()
    assert (study.study_uid, study.instances, study.calling_aes) == ("1.2", 1, ("A",))


def test_what_came_is_on_record_once_by_study_and_sender(registry: Registry) -> None:
    other = dataclasses.replace(SIDECAR, sop_instance_uid="1.2.5", file="f5", calling_ae="B")
    more = dataclasses.replace(SIDECAR, sop_instance_uid="1.2.6", file="f6", sop_class_uid="1.9")
    unread = dataclasses.replace(
        SIDECAR, sop_instance_uid="1.2.7", file="f7", study_uid=None, unreadable="no"
    )
    registry.register([SIDECAR, other, more, unread])
    registry.register([SIDECAR, other])  # known: nothing came
    with registry.read() as connection:
        told = [(one.what, one.study_uid, one.detail) for one in records(connection)]
    ours = {"destination": "M", "source": "A"}
    secondary = SIDECAR.sop_class_uid
    assert told == [
        ("instances received", "1.2", {**ours, "classes": {secondary: 1, "1.9": 1}}),
        ("instances received", "1.2", {**ours, "source": "B", "classes": {secondary: 1}}),
        ("instances received", None, {**ours, "classes": {secondary: 1}}),
    ]


def test_what_lies_aside_or_cannot_be_read_is_reported_but_starts_nothing(registry: Registry) -> None:
    odd = dataclasses.replace(
        SIDECAR, sop_instance_uid="1.2.9", study_uid=None, unreadable="the header cannot be parsed"
    )
    aside = dataclasses.replace(SIDECAR, digest="d2", file="f2", aside=True)
    registry.register([odd, aside])
    assert registry.unsettled() == []
    assert {row.file for row in registry.odd_instances()} == {"f1", "f2"}


def test_a_generation_is_settled_once_whoever_comes_second(registry: Registry) -> None:
    registry.register([SIDECAR])
    (study,) = registry.unsettled()
    queue = Queue()
    assert registry.settle(study, [PLAN], queue.enqueue) == [PLAN.id]
    assert registry.settle(study, [PLAN], queue.enqueue) == []
    assert queue.waiting == [(PLAN.id, 100, 1)]
    assert registry.unsettled() == []


def test_a_late_instance_gives_a_new_job_and_the_waiting_one_is_cancelled(registry: Registry) -> None:
    registry.register([SIDECAR])
    queue = Queue()
    registry.settle(registry.unsettled()[0], [PLAN], queue.enqueue)
    registry.register([dataclasses.replace(SIDECAR, sop_instance_uid="1.2.4", file="f3", digest="d3")])
    later = dataclasses.replace(PLAN, content="more", instances=("f1", "f3"))
    registry.settle(registry.unsettled()[0], [later], queue.enqueue)
    assert {row.id: row.state for row in registry.jobs()} == {PLAN.id: "cancelled", later.id: "queued"}


def test_a_marked_retrieval_keeps_the_rules_away(registry: Registry) -> None:
    registry.mark_retrieval("1.2", "token")
    registry.register([SIDECAR])
    assert registry.unsettled() == []
    registry.mark_retrieval("1.2", None)
    assert len(registry.unsettled()) == 1


def test_a_job_goes_only_where_its_state_allows(registry: Registry) -> None:
    registry.register([SIDECAR])
    queue = Queue()
    registry.settle(registry.unsettled()[0], [PLAN], queue.enqueue)
    with (
        pytest.raises(IntegrityError, match="cannot go from queued to confirmed"),
        registry.begin() as connection,
    ):
        registry.move(connection, PLAN.id, JobState.CONFIRMED)
    assert registry.job(PLAN.id).state == "queued"


def test_the_audit_trail_shows_what_was_taken_out(registry: Registry) -> None:
    with registry.begin() as connection:
        for n in range(3):
            note(connection, "tester", "something", "1.2", {"n": n})
        assert is_whole(connection)
        connection.execute(sa.update(audit).where(audit.c.number == 2).values(who="somebody else"))
        assert not is_whole(connection)
