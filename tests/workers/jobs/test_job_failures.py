"""What a job that did not come to its end says of itself."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from workers.jobs import JobRunner
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
