"""Which places in the object store are whose: what the S3 front asks before it lets a job's request pass."""

from __future__ import annotations

import re

import orjson
from sqlalchemy import select

from clary.state.database import Database
from clary.state.endpoints import Endpoint
from clary.state.training_jobs import TrainingJob

_ADDRESS = re.compile(r"""s3://[^\s"'\\,;]+""")
_NAMES_AT_ONCE = 500  # fewer than any database's limit on a statement's parameters


def recorded_jobs(database: Database, names: set[str]) -> set[str]:
    """Of some names, those that training jobs have."""
    found: set[str] = set()
    wanted = sorted(names)
    for start in range(0, len(wanted), _NAMES_AT_ONCE):
        some = wanted[start : start + _NAMES_AT_ONCE]
        found.update(name for (name,) in database.query(select(TrainingJob.name).where(TrainingJob.name.in_(some))))
    return found


def addresses_of(database: Database, job_name: str) -> list[str]:
    """The s3:// addresses anywhere in a training job's request, its hyperparameters included.

    For "endpoint/<name>" they are those of the endpoint's configuration and models.
    """
    kind, _, name = job_name.rpartition("/")
    if kind == "endpoint":
        rows = database.query(select(Endpoint.serving, Endpoint.target).where(Endpoint.name == name))
    else:
        rows = database.query(select(TrainingJob.request).where(TrainingJob.name == job_name))
    return [address for row in rows for told in row for address in _ADDRESS.findall(orjson.dumps(told).decode())]
