"""No claim that does not run and no job without a workflow stands still unseen."""

from __future__ import annotations

from collections import Counter
from typing import Any

from workers.queue import job_workflow_id
from workers.watchdog import Watchdog

ME = "host-1-aaaaaaaa"


def test_a_claim_that_does_not_run_is_put_back(site: Any) -> None:
    runs, forgotten = job_workflow_id(site.plan("2.25.1"), 1), job_workflow_id(site.plan("2.25.2"), 1)
    for workflow in (runs, forgotten):
        site.claim(workflow, ME)
    watchdog = Watchdog(site.registry, ME, Counter({runs: 1}))
    assert watchdog.put_back_forgotten(0.0) == []
    assert watchdog.put_back_forgotten(29.0) == []
    assert watchdog.put_back_forgotten(31.0) == [forgotten]
    assert (site.workflows()[forgotten][0], site.workflows()[runs][0]) == ("ENQUEUED", "PENDING")


def test_a_job_whose_workflow_ended_without_it_goes_to_the_dead_letter(site: Any) -> None:
    served, forsaken = site.plan("2.25.1"), site.plan("2.25.2")
    site.end(job_workflow_id(forsaken, 1), "ERROR")
    site.put(forsaken, state="running")
    watchdog = Watchdog(site.registry, ME, Counter())
    assert watchdog.give_up_forsaken(0.0) == []
    assert watchdog.give_up_forsaken(61.0) == [forsaken]
    assert (site.state(forsaken), site.state(served)) == ("failed", "queued")
    assert "medpipe retry" in site.registry.job(forsaken).reason


def test_what_was_sent_and_is_asked_about_by_nobody_any_more_is_said_to_be_unconfirmed(site: Any) -> None:
    asked, forsaken, over = site.plan("2.25.1"), site.plan("2.25.2"), site.plan("2.25.3")
    for job_id in (forsaken, over):
        site.end(job_workflow_id(job_id, 1))
    for job_id in (asked, forsaken):
        site.put(job_id, state="sent", step="confirm")
    site.put(over, state="sent", step="")
    watchdog = Watchdog(site.registry, ME, Counter())
    assert watchdog.give_up_forsaken(0.0) == []
    assert watchdog.give_up_forsaken(61.0) == [forsaken]
    row = site.registry.job(forsaken)
    assert (row.state, row.step) == ("sent", "") and row.reason.startswith("not confirmed: ENGINE")
    assert site.registry.job(asked).step == "confirm"


def test_a_job_that_moves_meanwhile_is_left_alone(site: Any) -> None:
    job_id = site.plan()
    site.end(job_workflow_id(job_id, 1))
    watchdog = Watchdog(site.registry, ME, Counter())
    watchdog.give_up_forsaken(0.0)
    site.put(job_id, updated_at=5000.0)
    assert watchdog.give_up_forsaken(61.0) == []
