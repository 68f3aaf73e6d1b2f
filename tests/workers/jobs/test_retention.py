"""Retention: what is over goes after `site.keep_days`, nothing else does, and being killed in between does no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from medpipe.errors import UsageError
from workers.audit import is_whole
from workers.publish import outbox, publish
from workers.queue import job_workflow_id
from workers.status import retry, status_rows
from workers.tables import JobState, audit


def test_a_confirmed_studys_files_go_and_its_rows_stay(kept: Any) -> None:
    job_id = kept.received().settle(JobState.CONFIRMED)
    folder = outbox(kept.site.root) / f"{job_id}-0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "A.seg.dcm").write_bytes(b"result")
    assert kept.janitor.round() == [kept.study]
    assert (kept.files(), list(outbox(kept.site.root).iterdir())) == (0, [])
    assert (kept.row().retention, kept.row().instances) == ("removed", 0)
    assert kept.retentions() == ["removed"] * 3
    assert [row["state"] for row in status_rows(kept.registry)] == ["confirmed"]
    with kept.registry.read() as connection:
        whats = list(connection.execute(sa.select(audit.c.what)).scalars())
        assert whats[-1] == "files removed" and is_whole(connection)
    assert kept.janitor.round() == []


@pytest.mark.parametrize("state", [s for s in JobState if s not in (JobState.CONFIRMED, JobState.IGNORED)])
def test_what_is_under_way_or_waits_for_a_person_stays(kept: Any, state: JobState) -> None:
    kept.received().settle(state)
    assert kept.janitor.round() == [] and kept.files() == 6


def test_the_worker_that_leads_removes_and_another_does_not(kept: Any) -> None:
    kept.received().settle(JobState.CONFIRMED)
    answers, left, stop = iter([False, False, True]), [], threading.Event()

    def leads() -> bool:
        left.append(kept.files())
        answer = next(answers, None)
        if answer is None:
            stop.set()
        return bool(answer)

    kept.janitor.run(stop, leads, every=0.01)
    assert left == [6, 6, 6, 0]  # before each round


def test_an_ignored_study_goes_too(kept: Any) -> None:
    kept.received().settle(JobState.IGNORED)
    assert kept.janitor.round() == [kept.study] and kept.files() == 0


def test_a_confirmed_study_stays_for_keep_days(make_kept: Callable[..., Any]) -> None:
    kept = make_kept().received()
    job_id = kept.settle(JobState.CONFIRMED)
    kept.site.put(job_id, updated_at=time.time() - 29 * 86_400)
    assert kept.janitor.round() == []
    kept.site.put(job_id, updated_at=time.time() - 31 * 86_400)
    assert kept.janitor.round() == [kept.study]


@pytest.mark.parametrize("older", [JobState.CANCELLED, JobState.SENT])
def test_an_older_job_that_a_confirmed_one_replaced_holds_nothing_back(kept: Any, older: JobState) -> None:
    kept.received().settle(older, created_at=kept.long_ago)
    assert kept.janitor.round() == []
    kept.receive(9)
    kept.register()
    kept.settle(JobState.CONFIRMED, "more")
    assert kept.janitor.round() == [kept.study]


def test_a_study_that_is_unsettled_being_retrieved_or_contradicted_stays(kept: Any) -> None:
    kept.received().settle(JobState.CONFIRMED)
    kept.registry.mark_retrieval(kept.study, "token")
    assert kept.janitor.round() == []
    kept.registry.mark_retrieval(kept.study, None)
    kept.receive(4)
    kept.register()
    assert kept.janitor.round() == []
    kept.settle(JobState.CONFIRMED, "more")
    kept.receive(0, content=b"other")  # the same UID with other content
    kept.register()
    assert kept.janitor.round() == [] and kept.files() == 10


def test_a_removed_instance_that_arrives_again_is_taken_as_new(kept: Any) -> None:
    job_id = kept.received().settle(JobState.CONFIRMED)
    kept.janitor.round()
    kept.receive(1, at=time.time())
    assert kept.register() == 1
    (unsettled,) = kept.registry.unsettled()
    assert (unsettled.instances, kept.row().retention) == (1, "kept")
    assert [row.sop_instance_uid for row in kept.registry.instances_of(kept.study)] == ["2.25.1.1"]
    kept.settle(JobState.CONFIRMED, "less")
    assert kept.janitor.round() == []  # its days are counted anew
    assert kept.site.state(job_id) == "confirmed"


def test_what_arrives_while_its_study_goes_is_never_lost(kept: Any) -> None:
    kept.received().settle(JobState.CONFIRMED)
    assert kept.janitor.mark(kept.study, time.time())
    kept.receive(0)  # the sender is told that we have it
    assert kept.janitor.round() == []  # held by its arrival; the others go
    assert kept.files() == 2
    assert kept.register() == 0  # part of what was processed: nothing new
    assert kept.registry.unsettled() == [] and kept.row().instances == 1
    kept.receive(5)  # a late one
    assert kept.register() == 1
    assert kept.janitor.round() == [] and kept.files() == 4
    assert kept.retentions() == ["kept", "kept", "removed", "removed"]
    assert kept.row().retention == "kept" and len(kept.registry.unsettled()) == 1


def test_an_instance_whose_row_was_taken_back_keeps_its_file(kept: Any) -> None:
    """The order that a second worker's steward can force between the look at the marks and the removal."""
    kept.received().settle(JobState.CONFIRMED)
    kept.janitor.mark(kept.study, time.time())
    sidecar = kept.receive(0)
    kept.register()
    kept.janitor.remove_instance(sidecar.sop_instance_uid, sidecar.digest)
    assert kept.spool.path_named(sidecar.file).exists()


def test_a_job_that_was_queued_again_keeps_its_results(kept: Any, finding: Any) -> None:
    job_id = kept.received().settle(JobState.CONFIRMED)
    kept.janitor.mark(kept.study, time.time())
    with kept.registry.begin() as connection:  # a forced reprocess
        generation = kept.registry.again(connection, job_id, kept.site.queue.enqueue, "me")
    workflow = job_workflow_id(job_id, generation)
    token = kept.site.claim(workflow)
    kept.site.put(job_id, state="running")
    row = kept.registry.job(job_id)
    publish(kept.registry, kept.site.queue, kept.site.root, row, *finding("A"), workflow, token)
    kept.janitor.round()
    (folder,) = outbox(kept.site.root).iterdir()
    assert (folder / "A.seg.dcm").is_file()


def test_a_removed_study_is_not_retried_but_the_way_to_it_is_said(kept: Any) -> None:
    kept.received().settle(JobState.CANCELLED, created_at=kept.long_ago)
    kept.receive(9)
    kept.register()
    kept.settle(JobState.CONFIRMED, "more")
    kept.janitor.round()
    with pytest.raises(UsageError, match=r"reprocess 2\.25\.1` retrieves it again"):
        retry(kept.registry, kept.site.queue, kept.study, "me")


@pytest.mark.parametrize("point", ["after_let_go", "before_removed"])
def test_killed_in_the_middle_it_goes_on(kept: Any, tmp_path: Path, point: str) -> None:
    kept.received().settle(JobState.CONFIRMED)
    code = (
        "import sys\nfrom pathlib import Path\nfrom medpipe.config import parse_config\n"
        "from workers.registry import Registry\nfrom workers.retention import Janitor\n"
        "from workers.spool import Spool\nroot = sys.argv[1]\n"
        "config = parse_config({'site': {'root': root}})\n"
        "Janitor(config, Spool(Path(root)), Registry(config.site.database_url)).round()\n"
    )
    fault = {"MEDPIPE_FAULT": f"{point}:{tmp_path / 'died'}"}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(kept.site.root)], env={**os.environ, **fault}, timeout=60
    )
    assert ended.returncode == -signal.SIGKILL
    assert kept.row().retention == "removing"
    assert kept.spool.repair() == (2 if point == "after_let_go" else 0)  # the listener starts again, too
    assert kept.register() == 0 and kept.registry.unsettled() == []  # no job of a part of the study
    assert [kept.janitor.round(), kept.janitor.round()].count([kept.study]) == 1
    assert kept.files() == 0 and kept.row().retention == "removed"
