"""The database: whether it answers, its tables are those of this version, and anybody works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from medpipe.config import Config
from workers.database import alembic_config, clock, is_away, open_engine, reading
from workers.lease import TTL_SECONDS
from workers.selftest.check import Check, State
from workers.selftest.machine import file_system
from workers.tables import executor

_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs"})


def check_database(config: Config) -> Iterator[Check]:
    url = make_url(config.site.database_url)
    where = url.render_as_string(hide_password=True)
    if url.drivername == "sqlite":
        path = Path(url.database or "")
        if not path.is_file():
            yield Check("database", State.FAILED, f"{path} is not there", "run `medpipe init`")
            return
        if (kind := file_system(path.parent)) in _NETWORK_FILE_SYSTEMS:
            advice = "SQLite loses data there: use a local disk, or PostgreSQL (site.database)"
            yield Check("database", State.FAILED, f"{path} lies on {kind}", advice)
            return
    engine = open_engine(config.site.database_url)
    try:
        with reading(engine) as connection:
            revision = _revision(connection)
            alive = _workers(connection) if revision else 0
    except sa.exc.SQLAlchemyError as error:
        if not is_away(error):
            raise
        advice = "check site.database, the password and the server"
        yield Check("database", State.AWAY, f"{where} does not answer", advice)
        return
    finally:
        engine.dispose()
    newest = _newest_revision()
    if revision is None:
        yield Check("database", State.FAILED, f"{where} has no tables", "run `medpipe init`")
    elif revision != newest:
        advice = "stop all processes, then run `medpipe init`"
        yield Check("database", State.FAILED, f"{where}: tables {revision}, wanted {newest}", advice)
    else:
        yield Check("database", State.OK, f"{where}, tables {revision}")
        yield (
            Check("workers", State.OK, f"{alive} alive")
            if alive
            else Check("workers", State.NOTE, "none is alive", "run `medpipe serve` or `medpipe work`")
        )


def _revision(connection: sa.Connection) -> str | None:
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"version_table": "medpipe_revision"})
    return context.get_current_revision()


def _newest_revision() -> str | None:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def _workers(connection: sa.Connection) -> int:
    """How many workers have beaten lately, by the database's clock."""
    recent = executor.c.beat_at > clock(connection) - TTL_SECONDS
    return int(connection.execute(sa.select(sa.func.count()).where(recent)).scalar() or 0)
