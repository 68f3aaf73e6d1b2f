"""Troubles at random, from a seed: kill -9, SIGSTOP, a full disk, a database that is away, a PACS with moods."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import sqlalchemy as sa

from havoc.archive import MOODS, Archive
from havoc.line import Line
from havoc.takeover import Takeovers
from workers.faults import POINTS, WRITES

AWAY_SECONDS = 20.0
_LOOK_SECONDS = 0.2
_NOT_IN_THE_LINE = ("after_let_go", "before_removed", "in_backup", "before_backup", "in_restore")
"""Points of retention, which takes days to come, and of backups: tests/workers/jobs has them."""

KILLABLE = tuple(point for point in POINTS if point not in _NOT_IN_THE_LINE)


class Storm:
    """Brings trouble to a line, on the average every `every` seconds. `tick` from the main thread, again and again."""

    def __init__(self, line: Line, archive: Archive, seed: int, every: float) -> None:
        self.line, self.archive = line, archive
        self.takeovers = Takeovers(line.registry)
        self.counted: collections.Counter[str] = collections.Counter()
        self.ended_by_itself: list[str] = []
        self._rng, self._every = random.Random(seed), every
        self._next = self._next_look = 0.0
        self._ends: list[tuple[float, Callable[[], None]]] = []
        self._away = False

    TROUBLES = (
        (24, "kill_listener"),
        (28, "kill_worker"),
        (14, "kill_child"),
        (24, "arm_kill"),
        (3, "stop_process"),
        (2, "stop_as_elsewhere"),
        (2, "arm_stop"),
        (2, "arm_full"),
        (4, "moody_archive"),
        (1, "fill_disk"),
        (1, "database_away"),
    )

    @property
    def kills(self) -> int:
        return self.counted["killed: listener"] + self.counted["killed: worker"] + self.line.children_killed

    @property
    def disturbed(self) -> bool:
        return self._away or bool(self.line.stopped)

    def tick(self, *, quiet: bool = False) -> None:
        """One look at everything; unless `quiet`, new trouble when its time has come."""
        now = time.monotonic()
        for death in self.line.look_after():
            kind = "listener" if death.name == "listen" else "worker"
            if not death.killed:
                self.ended_by_itself.append(death.name)
                continue
            self.counted[f"killed: {kind}"] += 1
            if kind == "worker":
                with contextlib.suppress(sa.exc.SQLAlchemyError):
                    self.takeovers.died(death.pid, disturbed=self.disturbed)
        for until, end in list(self._ends):
            if now >= until:
                self._ends.remove((until, end))
                end()
        if now >= self._next_look and not self._away:
            self._next_look = now + _LOOK_SECONDS
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self.takeovers.look(disturbed=self.disturbed)
        if not quiet and now >= self._next:
            self._next = now + self._rng.expovariate(1 / self._every)
            weights, names = zip(*self.TROUBLES, strict=True)
            getattr(self, self._rng.choices(names, weights)[0])()

    def calm(self) -> None:
        """Ends every trouble."""
        for _, end in self._ends:
            end()
        self._ends.clear()
        self.line.disarm()
        for pid in list(self.line.stopped):
            self.line.wake(pid)

    def _later(self, seconds: float, end: Callable[[], None]) -> None:
        self._ends.append((time.monotonic() + seconds, end))

    # --- kill, stop ------------------------------------------------------------------------------------------------

    def kill_listener(self) -> None:
        self._kill("listen")

    def kill_worker(self) -> None:
        self._kill("work")

    def _kill(self, kind: str) -> None:
        running = self.line.running(kind)
        if running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.line.pid(self._rng.choice(running)), signal.SIGKILL)

    def kill_child(self) -> None:
        children = self.line.children()
        if children:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._rng.choice(children).kill()
                self.line.children_killed += 1

    def arm_kill(self) -> None:
        self.line.arm(self._rng.choice(KILLABLE), "kill")

    def arm_stop(self) -> None:
        self.line.arm(self._rng.choice(KILLABLE), "stop")
        self.counted["armed to stop"] += 1

    def arm_full(self) -> None:
        self.line.arm(self._rng.choice(WRITES), "full")
        self.counted["armed with a full disk"] += 1

    def stop_process(self) -> None:
        process = self._rng.choice(self.line.running("work") + self.line.running("listen") or [None])
        if process is not None:
            self.line.stop_for(self.line.pid(process), self._rng.uniform(1, 12))
            self.counted["stopped (SIGSTOP)"] += 1

    def stop_as_elsewhere(self) -> None:
        """A worker stands still, and its lock is gone: the others take it for dead before it wakes up."""
        running = self.line.running("work")
        if running:
            process = self._rng.choice(running)
            pid = self.line.pid(process)
            self.line.stop_for(pid, self._rng.uniform(4, 12))
            for lock in (self.line.root / "executors").glob(f"*-{pid}-*.lock"):
                lock.unlink(missing_ok=True)
            self.counted["stopped, and taken for dead"] += 1

    # --- disk, database, PACS ------------------------------------------------------------------------------------

    def fill_disk(self) -> None:
        """The site's file system is full for some seconds; only where it is one of its own."""
        if not self.line.on_tmpfs:
            return
        ballast = self.line.root / "ballast"
        fill(ballast)
        self._later(self._rng.uniform(2, 8), lambda: ballast.unlink(missing_ok=True))
        self.counted["disk full"] += 1

    def database_away(self) -> None:
        if self._away:
            return
        self._away = True
        self.counted["database away for 20 s"] += 1
        self._later(AWAY_SECONDS, self._back(take_away(self.line, crash=self._rng.random() < 0.5)))

    def _back(self, back: Callable[[], None]) -> Callable[[], None]:
        def end() -> None:
            back()
            self._away = False

        return end

    def moody_archive(self) -> None:
        self.archive.mood = self._rng.choice(MOODS)
        self.counted[f"PACS {self.archive.mood}"] += 1

        def good() -> None:
            self.archive.mood = "good"

        self._later(self._rng.uniform(3, 10), good)


def fill(ballast: Path) -> None:
    """Takes all the room there is on a file system."""
    block = bytes(1 << 16)
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while len(block) and file.write(block):
            pass


def take_away(line: Line, *, crash: bool = False) -> Callable[[], None]:
    """Has the database answer nobody; a function that brings it back.

    PostgreSQL is stopped, or crashes. SQLite is nobody's to stop: its write lock is held.
    """
    if line.server is not None:
        line.server.crash() if crash else line.server.stop()
        return lambda: line.server.start() and None
    connection = sqlite3.connect(line.root / "medpipe.sqlite", isolation_level=None, timeout=30)
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute("BEGIN IMMEDIATE")
    return connection.close
