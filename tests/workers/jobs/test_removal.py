"""A person removes a failed study: its files go, its rows say who did it, and a late part of it is not the whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from medpipe.errors import NotFound, UsageError
from workers import faults
from workers.audit import is_whole
from workers.late import PART, parts_of
from workers.publish import outbox, publish
from workers.queue import job_workflow_id
from workers.registry import JobPlan
from workers.removal import (
    account_of,
    check_removable,
    find_removable,
    find_unreadable,
    remove,
    remove_unreadable,
)
from workers.settle import Steward
from workers.status import retry, status_rows
from workers.tables import JobState, audit

NOW = 2e9


def take_away(kept: Any, who: str = "alice") -> None:
    remove(kept.registry, kept.janitor, kept.study, who)


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.QUARANTINED, JobState.CANCELLED])
def test_the_files_go_the_rows_stay_and_the_trail_names_the_person(kept: Any, state: JobState) -> None:
    job_id = kept.received().settle(state, reason="GEOM_GAP: a slice is missing")
    folder = outbox(kept.site.root) / f"{job_id}-0123456789abcdef"
    folder.mkdir(parents=True)
    take_away(kept)
    assert (kept.files(), list(outbox(kept.site.root).iterdir())) == (0, [])
    assert (kept.row().retention, kept.row().instances) == ("removed", 0)
    (shown,) = status_rows(kept.registry)
    assert (shown["state"], shown["step"]) == ("cancelled", "removed") and "GEOM_GAP" in shown["reason"]
    with kept.registry.read() as connection:
        last = connection.execute(sa.select(audit).order_by(audit.c.number.desc())).first()
        assert (last.who, last.what, last.study_uid) == ("alice", "files removed", kept.study)
        assert last.detail == {"instances": 3, "jobs": {job_id: state.value}} and is_whole(connection)
    with pytest.raises(UsageError, match="removed already"):
        take_away(kept)


def test_what_lies_aside_goes_with_its_study(kept: Any) -> None:
    kept.received()
    kept.receive(0, content=b"other")
    kept.register()
    kept.settle(JobState.FAILED)
    take_away(kept)
    assert kept.files() == 0 and kept.row().instances == 0


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.SENDING])
def test_what_is_under_way_is_not_removed(kept: Any, state: JobState) -> None:
    kept.received().settle(state)
    with pytest.raises(UsageError, match="cancel"):
        take_away(kept)
    assert kept.files() == 6


def test_a_study_that_settles_or_is_retrieved_or_unknown_is_not_removed(kept: Any) -> None:
    with pytest.raises(NotFound):
        check_removable(kept.registry, "2.25.404")
    kept.received()
    with pytest.raises(UsageError, match="not settled"):
        take_away(kept)
    kept.settle(JobState.FAILED)
    kept.registry.mark_retrieval(kept.study, "token")
    with pytest.raises(UsageError, match="being retrieved"):
        take_away(kept)


def test_studies_are_found_by_state_and_age(kept: Any) -> None:
    job_id = kept.received().settle(JobState.FAILED)
    (found,) = find_removable(kept.registry, [JobState.FAILED], NOW)
    assert (found.study_uid, found.instances, found.size > 0) == (kept.study, 3, True)
    assert find_removable(kept.registry, [JobState.QUARANTINED], NOW) == []
    kept.site.put(job_id, updated_at=time.time())
    assert find_removable(kept.registry, [JobState.FAILED], time.time() - 60) == []


def test_something_that_happened_after_the_look_keeps_the_study(kept: Any) -> None:
    job_id = kept.received().settle(JobState.FAILED)
    kept.site.put(job_id, updated_at=time.time())
    with pytest.raises(UsageError, match="meanwhile"):
        remove(kept.registry, kept.janitor, kept.study, "alice", before=time.time() - 60)


def test_a_worker_ends_a_removal_that_was_broken_off(kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.received().settle(JobState.FAILED)

    def broken(name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(faults, "point", broken)
        take_away(kept)
    assert kept.row().retention == "removing"
    assert kept.janitor.round() == [kept.study] and kept.files() == 0


def test_instances_without_a_readable_header_can_be_removed(kept: Any) -> None:
    kept.received()
    kept.site.sql("UPDATE instance SET study_uid = NULL WHERE sop_instance_uid = '2.25.1.1'")
    assert find_unreadable(kept.registry, 0) == []
    files = find_unreadable(kept.registry, NOW)
    assert files == [row.file for row in kept.registry.odd_instances()]
    remove_unreadable(kept.registry, kept.janitor, files, "alice")
    assert kept.files() == 4 and kept.retentions() == ["kept", "kept", "removed"]
    assert kept.registry.odd_instances() == [] == find_unreadable(kept.registry, NOW)
    with kept.registry.read() as connection:
        last = connection.execute(sa.select(audit).order_by(audit.c.number.desc())).first()
        assert (last.who, last.detail) == ("alice", {"files": files})


def test_a_removed_study_is_accounted_for_in_plain_words(kept: Any) -> None:
    kept.received().settle(JobState.FAILED, reason="TIME_LIMIT: too slow")
    assert account_of(kept.registry, kept.study) == []
    take_away(kept)
    first, second, last = account_of(kept.registry, kept.study)
    assert "the files of 3 of its 3 instances were removed on" in first and first.endswith("by alice")
    assert second == ("  phantom-2d: cancelled: files removed by alice; was failed: TIME_LIMIT: too slow")
    assert "reprocess" in last


def test_retention_is_accounted_for_too(kept: Any) -> None:
    kept.received().settle(JobState.CONFIRMED)
    kept.janitor.round()
    assert account_of(kept.registry, kept.study)[0].endswith("because site.keep_days were over")


def test_a_removed_study_is_not_retried(kept: Any) -> None:
    job_id = kept.received().settle(JobState.FAILED)
    take_away(kept)
    with pytest.raises(UsageError, match="reprocess"):
        retry(kept.registry, kept.site.queue, job_id, "me")


# --- what comes late ------------------------------------------------------------------------------------------------


def plan_of(kept: Any, content: str) -> JobPlan:
    files = tuple(row.file for row in kept.registry.instances_of(kept.study))
    bundle = ("phantom-2d", "1.0.0", "b" * 64)
    return JobPlan(kept.study, *bundle, content, files, "spots", 100, ("PACS",), kept.long_ago)


@pytest.fixture
def settle(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], list[dict[str, Any]]]:
    """`settle(kept, content)`: the steward settles the study, with a rule that wants all of it."""

    def run(kept: Any, content: str) -> list[dict[str, Any]]:
        plan = plan_of(kept, content)
        monkeypatch.setattr(Steward, "_plans", lambda self, study: [plan])
        with Steward(kept.site.config, kept.spool, kept.registry, kept.site.queue.enqueue) as steward:
            for one in kept.registry.unsettled():
                steward.settle(one)
        return status_rows(kept.registry)

    return run


def test_a_late_instance_of_a_removed_study_is_kept_apart_and_its_full_result_stays(
    kept: Any, finding: Any, settle: Any
) -> None:
    job_id = kept.received().settle(JobState.QUEUED)
    token = kept.site.claim(job_workflow_id(job_id, 1))
    kept.site.put(job_id, state="running")
    row = kept.registry.job(job_id)
    publish(
        kept.registry, kept.site.queue, kept.site.root, row, *finding("A"), job_workflow_id(job_id, 1), token
    )
    kept.site.put(job_id, state="confirmed", step="", updated_at=kept.long_ago)
    assert kept.janitor.round() == [kept.study]
    kept.receive(9)
    kept.register()
    apart, full = sorted(settle(kept, "a part"), key=lambda row: row["state"], reverse=True)
    assert (apart["state"], apart["bundle"], apart["reason"]) == ("quarantined", None, PART)
    assert full["state"] == "confirmed" and full["results"][0]["state"] != "superseded"
    assert kept.files() == 2


def test_the_rest_coming_again_makes_it_a_whole(kept: Any, settle: Any) -> None:
    job_id = kept.received().settle(JobState.CONFIRMED)
    kept.janitor.round()
    kept.receive(1, at=NOW)
    kept.register()
    assert [row["state"] for row in settle(kept, "a part")] == ["quarantined", "confirmed"]
    kept.receive(0, at=NOW)
    kept.receive(2, at=NOW)
    kept.register()
    (row,) = settle(kept, "a")
    assert (row["job"], row["state"]) == (job_id, "confirmed")


def test_a_removed_failed_study_that_is_sent_again_is_processed(kept: Any, settle: Any) -> None:
    job_id = kept.received().settle(JobState.FAILED)
    take_away(kept)
    kept.received()
    (row,) = settle(kept, "a")
    assert (row["job"], row["state"], row["step"]) == (job_id, "queued", "")
    assert job_workflow_id(job_id, 2) in kept.site.workflows()


def test_another_series_is_a_part_only_for_the_bundle_that_had_the_rest(kept: Any) -> None:
    kept.received().settle(JobState.CONFIRMED)
    kept.janitor.round()
    kept.receive(9)
    kept.register()
    kept.site.sql("UPDATE instance SET series_uid = '2.25.2' WHERE retention = 'kept'")
    same = plan_of(kept, "part")
    other = JobPlan(**{**vars(same), "bundle": "phantom", "bundle_hash": "c" * 64})
    assert parts_of(kept.registry, kept.study, [same, other]) == [same]
