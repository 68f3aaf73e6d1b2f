"""An idle queue is asked by all workers together so many times a second, a full one by each at its own pace."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from workers.database import clock
from workers.pace import ASKINGS_PER_SECOND, POLL_SECONDS, Pace, pause_for
from workers.tables import executor


@pytest.mark.parametrize("workers", [1, 10, 11, 50, 500])
def test_an_idle_queue_is_asked_no_more_often_for_more_workers(workers: int) -> None:
    assert workers / pause_for(workers, waiting=False) <= ASKINGS_PER_SECOND
    assert pause_for(workers, waiting=False) >= POLL_SECONDS


def test_a_queue_that_something_waits_on_is_asked_by_each() -> None:
    assert pause_for(500, waiting=True) == POLL_SECONDS


class Asked:
    """A queue of the engine: its pause stands in the database, and each setting of it is a write."""

    def __init__(self, name: str) -> None:
        self.name, self.polling_interval_sec = name, POLL_SECONDS
        self.set: list[float] = []

    def set_polling_interval_sec(self, seconds: float) -> None:
        self.set.append(seconds)
        self.polling_interval_sec = seconds


@pytest.fixture
def many(site: Any) -> Any:
    """Forty workers are alive, and as many have been dead for a minute."""
    row = {"host": "elsewhere", "boot_id": "another boot", "pid": 1}
    with site.registry.begin() as connection:
        now = connection.execute(sa.select(clock(connection))).scalar_one()
        for number in range(40):
            alive = {"executor_id": f"alive-{number}", "beat_at": now + 600}
            dead = {"executor_id": f"dead-{number}", "beat_at": now - 60}
            connection.execute(sa.insert(executor).values([row | alive, row | dead]))
    return site


def test_only_the_living_count_and_each_queue_by_itself(many: Any) -> None:
    assert Pace(many.registry).pauses(["send", "gpu"]) == [2.0, 2.0]
    many.plan()
    assert Pace(many.registry).pauses(["send", "gpu"]) == [2.0, POLL_SECONDS]


def test_a_pause_is_written_when_it_changes_and_looked_at_once_a_second(
    many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("workers.pace.time.monotonic", lambda: now[0])
    pace, queues = Pace(many.registry), [Asked("send"), Asked("gpu")]
    for _ in range(30):
        pace.look(queues)  # type: ignore[arg-type]
        now[0] += 0.1
    assert [queue.set for queue in queues] == [[2.0], [2.0]]
    many.plan()
    now[0] += 1
    pace.look(queues)  # type: ignore[arg-type]
    many.sql("DELETE FROM executor")
    pace.look(queues)  # type: ignore[arg-type]
    assert [queue.set for queue in queues] == [[2.0], [2.0, POLL_SECONDS]], "the second look comes too early"


def test_a_database_that_is_away_keeps_the_pace_as_it_is(
    many: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> Any:
        raise sa.exc.OperationalError("SELECT", {}, ConnectionError())

    monkeypatch.setattr(many.registry, "read", away)
    queue = Asked("send")
    Pace(many.registry).look([queue])  # type: ignore[list-item]
    assert queue.set == [] and "the pace is set later" in caplog.text
