"""Alembic's entry: runs on the connection that workers.database.migrate hands over."""

from __future__ import annotations

from alembic import context

from workers.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="medpipe_revision",
    transactional_ddl=False,
)
context.run_migrations()
