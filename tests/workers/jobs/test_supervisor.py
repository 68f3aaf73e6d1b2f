"""The small parent: what dies is started again, and nothing outlives it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from local_process import wait_until

from medpipe.config import Alerts, Review
from workers import supervisor

TOLD = {"webhook": {"urls": ["https://alerts.example/"]}}


@pytest.mark.parametrize(
    ("review", "alerts", "children"),
    [
        ({}, {}, {"listen", "work", "review"}),
        (None, {}, {"listen", "work"}),
        (None, TOLD, {"listen", "work", "watch"}),
    ],
)
def test_review_and_watch_are_started_where_they_are_configured(
    site: Any,
    monkeypatch: pytest.MonkeyPatch,
    review: dict[str, Any] | None,
    alerts: dict[str, Any],
    children: set[str],
) -> None:
    stop, seen = threading.Event(), set()

    def look_after(charge: supervisor.Charge, _: Path) -> None:
        seen.add(charge.name)
        stop.set()

    monkeypatch.setattr(supervisor, "_look_after", look_after)
    sections = {
        "review": None if review is None else Review(**review),
        "alerts": Alerts.model_validate(alerts),
    }
    config = site.config.model_copy(update=sections)
    supervisor.run_supervisor(config, Path("m.toml"), stop)
    assert seen == children


def test_a_child_that_dies_is_started_again_and_all_end_with_the_parent(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(name: str, config_file: Path) -> list[str]:
        note = f"open({str(tmp_path / name)!r}, 'a').write(str(os.getpid()) + '\\n')"
        return [sys.executable, "-c", f"import os, time; {note}; time.sleep(600)"]

    def pids(name: str) -> list[int]:
        path = tmp_path / name
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    monkeypatch.setattr(supervisor, "_command", command)
    stop = threading.Event()
    parent = threading.Thread(target=supervisor.run_supervisor, args=(site.config, tmp_path / "m.toml", stop))
    parent.start()
    assert wait_until(lambda: bool(pids("listen") and pids("work")), 60)
    os.kill(pids("work")[0], signal.SIGKILL)
    assert wait_until(lambda: len(pids("work")) == 2, 60)
    assert len(pids("listen")) == 1
    stop.set()
    parent.join(60)
    assert not any(Path(f"/proc/{pid}").exists() for name in ("listen", "work") for pid in pids(name))


def test_as_many_listeners_are_started_as_are_to_share_the_port(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(name: str, config_file: Path) -> list[str]:
        note = f"open({str(tmp_path / name)!r}, 'a').write('started\\n')"
        return [sys.executable, "-c", f"import time; {note}; time.sleep(600)"]

    def started(name: str) -> int:
        path = tmp_path / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    monkeypatch.setattr(supervisor, "_command", command)
    listener = site.config.listener.model_copy(update={"processes": 3})
    config = site.config.model_copy(update={"listener": listener})
    stop = threading.Event()
    parent = threading.Thread(target=supervisor.run_supervisor, args=(config, tmp_path / "m.toml", stop))
    parent.start()
    try:
        assert wait_until(lambda: (started("listen"), started("work")) == (3, 1), 60)
    finally:
        stop.set()
        parent.join(60)
