"""The S3 front learns whose a place is from the record of jobs."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from clary.services.job_places import addresses_of, recorded_jobs
from clary.state.database import Database, now
from clary.state.migrate import upgrade
from clary.state.training_jobs import TrainingJob


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('record') / 'clary.db'}"
    upgrade(url)
    database = Database(url)
    request = {
        "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
        "HyperParameters": {"sagemaker_submit_directory": '"s3://bucket/code/source.tar.gz"'},
    }
    row = {
        "name": "a-job",
        "arn": "arn",
        "status": "InProgress",
        "secondary_status": "Starting",
        "creation_time": now(),
        "last_modified_time": now(),
        "request": request,
        "transitions": [],
    }
    with database.transaction() as session:
        session.execute(insert(TrainingJob).values(**row))
    yield database
    database.close()


def test_names_of_jobs_are_told_from_other_names(database):
    assert recorded_jobs(database, {"a-job", "output", *(f"x{n}" for n in range(1200))}) == {"a-job"}
    assert recorded_jobs(database, set()) == set()


def test_every_address_of_a_request_is_found(database):
    assert sorted(addresses_of(database, "a-job")) == ["s3://bucket/code/source.tar.gz", "s3://bucket/out"]
    assert addresses_of(database, "nobody") == []
