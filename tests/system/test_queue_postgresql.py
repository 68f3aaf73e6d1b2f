"""What is asked of the engine's own tables in PostgreSQL's words, and by which index."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from medpipe.config import parse_config
from workers.forgetting import Forgetter
from workers.queue import JobQueue, is_waited_for, job_workflow_id
from workers.registry import ROUTINE, JobPlan, Registry
from workers.tables import job, study
from workers.watchdog import Watchdog
from workers.work import prepare


@pytest.fixture
def registry(site: Callable[..., Any], postgres: Any) -> Iterator[Registry]:
    config = site(database=postgres.url).config
    prepare(config)
    made = Registry(config.site.database_url)
    yield made
    made.close()


@pytest.fixture
def jobs(registry: Registry) -> Iterator[list[str]]:
    """Two queued jobs."""
    queue = JobQueue(registry.url)
    plans = [
        JobPlan(uid, "phantom-2d", "1", "b" * 64, uid, (), "spots", ROUTINE, (), 5.0)
        for uid in ("1.2", "1.3")
    ]
    with registry.begin() as connection:
        assert all(registry.plan(connection, plan, queue.enqueue, time.time()) for plan in plans)
    yield [plan.id for plan in plans]
    queue.close()


def end(registry: Registry, job_id: str, status: str) -> None:
    with registry.begin() as connection:
        query = "UPDATE dbos.workflow_status SET status = :status WHERE workflow_uuid = :id"
        connection.execute(sa.text(query), {"status": status, "id": job_workflow_id(job_id, 1)})


def test_only_the_job_without_a_workflow_goes_to_the_dead_letter(registry: Registry, jobs: list[str]) -> None:
    _, forsaken = jobs
    end(registry, forsaken, "ERROR")
    watchdog = Watchdog(registry, "host-1-aaaaaaaa", Counter())
    assert watchdog.give_up_forsaken(0.0) == []
    assert watchdog.give_up_forsaken(61.0) == [forsaken]
    assert [registry.job(one).state for one in jobs] == ["queued", "failed"]


def test_a_queue_is_waited_for_until_nothing_waits(registry: Registry, jobs: list[str]) -> None:
    with registry.read() as connection:
        assert is_waited_for(connection, "gpu") and not is_waited_for(connection, "send")
    for job_id in jobs:
        end(registry, job_id, "PENDING")
    with registry.read() as connection:
        assert not is_waited_for(connection, "gpu")


def test_the_unsettled_are_found_without_reading_every_study(registry: Registry) -> None:
    """50,000 studies that are over, and three that are not."""
    with registry.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO study"
                " (study_uid, calling_aes, first_at, last_at, instances, generation, settled, retention)"
                " SELECT '1.2.' || n, '[]', n, n, 1, 1, CASE WHEN n % 20000 = 1 THEN 0 ELSE 1 END, 'kept'"
                " FROM generate_series(1, 50000) AS n"
            )
        )
        connection.execute(sa.text("ANALYZE study"))
    with registry.read() as connection:
        query = sa.select(study).where(study.c.settled < study.c.generation).order_by(study.c.last_at)
        text = str(query.compile(dialect=connection.dialect))
        plan = [row[0] for row in connection.execute(sa.text(f"EXPLAIN {text}"))]
    assert "ix_study_unsettled" in plan[0], plan
    assert [one.study_uid for one in registry.unsettled()] == ["1.2.1", "1.2.20001", "1.2.40001"]


def test_what_ended_long_ago_is_forgotten(registry: Registry, jobs: list[str]) -> None:
    over, under_way = jobs
    for one in jobs:
        end(registry, one, "SUCCESS")
    with registry.begin() as connection:
        connection.execute(sa.text("UPDATE dbos.workflow_status SET completed_at = 1000"))
        connection.execute(sa.update(job).where(job.c.id == over).values(state="confirmed"))
    queue = JobQueue(registry.url)
    assert Forgetter(parse_config({}), registry, queue).round() == 1
    queue.close()
    with registry.read() as connection:
        left = connection.execute(sa.text("SELECT workflow_uuid FROM dbos.workflow_status")).scalars().all()
    assert left == [job_workflow_id(under_way, 1)]
