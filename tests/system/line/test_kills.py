"""kill -9 anywhere: nothing is lost, and there is exactly one current result per study, in the PACS, confirmed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from local_orthanc import LocalOrthanc
from local_process import wait_until

from medpipe.identity import digest, uid_from

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
BOTH = pytest.mark.parametrize("line", ["sqlite", "postgresql"], indirect=True)


def all_confirmed(count: int) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda rows: len(rows) == count and all(row["state"] == "confirmed" for row in rows)


def send(dcmtk: Any, line: Any, *files: Path) -> None:
    dcmtk("storescu", "-aet", "MODALITY", "-aec", "MEDPIPE", "127.0.0.1", line.port, *files)


def segs_of(orthanc: LocalOrthanc, number: int) -> set[str]:
    return orthanc.sop_instance_uids(StudyInstanceUID=uid_from("2.25", "spots", str(number)), Modality="SEG")


@BOTH
def test_a_study_comes_back_as_seg_and_sr(
    line: Any, orthanc: LocalOrthanc, dcmtk: Any, spots: Callable[..., Path]
) -> None:
    line.start("listen")
    line.start("work")
    send(dcmtk, line, spots(1))
    (row,) = line.wait(all_confirmed(1))
    assert row["images"][0]["lesions"] == {"SPOT": 3}
    assert len(segs_of(orthanc, 1)) == 1
    assert {result["state"] for result in row["results"]} == {"confirmed"}
    assert {result["sop_instance_uid"] for result in row["results"]} <= orthanc.sop_instance_uids()
    assert json.loads(line.run("status", "--json")) == [row]


@pytest.mark.parametrize(
    "fault",
    [
        "after_claim",
        "before_publish",
        "after_publish",
        "before_send",
        "after_send",
        "before_confirm",
        "after_confirm",
    ],
)
def test_a_worker_killed_at_any_point_is_replaced(
    fault: str, line: Any, orthanc: LocalOrthanc, dcmtk: Any, spots: Callable[..., Path]
) -> None:
    line.start("listen")
    doomed = line.start("work", fault=fault)
    send(dcmtk, line, spots(1), spots(2))
    assert wait_until(lambda: line.died_at(fault), 60), line.log("work").decode()[-3000:]
    assert doomed.wait(10) == -signal.SIGKILL
    line.start("work")
    line.wait(all_confirmed(2))
    assert [len(segs_of(orthanc, number)) for number in (1, 2)] == [1, 1]


@pytest.mark.parametrize("line", ["postgresql"], indirect=True)  # on SQLite: at each point, above
def test_another_worker_takes_over_within_fifteen_seconds(
    line: Any, orthanc: LocalOrthanc, dcmtk: Any, spots: Callable[..., Path]
) -> None:
    line.start("listen")
    doomed = line.start("work", fault="before_publish")
    send(dcmtk, line, *(spots(number) for number in range(4)))
    assert wait_until(lambda: line.died_at("before_publish"), 60)
    doomed.wait(10)
    line.start("work")
    line.wait(all_confirmed(4))
    assert all(len(segs_of(orthanc, number)) == 1 for number in range(4))


def test_the_inference_child_may_die_too(
    line: Any, orthanc: LocalOrthanc, dcmtk: Any, spots: Callable[..., Path]
) -> None:
    line.start("listen")
    worker = line.start("work", fault="in_step")
    send(dcmtk, line, spots(1))
    (row,) = line.wait(all_confirmed(1))
    assert line.died_at("in_step") and worker.poll() is None
    assert row["attempts"] == 2


def test_a_study_that_kills_every_child_ends_in_the_dead_letter_and_the_rest_goes_on(
    line: Any, orthanc: LocalOrthanc, dcmtk: Any, spots: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    line.change("worker", attempts=2)
    line.start("listen")
    monkeypatch.setenv("MEDPIPE_POISON", digest(uid_from("2.25", "spots", "1", "picture"))[:32])
    line.start("work")
    send(dcmtk, line, spots(1), spots(2))
    rows = line.wait(lambda rows: sorted(row["state"] for row in rows) == ["confirmed", "failed"], 90)
    failed = next(row for row in rows if row["state"] == "failed")
    assert failed["study"] == uid_from("2.25", "spots", "1")
    assert failed["attempts"] == 2 and "INFERENCE_CRASHED" in failed["reason"]


def is_locked(database: Path) -> bool:
    """Whether somebody is in the middle of a write, for longer than any write takes."""
    with closing(sqlite3.connect(database, timeout=5, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False


def test_a_stalled_worker_that_wakes_up_publishes_nothing_twice(
    line: Any, orthanc: LocalOrthanc, dcmtk: Any, spots: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    line.start("listen")
    monkeypatch.setenv("MEDPIPE_STALL", "before_publish")
    stalled = line.start("work")
    monkeypatch.delenv("MEDPIPE_STALL")
    send(dcmtk, line, spots(1))
    assert wait_until(lambda: b"stalled at before_publish" in line.log("work"), 60)
    if is_locked(line.folder / "root" / "medpipe.sqlite"):
        pytest.skip("a heartbeat was being written when it was stopped: on SQLite nobody can go on then")
    # its lock is held and its boot is ours, so only its missing beats tell: as if it were on another machine
    for lock in (line.folder / "root" / "executors").glob(f"*-{stalled.pid}-*.lock"):
        lock.unlink()
    line.start("work")
    line.wait(all_confirmed(1), 90)
    os.kill(stalled.pid, signal.SIGCONT)
    time.sleep(3)
    (row,) = line.status()
    assert row["state"] == "confirmed" and row["attempts"] == 2
    assert len(segs_of(orthanc, 1)) == 1
    assert len([p for p in (line.folder / "root" / "outbox").iterdir() if not p.name.startswith(".")]) == 1


def test_the_listener_killed_in_the_middle_of_a_send_loses_nothing_it_acknowledged(
    line: Any, orthanc: LocalOrthanc, dcmtk: Any, spots: Callable[..., Path]
) -> None:
    listener = line.start("listen")
    files = [spots(number) for number in range(20)]
    sender = subprocess.Popen(
        [
            "storescu",
            "-v",
            "-aet",
            "MODALITY",
            "-aec",
            "MEDPIPE",
            "127.0.0.1",
            str(line.port),
            *map(str, files),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TCP_NODELAY": "1"},
    )
    assert sender.stdout is not None
    said = ""
    while said.count("Received Store Response (Success)") < 5 and (text := sender.stdout.readline()):
        said += text
    listener.kill()
    listener.wait(10)
    said += sender.communicate(timeout=60)[0]
    acknowledged = said.count("Received Store Response (Success)")
    assert 5 <= acknowledged < 20
    line.processes.remove(listener)
    (line.folder / "listen.log").unlink()
    assert len(line.status()) >= acknowledged
    line.start("listen")
    send(dcmtk, line, *files)  # the modality sends all of them again
    line.start("work")
    line.wait(all_confirmed(20), 180)
    assert all(len(segs_of(orthanc, number)) == 1 for number in range(20))
