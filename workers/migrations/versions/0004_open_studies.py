"""Finding the studies that something is still to be done for, among all that there have been."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for name, column, condition in (
        ("ix_study_unsettled", "last_at", sa.text("settled < generation")),
        ("ix_study_retrieved", "retrieval_at", sa.text("retrieval IS NOT NULL")),
        ("ix_study_kept", "last_at", sa.text("retention = 'kept'")),
    ):
        op.create_index(name, "study", [column], postgresql_where=condition, sqlite_where=condition)
