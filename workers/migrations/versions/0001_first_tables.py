"""The tables of the first version."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("who", sa.String(length=128), nullable=False),
        sa.Column("what", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column(
            "chain",
            sa.String(length=64),
            nullable=False,
            comment="digest of this row and of the chain before it",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit")),
    )
    op.create_table(
        "executor",
        sa.Column("executor_id", sa.String(length=128), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("boot_id", sa.String(length=36), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("beat_at", sa.Float(), nullable=False, comment="by the database's clock"),
        sa.PrimaryKeyConstraint("executor_id", name=op.f("pk_executor")),
    )
    op.create_table(
        "instance",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column(
            "study_uid",
            sa.String(length=64),
            nullable=True,
            comment="null where the header could not be read",
        ),
        sa.Column("series_uid", sa.String(length=64), nullable=True),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax", sa.String(length=64), nullable=False),
        sa.Column("file", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("aside", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("sop_instance_uid", "digest", name=op.f("pk_instance")),
    )
    op.create_index(op.f("ix_instance_study_uid"), "instance", ["study_uid"], unique=False)
    op.create_table(
        "job",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("bundle_version", sa.String(length=64), nullable=False),
        sa.Column("bundle_hash", sa.String(length=64), nullable=False),
        sa.Column("content", sa.String(length=64), nullable=False, comment="digest of the instances used"),
        sa.Column("instances", sa.JSON(), nullable=False, comment="spool names of the instances used"),
        sa.Column("rule", sa.String(length=100), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("destinations", sa.JSON(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("seconds", sa.JSON(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("study_uid", "bundle_hash", "content", name=op.f("uq_job_study_uid")),
    )
    op.create_index(op.f("ix_job_state"), "job", ["state"], unique=False)
    op.create_index(op.f("ix_job_study_uid"), "job", ["study_uid"], unique=False)
    op.create_table(
        "study",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_aes", sa.JSON(), nullable=False),
        sa.Column("first_at", sa.Float(), nullable=False),
        sa.Column("last_at", sa.Float(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False, comment="counts changes of content"),
        sa.Column(
            "settled", sa.Integer(), nullable=False, comment="the last generation that was turned into jobs"
        ),
        sa.Column(
            "reason",
            sa.Text(),
            nullable=True,
            comment="why nothing became of it, where that concerns the whole study",
        ),
        sa.Column(
            "retrieval",
            sa.String(length=32),
            nullable=True,
            comment="token of the reprocess that is retrieving: no rule starts a job",
        ),
        sa.Column("retrieval_at", sa.Float(), nullable=True),
        sa.Column("retention", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("study_uid", name=op.f("pk_study")),
    )
    op.create_table(
        "image",
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("series_uid", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("lesions", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("fk_image_job")),
        sa.PrimaryKeyConstraint("job", "number", name=op.f("pk_image")),
    )
    op.create_table(
        "result",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("image", sa.String(length=80), nullable=True),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("series_uid", sa.String(length=64), nullable=False),
        sa.Column("file", sa.Text(), nullable=False, comment="relative to the outbox"),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column(
            "superseded_by",
            sa.String(length=32),
            nullable=True,
            comment="job whose results replaced this one; null while current",
        ),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("fk_result_job")),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_result")),
    )
    op.create_index(op.f("ix_result_job"), "result", ["job"], unique=False)
    op.create_table(
        "delivery",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True, comment="the last DIMSE status"),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("sent_at", sa.Float(), nullable=True),
        sa.Column("committed_at", sa.Float(), nullable=True),
        sa.Column(
            "transaction", sa.String(length=64), nullable=True, comment="of the storage commitment asked for"
        ),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid"], ["result.sop_instance_uid"], name=op.f("fk_delivery_sop_instance_uid")
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", "destination", name=op.f("pk_delivery")),
    )
    op.create_index("ix_delivery_state", "delivery", ["state"], unique=False)
