"""One fenced transaction makes results visible; a newer finding replaces an older one, never the reverse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medpipe.identity import uid_from
from workers.fence import LostClaim
from workers.publish import outbox, publish
from workers.queue import job_workflow_id
from workers.tables import JobState

Finding = Callable[..., tuple[Path, dict[str, Any]]]


def run(site: Any, job_id: str, finding: tuple[Path, dict[str, Any]]) -> JobState:
    """Claims the job's workflow and publishes what was found."""
    row = site.registry.job(job_id)
    workflow = job_workflow_id(job_id, row.generation)
    token = site.claim(workflow)
    site.put(job_id, state="running")
    state = publish(site.registry, site.queue, site.root, row, *finding, workflow, token)
    site.end(workflow)
    return state


def folders(site: Any) -> list[str]:
    return sorted(path.name for path in outbox(site.root).iterdir())


def test_results_deliveries_state_and_the_next_workflow_appear_together(site: Any, finding: Finding) -> None:
    job_id = site.plan()
    assert run(site, job_id, finding("A", "B")) is JobState.SENDING
    assert site.current() == {uid_from("2.25", name): job_id for name in "AB"}
    assert set(site.deliveries().values()) == {"waiting"}
    assert f"deliver:{job_id}:g1:PACS:a1" in site.workflows()
    (folder,) = folders(site)
    names = {path.name for path in (outbox(site.root) / folder).iterdir()}
    assert names == {"A.seg.dcm", "B.seg.dcm", "manifest.json"}


def test_a_lost_claim_leaves_nothing_behind(site: Any, finding: Finding) -> None:
    job_id = site.plan()
    workflow = job_workflow_id(job_id, 1)
    stale = site.claim(workflow)
    site.claim(workflow, "another worker")
    site.put(job_id, state="running")
    with pytest.raises(LostClaim):
        publish(
            site.registry, site.queue, site.root, site.registry.job(job_id), *finding("A"), workflow, stale
        )
    assert (site.current(), site.deliveries(), folders(site)) == ({}, {}, [])


def test_a_publication_whose_answer_was_lost_is_repeated_without_harm(site: Any, finding: Finding) -> None:
    job_id = site.plan()
    workflow = job_workflow_id(job_id, 1)
    token = site.claim(workflow)
    site.put(job_id, state="running")
    found = finding("A")
    for _ in range(2):
        row = site.registry.job(job_id)
        assert publish(site.registry, site.queue, site.root, row, *found, workflow, token) is JobState.SENDING
    assert site.current() == {uid_from("2.25", "A"): job_id}
    assert len(folders(site)) == 1


def test_a_newer_job_replaces_other_findings_and_takes_over_the_same_ones(
    site: Any, finding: Finding
) -> None:
    first, second = site.plan(content="one picture"), site.plan(content="two pictures")
    site.put(first, state="queued")
    site.put(second, state="queued")
    run(site, first, finding("A", "B"))
    run(site, second, finding("B", "C"))
    assert site.current() == {uid_from("2.25", name): second for name in "BC"}
    assert site.state(first) == "cancelled", "its results are not sent any more"


def test_an_older_job_that_ends_late_changes_nothing(site: Any, finding: Finding) -> None:
    first, second = site.plan(content="one picture"), site.plan(content="two pictures")
    site.put(first, state="queued")
    run(site, second, finding("B"))
    assert run(site, first, finding("A")) is JobState.CANCELLED
    assert site.current() == {uid_from("2.25", "B"): second}


def test_what_the_destination_has_confirmed_is_sent_again_only_when_asked(
    site: Any, finding: Finding
) -> None:
    job_id = site.plan()
    run(site, job_id, finding("A"))
    site.sql("UPDATE delivery SET state = 'confirmed'")
    site.put(job_id, state="confirmed")
    newer = site.plan(content="a report came, too")
    assert run(site, newer, finding("A")) is JobState.CONFIRMED
    with site.registry.begin() as connection:
        site.registry.again(connection, newer, site.queue.enqueue, "me")
    assert run(site, newer, finding("A")) is JobState.SENDING


def test_a_refused_study_without_results_is_quarantined(site: Any, finding: Finding) -> None:
    assert run(site, site.plan(), finding(state="quarantined")) is JobState.QUARANTINED


def test_a_job_that_is_sent_nowhere_ends_as_sent(site: Any, finding: Finding) -> None:
    assert run(site, site.plan(destinations=()), finding("A")) is JobState.SENT
