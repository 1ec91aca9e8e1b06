"""Real boto3 clients on the real wire and record, without HTTP in between: `clients` is fast and needs no server.

Tests of the whole way, with sockets and signatures, are in tests/wire and tests/e2e.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from sqlalchemy import text

from clary.services import registry
from clary.settings import Settings
from clary.state import migrate
from clary.state.database import Base, Database, now
from clary.state.training_jobs import TrainingHost, TrainingJob, hash_token
from clary.wire.dispatch import Dispatcher
from clary.wire.messages import Caller, OperationCall, WireRequest

sys.path.insert(0, str(Path(__file__).parents[1]))
import postgres
from postgres import postgres_url

__all__ = ["postgres_url"]

_SERVICES = (
    "cloudwatch",
    "endpoint_configs",
    "endpoints",
    "logs",
    "models",
    "sagemaker_metrics",
    "search",
    "tags",
    "training_jobs",
)
CALLER = Caller("AKID", "arn:aws:sts::000000000000:assumed-role/R/clary", "AROA:clary", "000000000000", "us-east-1")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without rows, to be copied."""
    path = tmp_path_factory.mktemp("record") / "clary.db"
    migrate.upgrade(f"sqlite:///{path}")
    database = Database(f"sqlite:///{path}")
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> str:
    """The URL of a PostgreSQL database with tables."""
    url = postgres.new_database(postgres_url, "services")
    migrate.upgrade(url)
    return url


@pytest.fixture
def database(request: pytest.FixtureRequest, migrated: Path, tmp_path: Path) -> Generator[Database]:
    """A new record on SQLite; a module that parametrises `database` indirectly sees it on PostgreSQL too."""
    if getattr(request, "param", "sqlite") == "postgresql":
        database = Database(request.getfixturevalue("migrated_postgres"))
        names = ", ".join(f'"{table.name}"' for table in Base.metadata.tables.values())
        with database.transaction() as session:
            session.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
        yield database
        database.close()
        return
    path = tmp_path / "clary.db"
    path.write_bytes(migrated.read_bytes())
    database = Database(f"sqlite:///{path}")
    yield database
    database.close()


@pytest.fixture
def store() -> Any:
    """No object store: a module whose operations look into one overrides this."""
    return None


@pytest.fixture
def clients(database: Database, store: Any) -> Callable[[str], Any]:
    """boto3 clients by service name, whose requests go to the dispatcher itself."""
    for name in _SERVICES:
        importlib.import_module(f"clary.services.{name}")
    settings = Settings(home=Path("/nonexistent"))

    def bind(function: registry.Operation) -> Any:
        def handle(call: OperationCall) -> Any:
            context = registry.Context(settings, database, store, call.caller, call.request_id)
            return function(context, dict(call.params))

        return handle

    dispatcher = Dispatcher({name: bind(function) for name, function in registry.operations().items()}, "us-east-1")

    def send(request: Any, **_: Any) -> AWSResponse:
        path, _, query = request.url.partition("://")[2].partition("/")[2].partition("?")
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }
        body = request.body.encode() if isinstance(request.body, str) else bytes(request.body or b"")
        wire = WireRequest(request.method, f"/{path}", query, headers, body)
        response = asyncio.run(dispatcher.handle(wire, CALLER))
        return AWSResponse(request.url, response.status, dict(response.headers), _Raw(response.body))

    def client(service: str) -> Any:
        made = boto3.client(
            service,
            region_name="us-east-1",
            aws_access_key_id="AKID",
            aws_secret_access_key="secret",
            endpoint_url="http://127.0.0.1:1",
            config=Config(retries={"max_attempts": 0}),
        )
        made.meta.events.register("before-send", send)
        return made

    return client


class _Raw:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: Any) -> Generator[bytes]:
        yield self._body


@pytest.fixture
def add_job(database: Database) -> Callable[..., TrainingJob]:
    """Record a training job; keyword arguments are columns, or members of its request."""

    def add(name: str, **fields: Any) -> TrainingJob:
        columns = set(TrainingJob.__table__.c.keys())
        values: dict[str, Any] = {
            "arn": f"arn:aws:sagemaker:us-east-1:000000000000:training-job/{name}",
            "status": "InProgress",
            "secondary_status": "Training",
            "creation_time": now(),
            "last_modified_time": now(),
            "transitions": [],
            "final_metrics": [],
        }
        values |= {key: value for key, value in fields.items() if key in columns}
        request = {key: value for key, value in fields.items() if key not in columns}
        job = TrainingJob(name=name, request={"TrainingJobName": name, **request}, **values)
        with database.transaction() as session:
            session.add(job)
        return job

    return add


@pytest.fixture
def add_host(database: Database) -> Callable[..., str]:
    """Record a host of a job, with the token "secret", and return its id."""

    def add(job: TrainingJob, position: int = 0, attempt: int = 1) -> str:
        name = f"algo-{position + 1}"
        host_id = f"{job.name}-{attempt}-{name}"
        with database.transaction() as session:
            session.add(
                TrainingHost(
                    host_id=host_id,
                    job_id=job.id,
                    job_name=job.name,
                    attempt=attempt,
                    position=position,
                    name=name,
                    instance_type="ml.m5.large",
                    instance_group="homogeneousCluster",
                    node="local",
                    cpus=1,
                    memory_bytes=1 << 30,
                    token_hash=hash_token("secret"),
                    log_stream=f"{job.name}/{name}-{int(dt.datetime.now(dt.UTC).timestamp()) + attempt}",
                    created_time=now(),
                )
            )
        return host_id

    return add
