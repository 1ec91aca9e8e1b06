"""Endpoints on the driven platform: created by the real operations, their replicas played by the test."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any, cast

from driven_platform import DrivenPlatform

from clary.host.serving_spec import ReplicaSpec
from clary.host.spec import Ending, HostOrders, HostReport, LogLine, Phase, PhaseChange
from clary.lifecycle.endpoints import EndpointController
from clary.services import endpoint_configs, endpoints, host_reports
from clary.services.registry import Context
from clary.state.database import now
from clary.state.endpoints import Endpoint, EndpointReplica, find_endpoint
from clary.state.models import Model
from clary.state.routing import RoutingTable, routing_table
from clary.wire.messages import Caller

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-inference:2.19-cpu"


class PlayedReplica:
    """One replica as the test plays it."""

    def __init__(self, platform: DrivenEndpoints, spec: ReplicaSpec) -> None:
        self._platform = platform
        self.spec = spec
        self.phases: list[PhaseChange] = []
        self.address: str | None = None

    def report(self, *, ending: Ending | None = None, logs: tuple[LogLine, ...] = ()) -> HostOrders:
        report = HostReport(
            host_id=self.spec.host_id, phases=tuple(self.phases), logs=logs, ending=ending, address=self.address
        )
        return host_reports.receive(self._platform.platform.database, self.spec.host_id, self.spec.report_token, report)

    def enter(self, phase: Phase) -> HostOrders:
        self.phases.append(PhaseChange(phase=phase, timestamp=now()))
        return self.report()

    def serve(self) -> None:
        """Pass its first ping; the controller takes notice."""
        for phase in (Phase.STARTING, Phase.PREPARING_IMAGE, Phase.DOWNLOADING):
            self.enter(phase)
        self.address = f"/run/{self.spec.host_id}.sock"
        self.enter(Phase.READY)
        self._platform.settle()

    def end(self, cause: str, **details: Any) -> None:
        """End and have the supervisor exit; the controller sees to the rest."""
        self.phases.append(PhaseChange(phase=Phase.ENDED, timestamp=now()))
        self.report(ending=Ending.model_validate({"cause": cause, **details}))
        self._platform.platform.cluster.running.discard(self.spec.host_id)
        self._platform.settle()


class DrivenEndpoints:
    """The endpoint controller, its operations and its replicas."""

    def __init__(self, platform: DrivenPlatform) -> None:
        self.platform = platform
        self.controller = EndpointController(
            platform.database, cast(Any, platform.cluster), platform.store, platform.settings, platform.credentials
        )
        caller = Caller("AKID", "arn:aws:sts::000000000000:assumed-role/R/c", "AROA:c", "000000000000", "us-east-1")
        self._context = Context(platform.settings, platform.database, cast(Any, None), caller, "request")

    def add_config(self, name: str, *variants: dict[str, Any], model: str = "model", **members: Any) -> None:
        """An endpoint configuration, with the model that it names."""
        at = now()
        with self.platform.database.transaction() as session:
            if not session.query(Model).filter_by(name=model).first():
                request = {"ModelName": model, "PrimaryContainer": {"Image": IMAGE}, "ExecutionRoleArn": "role/r"}
                session.add(Model(name=model, arn=f"arn/{model}", creation_time=at, request=request))
        plain: dict[str, Any] = {"VariantName": "AllTraffic", "ModelName": model, "InstanceType": "ml.m5.large"}
        self.call(
            endpoint_configs.create_endpoint_config,
            EndpointConfigName=name,
            ProductionVariants=[{**plain, **variant} for variant in variants or ({},)],
            **members,
        )

    def create(self, name: str = "e", *variants: dict[str, Any]) -> list[PlayedReplica]:
        """An endpoint whose replicas have been started."""
        self.add_config(f"{name}-config", *variants)
        self.call(endpoints.create_endpoint, EndpointName=name, EndpointConfigName=f"{name}-config")
        self.settle()
        return self.replicas(name)

    def in_service(self, name: str = "e", *variants: dict[str, Any]) -> list[PlayedReplica]:
        """An endpoint that serves."""
        started = self.create(name, *variants)
        for replica in started:
            replica.serve()
        assert self.status(name) == "InService"
        return started

    def update(self, name: str, config: str, **members: Any) -> list[PlayedReplica]:
        """UpdateEndpoint; the replicas that were started for it."""
        before = {replica.spec.host_id for replica in self.replicas(name)}
        self.call(endpoints.update_endpoint, EndpointName=name, EndpointConfigName=config, **members)
        self.settle()
        return [replica for replica in self.replicas(name) if replica.spec.host_id not in before]

    def call(self, operation: Callable[..., Any], **params: Any) -> dict[str, Any]:
        """Call an operation as the wire does, the request checked already."""
        answer = operation(self._context, params)
        return asyncio.run(_awaited(answer)) if isinstance(answer, Awaitable) else answer

    def describe(self, name: str = "e") -> dict[str, Any]:
        return self.call(endpoints.describe_endpoint, EndpointName=name)

    def status(self, name: str = "e") -> str:
        return self.describe(name)["EndpointStatus"]

    def replicas(self, name: str = "e") -> list[PlayedReplica]:
        """The replicas of an endpoint that were started, in the order of their starts."""
        started = cast(list[Any], self.platform.cluster.started)
        return [
            PlayedReplica(self, spec)
            for spec in started
            if isinstance(spec, ReplicaSpec) and spec.endpoint_name == name
        ]

    def running(self, name: str = "e") -> list[str]:
        return [r.spec.host_id for r in self.replicas(name) if r.spec.host_id in self.platform.cluster.running]

    def row(self, name: str = "e") -> Endpoint | None:
        with self.platform.database.reading() as session:
            endpoint = find_endpoint(session, name)
            assert endpoint is None or endpoint.replicas is not None
            return endpoint

    def table(self) -> RoutingTable:
        return routing_table(self.platform.database)

    def routed(self, name: str = "e") -> set[str]:
        """The hosts that get requests now."""
        return {r.host_id for variant in self.table().endpoints[name].variants for r in variant.replicas}

    def incoming(self, name: str = "e") -> tuple[float, set[str]]:
        """The share of the requests that a fleet which takes over gets, and its hosts."""
        routed = self.table().endpoints[name]
        return routed.incoming_share, {r.host_id for variant in routed.incoming for r in variant.replicas}

    def settle(self) -> None:
        """Take steps until none is left to take."""
        for _ in range(100):
            self.controller._looked_for_lost = 0.0
            due = self.controller.due()
            if not due:
                return
            for endpoint_id in due:
                self.controller.step(endpoint_id)
        raise AssertionError(f"the controller does not come to rest: endpoints {due} are always due")

    def let_pass(self, seconds: float) -> None:
        """Make all that has happened to replicas longer ago, and take the steps that are due then."""
        with self.platform.database.transaction() as session:
            for replica in session.query(EndpointReplica):
                for column in ("draining_since", "stop_ordered_time", "start_after", "ready_time", "created_time"):
                    before = getattr(replica, column)
                    if before is not None:
                        setattr(replica, column, before - dt.timedelta(seconds=seconds))
            for endpoint in session.query(Endpoint):
                if endpoint.target_since:
                    endpoint.target_since -= dt.timedelta(seconds=seconds)
                if endpoint.target and (shift := endpoint.target.get("shift")):
                    since = dt.datetime.fromisoformat(shift["since"]) - dt.timedelta(seconds=seconds)
                    endpoint.target = {**endpoint.target, "shift": {**shift, "since": since.isoformat()}}
        self.settle()


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer
