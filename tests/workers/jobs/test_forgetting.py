"""The engine's rows of what ended long ago are forgotten, and none that anybody may still ask for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from workers import forgetting
from workers.forgetting import Forgetter
from workers.queue import job_workflow_id
from workers.status import retry, status_rows

DAY = 86_400.0


def end(site: Any, workflow: str, days_ago: float, status: str = "SUCCESS") -> None:
    """What the engine writes at a workflow's end, its step and its answer included."""
    at = int((time.time() - days_ago * DAY) * 1000)
    change = "UPDATE {workflows} SET status = :status, completed_at = :at WHERE workflow_uuid = :id"
    site.sql(change, status=status, at=at, id=workflow)
    step = (
        "INSERT INTO operation_outputs (workflow_uuid, function_id, function_name) VALUES (:id, 1, 'process')"
    )
    site.sql(step, id=workflow)


def ended(site: Any, study: str, days_ago: float, state: str = "confirmed", status: str = "SUCCESS") -> str:
    job_id: str = site.plan(study)
    end(site, job_workflow_id(job_id, 1), days_ago, status)
    site.put(job_id, state=state)
    return job_id


def round_of(site: Any) -> int:
    return Forgetter(site.config, site.registry, site.queue).round()


@pytest.mark.parametrize("status", ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"])
def test_what_ended_long_ago_is_forgotten_and_its_job_is_not(site: Any, status: str) -> None:
    old, young = ended(site, "2.25.1", 31, status=status), ended(site, "2.25.2", 29, status=status)
    assert round_of(site) == 1
    assert set(site.workflows()) == {job_workflow_id(young, 1)}
    with site.registry.read() as connection:
        steps = connection.execute(sa.text("SELECT workflow_uuid FROM operation_outputs")).scalars().all()
    assert steps == [job_workflow_id(young, 1)]
    assert {row["job"] for row in status_rows(site.registry)} == {old, young}


@pytest.mark.parametrize("state", ["queued", "running", "sending"])
def test_of_a_job_that_is_under_way_nothing_is_forgotten(site: Any, state: str) -> None:
    """Its present step may be begun anew, and then puts the next one on the queue again: that must be one."""
    ended(site, "2.25.1", 31, state)
    assert round_of(site) == 0


def test_of_a_job_that_waits_for_confirmation_nothing_is_forgotten(site: Any) -> None:
    job_id = ended(site, "2.25.1", 31, "sent")
    site.put(job_id, step="confirm")
    assert round_of(site) == 0
    site.put(job_id, step="")
    assert round_of(site) == 1


def test_of_a_failed_job_whose_other_destination_is_waited_for_nothing_is_forgotten(site: Any) -> None:
    job_id = ended(site, "2.25.1", 31, "failed")
    with site.registry.begin() as connection:
        site.queue.enqueue_delivery(connection, "deliver", job_id, "ARCHIVE", 1, 7, 900.0, 100)
    assert round_of(site) == 0


@pytest.mark.parametrize("status", ["ENQUEUED", "DELAYED", "PENDING"])
def test_what_waits_or_runs_stays_however_old(site: Any, status: str) -> None:
    job_id = site.plan()
    site.put(job_id, state="confirmed")
    site.sql("UPDATE {workflows} SET status = :status, created_at = 1000", status=status)
    assert round_of(site) == 0 and job_workflow_id(job_id, 1) in site.workflows()


def test_a_forgotten_job_is_run_again_under_a_new_name(site: Any) -> None:
    job_id = ended(site, "2.25.1", 31, "failed")
    assert round_of(site) == 1
    retry(site.registry, site.queue, job_id, "me")
    assert site.workflows() == {job_workflow_id(job_id, 2): ("ENQUEUED", 100)}


def test_many_go_some_at_a_time(make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "_BATCH", 2)
    monkeypatch.setattr(forgetting, "_PAUSE_SECONDS", 0.0)
    site = make_site(site={"keep_queue_days": 3})
    for number in range(5):
        ended(site, f"2.25.{number}", 4)
    assert round_of(site) == 5 and site.workflows() == {}
