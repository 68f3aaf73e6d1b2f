"""Engines for SQLite and PostgreSQL with the same behaviour: write transactions, the database's clock, migrations."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, make_url

from medpipe import __version__
from medpipe.errors import NewerDatabase, UsageError

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_NUMBER = 0x6D656470  # "medp": PostgreSQL's advisory lock of our migrations
_BUSY_MS = 30_000
REVISION_TABLE = "medpipe_revision"


def open_engine(url: str) -> Engine:
    """An engine whose transactions wait for each other instead of failing; SQLite in WAL mode."""
    if not url.startswith("sqlite"):
        timeouts = "-c idle_in_transaction_session_timeout=60000"
        return sa.create_engine(
            url,
            pool_size=2,  # kept open by each of perhaps a hundred workers; what goes beyond is closed after use
            max_overflow=6,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10, "options": timeouts},
        )
    path = make_url(url).database
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_MS / 1000})

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, see _begin
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # a reader that becomes a writer can fail at once; a writer from the start waits for its turn
        write = connection.get_execution_options().get("medpipe_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One write transaction: committed at the end, rolled back on any error."""
    with engine.connect().execution_options(medpipe_write=True) as connection, connection.begin():
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One read transaction."""
    with engine.connect() as connection, connection.begin():
        yield connection


def is_sqlite(connection: Connection | Engine) -> bool:
    return connection.dialect.name == "sqlite"


def is_away(error: BaseException) -> bool:
    """Whether an error says that the database does not answer now (gone, restarting, locked) but may later."""
    return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.TimeoutError) or (
        isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated
    )


def clock(connection: Connection) -> sa.ColumnElement[float]:
    """The database's own clock in seconds since 1970, the same for all machines."""
    if is_sqlite(connection):
        return sa.literal_column("(julianday('now') - 2440587.5) * 86400.0", sa.Float)
    return sa.literal_column("extract(epoch from clock_timestamp())::double precision", sa.Float)


def migrate(url: str) -> None:
    """Brings the tables to the newest revision (Alembic). Safe when several processes do it at once.

    Raises NewerDatabase where a newer version of medpipe has done so already; nothing is changed then.
    """
    from alembic import command

    engine = open_engine(url)
    try:
        with (
            _one_at_a_time(engine, url),
            engine.connect().execution_options(medpipe_write=True) as connection,
        ):
            revision = _revision(connection)
            if revision is not None:
                check_known_revision(revision, "the database")
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    finally:
        engine.dispose()


def alembic_config() -> Any:
    """Alembic's settings: the migrations that ship in this package."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def check_revision(engine: Engine) -> None:
    """Raises where the tables are not those of this version: NewerDatabase, or UsageError where they are older."""
    with reading(engine) as connection:
        revision = _revision(connection)
    if revision is not None and check_known_revision(revision, "the database"):
        raise UsageError("the database is of an older version of medpipe; `medpipe init` migrates it")


def insert(connection: Connection, table: sa.Table, row: dict[str, Any]) -> bool:
    """INSERT that does nothing where the row is already there; whether it is new."""
    dialect = sqlite if is_sqlite(connection) else postgresql
    statement = dialect.insert(table).values(**row).on_conflict_do_nothing().returning(sa.literal(1))
    return connection.execute(statement).one_or_none() is not None


def check_known_revision(revision: str, what: str) -> bool:
    """Whether tables of this revision have to be migrated. Raises NewerDatabase where this version does not know it."""
    from alembic.script import ScriptDirectory

    versions = ScriptDirectory.from_config(alembic_config())
    head = versions.get_current_head()
    if revision not in {version.revision for version in versions.walk_revisions()}:
        raise NewerDatabase(
            f"{what} is of a newer version of medpipe (tables {revision}; {__version__} knows {head}): install that "
            "version again, or restore a backup of this one"
        )
    return revision != head


def _revision(connection: Connection) -> str | None:
    """The revision of the tables; None where there are none."""
    if not sa.inspect(connection).has_table(REVISION_TABLE):
        return None
    return connection.execute(sa.text(f"SELECT version_num FROM {REVISION_TABLE}")).scalar()


@contextmanager
def _one_at_a_time(engine: Engine, url: str) -> Iterator[None]:
    if is_sqlite(engine):
        path = make_url(url).database or "medpipe.sqlite"
        descriptor = os.open(f"{path}.migrating", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(:n)"), {"n": _LOCK_NUMBER})
        try:
            yield
        finally:
            connection.execute(sa.text("SELECT pg_advisory_unlock(:n)"), {"n": _LOCK_NUMBER})
