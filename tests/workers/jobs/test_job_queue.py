"""A job's place on the queue is part of the caller's transaction, has a priority, and is there once."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from local_process import free_port

from workers.database import is_away
from workers.queue import (
    claimed_workflows,
    is_waited_for,
    job_of,
    job_workflow_id,
    migrate_engine,
    open_workflows,
    put_back,
    served_jobs,
)
from workers.registry import STAT


def test_a_rolled_back_transaction_leaves_nothing_on_the_queue(site: Any) -> None:
    with pytest.raises(RuntimeError), site.registry.begin() as connection:
        site.queue.enqueue(connection, "a" * 32, 100, 1)
        raise RuntimeError
    assert site.workflows() == {}


def test_every_workflow_has_its_priority(site: Any) -> None:
    """Without one the engine takes 0, which is before STAT."""
    routine, urgent = site.plan("2.25.1"), site.plan("2.25.2", priority=STAT)
    assert site.workflows() == {
        job_workflow_id(routine, 1): ("ENQUEUED", 100),
        job_workflow_id(urgent, 1): ("ENQUEUED", 1),
    }


def test_the_same_attempt_twice_is_one(site: Any) -> None:
    job_id = site.plan()
    with site.registry.begin() as connection:
        site.queue.enqueue_attempt(connection, job_id, 100, 1, 2, 30.0)
    with site.registry.begin() as connection:
        site.queue.enqueue_attempt(connection, job_id, 100, 1, 2, 30.0)
    assert site.workflows()[job_workflow_id(job_id, 1, 2)] == ("DELAYED", 100)
    assert len(site.workflows()) == 2


def test_a_workflow_names_its_job(site: Any) -> None:
    job_id, other = site.plan("2.25.1"), site.plan("2.25.2")
    with site.registry.begin() as connection:
        site.queue.enqueue_delivery(connection, "deliver", job_id, "PACS", 1, 1, 0, 100)
    with site.registry.read() as connection:
        assert len(open_workflows(connection, job_id)) == 2
        assert {job_of(one) for one in open_workflows(connection, job_id)} == {job_id}
        served = served_jobs(connection)
        assert sorted(connection.execute(sa.select(served.c.job)).scalars()) == sorted([job_id, other])


def test_a_queue_is_waited_for_until_the_last_workflow_is_claimed(site: Any) -> None:
    workflow = job_workflow_id(site.plan(), 1)
    with site.registry.read() as connection:
        assert is_waited_for(connection, "gpu") and not is_waited_for(connection, "send")
    site.claim(workflow, "me")
    with site.registry.read() as connection:
        assert not is_waited_for(connection, "gpu")


def test_cancelling_takes_a_waiting_workflow_off_the_queue(site: Any) -> None:
    job_id = site.plan()
    site.queue.cancel([job_workflow_id(job_id, 1)])
    assert site.workflows()[job_workflow_id(job_id, 1)][0] == "CANCELLED"


def test_a_claim_that_is_given_back_is_the_next_one(site: Any) -> None:
    workflow = job_workflow_id(site.plan(), 1)
    site.claim(workflow, "me")
    with site.registry.begin() as connection:
        put_back(connection, "somebody else", workflow)
        assert claimed_workflows(connection, "me") == [workflow]
        put_back(connection, "me", workflow)
        assert claimed_workflows(connection, "me") == []
    assert site.workflows()[workflow] == ("ENQUEUED", 1)


def test_a_database_that_is_away_while_the_engines_tables_are_made_is_said_to_be_so() -> None:
    with pytest.raises(sa.exc.OperationalError) as raised:
        migrate_engine(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/medpipe")
    assert is_away(raised.value)
