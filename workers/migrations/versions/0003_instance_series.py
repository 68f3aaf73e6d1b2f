"""An index that finds the other study of a series."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("ix_instance_series_uid", "instance", ["series_uid"])
