"""Record models and endpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import clary.state.database

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "endpoint_configs",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("name", sa.String().with_variant(sa.String(collation="C"), "postgresql"), nullable=False),
        sa.Column("arn", sa.String(length=256), nullable=False),
        sa.Column("creation_time", clary.state.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoint_configs")),
        sa.UniqueConstraint("name", name=op.f("uq_endpoint_configs_name")),
    )
    with op.batch_alter_table("endpoint_configs", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_endpoint_configs_creation_time_id_name"), ["creation_time", "id", "name"], unique=False
        )

    op.create_table(
        "endpoints",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("name", sa.String().with_variant(sa.String(collation="C"), "postgresql"), nullable=False),
        sa.Column("arn", sa.String(length=256), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("creation_time", clary.state.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("last_modified_time", clary.state.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("serving", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("target", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("target_since", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("deployment_config", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Text(), nullable=False),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("lease_expires", sa.Float(precision=53), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoints")),
        sa.UniqueConstraint("name", name=op.f("uq_endpoints_name")),
    )
    with op.batch_alter_table("endpoints", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_endpoints_creation_time_id_name"), ["creation_time", "id", "name"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_endpoints_last_modified_time"), ["last_modified_time"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_endpoints_status_creation_time"), ["status", "creation_time"], unique=False
        )

    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("name", sa.String().with_variant(sa.String(collation="C"), "postgresql"), nullable=False),
        sa.Column("arn", sa.String(length=256), nullable=False),
        sa.Column("creation_time", clary.state.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
    )
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_models_creation_time_id_name"), ["creation_time", "id", "name"], unique=False
        )

    op.create_table(
        "routing_version",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_routing_version")),
    )
    op.create_table(
        "endpoint_replicas",
        sa.Column("host_id", sa.String(length=64), nullable=False),
        sa.Column("endpoint_id", sa.Integer(), nullable=False),
        sa.Column("endpoint_name", sa.String(length=63), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("variant", sa.String(length=63), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("instance_type", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(length=255), nullable=False),
        sa.Column("cpus", sa.Double(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("gpus", sa.Double(), nullable=False),
        sa.Column("gpu_indices", sa.JSON(), nullable=False),
        sa.Column("handle", sa.Text(), nullable=True),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("log_stream", sa.String(length=512), nullable=False),
        sa.Column("created_time", clary.state.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("start_after", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("reported_time", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("phase", sa.String(length=32), nullable=False),
        sa.Column("phases", sa.JSON(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("ready_time", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("routed", sa.Boolean(), nullable=False),
        sa.Column("ending", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("ended_time", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("logs_received", sa.BigInteger(), nullable=False),
        sa.Column("metrics_received", sa.BigInteger(), nullable=False),
        sa.Column("wanted", sa.String(length=8), nullable=False),
        sa.Column("draining_since", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("stop_ordered_time", clary.state.database.UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["endpoints.id"],
            name=op.f("fk_endpoint_replicas_endpoint_id_endpoints"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("host_id", name=op.f("pk_endpoint_replicas")),
    )
    with op.batch_alter_table("endpoint_replicas", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_endpoint_replicas_endpoint_id"), ["endpoint_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_endpoint_replicas_routed"), ["routed"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("endpoint_replicas", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_endpoint_replicas_routed"))
        batch_op.drop_index(batch_op.f("ix_endpoint_replicas_endpoint_id"))

    op.drop_table("endpoint_replicas")
    op.drop_table("routing_version")
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_models_creation_time_id_name"))

    op.drop_table("models")
    with op.batch_alter_table("endpoints", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_endpoints_status_creation_time"))
        batch_op.drop_index(batch_op.f("ix_endpoints_last_modified_time"))
        batch_op.drop_index(batch_op.f("ix_endpoints_creation_time_id_name"))

    op.drop_table("endpoints")
    with op.batch_alter_table("endpoint_configs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_endpoint_configs_creation_time_id_name"))

    op.drop_table("endpoint_configs")
