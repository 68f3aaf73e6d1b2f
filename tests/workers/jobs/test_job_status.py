"""What the operator can do: run again what failed, stop what is under way, and see why."""

from __future__ import annotations

import time
from typing import Any

import pytest

from medpipe.errors import NotFound, UsageError
from medpipe.logs import pseudonym
from workers.named import study_named
from workers.queue import job_workflow_id
from workers.registry import JobPlan
from workers.status import cancel, retry, state_counts, status_rows
from workers.tables import JobState


def test_a_failed_job_is_run_again_as_its_next_generation(site: Any) -> None:
    job_id = site.plan()
    site.put(job_id, state="failed", attempts=4, reason="INFERENCE_CRASHED: died")
    assert retry(site.registry, site.queue, "2.25.1", "me") == [job_id]
    row = site.registry.job(job_id)
    assert (row.state, row.generation, row.attempts, row.reason) == ("queued", 2, 0, None)
    assert job_workflow_id(job_id, 2) in site.workflows()


def test_a_job_that_is_under_way_is_not_run_again(site: Any) -> None:
    with pytest.raises(UsageError, match="nothing to retry"):
        retry(site.registry, site.queue, site.plan(), "me")


def test_an_ignored_study_is_settled_again_by_todays_rules(site: Any) -> None:
    site.sql(
        "INSERT INTO study (study_uid, calling_aes, first_at, last_at, instances, generation, settled, retention) "
        "VALUES ('2.25.1', '[]', 1, 1, 1, 1, 1, 'kept')"
    )
    idle = JobPlan("2.25.1", "", "", "", "c", (), "", 100, (), 1.0, state=JobState.IGNORED, reason="NO_RULE")
    with site.registry.begin() as connection:
        site.registry.plan(connection, idle, site.queue.enqueue, time.time())
    assert retry(site.registry, site.queue, "2.25.1", "me") == ["2.25.1"]
    assert [study.study_uid for study in site.registry.unsettled()] == ["2.25.1"]
    assert [row["state"] for row in status_rows(site.registry)] == ["settling"]


def test_a_cancelled_job_leaves_the_queue_and_its_running_workflow_loses_its_claim(site: Any) -> None:
    waiting, running = site.plan("2.25.1"), site.plan("2.25.2")
    site.claim(job_workflow_id(running, 1))
    site.put(running, state="running")
    for job_id in (waiting, running):
        assert cancel(site.registry, site.queue, job_id, "me") == [job_id]
        assert site.workflows()[job_workflow_id(job_id, 1)][0] == "CANCELLED"
        assert site.state(job_id) == "cancelled"


def test_an_unknown_name_is_said_to_be_unknown(site: Any) -> None:
    with pytest.raises(NotFound, match="neither a study with jobs nor a job"):
        cancel(site.registry, site.queue, "2.25.404", "me")


def test_the_list_can_be_narrowed_to_states_and_to_the_newest(site: Any) -> None:
    jobs = [site.plan(f"2.25.{number}") for number in range(3)]
    site.put(jobs[0], state="failed", reason="boom")
    site.sql(
        "INSERT INTO study (study_uid, calling_aes, first_at, last_at, instances, generation, settled, retention) "
        "VALUES ('2.25.9', '[]', 1, 1, 1, 1, 0, 'kept')"
    )
    every = [row["study"] for row in status_rows(site.registry)]
    assert every[0] == "2.25.9" and len(every) == 4
    assert [row["job"] for row in status_rows(site.registry, states=["failed"])] == [jobs[0]]
    assert [row["study"] for row in status_rows(site.registry, states=["settling"])] == ["2.25.9"]
    assert [row["study"] for row in status_rows(site.registry, limit=2)] == every[:2]
    assert state_counts(site.registry) == {"settling": 1, "failed": 1, "queued": 2}


def test_a_study_is_found_by_its_name_in_the_log(site: Any) -> None:
    job_id = site.plan("2.25.7")
    site.sql(
        "INSERT INTO study (study_uid, calling_aes, first_at, last_at, instances, generation, settled, retention) "
        "VALUES ('2.25.7', '[]', 1, 1, 1, 1, 1, 'kept')"
    )
    assert study_named(site.registry, pseudonym("2.25.7")) == "2.25.7"
    assert cancel(site.registry, site.queue, pseudonym("2.25.7"), "me") == [job_id]


def test_what_no_job_will_see_is_in_the_list_with_its_reason(kept: Any) -> None:
    """A study of which everything lies aside has no job; a person finds it all the same, and the files."""
    came = kept.receive(1, content=b"first")
    kept.study = "2.25.2"
    again = kept.receive(1, content=b"other")  # the same SOP Instance UID under another study
    assert again.aside
    kept.register()
    kept.site.sql("UPDATE study SET settled = generation")
    (row,) = status_rows(kept.registry)
    assert (row["study"], row["job"], row["state"], row["step"]) == ("2.25.2", None, "quarantined", "aside")
    assert row["reason"].startswith("SAME_UID_OTHER_CONTENT") and row["files"] == [again.file]
    assert status_rows(kept.registry, "2.25.2") == [row] and status_rows(kept.registry, "2.25.1") == []
    assert came.file not in row["files"]


def test_what_belongs_to_no_study_is_in_the_list_once_a_reason(kept: Any) -> None:
    for number, reason in enumerate(
        ("its header cannot be parsed", "its header cannot be parsed", "another")
    ):
        kept.receive(number)
        kept.register()
        kept.site.sql(
            "UPDATE instance SET study_uid = NULL, reason = :reason WHERE sop_instance_uid = :uid",
            reason=reason,
            uid=f"2.25.1.{number}",
        )
    kept.site.sql("UPDATE study SET settled = generation")
    rows = status_rows(kept.registry)
    assert {(row["study"], row["reason"], len(row["files"])) for row in rows} == {
        (None, "its header cannot be parsed", 2),
        (None, "another", 1),
    }
