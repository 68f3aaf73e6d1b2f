"""Only the present claim of a workflow may write."""

from __future__ import annotations

from typing import Any

import pytest

from workers import fence
from workers.fence import LostClaim
from workers.queue import job_workflow_id


def test_the_holder_of_the_claim_passes(site: Any) -> None:
    workflow = job_workflow_id(site.plan(), 1)
    token = site.claim(workflow, "me")
    with site.registry.begin() as connection:
        assert fence.claim_token(connection, workflow, "me") == token
        fence.check(connection, workflow, token)


def test_a_workflow_that_came_back_to_the_same_worker_keeps_the_old_run_out(site: Any) -> None:
    workflow = job_workflow_id(site.plan(), 1)
    before = site.claim(workflow, "me")
    site.claim(workflow, "me")
    with pytest.raises(LostClaim), site.registry.begin() as connection:
        fence.check(connection, workflow, before)


@pytest.mark.parametrize("status", ["CANCELLED", "ENQUEUED", "SUCCESS"])
def test_a_workflow_that_is_no_longer_running_keeps_everybody_out(site: Any, status: str) -> None:
    workflow = job_workflow_id(site.plan(), 1)
    token = site.claim(workflow, "me")
    site.end(workflow, status)
    with site.registry.begin() as connection:
        with pytest.raises(LostClaim):
            fence.check(connection, workflow, token)
        with pytest.raises(LostClaim):
            fence.claim_token(connection, workflow, "me")


def test_losing_a_claim_is_no_failure_of_the_job() -> None:
    assert not issubclass(LostClaim, Exception)
