"""Who counts as dead: on this machine whose lock is free, elsewhere whose beats have stopped."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from workers.lease import SAME_BOOT_TTL_SECONDS, TTL_SECONDS, Lease, boot_id
from workers.queue import job_workflow_id
from workers.tables import executor


def test_a_worker_of_this_machine_is_dead_as_soon_as_its_lock_is_free(site: Any) -> None:
    worker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "from workers.lease import Lease; from workers.registry import Registry\n"
            "lease = Lease(Registry(sys.argv[1]), Path(sys.argv[2])); lease.take()\n"
            "print(lease.executor_id, flush=True); time.sleep(600)",
            site.config.site.database_url,
            str(site.root),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    other = worker.stdout.readline().strip()
    mine = Lease(site.registry, site.root)
    assert not mine._is_dead(other, 0.0, boot_id())
    assert not mine._is_dead(other, TTL_SECONDS + 1, boot_id()), "it is only slow"
    assert mine._is_dead(other, SAME_BOOT_TTL_SECONDS + 1, boot_id()), "it is stalled"
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert mine._is_dead(other, 0.0, boot_id())


def test_a_worker_of_another_machine_is_dead_when_its_beats_stop(site: Any) -> None:
    lease = Lease(site.registry, site.root)
    assert not lease._is_dead("elsewhere", TTL_SECONDS - 1, "another boot")
    assert lease._is_dead("elsewhere", TTL_SECONDS + 1, "another boot")
    assert lease._is_dead("nobody knows it", None, None)


def test_after_an_absence_a_free_lock_counts_at_once_and_missing_beats_only_later(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database may have been away for all; a lock that the kernel has freed needs no second look."""
    now, handed_on = [100.0], []
    lease = Lease(site.registry, site.root)
    owners = [("killed-here", 0.0, boot_id()), ("elsewhere", TTL_SECONDS + 1, "another boot")]
    monkeypatch.setattr("workers.lease._now", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits while work lies still"))
    monkeypatch.setattr(lease, "_owners", lambda: owners)
    monkeypatch.setattr(lease, "_hand_on", handed_on.append)
    sweep = lease._sweeper()
    now[0] += TTL_SECONDS
    for _ in range(int(TTL_SECONDS)):
        sweep()
        now[0] += 1.0
    assert handed_on == [["killed-here"]] * int(TTL_SECONDS)
    sweep()
    assert handed_on[-1] == ["killed-here", "elsewhere"]


def test_a_worker_that_seemed_dead_makes_itself_a_new_lock(site: Any) -> None:
    lease, other = Lease(site.registry, site.root), Lease(site.registry, site.root)
    lease.take()
    (site.root / "executors" / f"{lease.executor_id}.lock").unlink()
    assert other._is_dead(lease.executor_id, 0.0, boot_id())
    lease._beat()
    assert not other._is_dead(lease.executor_id, 0.0, boot_id())
    lease.release()


def test_one_worker_leads_and_another_follows_it(site: Any) -> None:
    leases = sorted((Lease(site.registry, site.root) for _ in range(3)), key=lambda one: one.executor_id)
    for lease in reversed(leases):
        lease.take()
        assert lease.leads, "nobody is before it yet"
    first, second, third = leases
    for lease in leases:
        lease._beat()
    assert [lease.leads for lease in leases] == [True, False, False]
    first.release()
    second._beat()
    third._beat()
    assert [second.leads, third.leads] == [True, False]


def test_a_worker_that_is_silent_or_dead_leads_no_more(site: Any) -> None:
    lease = Lease(site.registry, site.root)
    lease.take()
    row = {"host": "elsewhere", "pid": 1, "beat_at": time.time()}
    with site.registry.begin() as connection:
        connection.execute(sa.insert(executor).values(executor_id="0-dead", boot_id=boot_id(), **row))
        connection.execute(sa.insert(executor).values(executor_id="0-alive", boot_id="another boot", **row))
    lease._beat()
    assert not lease.leads
    with site.registry.begin() as connection:
        connection.execute(sa.update(executor).where(executor.c.executor_id == "0-alive").values(beat_at=5.0))
    lease._beat()
    assert lease.leads, "the lock of the other one is free"


def test_what_is_handed_on_goes_before_what_waits_and_a_lock_that_is_held_stays(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, stalled = Lease(site.registry, site.root), Lease(site.registry, site.root)
    stalled.take()
    taken, waits = (job_workflow_id(site.plan(f"2.25.{number}"), 1) for number in (1, 2))
    (site.root / "executors" / "dead.lock").touch()

    def engine_puts_back(dead: list[str]) -> list[SimpleNamespace]:
        assert dead == ["dead", stalled.executor_id]
        return [SimpleNamespace(workflow_id=taken)]

    monkeypatch.setattr("workers.lease.DBOS._recover_pending_workflows", engine_puts_back)
    mine._hand_on(["dead", stalled.executor_id])
    assert site.workflows()[taken][1] < site.workflows()[waits][1]
    assert [path.stem for path in (site.root / "executors").iterdir()] == [stalled.executor_id]
    stalled.release()


def test_a_worker_that_ends_gives_back_what_it_had_claimed(site: Any) -> None:
    workflow = job_workflow_id(site.plan(), 1)
    lease = Lease(site.registry, site.root)
    lease.take()
    site.claim(workflow, lease.executor_id)
    lease.release()
    assert site.workflows()[workflow] == ("ENQUEUED", 1)
    assert not list((site.root / "executors").iterdir())
