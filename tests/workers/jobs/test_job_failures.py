"""What a job that did not come to its end says of itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from medpipe.errors import DiskFull
from workers.jobs import LONGEST_WAIT_FOR_ROOM, JobRunner, delay_after
from workers.queue import job_workflow_id
from workers.slots import Slots
from workers.spool import Spool

ME = "host-1-aaaaaaaa"


def test_a_disk_that_takes_nothing_is_named_and_tried_again(
    site: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = site.plan()
    site.claim(job_workflow_id(job_id, 1), ME)
    (site.root / "outbox").write_text("where a folder should be")
    runner = JobRunner(site.config, Spool(site.root), site.registry, site.queue, Slots(site.config), ME)
    with caplog.at_level(logging.WARNING, "workers.jobs"):
        assert runner.run(job_id, 1, 1) == "queued"
    assert site.registry.job(job_id).reason == "STORAGE: Not a directory"
    assert site.workflows()[job_workflow_id(job_id, 1, 2)][0] == "DELAYED"
    assert [record.exc_info for record in caplog.records] == [None]  # one line, no traceback


class Ends:
    """A worker's slots in which every attempt ends with an error."""

    is_closing = False

    def __init__(self, error: Exception) -> None:
        self.error = error

    def ask(self, request: Any, **options: Any) -> Any:
        Path(request["out"], "A.seg.dcm").write_bytes(bytes(65_536))
        raise self.error


def tries(site: Any, job_id: str, error: Exception, attempts: range) -> list[str]:
    """The job's state after each of these attempts, each one on the queue by then."""
    slots: Any = Ends(error)
    runner = JobRunner(site.config, Spool(site.root), site.registry, site.queue, slots, ME)
    states = []
    for attempt in attempts:
        site.claim(job_workflow_id(job_id, 1, attempt), ME)
        states.append(runner.run(job_id, 1, attempt))
        site.end(job_workflow_id(job_id, 1, attempt))
    return states


FULL = DiskFull("No space left on device")


def test_a_full_disk_is_waited_for_and_no_attempt_counts(make_site: Callable[..., Any]) -> None:
    site = make_site(worker={"attempts": 2}, site={"minimum_free": 10**9})
    job_id = site.plan()
    assert tries(site, job_id, FULL, range(1, 9)) == ["queued"] * 8
    row = site.registry.job(job_id)
    assert (row.attempts, row.reason) == (0, "DISK_FULL: No space left on device")
    assert site.workflows()[job_workflow_id(job_id, 1, 9)][0] == "DELAYED"
    assert list((site.root / "outbox").iterdir()) == []
    assert delay_after(10**6, LONGEST_WAIT_FOR_ROOM) == LONGEST_WAIT_FOR_ROOM


def test_a_study_that_fills_a_disk_by_itself_ends_in_the_dead_letter(make_site: Callable[..., Any]) -> None:
    """It has taken what the site wants to have free."""
    site = make_site(worker={"attempts": 2}, site={"minimum_free": 65_536})
    job_id = site.plan()
    assert tries(site, job_id, FULL, range(1, 3)) == ["queued", "failed"]
    assert site.registry.job(job_id).reason == "DISK_FULL: No space left on device"


def test_a_database_that_is_away_in_the_midst_does_not_count_twice(make_site: Callable[..., Any]) -> None:
    """The same claim begins anew, in its last attempt, too; somebody else's claim is another attempt."""
    site = make_site(worker={"attempts": 1})
    job_id = site.plan()
    workflow = job_workflow_id(job_id, 1)
    site.claim(workflow, ME)
    slots: Any = Ends(sa.exc.OperationalError("SELECT 1", {}, Exception("gone")))
    runner = JobRunner(site.config, Spool(site.root), site.registry, site.queue, slots, ME)
    for _ in range(3):
        with pytest.raises(sa.exc.OperationalError):
            runner.run(job_id, 1, 1)
    assert (site.state(job_id), site.registry.job(job_id).attempts) == ("running", 1)
    site.claim(workflow, ME)
    assert runner.run(job_id, 1, 1) == "nothing to do" and site.state(job_id) == "failed"
