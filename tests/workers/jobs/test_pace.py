"""An idle queue is asked by all workers together so many times a second, a full one by each at its own pace."""

from __future__ import annotations

import pytest

from workers.pace import ASKINGS_PER_SECOND, POLL_SECONDS, pause_for


@pytest.mark.parametrize("workers", [1, 10, 11, 50, 500])
def test_an_idle_queue_is_asked_no_more_often_for_more_workers(workers: int) -> None:
    assert workers / pause_for(workers, waiting=False) <= ASKINGS_PER_SECOND
    assert pause_for(workers, waiting=False) >= POLL_SECONDS


def test_a_queue_that_something_waits_on_is_asked_by_each() -> None:
    assert pause_for(500, waiting=True) == POLL_SECONDS
