"""What a site's processes cost a PostgreSQL and this machine: for benchmarks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg
from local_postgres import LocalPostgres
from local_process import LocalProcess, wait_until


@dataclass
class Site:
    """The database of a running site, its server, and the process that all its machines descend from."""

    connection: psycopg.Connection[Any]
    server: LocalPostgres
    machines: LocalProcess
    count: int

    def one(self, query: str, *values: Any) -> tuple[Any, ...]:
        row = self.connection.execute(query.encode(), values or None).fetchone()
        assert row is not None, query
        return tuple(row)

    def wait_for(self, query: str, number: int, seconds: float, *, exactly: bool = False) -> None:
        """Until the one number that the query gives is so high (or is that number)."""

        def reached() -> bool:
            found = self.one(query)[0]
            return bool(found == number if exactly else found >= number)

        if not wait_until(reached, seconds, 0.25):
            raise TimeoutError(f"{query}: {self.one(query)[0]}, not {number}, after {seconds:g} s")

    # --- read from the engine's own times (ms since 1970 by the database's clock) --------------------------------

    def latency(self, studies: Sequence[str], since: str) -> str:
        """Milliseconds from `received` or `queued` to claimed."""
        begun = {"received": "j.received_at * 1000", "queued": "w.created_at"}[since]
        return _times(
            self.connection.execute(
                f"SELECT w.started_at_epoch_ms - {begun} FROM job j {_FIRST_CLAIM}"
                " WHERE j.study_uid = ANY(%s)",
                [list(studies)],
            ).fetchall()
        )

    def gaps(self) -> str:
        """Milliseconds from the end of a worker's study to its next claim, while there was work for all."""
        rows = self.connection.execute(
            "SELECT next - completed_at FROM (SELECT completed_at, lead(started_at_epoch_ms) OVER"
            " (PARTITION BY executor_id ORDER BY started_at_epoch_ms) AS next FROM dbos.workflow_status"
            " WHERE status = 'SUCCESS') AS one WHERE next < (SELECT percentile_disc(0.9) WITHIN GROUP"
            " (ORDER BY started_at_epoch_ms) FROM dbos.workflow_status)"
        ).fetchall()
        return _times(rows)

    def overtaken(self) -> int:
        """By how many places a study was claimed later than its turn within its priority, at the most."""
        return int(
            self.one(
                "SELECT coalesce(max(claimed - queued), 0) FROM (SELECT"
                " rank() OVER (PARTITION BY j.priority ORDER BY w.started_at_epoch_ms) AS claimed,"
                " rank() OVER (PARTITION BY j.priority ORDER BY w.created_at) AS queued"
                f" FROM job j {_FIRST_CLAIM} WHERE j.attempts = 1) AS places"
            )[0]
        )

    def routine_before_stat(self) -> int:
        """Routine studies that were claimed although a STAT one had been waiting for longer than a second."""
        return int(
            self.one(
                "WITH one AS (SELECT j.priority, j.attempts, w.created_at AS queued, w.started_at_epoch_ms AS claimed"
                f" FROM job j {_FIRST_CLAIM}) SELECT count(*) FROM one AS routine WHERE routine.priority > 1"
                " AND routine.attempts = 1 AND EXISTS (SELECT 1 FROM one AS stat WHERE stat.priority = 1"
                " AND stat.attempts = 1 AND stat.queued < routine.claimed - 1000 AND stat.claimed > routine.claimed)"
            )[0]
        )

    def ended(self) -> tuple[int, int]:
        """How many jobs were sent, and how many were published more than once."""
        sent = self.one("SELECT count(*) FROM job WHERE state = 'sent'")[0]
        twice = self.one(
            "SELECT count(*) FROM (SELECT detail->>'job' FROM audit WHERE what = 'results published'"
            " GROUP BY 1 HAVING count(*) > 1) AS again"
        )[0]
        return int(sent), int(twice)


_FIRST_CLAIM = "JOIN dbos.workflow_status w ON w.workflow_uuid = 'job:' || j.id || ':g1:a1'"


class Meter:
    """What goes on between its making and `row`."""

    HEAD = (
        "| workers | transactions/s | statements/s | CPU of PostgreSQL (cores) | CPU of the workers (cores)"
        " | connections | memory of a worker |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )

    def __init__(self, site: Site) -> None:
        self._site = site
        self._database = psutil.Process(site.server.process.pid if site.server.process else 0)
        self._workers = psutil.Process(site.machines.pid)
        site.connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        site.connection.execute("SELECT pg_stat_statements_reset()")
        self._before = self._figures()

    def _figures(self) -> tuple[float, int, dict[int, float], dict[int, float]]:
        committed = self._site.one(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        )[0]
        return time.monotonic(), committed, _cpu(self._database), _cpu(self._workers)

    def row(self, what: str, studies: int = 0) -> str:
        """One line of the table; with `studies` the CPU time for each of them too."""
        now, before = self._figures(), self._before
        seconds = now[0] - before[0]
        statements = self._site.one("SELECT sum(calls) FROM pg_stat_statements")[0]
        connections = self._site.one(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )[0]
        cpu = [sum(now[n][pid] - before[n].get(pid, 0.0) for pid in now[n]) for n in (2, 3)]
        each = [
            f"{used / seconds:.2f}" + (f" ({1000 * used / studies:.0f} ms a study)" if studies else "")
            for used in cpu
        ]
        memory = (
            sum(child.memory_full_info().pss for child in self._workers.children()) / 1e6 / self._site.count
        )
        cells = [
            f"{self._site.count} {what}",
            f"{(now[1] - before[1]) / seconds:.0f}",
            f"{float(statements) / seconds:.0f}",
            *each,
            f"{connections} ({connections / self._site.count:.1f} each)",
            f"{memory:.0f} MB",
        ]
        return f"| {' | '.join(cells)} |"


def _cpu(root: psutil.Process) -> dict[int, float]:
    """Seconds of CPU of a process and of all that descend from it."""
    used = {}
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used[process.pid] = times.user + times.system
    return used


def _times(rows: Sequence[tuple[Any, ...]]) -> str:
    values = sorted(float(row[0]) for row in rows if row[0] is not None)
    if not values:
        return "-"
    at = [values[min(len(values) - 1, int(len(values) * share))] for share in (0.5, 0.95, 1.0)]
    return " / ".join(f"{value:.0f}" for value in at) + " ms"
