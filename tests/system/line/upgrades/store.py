"""Makes the stored site of a release, for the test that a newer version goes on with it.

    PYTHONPATH=.:deploy .venv/bin/python tests/system/line/upgrades/store.py

runs the release's own line on SQLite and on PostgreSQL (a real Orthanc, listener and workers, drawn pictures), stops it
in the middle, and writes beside this file

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
import signal
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

from medpipe import __version__
from medpipe.config import load_config
from medpipe.identity import digest, uid_from
from workers import audit
from workers.queue import JobQueue
from workers.registry import Registry
from workers.settle import Steward
from workers.spool import Spool
from workers.status import status_rows
from workers.tables import audit as audit_table

HERE = Path(__file__).parent
STATES = {1: "confirmed", 2: "failed", 3: "quarantined", 4: "sending", 5: "running", 6: "queued", 7: "queued"}
_FIRST = 1_767_225_600
"""2026-01-01: all times begin here, one second after the other."""


class Station:
    """One line of this release, driven by hand."""

    def __init__(self, folder: Path, orthanc: LocalOrthanc, database: str) -> None:
        self.folder, self.orthanc = folder, orthanc
        self.config_file = folder / "medpipe.toml"
        port = free_port()
        pacs = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port, "timeout": 5}
        document = {
            "site": {"root": str(folder / "root"), "minimum_free": "10 MB", "database": database},
            "listener": {"port": port, "calling": ["MODALITY", "ORTHANC"], "settle_seconds": 1},
            "worker": {"device": "cpu", "backend": "torch", "threads": 1, "attempts": 1},
            "peers": {"PACS": pacs},
            "rules": [
                {"name": "spots", "when": {"Modality": "OP"}, "bundle": "phantom-2d", "send": ["PACS"]}
            ],
        }
        folder.mkdir()
        self.config_file.write_text(tomli_w.dumps(document))
        self.config = load_config(self.config_file)
        orthanc.add_modality("medpipe", "MEDPIPE", port)
        self.draw = _drawing()
        self.run("init")

    def run(self, *command: str, **environment: str) -> int:
        """One command, to its end."""
        process = self._start(*command, **environment)
        return process.wait(900)

    def _start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "medpipe.cli", "--config", str(self.config_file), *command]
        return subprocess.Popen(program, env={**os.environ, **environment})

    @contextmanager
    def running(self, *command: str) -> Iterator[None]:
        process = self._start(*command)
        try:
            yield
        finally:
            process.terminate()
            process.wait(300)

    def send(self, *numbers: int) -> None:
        """C-STORE of drawn studies; number 3 comes with an instance of another patient."""
        files = [self.draw(self.folder / "modality", number, spots=1, size=64) for number in numbers]
        if 3 in numbers:
            other = pydicom.dcmread(files[numbers.index(3)])
            other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = uid_from("2.25", "other")
            other.PatientID = "SPOTS-OTHER"
            files.append(self.folder / "modality" / "other.dcm")
            other.save_as(files[-1], enforce_file_format=True)
        to = ["-aet", "MODALITY", "-aec", "MEDPIPE", "127.0.0.1", str(self.config.listener.port)]
        assert wait_until(lambda: self._sends(to, files), 300, 2)

    def _sends(self, to: list[str], files: list[Path]) -> bool:
        return subprocess.run(["storescu", *to, *map(str, files)], capture_output=True).returncode == 0

    def states(self) -> dict[int, str]:
        with closing(Registry(self.config.site.database_url)) as registry:
            rows = {row["study"]: row for row in status_rows(registry)}
        uids = {number: uid_from("2.25", "spots", str(number)) for number in STATES}
        return {number: rows[uid]["state"] for number, uid in uids.items() if uid in rows}

    def settle(self) -> None:
        """Jobs of what has arrived, and nobody who does them."""
        url = self.config.site.database_url
        with (
            closing(Registry(url)) as registry,
            closing(JobQueue(url)) as queue,
            Steward(
                self.config, Spool(self.config.site.root), registry, queue.enqueue, ask_peers=False
            ) as steward,
        ):
            time.sleep(1.5)
            steward.tick()


def bring_about(station: Station) -> None:
    """Every state that a job can be in when the line stops."""
    with station.running("listen"):
        station.send(1, 2, 3)
        poison = digest(uid_from("2.25", "spots", "2", "picture"))[:32]
        station.run("work", "--until-idle", MEDPIPE_POISON=poison)
        station.orthanc.stop()
        station.send(4)
        with station.running("work"):
            assert wait_until(lambda: station.states().get(4) == "sending", 900, 2)
            time.sleep(5)  # the first attempt to send is over
        station.send(5)
        fault = f"after_claim:{station.folder / 'killed'}"
        assert station.run("work", MEDPIPE_FAULT=fault) == -signal.SIGKILL
        station.send(6, 7)
        station.settle()
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
    values = set(connection.execute(sa.select(column).where(column.is_not(None))).scalars())
    renewed: dict[Any, Any] = {}
    for rank, value in enumerate(sorted(values, key=str)):
        if isinstance(value, int | float) and 1.7e9 < value < 2e9:
            renewed[value] = _FIRST + rank
        elif isinstance(value, int | float) and 1.7e12 < value < 2e12:
            renewed[value] = (_FIRST + rank) * 1000
        elif isinstance(value, str) and re.fullmatch(r".+-\d+-[0-9a-f]{8}", value):
            renewed[value] = f"station-{rank + 1}-{rank + 1:08x}"
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
    workflows = next(table for table in tables.sorted_tables if table.name == "workflow_status")
    result = tables.tables["result"]
    for row in connection.execute(sa.select(result)).all():
        folder, _, name = row.file.partition("/")
        workflow = workflows.c.workflow_uuid == f"job:{row.job}:g1:a1"
        token = connection.execute(sa.select(workflows.c.owner_xid).where(workflow)).scalar_one()
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
    """Writes the three files."""
    folder = Path(tempfile.mkdtemp())
    server = LocalPostgres().create().start()
    try:
        for kind in ("sqlite", "postgresql"):
            orthanc = LocalOrthanc(folder / f"orthanc-{kind}").start()
            name = server.new_database()
            url = "sqlite" if kind == "sqlite" else server.url(name)
            station = Station(folder / kind, orthanc, url)
            bring_about(station)
            root = station.config.site.root
            engine = sa.create_engine(station.config.site.database_url)
            with engine.begin() as connection:
                calm(connection, root)
            engine.dispose()
            text = dump_sqlite(root / "medpipe.sqlite") if kind == "sqlite" else dump_postgres(server, name)
            (HERE / f"{__version__}.{kind}.sql").write_text(text, encoding="utf-8")
            packed = pack(root)
            (folder / f"{kind}.tar.gz").write_bytes(packed)
            (HERE / f"{__version__}.files.tar.gz").write_bytes(packed)
        assert (folder / "sqlite.tar.gz").read_bytes() == (folder / "postgresql.tar.gz").read_bytes()
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
