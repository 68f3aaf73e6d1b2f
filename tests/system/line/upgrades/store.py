"""Makes the stored site of a release, for the test that a newer version goes on with it.

    PYTHONPATH=.:deploy .venv/bin/python tests/system/line/upgrades/store.py sqlite       (and: postgresql)

runs the release's own worker beside a real Orthanc on drawn pictures, stops it in the middle, and writes beside this
file

    VERSION.sqlite.sql, VERSION.postgresql.sql   all tables: ours, and the engine's
    VERSION.files.tar.gz                         spool and outbox, the same for both

with times, tokens and names of processes made the same on every run. Run it once, when a release is made; the files of
older releases stay as they are. The studies are numbered as `STATES` says.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from unittest import mock

import pydicom
import sqlalchemy as sa
import tomli_w
from local_orthanc import LocalOrthanc
from local_postgres import LocalPostgres
from local_process import free_port, wait_until
from pydicom.uid import ExplicitVRLittleEndian

from medpipe import __version__
from medpipe.config import load_config
from medpipe.identity import digest, uid_from
from workers import audit
from workers.queue import JobQueue, job_workflow_id, status_table
from workers.registry import Registry
from workers.settle import Steward
from workers.spool import Arrival, Spool
from workers.status import status_rows
from workers.tables import JobState, delivery, executor, result
from workers.tables import audit as audit_table
from workers.work import prepare

HERE = Path(__file__).parent
STATES = {1: "confirmed", 2: "failed", 3: "quarantined", 4: "sending", 5: "running", 6: "queued", 7: "queued"}
_FIRST = 1_767_225_600
"""2026-01-01: all times begin here, one second after the other."""


class Station:
    """A line of this release: its own worker, a real PACS, and a second one that nobody can reach."""

    def __init__(self, folder: Path, orthanc: LocalOrthanc, database: str) -> None:
        self.folder, self.config_file = folder, folder / "medpipe.toml"
        pacs = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port, "timeout": 5}
        away = pacs | {"port": free_port()}
        wanted = {"name": "spots", "when": {"Modality": "OP"}, "bundle": "phantom-2d", "send": ["PACS"]}
        elsewhere = wanted | {"name": "elsewhere", "when": {"StudyID": "AWAY"}, "send": ["AWAY"]}
        document = {
            "site": {"root": str(folder / "root"), "minimum_free": "10 MB", "database": database},
            "listener": {"calling": ["MODALITY"], "settle_seconds": 0},
            "worker": {"device": "cpu", "backend": "torch", "threads": 1, "attempts": 1},
            "peers": {"PACS": pacs, "AWAY": away},
            "rules": [elsewhere, wanted],
        }
        folder.mkdir()
        self.config_file.write_text(tomli_w.dumps(document))
        self.config = load_config(self.config_file)
        orthanc.add_modality("medpipe", "MEDPIPE", free_port())
        prepare(self.config)
        self.spool = Spool(self.config.site.root)
        self.registry = Registry(self.config.site.database_url)
        self.queue = JobQueue(self.config.site.database_url)
        self.draw = _drawing()

    def close(self) -> None:
        self.queue.close()
        self.registry.close()

    def receive(self, *numbers: int) -> None:
        """Drawn studies; 3 has an instance of another patient, 4 is to be sent to where nobody answers."""
        for number in numbers:
            dataset = pydicom.dcmread(self.draw(self.folder / "modality", number, spots=1, size=64))
            dataset.StudyID = "AWAY" if number == 4 else ""
            self._receive(dataset)
            if number == 3:
                dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid_from("2.25", "b")
                dataset.PatientID = "SPOTS-OTHER"
                self._receive(dataset)

    def _receive(self, dataset: pydicom.Dataset) -> None:
        """What the listener does with an instance."""
        path = self.spool.incoming / "one.part"
        dataset.save_as(path, enforce_file_format=True)
        uids = (
            dataset.SOPInstanceUID,
            dataset.SOPClassUID,
            dataset.StudyInstanceUID,
            dataset.SeriesInstanceUID,
        )
        arrival = Arrival(*map(str, uids), ExplicitVRLittleEndian, "MODALITY", "MEDPIPE")
        self.spool.receive(path, arrival, time.time())

    @contextmanager
    def worker(self, **environment: str) -> Iterator[None]:
        program = [sys.executable, "-m", "medpipe.cli", "--config", str(self.config_file), "work"]
        process = subprocess.Popen(program, env={**os.environ, **environment})
        try:
            yield
        finally:
            process.terminate()
            process.wait(300)

    def states(self) -> dict[int, str]:
        rows = {row["study"]: row for row in status_rows(self.registry)}
        uids = {number: uid_from("2.25", "spots", str(number)) for number in STATES}
        return {number: rows[uid]["state"] for number, uid in uids.items() if uid in rows}

    def tried(self, number: int) -> bool:
        """Whether its results were sent, and did not arrive: the next attempt waits."""
        (row,) = self.registry.jobs(uid_from("2.25", "spots", str(number)))
        with self.registry.read() as connection:
            results = sa.select(result.c.sop_instance_uid).where(result.c.job == row.id)
            tries = sa.select(delivery.c.attempts).where(delivery.c.sop_instance_uid.in_(results))
            return all(connection.execute(tries).scalars())

    def settle(self) -> None:
        """Jobs of what has arrived, and nobody who does them."""
        with Steward(self.config, self.spool, self.registry, self.queue.enqueue, ask_peers=False) as steward:
            steward.tick()

    def claim(self, number: int) -> None:
        """What a worker that is killed while it computes leaves."""
        (row,) = self.registry.jobs(uid_from("2.25", "spots", str(number)))
        with self.registry.begin() as connection:
            connection.execute(
                sa.text(
                    f"UPDATE {status_table(connection)} SET status = 'PENDING', recovery_attempts = 1, "
                    "executor_id = 'station-1-00000001', owner_xid = :token WHERE workflow_uuid = :id"
                ),
                {"token": str(uuid.uuid4()), "id": job_workflow_id(row.id, 1)},
            )
            self.registry.move(connection, row.id, JobState.RUNNING, attempts=1, step="process")
            lease = {"executor_id": "station-1-00000001", "host": "station", "boot_id": "", "pid": 1}
            connection.execute(sa.insert(executor).values(**lease, beat_at=time.time()))


def bring_about(station: Station) -> None:
    """Every state that a job can be in when the line stops."""
    station.receive(1, 2, 3, 4)
    ended = {number: state for number, state in STATES.items() if number <= 4}
    poison = digest(uid_from("2.25", "spots", "2", "picture"))[:32]
    with station.worker(MEDPIPE_POISON=poison):
        assert wait_until(lambda: station.states() == ended and station.tried(4), 1800, 1), station.states()
    station.receive(5, 6, 7)
    station.settle()
    station.claim(5)
    assert station.states() == STATES, station.states()


def calm(connection: sa.Connection, root: Path) -> None:
    """The same on every run: times by their order, tokens and names of processes by what they belong to."""
    tables = sa.MetaData()
    for schema in (None, "dbos") if connection.dialect.name == "postgresql" else (None,):
        tables.reflect(connection, schema=schema)
    for table in tables.sorted_tables:
        for column in table.c:
            _calm_column(connection, table, column)
    _rename_results(connection, tables, root)
    notes = connection.execute(sa.select(audit_table).order_by(audit_table.c.number)).all()
    connection.execute(sa.delete(audit_table))
    for note in notes:  # the chain is over the times
        with mock.patch("time.time", return_value=float(_FIRST + note.number)):
            audit.note(connection, note.who, note.what, note.study_uid, note.detail)


def _calm_column(connection: sa.Connection, table: sa.Table, column: sa.Column[Any]) -> None:
    found = connection.execute(sa.select(column).where(column.is_not(None))).scalars()
    values = {value for value in found if isinstance(value, int | float | str)}
    renewed: dict[Any, Any] = {}
    for rank, value in enumerate(sorted(values, key=str)):
        if isinstance(value, int | float) and 1.7e9 < value < 2e9:
            renewed[value] = _FIRST + rank
        elif isinstance(value, int | float) and 1.7e12 < value < 2e12:
            renewed[value] = (_FIRST + rank) * 1000
        elif isinstance(value, str) and re.fullmatch(r".+-\d+-[0-9a-f]{8}", value):
            renewed[value] = f"station-{rank + 1}-{rank + 1:08x}"
        elif isinstance(value, str) and re.search(r"127\.0\.0\.1:\d+", value):
            renewed[value] = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", value)
    fixed = {"host": "station", "pid": 1, "boot_id": str(uuid.UUID(int=1)), "seconds": {"network": 1.0}}
    if table.name in ("executor", "job") and column.name in fixed:
        connection.execute(sa.update(table).values({column.name: fixed[column.name]}))
    for value, new in renewed.items():
        connection.execute(sa.update(table).where(column == value).values({column.name: new}))
    if column.name in ("owner_xid", "creator_xid", "queue_id", "schedule_id", "version_id"):
        name = next(
            c for c in table.c if c.name in ("workflow_uuid", "name", "schedule_name", "version_name")
        )
        for row in connection.execute(sa.select(name, column).where(column.is_not(None))).all():
            token = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{row[0]} {column.name}"))
            connection.execute(sa.update(table).where(name == row[0]).values({column.name: token}))


def _rename_results(connection: sa.Connection, tables: sa.MetaData, root: Path) -> None:
    """Folders of the outbox carry the token of the attempt that made them."""
    result = tables.tables["result"]
    for row in connection.execute(sa.select(result)).all():
        folder, _, name = row.file.partition("/")
        token = str(uuid.uuid5(uuid.NAMESPACE_OID, row.job))
        new = f"{row.job}-{token[:16]}"
        if (root / "outbox" / folder).exists():
            (root / "outbox" / folder).rename(root / "outbox" / new)
        where = result.c.sop_instance_uid == row.sop_instance_uid
        connection.execute(sa.update(result).where(where).values(file=f"{new}/{name}"))


def dump_sqlite(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump()) + "\n"


def dump_postgres(server: LocalPostgres, name: str) -> str:
    options = ["--inserts", "--no-owner", "--no-privileges", "--no-comments", server.conninfo(name)]
    done = subprocess.run(["pg_dump", *options], capture_output=True, text=True, check=True)
    kept = [line for line in done.stdout.splitlines() if line and not line.startswith(("--", "\\"))]
    return "\n".join(kept) + "\n"


def pack(root: Path) -> bytes:
    """Spool and outbox: only files that a row may name."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for path in sorted(root.glob("spool/instances/??/*.*")) + sorted(root.glob("outbox/[0-9a-f]*/*")):
            text = path.read_bytes()
            if path.suffix == ".json":
                text = re.sub(rb'("received_at": )[\d.]+', rb"\g<1>%d" % _FIRST, text)
                text = re.sub(rb'("seconds": )\{[^}]*\}', rb'\g<1>{"network": 1.0}', text)
            member = tarfile.TarInfo(str(path.relative_to(root)))
            member.size, member.mode, member.mtime = len(text), 0o600, _FIRST
            tar.addfile(member, io.BytesIO(text))
    return gzip.compress(raw.getvalue(), mtime=0)


def _drawing() -> Callable[..., Path]:
    """The pictures of the line's tests."""
    spec = spec_from_file_location("line_conftest", HERE.parent / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    draw: Callable[..., Path] = module.draw_spots
    return draw


def main() -> None:
    """Writes the files of one kind of database."""
    kind = sys.argv[1]
    folder = Path(tempfile.mkdtemp())
    server = LocalPostgres().create().start() if kind == "postgresql" else None
    orthanc = LocalOrthanc(folder / "orthanc").start()
    try:
        name = server.new_database() if server is not None else ""
        station = Station(folder / "site", orthanc, server.url(name) if server is not None else "sqlite")
        bring_about(station)
        root = station.config.site.root
        with station.registry.begin() as connection:
            calm(connection, root)
        station.close()
        text = dump_postgres(server, name) if server is not None else dump_sqlite(root / "medpipe.sqlite")
        (HERE / f"{__version__}.{kind}.sql").write_text(text, encoding="utf-8")
        files, packed = HERE / f"{__version__}.files.tar.gz", pack(root)
        if files.exists() and files.read_bytes() != packed:
            raise SystemExit(f"{files} was made by another release, or is not the same on both databases")
        files.write_bytes(packed)
    finally:
        orthanc.kill()
        if server is not None:
            server.remove()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
