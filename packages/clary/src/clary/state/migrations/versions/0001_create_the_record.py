"""Create the record."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import clary.state.database

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "log_groups",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String().with_variant(sa.String(collation="C"), "postgresql"), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_groups")),
        sa.UniqueConstraint("name", name=op.f("uq_log_groups_name")),
    )
    op.create_table(
        "metric_series",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("identity", sa.String(length=64), nullable=False),
        sa.Column("namespace", sa.String().with_variant(sa.String(collation="C"), "postgresql"), nullable=False),
        sa.Column("name", sa.String().with_variant(sa.String(collation="C"), "postgresql"), nullable=False),
        sa.Column("dimensions", sa.JSON(), nullable=False),
        sa.Column("dimensions_digest", sa.String(length=64), nullable=False),
        sa.Column("unit", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metric_series")),
        sa.UniqueConstraint("identity", name=op.f("uq_metric_series_identity")),
    )
    with op.batch_alter_table("metric_series", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_metric_series_namespace_dimensions_digest_name"),
            ["namespace", "dimensions_digest", "name"],
            unique=False,
        )

    op.create_table(
        "tags",
        sa.Column("resource_arn", sa.String().with_variant(sa.String(collation="C"), "postgresql"), nullable=False),
        sa.Column("key", sa.String().with_variant(sa.String(collation="C"), "postgresql"), nullable=False),
        sa.Column("value", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("resource_arn", "key", name=op.f("pk_tags")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "training_jobs",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("name", sa.String().with_variant(sa.String(collation="C"), "postgresql"), nullable=False),
        sa.Column("arn", sa.String(length=256), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("secondary_status", sa.String(length=32), nullable=False),
        sa.Column("creation_time", clary.state.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("last_modified_time", clary.state.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("training_start_time", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("training_end_time", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("warm_pool_status", sa.String(length=16), nullable=True),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("model_artifact", sa.Text(), nullable=True),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("transitions", sa.JSON(), nullable=False),
        sa.Column("final_metrics", sa.JSON(), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("queue_deadline", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stop_cause", sa.String(length=32), nullable=True),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("lease_expires", sa.Float(precision=53), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_jobs")),
        sa.UniqueConstraint("name", name=op.f("uq_training_jobs_name")),
    )
    with op.batch_alter_table("training_jobs", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_training_jobs_creation_time_id_name"), ["creation_time", "id", "name"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_training_jobs_last_modified_time"), ["last_modified_time"], unique=False)
        batch_op.create_index(batch_op.f("ix_training_jobs_stage_id"), ["stage", "id"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_training_jobs_status_creation_time"), ["status", "creation_time"], unique=False
        )

    op.create_table(
        "log_streams",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("group_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String().with_variant(sa.String(collation="C"), "postgresql"), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("first_event_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_event_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_ingestion_ms", sa.BigInteger(), nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("next_position", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["log_groups.id"], name=op.f("fk_log_streams_group_id_log_groups"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_streams")),
        sa.UniqueConstraint("group_id", "name", name=op.f("uq_log_streams_group_id_name")),
    )
    op.create_table(
        "metric_points",
        sa.Column("series_id", sa.BigInteger(), nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("sample_count", sa.Float(precision=53), nullable=False),
        sa.Column("total", sa.Float(precision=53), nullable=False),
        sa.Column("minimum", sa.Float(precision=53), nullable=False),
        sa.Column("maximum", sa.Float(precision=53), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["series_id"],
            ["metric_series.id"],
            name=op.f("fk_metric_points_series_id_metric_series"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("series_id", "timestamp_ms", "ordinal", name=op.f("pk_metric_points")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "training_hosts",
        sa.Column("host_id", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("job_name", sa.String(length=63), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("instance_type", sa.String(length=64), nullable=False),
        sa.Column("instance_group", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(length=255), nullable=False),
        sa.Column("cpus", sa.Double(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("gpus", sa.Double(), nullable=False),
        sa.Column("gpu_indices", sa.JSON(), nullable=False),
        sa.Column("handle", sa.Text(), nullable=True),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("log_stream", sa.String(length=512), nullable=False),
        sa.Column("created_time", clary.state.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("reported_time", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("phase", sa.String(length=32), nullable=False),
        sa.Column("phases", sa.JSON(), nullable=False),
        sa.Column("ending", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("ended_time", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("logs_received", sa.BigInteger(), nullable=False),
        sa.Column("metrics_received", sa.BigInteger(), nullable=False),
        sa.Column("wanted", sa.String(length=8), nullable=False),
        sa.Column("aborted_time", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("start_ordered", sa.Boolean(), nullable=False),
        sa.Column("merge_ordered", sa.Boolean(), nullable=False),
        sa.Column("released", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["training_jobs.id"], name=op.f("fk_training_hosts_job_id_training_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("host_id", name=op.f("pk_training_hosts")),
    )
    with op.batch_alter_table("training_hosts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_training_hosts_job_id"), ["job_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_training_hosts_released"), ["released"], unique=False)

    op.create_table(
        "log_events",
        sa.Column("stream_id", sa.BigInteger(), nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("ingestion_ms", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["log_streams.id"], name=op.f("fk_log_events_stream_id_log_streams"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("stream_id", "timestamp_ms", "position", name=op.f("pk_log_events")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("log_events")
    with op.batch_alter_table("training_hosts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_training_hosts_released"))
        batch_op.drop_index(batch_op.f("ix_training_hosts_job_id"))

    op.drop_table("training_hosts")
    op.drop_table("metric_points")
    op.drop_table("log_streams")
    with op.batch_alter_table("training_jobs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_training_jobs_status_creation_time"))
        batch_op.drop_index(batch_op.f("ix_training_jobs_stage_id"))
        batch_op.drop_index(batch_op.f("ix_training_jobs_last_modified_time"))
        batch_op.drop_index(batch_op.f("ix_training_jobs_creation_time_id_name"))

    op.drop_table("training_jobs")
    op.drop_table("tags")
    with op.batch_alter_table("metric_series", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_metric_series_namespace_dimensions_digest_name"))

    op.drop_table("metric_series")
    op.drop_table("log_groups")
