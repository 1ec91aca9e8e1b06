"""The controller with a real record and a cluster that starts nothing: the test plays the hosts."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from clary.cluster.base import HostState, Node, Placement, Resources
from clary.cluster.packing import pack
from clary.front.credentials import CredentialStore
from clary.host.spec import Ending, HostOrders, HostReport, HostSpec, LogLine, MetricPoint, Phase, PhaseChange
from clary.lifecycle.training import TrainingController
from clary.services import host_reports
from clary.services.training_defaults import queue_deadline, with_defaults
from clary.settings import Settings
from clary.state.database import Database, now
from clary.state.training_jobs import TrainingJob, find_training_job, move_to, request_stop
from clary.storage.access import StoreAccess

GIB = 1024**3
TOTAL = Resources(cpus=4, memory_bytes=16 * GIB)


class PlayedHost:
    """One host as the test plays it."""

    def __init__(self, database: Database, spec: HostSpec) -> None:
        self._database = database
        self.spec = spec
        self.phases: list[PhaseChange] = []

    def report(
        self, *, ending: Ending | None = None, logs: tuple[LogLine, ...] = (), metrics: tuple[MetricPoint, ...] = ()
    ) -> HostOrders:
        report = HostReport(
            host_id=self.spec.host_id, phases=tuple(self.phases), logs=logs, metrics=metrics, ending=ending
        )
        return host_reports.receive(self._database, self.spec.host_id, self.spec.report_token, report)

    def enter(self, phase: Phase, message: str = "") -> HostOrders:
        self.phases.append(PhaseChange(phase=phase, timestamp=now(), message=message))
        return self.report()

    def reach(self, phase: Phase) -> HostOrders:
        """Pass through all phases up to this one."""
        for step in Phase:
            self.enter(step)
            if step is phase:
                break
        return self.report()

    def end(self, cause: str, **details: Any) -> HostOrders:
        self.phases.append(PhaseChange(phase=Phase.ENDED, timestamp=now()))
        return self.report(ending=Ending.model_validate({"cause": cause, **details}))


class PlayedCluster:
    """Remembers what it was asked for. `refuse` makes the next start fail; `lost` hosts are gone."""

    def __init__(self, total: Resources = TOTAL) -> None:
        self.started: list[HostSpec] = []
        self.running: set[str] = set()
        self.ended: set[str] = set()
        self.cleaned: list[str] = []
        self.refuse: Exception | None = None
        self.total = total

    def nodes(self) -> tuple[Node, ...]:
        return (Node("local", self.total),)

    def problem(self) -> str:
        return ""

    def prepare(self) -> None: ...

    def close(self) -> None: ...

    def place(self, wanted: tuple[Resources, ...], taken: tuple[Placement, ...]) -> tuple[Placement, ...] | None:
        return pack(self.nodes(), wanted, taken)

    def start(self, spec: HostSpec, placement: Placement, together: tuple[Placement, ...] = ()) -> str:
        if self.refuse is not None:
            raise self.refuse
        if spec.host_id not in {known.host_id for known in self.started}:
            self.started.append(spec)
            self.running.add(spec.host_id)
        return spec.host_id

    def state(self, handle: str) -> HostState:
        return HostState("running") if handle in self.running else HostState("lost", "killed by the test")

    def end(self, handle: str) -> None:
        self.running.discard(handle)
        self.ended.add(handle)

    def unreported(self, handle: str) -> None:
        return None

    def clean(self, handle: str) -> None:
        self.end(handle)
        self.cleaned.append(handle)


class DrivenPlatform:
    """Everything of the server that a controller needs."""

    def __init__(self, home: Path, url: str | None = None) -> None:
        self.settings = Settings(home=home, database_url=url)
        self.database = Database(self.settings.resolved_database_url)
        self.credentials = CredentialStore(home, self.settings)
        self.cluster = PlayedCluster()
        self.store: StoreAccess | None = StoreAccess(
            endpoint="http://127.0.0.1:1", access_key="a", secret_key="s", region="us-east-1"
        )
        self.controller = self.new_controller()

    def new_controller(self) -> TrainingController:
        """A controller as another server, or the same one after a restart, would have it."""
        return TrainingController(self.database, self.cluster, self.store, self.settings, self.credentials)

    def close(self) -> None:
        self.database.close()

    def create(self, name: str, *, instance_type: str = "ml.m5.xlarge", count: int = 1, **members: Any) -> None:
        """Record a job as CreateTrainingJob does."""
        at = now()
        request = with_defaults(
            {
                "TrainingJobName": name,
                "AlgorithmSpecification": {"TrainingImage": "python:3.12", "TrainingInputMode": "File"},
                "RoleArn": self.settings.default_role_arn,
                "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
                "ResourceConfig": {"InstanceType": instance_type, "InstanceCount": count, "VolumeSizeInGB": 5},
                "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
                **members,
            }
        )
        job = TrainingJob(
            name=name,
            arn=self.settings.arn(f"training-job/{name}"),
            status="InProgress",
            secondary_status="Starting",
            creation_time=at,
            last_modified_time=at,
            request=request,
            transitions=[],
            queue_deadline=queue_deadline(request, at),
        )
        move_to(job, "Starting", "Starting the training job", at)
        with self.database.transaction() as session:
            session.add(job)

    def settle(self) -> None:
        """Take steps until none is left to take."""
        for _ in range(100):
            self.controller._looked_for_lost = 0.0
            due = self.controller.due()
            if not due:
                return
            for job_id in due:
                self.controller.step(job_id)
        raise AssertionError(f"the controller does not come to rest: jobs {due} are always due")

    def job(self, name: str) -> TrainingJob:
        with self.database.reading() as session:
            job = find_training_job(session, name)
            assert job is not None
            assert job.hosts is not None
            return job

    def hosts(self, name: str) -> list[PlayedHost]:
        """The hosts of a job that were started, in the order of their starts."""
        return [
            PlayedHost(self.database, spec) for spec in self.cluster.started if getattr(spec, "job_name", None) == name
        ]

    def start(self, name: str, **members: Any) -> list[PlayedHost]:
        """Create a job and have its hosts started."""
        self.create(name, **members)
        self.settle()
        return self.hosts(name)

    def leave(self, host: PlayedHost) -> None:
        """The host's supervisor exits."""
        self.cluster.running.discard(host.spec.host_id)

    def finish(self, host: PlayedHost, cause: str = "Completed", **details: Any) -> None:
        """The host ends and its supervisor exits; the controller sees to the rest."""
        host.end(cause, **details)
        self.leave(host)
        self.settle()

    def stop(self, name: str, cause: str = "Stopped") -> None:
        """What StopTrainingJob records."""
        with self.database.transaction() as session:
            job = find_training_job(session, name)
            assert job is not None
            request_stop(session, job, cause, now())
            move_to(job, "Stopping", "Stopping the training job", now(), status="Stopping")

    def transitions(self, name: str) -> list[tuple[str, str]]:
        return [(item["Status"], item["StatusMessage"]) for item in self.job(name).transitions]

    def age(self, name: str, seconds: float) -> None:
        """Make a job older than it is."""
        with self.database.transaction() as session:
            job = find_training_job(session, name)
            assert job is not None
            job.creation_time -= dt.timedelta(seconds=seconds)
            if job.queue_deadline:
                job.queue_deadline -= dt.timedelta(seconds=seconds)
