"""PostgreSQL's locks: who judges waits for who is just changing what is judged, and sees what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from local_process import wait_until

from medpipe.config import Config, parse_config
from workers.audit import is_whole, note, records
from workers.publish import outbox
from workers.registry import JobPlan, Registry
from workers.retention import Janitor, is_removed
from workers.settle import register_arrivals
from workers.spool import Arrival, Spool
from workers.tables import JobState, Retention, instance, job, study

STUDY = "2.25.1"
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


class Over:
    """A site with a study of two instances whose only job is confirmed: retention would remove it."""

    def __init__(self, config: Config) -> None:
        self.registry, self.spool = Registry(config.site.database_url), Spool(config.site.root)
        self.registry.migrate()
        self.janitor = Janitor(config, self.spool, self.registry)
        for number in range(2):
            path = self.spool.incoming / f"{number}.part"
            path.write_bytes(bytes(128) + b"DICM" + str(number).encode())
            arrival = Arrival(
                f"2.25.1.{number}", "1.2.3", STUDY, "2.25.1.0", "1.2.840.10008.1.2", "PACS", "M"
            )
            self.spool.receive(path, arrival, 1000.0)
        register_arrivals(self.spool, self.registry)
        plan = JobPlan(STUDY, "phantom-2d", "1", "b" * 64, "a", (), "spots", 100, ("PACS",), 1000.0)
        for row in self.registry.unsettled():
            self.registry.settle(row, [plan], lambda *_: None)
        self.job_id = plan.id
        with self.registry.begin() as connection:
            connection.execute(sa.update(job).values(state=JobState.CONFIRMED.value, updated_at=1000.0))

    def mark(self) -> bool:
        return self.janitor.mark(STUDY, time.time())

    def waits(self) -> bool:
        """Whether somebody waits for a lock."""
        with self.registry.read() as connection:
            return bool(connection.execute(sa.text(WAITING)).scalar_one())

    def beside(self, change: Callable[[sa.Connection], Any], act: Callable[[], Any]) -> Any:
        """What `act` gives that begins after a change was made and before it is committed."""
        with ThreadPoolExecutor(1) as pool:
            with self.registry.begin() as connection:
                change(connection)
                acting: Future[Any] = pool.submit(act)
                assert wait_until(lambda: acting.done() or self.waits(), 30)
            return acting.result(timeout=30)

    def states(self) -> tuple[str, list[str]]:
        """Retention of the study and of its instances."""
        with self.registry.read() as connection:
            rows = connection.execute(sa.select(instance.c.retention)).scalars()
            return str(connection.execute(sa.select(study.c.retention)).scalar_one()), sorted(rows)


@pytest.fixture
def over(tmp_path: Path, postgres: Any) -> Iterator[Over]:
    made = Over(parse_config({"site": {"root": str(tmp_path), "database": postgres.url}}))
    yield made
    made.registry.close()


def more_came(connection: sa.Connection) -> None:
    connection.execute(sa.update(study).values(generation=study.c.generation + 1))


def queued_again(connection: sa.Connection) -> None:
    connection.execute(sa.update(job).values(state=JobState.QUEUED.value))


@pytest.mark.parametrize("change", [more_came, queued_again])
def test_a_study_to_which_something_happens_meanwhile_is_not_marked(
    over: Over, change: Callable[[sa.Connection], None]
) -> None:
    assert not over.beside(change, over.mark)
    assert over.states() == ("kept", ["kept", "kept"])


def test_a_study_that_is_being_queued_again_is_not_marked(over: Over) -> None:
    """Who asks whether its files are gone holds it until he has said what becomes of it."""

    with ThreadPoolExecutor(1) as pool:
        with over.registry.begin() as connection:
            assert not is_removed(connection, STUDY)
            marking = pool.submit(over.mark)
            assert wait_until(lambda: marking.done() or over.waits(), 30)
            queued_again(connection)
        assert not marking.result(timeout=30)


def test_an_instance_that_is_just_taken_back_keeps_its_file(over: Over) -> None:
    assert over.mark()
    with over.registry.read() as connection:
        one = connection.execute(sa.select(instance).order_by(instance.c.sop_instance_uid)).first()
    assert one is not None

    def taken_back(connection: sa.Connection) -> None:
        this = instance.c.sop_instance_uid == one.sop_instance_uid
        connection.execute(sa.update(instance).where(this).values(retention=Retention.KEPT.value))

    over.beside(taken_back, lambda: over.janitor.remove_instance(one.sop_instance_uid, one.digest))
    assert over.spool.path_named(one.file).is_file()
    assert over.states()[1] == ["kept", "removing"]


def test_a_study_is_not_removed_while_another_instance_comes(over: Over) -> None:
    assert over.mark()

    def comes(connection: sa.Connection) -> None:
        connection.execute(sa.select(study).with_for_update())
        row = dict(connection.execute(sa.select(instance)).mappings().first() or {})
        new = row | {"file": "f" * 32, "sop_instance_uid": "2.25.1.9", "retention": Retention.KEPT.value}
        connection.execute(sa.insert(instance).values(**new))

    assert over.beside(comes, lambda: over.janitor.finish(STUDY)) == []
    assert over.states() == ("kept", ["kept", "removed", "removed"])


def test_results_of_a_job_that_is_just_queued_again_stay(over: Over, tmp_path: Path) -> None:
    folder = outbox(tmp_path) / f"{over.job_id}-1"
    folder.mkdir(parents=True)
    assert over.mark()
    over.beside(queued_again, lambda: over.janitor.finish(STUDY))
    assert folder.is_dir()


def test_two_who_record_at_once_make_one_chain(over: Over) -> None:
    def record(who: str, connection: sa.Connection) -> None:
        note(connection, who, "study opened", STUDY, {})

    def second() -> None:
        with over.registry.begin() as connection:
            record("bert", connection)

    over.beside(lambda connection: record("anna", connection), second)
    with over.registry.read() as connection:
        assert is_whole(connection)
        assert [one.who for one in records(connection)][-2:] == ["anna", "bert"]
