"""Alembic's entry: runs on the connection that workers.database.migrate hands over."""

from __future__ import annotations

from alembic import context

from workers.database import REVISION_TABLE
from workers.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=REVISION_TABLE,
    transactional_ddl=False,
)
context.run_migrations()
