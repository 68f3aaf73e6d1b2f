"""Whole `work` processes, with children that hang: what becomes of the step when its worker ends."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from local_process import wait_until

from workers.queue import job_workflow_id
from workers.slots import Interrupted
from workers.tables import executor
from workers.work import Worker

PAUSES = "SELECT name, polling_interval_sec AS pause FROM queues WHERE name IN ('gpu', 'send')"


@pytest.fixture
def start(site: Any, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "work.log").open("ab") as log:
            command = [sys.executable, str(Path(__file__).with_name("stand_in_worker.py")), str(site.root)]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def attempts(site: Any, job_id: str) -> int:
    return int(site.registry.job(job_id).attempts)


def test_a_worker_that_is_asked_to_end_gives_its_job_back_uncounted(
    site: Any, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    job_id = site.plan()
    worker = start()
    assert wait_until(lambda: site.state(job_id) == "running", 60)
    worker.terminate()
    assert worker.wait(60) == 0
    assert (site.state(job_id), attempts(site, job_id)) == ("queued", 0)
    assert site.workflows()[job_workflow_id(job_id, 1)] == ("ENQUEUED", 1)


def test_many_workers_ask_an_idle_queue_less_often_each_and_a_full_one_at_once(
    site: Any, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    def pauses() -> dict[str, float]:
        with site.registry.read() as connection:
            return {row.name: row.pause for row in connection.execute(sa.text(PAUSES))}

    row = {"host": "elsewhere", "boot_id": "another boot", "pid": 1, "beat_at": time.time() + 3600}
    with site.registry.begin() as connection:
        for number in range(49):
            connection.execute(sa.insert(executor).values(executor_id=f"~{number}", **row))
    start()
    assert wait_until(lambda: pauses() == {"gpu": 2.5, "send": 2.5}, 60), pauses()
    site.plan("2.25.1")
    site.plan("2.25.2")  # the worker has one slot: this one waits
    assert wait_until(lambda: pauses() == {"gpu": 0.5, "send": 2.5}, 60), pauses()


def test_a_worker_that_does_not_lead_computes_and_leaves_the_rest_to_the_one_that_does(
    kept: Any, site: Any, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    def arrivals() -> int:
        return len(list(kept.spool.arrivals()))

    row = {"host": "elsewhere", "boot_id": "another boot", "pid": 1, "beat_at": time.time() + 3600}
    with site.registry.begin() as connection:
        connection.execute(sa.insert(executor).values(executor_id="0", **row))
    job_id = site.plan("2.25.7")
    kept.receive(1)
    start()
    assert wait_until(lambda: site.state(job_id) == "running", 60)
    time.sleep(1.5)  # three rounds of settling
    assert arrivals() == 1
    with site.registry.begin() as connection:
        connection.execute(sa.update(executor).where(executor.c.executor_id == "0").values(beat_at=5.0))
    assert wait_until(lambda: arrivals() == 0, 60)


def test_the_job_of_a_killed_worker_goes_to_the_next(
    site: Any, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    job_id = site.plan()
    first = start()
    assert wait_until(lambda: site.state(job_id) == "running", 60)
    start()
    first.kill()
    first.wait()
    assert wait_until(lambda: attempts(site, job_id) == 2, 60)
    assert site.state(job_id) == "running"


class Hurried(threading.Event):
    """Does not wait, but remembers for how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0.0)
        return self.is_set()


def test_a_step_outlasts_a_database_that_is_away_however_long(site: Any) -> None:
    """And never waits for long after it is back; told to end, it leaves the workflow as it is, for the next worker."""
    worker, tries = Worker(site.config), 0
    worker.stop = hurried = Hurried()

    def work() -> str:
        nonlocal tries
        tries += 1
        if tries <= 200:
            raise sa.exc.OperationalError("SELECT 1", {}, Exception("gone"))
        return "sent"

    assert worker._outlasting(work) == "sent"
    assert len(hurried.pauses) == 200 and max(hurried.pauses) == 15.0
    tries = 0
    hurried.set()
    with pytest.raises(Interrupted):
        worker._outlasting(work)
    worker.queue.close()
    worker.registry.close()
