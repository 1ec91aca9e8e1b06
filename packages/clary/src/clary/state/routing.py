"""The routing table: which replicas serve which endpoint now. The router keeps it in memory and asks for its version.

Whoever changes what the table holds calls `routing_changed` in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, insert, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from clary.state.database import Base, Database, table_of
from clary.state.endpoints import Endpoint, EndpointReplica

ANSWER_SECONDS = 60.0
_MODEL_SECONDS = 60.0  # more, in which a multi-model endpoint's replica loads the model


class RoutingVersion(Base):
    """One row, whose number grows with every change of the routing table."""

    __tablename__ = "routing_version"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(BigInteger)


@dataclass(frozen=True)
class RoutedReplica:
    """One replica that serves. `address` is a Unix socket's path, or host:port."""

    host_id: str
    address: str
    log_stream: str  # "<variant>/<instance id>" in the endpoint's log group


@dataclass(frozen=True)
class RoutedVariant:
    """A production or shadow variant. `replicas` may be empty while none serves."""

    name: str
    weight: float
    replicas: tuple[RoutedReplica, ...]
    instance_count: int  # how many it is to have: for InvocationsPerInstance
    multi_model: bool = False
    in_series: bool = False  # of containers: errors name the one that they come from
    answer_seconds: float = ANSWER_SECONDS  # within which a replica answers, or says why it cannot
    container_hostnames: tuple[str, ...] = ()  # of a model whose containers are called one by one ("Direct" mode)


@dataclass(frozen=True)
class RoutedEndpoint:
    """What the router needs to know of one endpoint.

    `incoming` are the production variants of a fleet that is taking over; it gets `incoming_share` of the requests,
    from 0 to 1.
    """

    name: str
    arn: str
    status: str
    variants: tuple[RoutedVariant, ...]
    shadow_variants: tuple[RoutedVariant, ...] = ()
    data_capture: Mapping[str, Any] | None = None  # DataCaptureConfig, when it is enabled
    incoming: tuple[RoutedVariant, ...] = ()
    incoming_share: float = 0.0


@dataclass(frozen=True)
class RoutingTable:
    """All endpoints that are there, by name; also those that do not serve yet, or no more."""

    version: int
    endpoints: Mapping[str, RoutedEndpoint] = field(default_factory=lambda: dict[str, RoutedEndpoint]())


_VERSION = select(table_of(RoutingVersion).c.version)
_ENDPOINT = table_of(Endpoint).c
_REPLICA = table_of(EndpointReplica).c
_ENDPOINTS = select(_ENDPOINT.id, _ENDPOINT.name, _ENDPOINT.arn, _ENDPOINT.status, _ENDPOINT.serving, _ENDPOINT.target)
_REPLICAS = (
    select(
        _REPLICA.endpoint_id,
        _REPLICA.generation,
        _REPLICA.variant,
        _REPLICA.host_id,
        _REPLICA.address,
        _REPLICA.log_stream,
    )
    .where(_REPLICA.routed.is_(True))
    .order_by(_REPLICA.position, _REPLICA.host_id)
)


def routing_version(database: Database) -> int:
    """The table's version now: one read of one row."""
    rows = database.query(_VERSION)
    return rows[0][0] if rows else 0


def routing_table(database: Database) -> RoutingTable:
    """The whole table."""
    with database.reading() as session:  # one snapshot: the version is that of these rows
        version = session.scalar(_VERSION) or 0
        endpoints = session.execute(_ENDPOINTS).all()
        replicas: _Replicas = {}
        for endpoint_id, generation, variant, host_id, address, log_stream in session.execute(_REPLICAS):
            found = RoutedReplica(host_id, address, log_stream)
            replicas.setdefault((endpoint_id, generation, variant), []).append(found)
    routed: dict[str, RoutedEndpoint] = {}
    for endpoint_id, name, arn, status, serving, target in endpoints:
        plan: dict[str, Any] = serving or _NO_PLAN
        shift = (target or {}).get("shift")
        capture = plan["config"].get("DataCaptureConfig")
        routed[name] = RoutedEndpoint(
            name=name,
            arn=arn,
            status=status,
            variants=_variants(endpoint_id, plan, replicas, shadow=False),
            shadow_variants=_variants(endpoint_id, plan, replicas, shadow=True),
            data_capture=capture if capture and capture.get("EnableCapture") else None,
            incoming=_variants(endpoint_id, target, replicas, shadow=False) if shift else (),
            incoming_share=shift["share"] if shift else 0.0,
        )
    return RoutingTable(version, routed)


def routing_changed(session: Session) -> None:
    """Count the version up, in the transaction that changes the table."""
    counted = session.execute(update(table_of(RoutingVersion)).values(version=RoutingVersion.version + 1))
    if not counted.rowcount:  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        session.execute(insert(table_of(RoutingVersion)).values(id=1, version=1))


_Replicas = dict[tuple[int, int, str], list[RoutedReplica]]  # by endpoint, generation and variant
_NO_PLAN: dict[str, Any] = {"generation": 0, "variants": [], "models": {}, "config": {}}


def _variants(
    endpoint_id: int, plan: Mapping[str, Any], replicas: _Replicas, *, shadow: bool
) -> tuple[RoutedVariant, ...]:
    return tuple(
        _variant(plan, variant, tuple(replicas.get((endpoint_id, plan["generation"], variant["name"]), ())))
        for variant in plan["variants"]
        if bool(variant["shadow"]) is shadow
    )


def _variant(plan: Mapping[str, Any], variant: Mapping[str, Any], replicas: tuple[RoutedReplica, ...]) -> RoutedVariant:
    model: Mapping[str, Any] = plan["models"][variant["model"]]
    containers: list[Mapping[str, Any]] = model.get("Containers") or [model["PrimaryContainer"]]
    several_models = any(container.get("Mode") == "MultiModel" for container in containers)
    direct = model.get("InferenceExecutionConfig", {}).get("Mode") == "Direct"
    return RoutedVariant(
        name=variant["name"],
        weight=variant["weight"],
        replicas=replicas,
        instance_count=variant["desired_count"],
        multi_model=several_models,
        in_series=len(containers) > 1,
        answer_seconds=ANSWER_SECONDS + (len(containers) > 1) + (_MODEL_SECONDS if several_models else 0),
        container_hostnames=tuple(container["ContainerHostname"] for container in containers) if direct else (),
    )
