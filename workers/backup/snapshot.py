"""One moment of the database, copied while others write: SQLite's online backup, PostgreSQL's pg_dump."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg.conninfo
import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url

from medpipe.errors import IntegrityError, NotFound, PeerUnreachable, StorageError, UsageError
from workers.database import open_engine

_CLIENT = "install the package postgresql-client (of the server's version, or newer)"


@contextmanager
def snapshot(url: str, copy: Path) -> Iterator[Connection]:
    """Writes a copy of the database to `copy`; the connection sees exactly what the copy holds.

    Nobody is kept from writing meanwhile.
    """
    copy.unlink(missing_ok=True)
    if url.startswith("sqlite"):
        _copy_sqlite(Path(make_url(url).database or ""), copy)
        engine = sa.create_engine(f"sqlite:///{copy}")
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()
        return
    engine = open_engine(url)
    try:
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            # pg_dump may take longer than a transaction of ours may stand idle
            connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            number = connection.execute(sa.text("SELECT pg_export_snapshot()")).scalar_one()
            dump = [
                "--format=custom",
                "--no-owner",
                "--no-privileges",
                f"--snapshot={number}",
                f"--file={copy}",
            ]
            _postgres("pg_dump", url, dump)
            yield connection
    finally:
        engine.dispose()


def _copy_sqlite(source: Path, copy: Path) -> None:
    if not source.is_file():
        raise NotFound(f"no database at {source}; run `medpipe init`")
    with closing(sqlite3.connect(source, timeout=30)) as live, closing(sqlite3.connect(copy)) as target:
        # all pages in one read transaction: in WAL mode that neither waits for writers nor stops them
        live.backup(target, pages=-1)
        found = target.execute("PRAGMA quick_check").fetchone()[0]
    if found != "ok":
        raise IntegrityError(f"{source}: the database is damaged ({found}); nothing was backed up")


def load_postgres(url: str, copy: Path) -> None:
    """Fills an empty PostgreSQL database from a dump: all of it, or nothing."""
    plain = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
    _postgres("pg_restore", url, [*plain, str(copy)])


def has_tables(url: str) -> bool:
    """Whether a PostgreSQL database holds tables of ours or of the engine."""
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            found = sa.text(
                "SELECT to_regclass('medpipe_revision') IS NOT NULL OR to_regnamespace('dbos') IS NOT NULL"
            )
            return bool(connection.execute(found).scalar_one())
    finally:
        engine.dispose()


def check_programs(url: str) -> None:
    """Raises UsageError where PostgreSQL's own programs are needed and absent."""
    if not url.startswith("sqlite"):
        for name in ("pg_dump", "pg_restore"):
            if shutil.which(name) is None:
                raise UsageError(
                    f"{name} is not installed here: {_CLIENT}, or run this on a machine that has it"
                )


def _postgres(program: str, url: str, options: list[str]) -> None:
    """Runs one of PostgreSQL's programs on the site's database; the password travels in the environment."""
    parsed = make_url(url)
    settings = parsed.get_dialect()().create_connect_args(parsed)[1]
    password = settings.pop("password", None)
    environment = {**os.environ, "LC_ALL": "C"} | ({"PGPASSWORD": str(password)} if password else {})
    command = [program, "--no-password", f"--dbname={psycopg.conninfo.make_conninfo(**settings)}", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
    if "server version mismatch" in done.stderr:
        raise UsageError(f"{program} is older than the server: {_CLIENT}")
    if "connection to server" in done.stderr:
        raise PeerUnreachable(said)
    raise StorageError(f"{said} ({program} ended with {done.returncode})")
