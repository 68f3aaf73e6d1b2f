"""How long what a dead worker held lies still: from its death until another worker has it."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from workers.queue import status_table
from workers.registry import Registry


@dataclass
class Orphan:
    """One workflow that a worker held when it died."""

    workflow_id: str
    executor_id: str
    died_at: float
    disturbed: bool
    handed_on: bool = False


@dataclass
class Takeovers:
    """Follows orphans. `handed_on` and `running` are seconds from the death until the workflow was queued again, and
    until another worker had claimed it; `disturbed` are the latter where the database was away or a worker stood
    still meanwhile.
    """

    registry: Registry
    orphans: list[Orphan] = field(default_factory=list)
    handed_on: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)

    def died(self, pid: int, *, disturbed: bool) -> None:
        """Takes up what the worker with this process number held."""
        with self.registry.read() as connection:
            rows = connection.execute(
                sa.text(
                    f"SELECT workflow_uuid, executor_id FROM {status_table(connection)} "
                    "WHERE status = 'PENDING' AND executor_id LIKE :mine"
                ),
                {"mine": f"{socket.gethostname()}-{pid}-%"},
            ).all()
        now = time.monotonic()
        self.orphans += [Orphan(row.workflow_uuid, row.executor_id, now, disturbed) for row in rows]

    def look(self, *, disturbed: bool) -> None:
        """One look at all orphans."""
        if not self.orphans:
            return
        ids = sorted({one.workflow_id for one in self.orphans})
        with self.registry.read() as connection:
            query = sa.text(
                f"SELECT workflow_uuid, status, executor_id FROM {status_table(connection)} "
                "WHERE workflow_uuid IN :ids"
            ).bindparams(sa.bindparam("ids", expanding=True))
            rows = {row.workflow_uuid: row for row in connection.execute(query, {"ids": ids})}
        now = time.monotonic()
        left = []
        for orphan in self.orphans:
            row = rows.get(orphan.workflow_id)
            orphan.disturbed |= disturbed
            if row is not None and row.status == "PENDING" and row.executor_id == orphan.executor_id:
                left.append(orphan)
                continue
            if not orphan.handed_on:
                orphan.handed_on = True
                if not orphan.disturbed:
                    self.handed_on.append(now - orphan.died_at)
            if row is not None and row.status in ("ENQUEUED", "DELAYED"):
                left.append(orphan)
            else:
                (self.disturbed if orphan.disturbed else self.running).append(now - orphan.died_at)
        self.orphans = left


def spread(seconds: Sequence[float]) -> str:
    """Median, 95th percentile and longest, in seconds."""
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    late = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    median = statistics.median(ordered)
    return f"median {median:.1f} s, 95 % {late:.1f} s, longest {ordered[-1]:.1f} s (n = {len(ordered)})"
