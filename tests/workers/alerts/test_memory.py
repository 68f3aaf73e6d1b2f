"""Told once, told when over, never twice; whatever flaps, restarts or does not answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from workers.alerts.conditions import Condition, Look
from workers.alerts.memory import Memory, load, save

QUIET = 300.0
NOTHING = Look(())


def seen(*conditions: Condition, unknown: frozenset[str] = frozenset()) -> Look:
    return Look(conditions, unknown)


def disk(mark: float = 0.0) -> Condition:
    return Condition("disk:root", "0.4 GB are left", "free it", mark)


def keys(memory: Memory, now: float, channel: str = "hook") -> tuple[list[str], list[str]]:
    began, over = memory.news_for(channel, now)
    return [one.key for one in began], [one.key for one in over]


def test_an_alert_is_told_once() -> None:
    memory = Memory().after(seen(disk()), 0.0, QUIET)
    assert keys(memory, 0.0) == (["disk:root"], [])
    memory = memory.with_told("hook", 0.0, QUIET)
    for now in (60.0, 400.0, 86400.0):
        memory = memory.after(seen(disk()), now, QUIET)
        assert keys(memory, now) == ([], [])


def test_and_once_more_when_it_has_been_over_for_the_quiet_time() -> None:
    memory = Memory().after(seen(disk()), 0.0, QUIET).with_told("hook", 0.0, QUIET)
    memory = memory.after(NOTHING, 1000.0, QUIET)
    assert keys(memory, 1000.0) == ([], [])
    memory = memory.after(NOTHING, 1300.0, QUIET)
    assert keys(memory, 1300.0) == ([], ["disk:root"])
    assert keys(memory.with_told("hook", 1300.0, QUIET), 1700.0) == ([], [])


def test_what_comes_and_goes_is_one_alert() -> None:
    memory = Memory().after(seen(disk()), 0.0, QUIET).with_told("hook", 0.0, QUIET)
    for minute in range(1, 60):
        memory = memory.after(seen(disk()) if minute % 4 else NOTHING, 60.0 * minute, QUIET)
        assert keys(memory, 60.0 * minute) == ([], [])


def test_a_condition_that_must_last_is_told_when_it_has_without_a_break() -> None:
    away = Condition("peer:PACS", "does not answer", "see", after=600.0)
    memory = Memory()
    for now, look in ((0.0, seen(away)), (300.0, seen(away)), (360.0, NOTHING), (420.0, seen(away))):
        memory = memory.after(look, now, QUIET)
        assert keys(memory, now) == ([], [])
    assert keys(memory.after(seen(away), 1000.0, QUIET), 1000.0) == ([], [])
    memory = memory.after(seen(away), 1020.0, QUIET)
    assert keys(memory, 1020.0) == (["peer:PACS"], [])
    assert memory.alerts["peer:PACS"].since == 420.0


def test_it_is_told_again_when_it_gets_worse_and_not_when_better() -> None:
    memory = Memory().after(seen(disk(1.0)), 0.0, QUIET).with_told("hook", 0.0, QUIET)
    memory = memory.after(seen(disk(2.0)), 1000.0, QUIET)
    assert keys(memory, 1000.0) == (["disk:root"], [])
    memory = memory.with_told("hook", 1000.0, QUIET).after(seen(disk(0.0)), 2000.0, QUIET)
    assert keys(memory, 2000.0) == ([], [])
    memory = memory.with_told("hook", 2000.0, QUIET).after(seen(disk(2.0)), 3000.0, QUIET)
    assert keys(memory, 3000.0) == ([], []), "it was as bad before"


def test_a_channel_is_used_once_in_the_quiet_time_and_what_came_meanwhile_comes_together() -> None:
    memory = Memory().after(seen(disk()), 0.0, QUIET).with_told("hook", 0.0, QUIET)
    more = [Condition(f"certificate:{n}", "ends", "renew it") for n in range(3)]
    memory = memory.after(seen(disk(), *more), 60.0, QUIET)
    assert keys(memory, 60.0) == ([], [])
    assert len(keys(memory, 300.0)[0]) == 3


def test_a_channel_that_fails_tries_later_and_later_and_the_other_is_not_told_twice() -> None:
    memory = Memory().after(seen(disk()), 0.0, QUIET)
    memory = memory.with_told("mail", 0.0, QUIET).with_failure("hook", 0.0, QUIET)
    assert (keys(memory, 299.0), keys(memory, 301.0)) == (([], []), (["disk:root"], []))
    for _ in range(2000):  # months
        memory = memory.with_failure("hook", 1000.0, QUIET)
    assert (keys(memory, 4599.0), keys(memory, 4601.0)) == (([], []), (["disk:root"], []))
    assert keys(memory, 4601.0, "mail") == ([], [])
    assert memory.with_told("hook", 4601.0, QUIET).channels["hook"].failures == 0


def test_what_nobody_can_say_stays_as_it_was() -> None:
    failed = Condition("failed", "2 jobs have failed", "see", mark=5.0)
    memory = Memory().after(seen(failed), 0.0, QUIET).with_told("hook", 0.0, QUIET)
    for now in (400.0, 4000.0):  # the database is away for hours
        memory = memory.after(seen(unknown=frozenset({"failed"})), now, QUIET)
    assert keys(memory, 4000.0) == ([], [])


def test_a_restart_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "alerts.json"
    away = Condition("peer:PACS", "does not answer", "see", after=600.0)
    memory = Memory().after(seen(disk(), away), 0.0, QUIET).with_told("hook", 0.0, QUIET)
    save(path, memory)
    assert load(path) == memory
    again = load(path).after(seen(disk(), away), 620.0, QUIET)
    assert keys(again, 620.0) == (["peer:PACS"], [])  # and the time before it counts


def test_what_was_told_stays_told_when_it_would_have_to_last_longer_from_now_on() -> None:
    """`alerts.peer_minutes` was raised: the next restart is no reason to tell it again, or that it is over."""
    away = Condition("peer:PACS", "does not answer", "see")
    memory = Memory().after(seen(away), 0.0, QUIET).with_told("hook", 0.0, QUIET)
    memory = memory.after(seen(replace(away, after=9000.0), disk()), 1000.0, QUIET)
    assert keys(memory, 1000.0) == (["disk:root"], [])
    memory = memory.with_told("hook", 1000.0, QUIET).after(seen(replace(away, after=9000.0)), 9500.0, QUIET)
    assert keys(memory, 9500.0) == ([], [])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"alerts": {"x": {"odd": 1}}, "channels": {}}'])
def test_a_broken_file_is_an_empty_one(tmp_path: Path, content: str) -> None:
    path = tmp_path / "alerts.json"
    path.write_text(content)
    assert load(path) == load(tmp_path / "none.json") == Memory()


def test_a_channel_that_the_settings_no_longer_have_is_forgotten() -> None:
    memory = Memory().after(seen(disk()), 0.0, QUIET).with_told("a", 0.0, QUIET).with_told("b", 0.0, QUIET)
    assert set(memory.without_channels_but(["b", "c"]).channels) == {"b"}
