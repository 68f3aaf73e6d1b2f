"""Retention on PostgreSQL: two workers remove what a sender is just sending again, and nothing acknowledged is lost."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from medpipe.config import Config, parse_config
from medpipe.review.metrics import Metrics
from workers.registry import JobPlan, Registry
from workers.retention import Janitor
from workers.settle import register_arrivals
from workers.spool import Arrival, Spool
from workers.tables import JobState, instance, job, study
from workers.work import prepare

INSTANCES = 40


@pytest.fixture
def config(tmp_path: Path, postgres: Any) -> Config:
    made = parse_config({"site": {"root": str(tmp_path), "database": postgres.url}})
    prepare(made)
    return made


def send(spool: Spool, number: int) -> None:
    path = spool.incoming / f"{number}.part"
    path.write_bytes(bytes(128) + b"DICM" + str(number).encode())
    arrival = Arrival(f"2.25.1.{number}", "1.2.3", "2.25.1", "2.25.1.0", "1.2.840.10008.1.2", "PACS", "M")
    spool.receive(path, arrival, time.time())


def confirm(registry: Registry) -> None:
    """All that there is has been processed, and is in the PACS."""
    plan = JobPlan("2.25.1", "phantom-2d", "1", "b" * 64, "a", (), "spots", 100, ("PACS",), 1000.0)
    for row in registry.unsettled():
        registry.settle(row, [plan], lambda *_: None)
    with registry.begin() as connection:
        connection.execute(sa.update(job).values(state=JobState.CONFIRMED.value, updated_at=1000.0))


def mark(config: Config, spool: Spool, registry: Registry) -> bool:
    """As if its days were over."""
    return Janitor(config, spool, registry).mark("2.25.1", time.time())


def test_what_is_sent_again_while_it_is_removed_is_there(config: Config) -> None:
    spool, registry = Spool(config.site.root), Registry(config.site.database_url)
    for number in range(INSTANCES):
        send(spool, number)
    register_arrivals(spool, registry)
    confirm(registry)
    assert mark(config, spool, registry)
    sent = threading.Event()

    def send_again() -> None:
        for number in reversed(range(INSTANCES)):
            send(spool, number)
        sent.set()

    def remove() -> None:
        Janitor(config, spool, registry).round()

    def settle() -> None:
        while not sent.is_set():
            register_arrivals(spool, registry)

    with ThreadPoolExecutor(5) as pool:
        for done in [pool.submit(one) for one in (remove, remove, settle, settle, send_again)]:
            done.result(timeout=60)
    register_arrivals(spool, registry)
    with registry.read() as connection:
        rows = connection.execute(sa.select(instance)).all()
        (row,) = connection.execute(sa.select(study)).all()
    assert {one.retention for one in rows} == {"kept"} and len(rows) == row.instances == INSTANCES
    assert all(spool.path_named(one.file).is_file() for one in rows)
    remove()  # ends what was begun: nothing is left to remove
    confirm(registry)
    assert mark(config, spool, registry)
    remove()
    text = Metrics(config, registry).text()
    figures = {
        s.name: s.value for f in text_string_to_metric_families(text) for s in f.samples if not s.labels
    }
    assert (figures["medpipe_instances_received_total"], figures["medpipe_spool_bytes"]) == (INSTANCES, 0)
    assert not list(spool.instances.glob("??/*-*.*"))
    registry.close()
