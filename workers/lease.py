"""Who is alive: each worker beats in the registry and holds a lock on a file; whoever sees one dead hands its work on.

On one machine the lock tells within a second (the kernel frees it when the process dies, however it dies); between
machines the beat does, after TTL seconds by the database's clock. DBOS itself never declares an executor dead.

The living worker whose id comes first leads: it alone does what need be done only once (settling, removing).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from dbos import DBOS

from medpipe.logs import Event, about
from workers import faults
from workers.database import clock
from workers.queue import bring_forward, claimed_workflows, put_back, status_table
from workers.registry import Registry
from workers.tables import executor

log = logging.getLogger(__name__)

TTL_SECONDS = 8.0
SAME_BOOT_TTL_SECONDS = 60.0
BEAT_SECONDS = 2.0
SWEEP_SECONDS = 1.0
_FORGET_SECONDS = 3600.0


def boot_id() -> str:
    """The same for all processes since the machine was started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on during suspend, unlike CLOCK_MONOTONIC


class Lease:
    """One worker's life: `start` takes the lock and beats, `sweep` hands on the work of the dead."""

    def __init__(self, registry: Registry, root: Path) -> None:
        self.executor_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._registry = registry
        self._folder = root / "executors"
        self._boot = boot_id()
        self._lock: int | None = None
        self._leads = False
        self._threads: list[threading.Thread] = []

    def take(self) -> None:
        """Takes the lock and beats once; before the engine is launched, or a sweeper would think us dead."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._beat()

    @property
    def leads(self) -> bool:
        """Whether this worker led at its last beat. At a change two may, or for some seconds none: both do no harm."""
        return self._leads

    def _hold_lock(self) -> None:
        """Holds the lock file that others look at; a new one where somebody has removed ours (we had seemed dead)."""
        path = self._path(self.executor_id)
        if self._lock is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._lock), path.stat()):
                    return
            log.warning(
                "our lock file was gone; a new one says that we are alive", extra=about(Event.PROCESS_NOTE)
            )
            os.close(self._lock)
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def start(self, stop: threading.Event) -> None:
        """Beats and sweeps in threads of their own until `stop`."""
        for name, work, every in (
            ("beat", self._beat, BEAT_SECONDS),
            ("sweep", self._sweeper(), SWEEP_SECONDS),
        ):
            thread = threading.Thread(target=_repeat, args=(work, every, stop), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def release(self) -> None:
        """Gives back what we have claimed, the row and the lock: our open work is free at once."""
        for thread in self._threads:
            thread.join(timeout=5)
        try:
            with self._registry.begin() as connection:
                for workflow_id in claimed_workflows(connection, self.executor_id):
                    put_back(connection, self.executor_id, workflow_id)
                connection.execute(sa.delete(executor).where(executor.c.executor_id == self.executor_id))
        except sa.exc.DBAPIError:
            log.warning(
                "the database is away; our lease runs out by itself", extra=about(Event.DATABASE_AWAY)
            )
        if self._lock is not None:
            self._path(self.executor_id).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _path(self, executor_id: str) -> Path:
        return self._folder / f"{executor_id}.lock"

    def _beat(self) -> None:
        self._hold_lock()
        with self._registry.begin() as connection:
            beat = connection.execute(
                sa.update(executor)
                .where(executor.c.executor_id == self.executor_id)
                .values(beat_at=clock(connection))
            )
            if not beat.rowcount:
                row = {"executor_id": self.executor_id, "host": socket.gethostname(), "boot_id": self._boot}
                connection.execute(
                    sa.insert(executor).values(**row, pid=os.getpid(), beat_at=clock(connection))
                )
            before = connection.execute(
                sa.select(executor.c.executor_id, executor.c.boot_id).where(
                    executor.c.executor_id < self.executor_id,
                    executor.c.beat_at > clock(connection) - TTL_SECONDS,
                )
            ).all()
        self._leads = all(self._is_dead(one.executor_id, 0.0, one.boot_id) for one in before)

    def _sweeper(self) -> Callable[[], None]:
        last, beats_count_from = _now(), 0.0

        def sweep() -> None:
            nonlocal last, beats_count_from
            away = _now() - last
            owners = self._owners()
            last = _now()
            if away > TTL_SECONDS / 2:
                # we, or the database, were away: everybody gets one TTL to beat again before beats are judged
                beats_count_from = last + TTL_SECONDS
            by_beat = last >= beats_count_from
            dead = [owner for owner, age, boot in owners if self._is_dead(owner, age, boot, by_beat=by_beat)]
            if dead:
                self._hand_on(dead)

        return sweep

    def _owners(self) -> list[tuple[str, float | None, str | None]]:
        """Executors with open work: id, age of their beat in seconds, boot id (None where no row is known)."""
        with self._registry.read() as connection:
            rows = connection.execute(
                sa.text(
                    f"SELECT DISTINCT executor_id FROM {status_table(connection)} "
                    "WHERE status = 'PENDING' AND executor_id IS NOT NULL"
                )
            ).scalars()
            owners = [owner for owner in rows if owner != self.executor_id]
            if not owners:
                return []
            age = (clock(connection) - executor.c.beat_at).label("age")
            known = {
                row.executor_id: (float(row.age), str(row.boot_id))
                for row in connection.execute(
                    sa.select(executor.c.executor_id, executor.c.boot_id, age).where(
                        executor.c.executor_id.in_(owners)
                    )
                )
            }
        return [(owner, *known.get(owner, (None, None))) for owner in owners]

    def _is_dead(self, owner: str, age: float | None, boot: str | None, *, by_beat: bool = True) -> bool:
        """Whether its work is to be handed on; without `by_beat` only a lock that the kernel has freed tells."""
        if age is None:
            return by_beat
        if boot == self._boot:
            return self._lock_is_free(owner) or (by_beat and age > SAME_BOOT_TTL_SECONDS)
        return by_beat and age > TTL_SECONDS

    def _lock_is_free(self, owner: str) -> bool:
        try:
            descriptor = os.open(self._path(owner), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _hand_on(self, dead: list[str]) -> None:
        """Puts the dead executors' workflows back on the queue, in front of what has waited there."""
        handles = DBOS._recover_pending_workflows(dead)
        ids = [handle.workflow_id for handle in handles]
        faults.point("after_hand_on")
        if ids:
            log.warning(
                "took over %d workflows of %d dead workers", len(ids), len(dead),
                extra=about(Event.WORK_TAKEN_OVER, number=len(ids)),
            )  # fmt: skip
        with self._registry.begin() as connection:
            for workflow_id in ids:
                bring_forward(connection, workflow_id)
            connection.execute(
                sa.delete(executor).where(executor.c.beat_at < clock(connection) - _FORGET_SECONDS)
            )
        for owner in dead:
            if self._lock_is_free(owner):  # else it is only stalled, and may wake up
                self._path(owner).unlink(missing_ok=True)


def _repeat(work: Callable[[], None], every: float, stop: threading.Event) -> None:
    while not stop.wait(every):
        try:
            work()
        except sa.exc.DBAPIError as error:
            log.warning(
                "lease: the database does not answer (%s)",
                type(error.orig).__name__,
                extra=about(Event.DATABASE_AWAY),
            )
        except Exception:
            log.exception("lease: tried again", extra=about(Event.PROCESS_STUMBLED))
