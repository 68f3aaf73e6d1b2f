"""What the looks that a worker takes all day cost on PostgreSQL when there is a long past behind it and much before it.

    .venv/bin/python bench/large_site.py [--studies 500000] [--queued 10000] [--rounds 5]

The rows are made by SQL. Each look is timed with the indexes that ship and without them, in turn; the shortest of
--rounds, as others may use the machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

import sqlalchemy as sa
from local_postgres import LocalPostgres

from workers.queue import is_waited_for, migrate_engine
from workers.registry import Registry
from workers.tables import study
from workers.watchdog import Watchdog

STUDIES = """INSERT INTO study
    (study_uid, calling_aes, first_at, last_at, instances, generation, settled, retention)
    SELECT '2.25.' || n, '["MODALITY"]', n, n, 1, 1, 1, 'kept' FROM generate_series(1, :count) AS n"""
JOBS = """INSERT INTO job
    (id, study_uid, bundle, bundle_version, bundle_hash, content, instances, rule, priority, destinations, generation,
     state, step, attempts, seconds, received_at, created_at, updated_at)
    SELECT md5(n::text), '2.25.' || n, 'fundus-lesions', '1', '', md5(n::text), '[]', 'rule', 100, '[]', 1,
    'queued', '', 0, '{}', n, n, n FROM generate_series(1, :count) AS n"""
WORKFLOWS = """INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, priority)
    SELECT 'job:' || md5(n::text) || ':g1:a1', 'ENQUEUED', 'job', 'gpu', 100
    FROM generate_series(1, :count) AS n"""


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=500_000)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    server = LocalPostgres()
    try:
        url = server.create().start().url(server.new_database())
        migrate_engine(url)
        registry = Registry(url)
        registry.migrate()
        fill(registry, options)
        measure(registry, options)
        registry.close()
    finally:
        server.remove()


def fill(registry: Registry, options: argparse.Namespace) -> None:
    with registry.begin() as connection:
        connection.execute(sa.text(STUDIES), {"count": options.studies})
        connection.execute(sa.text(JOBS), {"count": options.queued})
        connection.execute(sa.text(WORKFLOWS), {"count": options.queued})
    vacuum(registry)


def measure(registry: Registry, options: argparse.Namespace) -> None:
    watchdog = Watchdog(registry, "nobody", Counter())
    looks: dict[str, Callable[[], object]] = {
        "studies to settle (twice a second)": registry.unsettled,
        "retrievals that have died (twice a second)": lambda: registry.end_stale_retrievals(3600),
        "jobs that nobody works on (each 5 s)": lambda: watchdog.give_up_forsaken(0.0),
        "whether anything waits (each second)": lambda: _waits(registry),
    }
    with_them = {what: shortest(look, options.rounds) for what, look in looks.items()}
    with registry.begin() as connection:
        for index in study.indexes:
            connection.execute(sa.text(f"DROP INDEX {index.name}"))
    without = {what: shortest(look, options.rounds) for what, look in looks.items()}
    print(
        f"| look, of the worker that leads | {options.studies} studies, {options.queued} queued | without index |"
    )
    print("| --- | ---: | ---: |")
    for what in looks:
        print(f"| {what} | {1000 * with_them[what]:.1f} ms | {1000 * without[what]:.1f} ms |")


def _waits(registry: Registry) -> bool:
    with registry.read() as connection:
        return is_waited_for(connection, "gpu")


def vacuum(registry: Registry) -> None:
    """As PostgreSQL itself does after a while."""
    with registry.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))


def shortest(look: Callable[[], object], rounds: int) -> float:
    """Seconds of the quickest of several looks, after one that does not count."""
    look()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        look()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    main()
