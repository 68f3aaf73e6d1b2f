"""The stored site of an older release, stopped in the middle of its work: the present code goes on with it."""

from __future__ import annotations

import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from local_orthanc import LocalOrthanc
from sqlalchemy.engine import make_url

from medpipe.config import load_config
from medpipe.identity import uid_from
from workers.audit import is_whole
from workers.tables import audit

STORE = Path(__file__).parent / "upgrades"
STORED = sorted(tuple(path.name.removesuffix(".sql").rsplit(".", 1)) for path in STORE.glob("*.sql"))
"""Release, kind of database: upgrades/store.py makes them."""
CONFIRMED, FAILED, QUARANTINED, OPEN = 1, 2, 3, (4, 5, 6, 7)
"""The numbers of the stored studies (upgrades/store.py): what had ended, and what was sending, running, queued."""


def uid(number: int) -> str:
    return uid_from("2.25", "spots", str(number))


def load(line: Any, release: str) -> None:
    """The site as that release left it."""
    site = load_config(line.config_file).site
    site.root.mkdir()
    with tarfile.open(STORE / f"{release}.files.tar.gz") as tar:
        tar.extractall(site.root, filter="data")
    if site.database_url.startswith("sqlite"):
        with closing(sqlite3.connect(site.root / "medpipe.sqlite")) as connection:
            connection.executescript((STORE / f"{release}.sqlite.sql").read_text(encoding="utf-8"))
        return
    with psycopg.connect(_conninfo(site.database_url)) as connection:
        connection.execute((STORE / f"{release}.postgresql.sql").read_bytes())


def _conninfo(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def opened(line: Any) -> Iterator[sa.Connection]:
    engine = sa.create_engine(load_config(line.config_file).site.database_url)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def rows_of(line: Any, *numbers: int) -> dict[str, list[dict[str, Any]]]:
    """All that the tables hold of some studies, whatever columns they have."""
    jobs = "SELECT id FROM job WHERE study_uid IN :studies"
    of = {
        "study": "study_uid IN :studies",
        "instance": "study_uid IN :studies",
        "job": "study_uid IN :studies",
        "image": f"job IN ({jobs})",
        "result": f"job IN ({jobs})",
        "delivery": f"sop_instance_uid IN (SELECT sop_instance_uid FROM result WHERE job IN ({jobs}))",
    }
    studies = sa.bindparam("studies", [uid(number) for number in numbers], expanding=True)
    with opened(line) as connection:
        return {
            table: sorted(
                (
                    dict(row)
                    for row in connection.execute(
                        sa.text(f"SELECT * FROM {table} WHERE {where}").bindparams(studies)
                    ).mappings()
                ),
                key=repr,
            )
            for table, where in of.items()
        }


@pytest.mark.timeout(900)  # it waits for work; on an idle machine it takes some seconds
@pytest.mark.parametrize(("release", "line"), STORED, indirect=["line"])
def test_what_was_under_way_is_finished_and_what_had_ended_stays(
    release: str, line: Any, orthanc: LocalOrthanc
) -> None:
    line.destroy()
    load(line, release)
    with line.config_file.open("a") as settings:  # where study 4 is on its way to answers now
        settings.write(
            f'\n[peers.AWAY]\nae_title = "{orthanc.ae_title}"\nhost = "{orthanc.host}"\n'
            f"port = {orthanc.dicom_port}\n"
        )
    ended = rows_of(line, CONFIRMED, FAILED, QUARANTINED)
    assert all(ended.values())
    with opened(line) as connection:
        trail = connection.execute(sa.text("SELECT number, chain FROM audit ORDER BY number")).all()

    line.start("listen")
    line.start("work")
    expected = ["confirmed"] * 5 + ["failed", "quarantined"]
    line.watch(lambda rows: sorted(row["state"] for row in rows) == expected)

    segs = {
        number: len(orthanc.sop_instance_uids(StudyInstanceUID=uid(number), Modality="SEG"))
        for number in (CONFIRMED, *OPEN)
    }
    assert segs == {CONFIRMED: 0, **dict.fromkeys(OPEN, 1)}  # sent before: not sent again
    after = rows_of(line, CONFIRMED, FAILED, QUARANTINED)
    for table, rows in ended.items():
        kept = [{column: row[column] for column in rows[0]} for row in after[table]]
        assert sorted(kept, key=repr) == rows, table
    with opened(line) as connection:
        now = connection.execute(sa.select(audit.c.number, audit.c.chain).order_by(audit.c.number)).all()
        assert now[: len(trail)] == trail and len(now) > len(trail) and is_whole(connection)
