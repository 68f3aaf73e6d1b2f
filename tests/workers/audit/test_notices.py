"""What a process without a database has to say waits in files, and comes into the trail once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from medpipe.config import Config
from workers.audit import Notices, Record, active, is_whole, records, take_in
from workers.audit.notices import alone, folder
from workers.registry import Registry


def trail(registry: Registry) -> list[Record]:
    with registry.read() as connection:
        assert is_whole(connection)
        return list(records(connection))


@pytest.fixture
def root(configure: Callable[..., Config]) -> Path:
    return configure().site.root


def test_a_notice_comes_into_the_trail_with_its_own_time(root: Path, registry: Registry) -> None:
    Notices(root).leave("medpipe", "TLS refused", address="10.0.0.9", reason="it shows no certificate")
    (path,) = folder(root).glob("*.json")
    assert (take_in(root, registry), take_in(root, registry)) == (1, 0)
    (one,) = trail(registry)
    assert (one.who, one.what, one.detail["address"]) == ("medpipe", "TLS refused", "10.0.0.9")
    assert not path.exists()


def test_an_application_begins_and_ends(root: Path, registry: Registry) -> None:
    with pytest.raises(KeyboardInterrupt), active(root, "listen"):
        raise KeyboardInterrupt
    assert take_in(root, registry) == 2
    assert [one.what for one in trail(registry)] == ["application started", "application stopped"]
    assert {one.detail["process"] for one in trail(registry)} == {"listen"}


def test_a_flood_is_counted_not_written(
    root: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("workers.audit.notices.time.time", lambda: now[0])
    notices = Notices(root)
    for _ in range(100):
        notices.leave("medpipe", "association refused", address="10.0.0.9")
    assert len(list(folder(root).glob("*.json"))) == 60
    now[0] += 60
    notices.leave("medpipe", "association refused", address="10.0.0.9")
    take_in(root, registry)
    assert trail(registry)[-1].detail["not_recorded_before"] == 40


def test_a_disk_that_takes_nothing_stops_nobody(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    root.mkdir(exist_ok=True)
    folder(root).write_text("a file where the folder should be")
    Notices(root).leave("medpipe", "TLS refused", address="10.0.0.9")
    assert "could not be left for the audit trail" in caplog.text


def test_what_is_no_notice_holds_up_none(root: Path, registry: Registry) -> None:
    notices = Notices(root)
    notices.leave("medpipe", "first")
    (folder(root) / "00000-odd.json").write_text("{}")
    notices.leave("medpipe", "second")
    assert take_in(root, registry) == 2
    assert [one.what for one in trail(registry)] == ["first", "second"]
    assert (folder(root) / "00000-odd.odd").exists()


def test_workers_that_race_take_each_notice_once(root: Path, registry: Registry) -> None:
    notices = Notices(root)
    for number in range(30):
        notices.leave("medpipe", f"event {number:02d}")
    taken: list[int] = []
    racing = [threading.Thread(target=lambda: taken.append(take_in(root, registry))) for _ in range(4)]
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join()
    assert sum(taken) == 30
    assert [one.what for one in trail(registry)] == [f"event {number:02d}" for number in range(30)]


def test_a_lock_is_ours_or_not(tmp_path: Path) -> None:
    with alone(tmp_path / "lock") as first, alone(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    with alone(tmp_path / "lock") as again:
        assert again
