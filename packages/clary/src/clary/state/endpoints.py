"""Endpoints and their replicas: the record that services write, controllers drive, replicas report into.

`state.routing` makes of it what the router reads.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, select
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from clary.state.database import Base, Name, UtcDateTime
from clary.state.leases import Leased


class Endpoint(Leased, Base):
    """One endpoint.

    `serving` and `target` are plans: copies of the configuration and its models, so that an endpoint lives on when
    those are deleted. `serving` is what answers requests now; `target` is what an update, or the creation, is
    bringing up. A plan is {"generation", "config_name", "config", "models": {name: request}, "variants"}; a variant
    is {"name", "model", "instance_type", "shadow", "weight", "count", "desired_weight", "desired_count"}, where
    weight and count are what is, the desired ones what is being brought about. While traffic is moved in steps, the
    target has "shift": the "share" of the requests that it gets, from 0 to 1, and the time "since" when.
    """

    __tablename__ = "endpoints"
    __table_args__ = (Index(None, "creation_time", "id", "name"), Index(None, "status", "creation_time"))

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    arn: Mapped[str] = mapped_column(String(256))
    status: Mapped[str] = mapped_column(String(32))
    creation_time: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    last_modified_time: Mapped[dt.datetime] = mapped_column(UtcDateTime, index=True)
    failure_reason: Mapped[str | None] = mapped_column(Text)
    serving: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    target: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    target_since: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    deployment_config: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    generation: Mapped[int] = mapped_column(default=0)  # the newest plan's
    progress: Mapped[str] = mapped_column(Text, default="")  # what is being waited for, in a sentence

    replicas: Mapped[list[EndpointReplica]] = relationship(
        back_populates="endpoint",
        order_by="EndpointReplica.generation, EndpointReplica.variant, EndpointReplica.position",
        cascade="all, delete-orphan",
    )


class EndpointReplica(Base):
    """One instance of a variant: where it is, what it was told and what it reported.

    A replica whose row is there takes its resources: the row goes when the host is cleaned away. `routed` replicas get
    requests. `attempt` counts the failures in a row at its position, which delay the next start.
    """

    __tablename__ = "endpoint_replicas"

    host_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    endpoint_id: Mapped[int] = mapped_column(ForeignKey("endpoints.id", ondelete="CASCADE"), index=True)
    endpoint_name: Mapped[str] = mapped_column(String(63))
    generation: Mapped[int]
    variant: Mapped[str] = mapped_column(String(63))
    position: Mapped[int]  # counts from 0 within the variant
    attempt: Mapped[int] = mapped_column(default=0)
    instance_type: Mapped[str] = mapped_column(String(64))
    node: Mapped[str] = mapped_column(String(255))
    cpus: Mapped[float]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    gpus: Mapped[float] = mapped_column(default=0)
    gpu_indices: Mapped[list[Any]] = mapped_column(JSON, default=list)
    handle: Mapped[str | None] = mapped_column(Text)
    token_hash: Mapped[str] = mapped_column(String(64))
    log_stream: Mapped[str] = mapped_column(String(512))
    created_time: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    start_after: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # a start that is held back after failures
    reported_time: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    phase: Mapped[str] = mapped_column(String(32), default="Starting")
    phases: Mapped[list[Any]] = mapped_column(JSON, default=list)
    address: Mapped[str | None] = mapped_column(Text)  # where it serves, once it has said so
    ready_time: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    routed: Mapped[bool] = mapped_column(default=False, index=True)
    ending: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    ended_time: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    logs_received: Mapped[int] = mapped_column(BigInteger, default=0)
    metrics_received: Mapped[int] = mapped_column(BigInteger, default=0)
    wanted: Mapped[str] = mapped_column(String(8), default="run")
    draining_since: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # it gets no new requests since then
    stop_ordered_time: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)

    endpoint: Mapped[Endpoint] = relationship(back_populates="replicas")


def find_endpoint(session: Session, name: str, *, for_update: bool = False) -> Endpoint | None:
    """The endpoint of this name, locked against other writers when it is to be changed."""
    query = select(Endpoint).where(Endpoint.name == name)
    return session.scalars(query.with_for_update() if for_update else query).first()


def changed_variant(plan: dict[str, Any], name: str, **members: Any) -> dict[str, Any]:
    """A plan with some members of one of its variants changed."""
    variants = [{**variant, **members} if variant["name"] == name else variant for variant in plan["variants"]]
    return {**plan, "variants": variants}
