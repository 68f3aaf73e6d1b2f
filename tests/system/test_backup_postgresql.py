"""Backup and restore with PostgreSQL's own programs: one moment, all of it or nothing, or a plain word why not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from medpipe.config import Config, parse_config
from medpipe.errors import PeerUnreachable, UsageError
from workers.backup import restore, take, verify
from workers.registry import JobPlan, Registry
from workers.settle import register_arrivals
from workers.spool import Arrival, Spool
from workers.tables import JobState, instance, job, study
from workers.work import prepare


def config_of(root: Path, url: str) -> Config:
    return parse_config({"site": {"root": str(root), "database": url}})


def receive(spool: Spool, number: int) -> None:
    path = spool.incoming / f"{number}.part"
    path.write_bytes(bytes(128) + b"DICM" + str(number).encode())
    arrival = Arrival(f"2.25.1.{number}", "1.2.3", "2.25.1", "2.25.1.0", "1.2.840.10008.1.2", "PACS", "M")
    spool.receive(path, arrival, time.time())


@pytest.fixture
def config(tmp_path: Path, postgres: Any) -> Config:
    """A site with a failed study of two instances, and a third one that nobody has registered."""
    made = config_of(tmp_path / "root", postgres.url)
    prepare(made)
    spool, registry = Spool(made.site.root), Registry(made.site.database_url)
    for number in range(2):
        receive(spool, number)
    register_arrivals(spool, registry)
    bundle = ("phantom-2d", "1", "b" * 64)
    plan = JobPlan("2.25.1", *bundle, "a", (), "spots", 100, ("PACS",), 1.0, JobState.FAILED, "TIME_LIMIT")
    for row in registry.unsettled():
        registry.settle(row, [plan], lambda *_: None)
    registry.close()
    receive(spool, 2)
    return made


def rows(config: Config) -> list[list[Any]]:
    engine = sa.create_engine(config.site.database_url)
    with engine.connect() as connection:
        found = [list(connection.execute(sa.select(table)).all()) for table in (study, instance, job)]
    engine.dispose()
    return found


def test_what_was_backed_up_comes_back_into_an_empty_database_only(
    config: Config, postgres: Any, tmp_path: Path
) -> None:
    path = take(config, tmp_path / "site.tar", "").path
    before = rows(config)
    elsewhere = config_of(tmp_path / "elsewhere", postgres.url)
    with pytest.raises(UsageError, match="into an empty database"):
        restore(elsewhere, path, "me")
    assert not elsewhere.site.root.exists()
    empty = config_of(tmp_path / "elsewhere", postgres.server.url(postgres.server.new_database()))
    restore(empty, path, "me")
    assert rows(empty) == before
    spool = Spool(empty.site.root)
    assert [one.sop_instance_uid for one in spool.arrivals()] == ["2.25.1.2"]
    assert len(list(spool.instances.glob("??/*.dcm"))) == 3


def test_a_backup_of_the_other_kind_of_database_is_refused(config: Config, tmp_path: Path) -> None:
    path = take(config, tmp_path / "site.tar", "").path
    assert verify(path).manifest.database == "postgresql"
    with pytest.raises(UsageError, match="of a site on postgresql, and"):
        restore(config_of(tmp_path / "elsewhere", "sqlite"), path, "me")


def test_absent_programs_and_an_absent_server_are_said(
    config: Config, postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.server.stop()
    with pytest.raises((PeerUnreachable, sa.exc.OperationalError)):
        take(config, tmp_path / "site.tar", "")
    with monkeypatch.context() as here:  # the server is started again afterwards, by programs that are there
        here.setenv("PATH", str(tmp_path))
        with pytest.raises(
            UsageError, match="pg_dump is not installed here: install the package postgresql-client"
        ):
            take(config, tmp_path / "site.tar", "")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
