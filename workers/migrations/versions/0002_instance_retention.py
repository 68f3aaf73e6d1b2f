"""What becomes of an instance's files after `site.keep_days`."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "instance", sa.Column("retention", sa.String(length=16), server_default="kept", nullable=False)
    )
