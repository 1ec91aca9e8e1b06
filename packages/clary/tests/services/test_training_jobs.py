"""The training job operations as boto3 sees them, on a real record and a real object store."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from botocore.exceptions import ClientError

from clary.state.database import Database, now
from clary.state.training_jobs import TrainingJob, find_training_job, move_to
from clary.storage.access import StoreAccess
from clary.storage.client import ObjectStore

ROLE = "arn:aws:iam::000000000000:role/SageMakerRole"
REQUEST: dict[str, Any] = {
    "TrainingJobName": "job",
    "AlgorithmSpecification": {
        "TrainingImage": "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.19-cpu-py312",
        "TrainingInputMode": "File",
    },
    "RoleArn": ROLE,
    "OutputDataConfig": {"S3OutputPath": "s3://results/out"},
    "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
}


class StoreOfAnyLoop:
    """The object store for requests that each run in an event loop of their own."""

    def __init__(self, access: StoreAccess) -> None:
        self._access = access

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            store = ObjectStore(self._access)
            try:
                return await getattr(store, name)(*arguments)
            finally:
                await store.close()

        return call


@pytest.fixture(scope="module")
def prepared_store(store_access: StoreAccess) -> StoreOfAnyLoop:
    store = StoreOfAnyLoop(store_access)
    for bucket in ("inputs", "results"):
        asyncio.run(store.create_bucket(bucket))
    asyncio.run(store.write("inputs", "train/a.csv", b"1,2"))
    return store


@pytest.fixture
def store(prepared_store: StoreOfAnyLoop) -> StoreOfAnyLoop:
    return prepared_store


@pytest.fixture
def sagemaker(clients: Callable[[str], Any]) -> Any:
    return clients("sagemaker")


def request(**members: Any) -> dict[str, Any]:
    """A good request with other members; None takes one out."""
    changed = {**deepcopy(REQUEST), **members}
    return {name: value for name, value in changed.items() if value is not None}


def channel(name: str = "train", uri: str = "s3://inputs/train", **members: Any) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, **members.pop("source", {})}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, **members}


def refusal(call: Callable[..., Any], **params: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**params)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def finish(database: Database, name: str, status: str = "Completed") -> None:
    with database.transaction() as session:
        job = find_training_job(session, name)
        assert job is not None
        job.training_start_time = now() - dt.timedelta(seconds=90.2)
        job.training_end_time = now()
        job.stage = "settled"
        move_to(job, status, f"Training job {status.lower()}", now(), status=status)


class TestCreate:
    def test_a_job_begins_in_starting(self, sagemaker: Any) -> None:
        made = sagemaker.create_training_job(**request(InputDataConfig=[channel()]))
        assert made["TrainingJobArn"] == "arn:aws:sagemaker:us-east-1:000000000000:training-job/job"
        job = sagemaker.describe_training_job(TrainingJobName="job")
        assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("InProgress", "Starting")
        assert [item["StatusMessage"] for item in job["SecondaryStatusTransitions"]] == ["Starting the training job"]

    def test_what_the_sdks_rely_on_is_filled_in(self, sagemaker: Any) -> None:
        sagemaker.create_training_job(**request(InputDataConfig=[channel()], StoppingCondition={}))
        job = sagemaker.describe_training_job(TrainingJobName="job")
        assert job["OutputDataConfig"]["KmsKeyId"] == ""
        assert job["AlgorithmSpecification"]["MetricDefinitions"] == []
        assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 86400}
        assert job["ModelArtifacts"] == {"S3ModelArtifacts": ""}
        assert job["HyperParameters"] == {}
        assert job["ResourceConfig"] == REQUEST["ResourceConfig"]
        source = job["InputDataConfig"][0]["DataSource"]["S3DataSource"]
        assert source["S3DataDistributionType"] == "FullyReplicated"
        assert "TrainingTimeInSeconds" not in job

    def test_a_name_can_be_given_once(self, sagemaker: Any) -> None:
        sagemaker.create_training_job(**request())
        code, message = refusal(sagemaker.create_training_job, **request())
        assert code == "ResourceInUse"
        assert message == (
            "Training job names must be unique within an AWS account and region, and a training job with this name "
            "already exists (arn:aws:sagemaker:us-east-1:000000000000:training-job/job)"
        )

    @pytest.mark.parametrize("uri", ["s3://nowhere/train", "s3://inputs/nothing/here"])
    def test_an_input_that_is_not_there_is_refused(self, sagemaker: Any, uri: str) -> None:
        bucket = uri.split("/")[2]
        code, message = refusal(sagemaker.create_training_job, **request(InputDataConfig=[channel(uri=uri)]))
        assert code == "ValidationException"
        assert message == (
            f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the bucket '
            "exists in the selected region (us-east-1), that objects exist under that S3 prefix, and that the role "
            f'"{ROLE}" has "s3:ListBucket" permissions on bucket "{bucket}".'
        )

    def test_an_output_without_a_bucket_is_refused(self, sagemaker: Any) -> None:
        code, message = refusal(
            sagemaker.create_training_job, **request(OutputDataConfig={"S3OutputPath": "s3://nowhere/x"})
        )
        assert code == "ValidationException"
        assert 'The bucket "nowhere"' in message

    def test_an_unknown_image_is_refused_as_a_missing_repository(self, sagemaker: Any) -> None:
        algorithm = {
            "TrainingImage": "000000000000.dkr.ecr.us-east-1.amazonaws.com/my-own:1",
            "TrainingInputMode": "File",
        }
        code, message = refusal(sagemaker.create_training_job, **request(AlgorithmSpecification=algorithm))
        assert code == "ValidationException"
        assert message.startswith(
            "Cannot find repository: my-own in registry ID: 000000000000 Please check if your ECR repository exists "
            f"and role {ROLE} has proper pull permissions for SageMaker"
        )

    def test_a_version_that_cannot_be_built_fails_the_job_later(self, sagemaker: Any) -> None:
        algorithm = {"TrainingImage": "tensorflow-training:1.4-cpu-py2", "TrainingInputMode": "File"}
        sagemaker.create_training_job(**request(AlgorithmSpecification=algorithm))

    @pytest.mark.parametrize(
        ("members", "text"),
        [
            ({"RoleArn": "arn:aws:iam::1:role/too-short-an-account"}, "roleArn"),
            ({"AlgorithmSpecification": None}, "AlgorithmSpecification is required"),
            ({"AlgorithmSpecification": {"TrainingInputMode": "File"}}, "either a TrainingImage or an AlgorithmName"),
            ({"AlgorithmSpecification": {"TrainingInputMode": "File", "AlgorithmName": "a"}}, "no algorithm resources"),
            ({"ResourceConfig": None}, "ResourceConfig is required"),
            ({"ResourceConfig": {"InstanceType": "ml.m5.xlarge"}}, "needs InstanceType and InstanceCount"),
            (
                {"ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 0}},
                "Value '0' at 'resourceConfig.instanceCount' failed to satisfy constraint: "
                "Member must have value greater than or equal to 1",
            ),
            ({"InputDataConfig": [channel(), channel()]}, "Received twice: train"),
            ({"InputDataConfig": [channel("..")]}, "its name becomes a folder"),
            ({"InputDataConfig": [channel(InputMode="Pipe")]}, "Pipe mode"),
            ({"InputDataConfig": [channel(CompressionType="Gzip")]}, "Pipe mode only"),
            ({"InputDataConfig": [channel(source={"S3DataType": "AugmentedManifestFile"})]}, "AugmentedManifestFile"),
            ({"InputDataConfig": [channel(uri="https://inputs/train")]}, "s3://bucket/key"),
            ({"InputDataConfig": [{"ChannelName": "train", "DataSource": {}}]}, "needs an S3DataSource"),
            ({"EnableManagedSpotTraining": True}, "Invalid MaxWaitTimeInSeconds"),
            (
                {"StoppingCondition": {"MaxRuntimeInSeconds": 10, "MaxWaitTimeInSeconds": 20}},
                "MaxWaitTimeInSeconds can only be given",
            ),
            ({"HyperParameters": {"k": "v" * 2501}}, "hyperParameters"),
            ({"RemoteDebugConfig": {"EnableRemoteDebug": True}}, "remote debugging"),
            ({"Tags": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}, "Duplicate tag keys"),
            (
                {"ServerlessJobConfig": {"BaseModelArn": "arn:aws:sagemaker:us-east-1:aws:hub-content/h/Model/m"}},
                "serverless",
            ),
        ],
    )
    def test_what_cannot_run_is_refused(self, sagemaker: Any, members: dict[str, Any], text: str) -> None:
        if "ServerlessJobConfig" in members:
            members["ServerlessJobConfig"]["JobType"] = "FineTuning"
        code, message = refusal(sagemaker.create_training_job, **request(**members))
        assert code == "ValidationException"
        assert text in message

    def test_instance_groups_are_on_all_channels_or_none(self, sagemaker: Any) -> None:
        groups = [{"InstanceGroupName": "g", "InstanceType": "ml.m5.large", "InstanceCount": 1}]
        channels = [channel("one", source={"InstanceGroupNames": ["g"]}), channel("two")]
        resources = {"InstanceGroups": groups}
        code, message = refusal(
            sagemaker.create_training_job, **request(ResourceConfig=resources, InputDataConfig=channels)
        )
        assert (code, message) == (
            "ValidationException",
            "Some channels have assigned instance groups: [one] while others not: [two]",
        )
        unknown = [channel("one", source={"InstanceGroupNames": ["other"]})]
        _, message = refusal(
            sagemaker.create_training_job, **request(ResourceConfig=resources, InputDataConfig=unknown)
        )
        assert "[other]. Expected some of: [g]" in message

    def test_what_the_sdks_send_by_default_is_accepted_and_shown(self, sagemaker: Any) -> None:
        extra = {
            "DebugHookConfig": {"S3OutputPath": "s3://results/debug", "CollectionConfigurations": []},
            "ProfilerConfig": {"S3OutputPath": "s3://results/profile", "DisableProfiler": False},
            "ExperimentConfig": {"ExperimentName": "e"},
            "RetryStrategy": {"MaximumRetryAttempts": 2},
            "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
            "Environment": {"A": "b"},
        }
        sagemaker.create_training_job(**request(**extra, Tags=[{"Key": "team", "Value": "a"}]))
        job = sagemaker.describe_training_job(TrainingJobName="job")
        assert {name: job[name] for name in extra} == extra
        tags = sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
        assert tags == [{"Key": "team", "Value": "a"}]


class TestDescribe:
    def test_an_unknown_job_is_the_error_that_waiters_know(self, sagemaker: Any) -> None:
        expected = ("ValidationException", "Requested resource not found.")
        assert refusal(sagemaker.describe_training_job, TrainingJobName="nobody") == expected
        assert refusal(sagemaker.stop_training_job, TrainingJobName="nobody") == expected

    def test_a_finished_job_tells_its_times(self, sagemaker: Any, database: Database) -> None:
        sagemaker.create_training_job(**request())
        finish(database, "job")
        job = sagemaker.describe_training_job(TrainingJobName="job")
        assert job["TrainingTimeInSeconds"] == job["BillableTimeInSeconds"] == 91
        assert job["TrainingStartTime"] < job["TrainingEndTime"]
        transitions = job["SecondaryStatusTransitions"]
        assert transitions[0]["EndTime"] == transitions[1]["StartTime"]
        assert transitions[1]["EndTime"] is not None


class TestList:
    @pytest.fixture
    def jobs(self, add_job: Callable[..., TrainingJob]) -> None:
        start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        for number in range(25):
            add_job(
                f"job-{number:02}",
                status="Failed" if number % 5 == 0 else "Completed",
                creation_time=start + dt.timedelta(hours=number),
                last_modified_time=start + dt.timedelta(hours=number, minutes=30),
                warm_pool_status="InUse" if number == 3 else None,
            )

    def names(self, sagemaker: Any, **params: Any) -> list[str]:
        pages = sagemaker.get_paginator("list_training_jobs").paginate(**params)
        return [job["TrainingJobName"] for page in pages for job in page["TrainingJobSummaries"]]

    @pytest.mark.usefixtures("jobs")
    def test_the_newest_come_first_in_pages(self, sagemaker: Any) -> None:
        assert len(sagemaker.list_training_jobs()["TrainingJobSummaries"]) == 10
        assert self.names(sagemaker, MaxResults=7) == [f"job-{number:02}" for number in reversed(range(25))]

    @pytest.mark.usefixtures("jobs")
    def test_every_sort_has_both_orders(self, sagemaker: Any) -> None:
        for sort in ("Name", "CreationTime", "Status"):
            up = self.names(sagemaker, SortBy=sort, SortOrder="Ascending", MaxResults=10)
            down = self.names(sagemaker, SortBy=sort, SortOrder="Descending", MaxResults=10)
            assert up == down[::-1]
            assert len(set(up)) == 25

    @pytest.mark.usefixtures("jobs")
    def test_every_filter_filters(self, sagemaker: Any) -> None:
        start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        assert len(self.names(sagemaker, StatusEquals="Failed")) == 5
        assert self.names(sagemaker, NameContains="-07") == ["job-07"]
        assert self.names(sagemaker, CreationTimeAfter=start + dt.timedelta(hours=23)) == ["job-24"]
        assert self.names(sagemaker, CreationTimeBefore=start + dt.timedelta(hours=1)) == ["job-00"]
        assert self.names(sagemaker, LastModifiedTimeAfter=start + dt.timedelta(hours=24)) == ["job-24"]
        assert self.names(sagemaker, LastModifiedTimeBefore=start + dt.timedelta(hours=1)) == ["job-00"]
        assert self.names(sagemaker, WarmPoolStatusEquals="InUse") == ["job-03"]
        plan = "arn:aws:sagemaker:us-east-1:000000000000:training-plan/none"
        assert self.names(sagemaker, TrainingPlanArnEquals=plan) == []


class TestStop:
    def test_a_stop_is_recorded_once(self, sagemaker: Any) -> None:
        sagemaker.create_training_job(**request())
        sagemaker.stop_training_job(TrainingJobName="job")
        sagemaker.stop_training_job(TrainingJobName="job")
        job = sagemaker.describe_training_job(TrainingJobName="job")
        assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopping", "Stopping")
        assert [item["Status"] for item in job["SecondaryStatusTransitions"]] == ["Starting", "Stopping"]

    def test_hosts_are_told_to_stop_by_their_next_report(
        self, sagemaker: Any, database: Database, add_job: Callable[..., TrainingJob], add_host: Callable[..., str]
    ) -> None:
        host = add_host(add_job("job", stage="placed", attempt=1))
        sagemaker.stop_training_job(TrainingJobName="job")
        with database.reading() as session:
            job = find_training_job(session, "job")
            assert job is not None
            assert [(known.host_id, known.wanted) for known in job.hosts] == [(host, "stop")]

    def test_a_job_that_has_ended_cannot_be_stopped(self, sagemaker: Any, database: Database) -> None:
        sagemaker.create_training_job(**request())
        finish(database, "job", "Stopped")
        assert refusal(sagemaker.stop_training_job, TrainingJobName="job") == (
            "ValidationException",
            "The request was rejected because the training job is in status Stopped.",
        )


class TestUpdate:
    def test_the_profiler_and_the_warm_pool_can_be_changed(self, sagemaker: Any) -> None:
        sagemaker.create_training_job(**request(ProfilerConfig={"S3OutputPath": "s3://results/p"}))
        sagemaker.update_training_job(
            TrainingJobName="job",
            ProfilerConfig={"DisableProfiler": True},
            ResourceConfig={"KeepAlivePeriodInSeconds": 60},
        )
        job = sagemaker.describe_training_job(TrainingJobName="job")
        assert job["ProfilerConfig"] == {"S3OutputPath": "s3://results/p", "DisableProfiler": True}
        assert job["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 60
        assert job["WarmPoolStatus"] == {"Status": "InUse"}

    def test_a_job_that_has_ended_stays_as_it_is(self, sagemaker: Any, database: Database) -> None:
        sagemaker.create_training_job(**request())
        finish(database, "job")
        code, message = refusal(
            sagemaker.update_training_job, TrainingJobName="job", ResourceConfig={"KeepAlivePeriodInSeconds": 60}
        )
        assert code == "ValidationException"
        assert "is in status Completed" in message


class TestDelete:
    def test_a_job_that_runs_cannot_be_deleted(self, sagemaker: Any) -> None:
        sagemaker.create_training_job(**request())
        code, message = refusal(sagemaker.delete_training_job, TrainingJobName="job")
        assert code == "ResourceInUse"
        assert "stop it first" in message

    def test_a_deleted_job_is_forgotten_and_its_name_free(self, sagemaker: Any, database: Database) -> None:
        made = sagemaker.create_training_job(**request(Tags=[{"Key": "a", "Value": "b"}]))
        finish(database, "job")
        sagemaker.delete_training_job(TrainingJobName="job")
        assert refusal(sagemaker.describe_training_job, TrainingJobName="job")[0] == "ValidationException"
        sagemaker.create_training_job(**request())
        assert sagemaker.list_tags(ResourceArn=made["TrainingJobArn"])["Tags"] == []
