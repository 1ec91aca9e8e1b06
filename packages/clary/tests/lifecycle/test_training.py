"""A training job from the queue to its end, its hosts played by the test."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise

import pytest
from driven_platform import GIB, DrivenPlatform, PlayedCluster

from clary.cluster.base import Placement, PlacesTaken, Resources
from clary.host.spec import HostSpec, LogLine, MetricPoint, Phase
from clary.lifecycle import training
from clary.state.database import now
from clary.state.leases import claim
from clary.state.training_jobs import TrainingJob

WHOLE_MACHINE = "ml.m5.xlarge"  # 4 CPUs and 16 GiB: all that the played cluster has


def test_a_job_passes_through_the_statuses_of_sagemaker(platform: DrivenPlatform) -> None:
    (host,) = platform.start("job")
    assert platform.transitions("job") == [("Starting", "Preparing the instances for training")]
    for phase in Phase:
        if phase is Phase.ENDED:
            break
        host.enter(phase)
        platform.settle()
    host.report(logs=(LogLine(sequence=0, timestamp_ms=1, message="hello"),))
    platform.finish(host, model_artifact="s3://bucket/out/job/output/model.tar.gz")
    job = platform.job("job")
    assert (job.status, job.secondary_status, job.failure_reason) == ("Completed", "Completed", None)
    assert job.model_artifact == "s3://bucket/out/job/output/model.tar.gz"
    assert platform.transitions("job") == [
        ("Starting", "Preparing the instances for training"),
        ("Downloading", "Downloading input data"),
        ("Training", "Training image download completed. Training in progress."),
        ("Uploading", "Uploading generated training model"),
        ("Completed", "Training job completed"),
    ]
    assert all(before["EndTime"] == after["StartTime"] for before, after in pairwise(job.transitions))
    assert "EndTime" in job.transitions[-1]
    assert job.training_start_time is not None
    assert job.training_end_time is not None
    assert job.training_start_time <= job.training_end_time
    assert job.stage == "settled"
    assert platform.cluster.cleaned == [host.spec.host_id]


def test_the_image_that_is_being_prepared_is_told(platform: DrivenPlatform) -> None:
    (host,) = platform.start("job")
    host.enter(Phase.STARTING)
    host.enter(Phase.PREPARING_IMAGE)
    platform.settle()
    assert platform.transitions("job")[-1] == ("Downloading", "Downloading the training image")
    host.enter(Phase.PREPARING_IMAGE, "tensorflow 2.19.1, 41 of 60 packages")
    platform.settle()
    message = "Downloading the training image: tensorflow 2.19.1, 41 of 60 packages"
    assert platform.transitions("job")[-1] == ("Downloading", message)


def test_a_host_is_told_all_it_needs(platform: DrivenPlatform) -> None:
    (host,) = platform.start(
        "job",
        Environment={"MY_NAME": "value"},
        HyperParameters={"epochs": "3"},
        InputDataConfig=[
            {
                "ChannelName": "train",
                "ContentType": "text/csv",
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/train"}},
            }
        ],
        DebugHookConfig={"S3OutputPath": "s3://bucket/debug"},
    )
    spec = host.spec
    assert spec.hyperparameters == {"epochs": "3"}
    assert [(channel.name, channel.s3_uri) for channel in spec.channels] == [("train", "s3://bucket/train")]
    assert spec.output.model_uri == "s3://bucket/out/job/output/model.tar.gz"
    assert spec.limits.max_runtime_seconds == 3600
    assert spec.limits.disk_bytes == 5 * GIB
    assert '"LocalPath": "/opt/ml/output/tensors"' in spec.config_files["debughookconfig.json"]
    environment = spec.environment
    assert environment["MY_NAME"] == "value"
    assert environment["TRAINING_JOB_NAME"] == "job"
    assert environment["TRAINING_JOB_ARN"] == "arn:aws:sagemaker:us-east-1:000000000000:training-job/job"
    assert environment["AWS_ENDPOINT_URL"] == environment["S3_ENDPOINT_URL"] == platform.settings.url
    _, caller = platform.credentials.lookup(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SESSION_TOKEN"])
    assert caller.job_name == "job"


def test_an_uncompressed_model_goes_below_a_prefix(platform: DrivenPlatform) -> None:
    (host,) = platform.start("job", OutputDataConfig={"S3OutputPath": "s3://bucket/out/", "CompressionType": "NONE"})
    assert host.spec.output.model_uri == "s3://bucket/out/job/output/model/"


def test_the_last_values_of_defined_metrics_are_kept(platform: DrivenPlatform) -> None:
    (host,) = platform.start(
        "job",
        AlgorithmSpecification={
            "TrainingImage": "python:3.12",
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": "loss", "Regex": "loss=(.*)"}],
        },
    )
    host.reach(Phase.TRAINING)
    host.report(
        metrics=(
            MetricPoint(sequence=0, name="loss", value=2.0, timestamp=now()),
            MetricPoint(sequence=1, name="loss", value=0.5, timestamp=now() + dt.timedelta(seconds=1)),
            MetricPoint(sequence=2, name="CPUUtilization", value=90, timestamp=now(), instance=True),
        )
    )
    platform.finish(host)
    metrics = platform.job("job").final_metrics
    assert [(metric["MetricName"], metric["Value"]) for metric in metrics] == [("loss", 0.5)]


def test_a_failed_script_fails_the_job_and_says_why(platform: DrivenPlatform) -> None:
    (host,) = platform.start("job")
    host.reach(Phase.TRAINING)
    lines = ("Traceback (most recent call last):", '  File "train.py", line 1', "ValueError: no data")
    platform.finish(host, "ScriptFailed", exit_code=1, last_lines=lines)
    job = platform.job("job")
    assert (job.status, job.secondary_status) == ("Failed", "Failed")
    assert platform.transitions("job")[-1] == ("Failed", "Training job failed")
    assert job.failure_reason is not None
    assert job.failure_reason.startswith("AlgorithmError: , exit code: 1")
    assert job.failure_reason.endswith("ValueError: no data")


def test_jobs_run_in_the_order_of_their_creation(platform: DrivenPlatform) -> None:
    (first,) = platform.start("first", instance_type=WHOLE_MACHINE)
    platform.create("second", instance_type=WHOLE_MACHINE)
    platform.create("third", instance_type="ml.m5.large")
    platform.settle()
    for name in ("second", "third"):
        assert platform.transitions(name)[-1] == ("Pending", "Training job waiting for capacity")
        assert platform.hosts(name) == []
    platform.finish(first)
    assert len(platform.hosts("second")) == 1
    assert platform.hosts("third") == []
    assert platform.transitions("second") == [
        ("Starting", "Starting the training job"),
        ("Pending", "Training job waiting for capacity"),
        ("Starting", "Preparing the instances for training"),
    ]
    platform.finish(platform.hosts("second")[0])
    assert len(platform.hosts("third")) == 1


def test_a_short_wait_is_not_told(platform: DrivenPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PENDING_AFTER", dt.timedelta(hours=1))
    (first,) = platform.start("first", instance_type=WHOLE_MACHINE)
    platform.create("second", instance_type=WHOLE_MACHINE)
    platform.settle()
    assert platform.job("second").secondary_status == "Starting"
    platform.finish(first)
    assert platform.transitions("second") == [("Starting", "Preparing the instances for training")]


def test_jobs_that_fit_beside_each_other_run_together(platform: DrivenPlatform) -> None:
    platform.create("one", instance_type="ml.m5.large")
    platform.create("two", instance_type="ml.m5.large")
    platform.settle()
    assert [spec.job_name for spec in platform.cluster.started] == ["one", "two"]


def test_a_job_that_can_never_fit_fails_with_what_is_missing(platform: DrivenPlatform) -> None:
    platform.create("huge", count=50)
    platform.create("small")
    platform.settle()
    job = platform.job("huge")
    assert (job.status, job.stage) == ("Failed", "settled")
    assert job.failure_reason is not None
    assert job.failure_reason.startswith(
        "CapacityError: Unable to provision requested ML compute capacity. "
        "Please retry using a different ML instance type."
    )
    assert "this machine has 4 CPUs, 16.0 GiB of memory and 0 GPUs" in job.failure_reason
    assert len(platform.hosts("small")) == 1


def test_hosts_of_a_job_start_training_together(platform: DrivenPlatform) -> None:
    one, two = platform.start("job", count=2)
    assert [spec.host for spec in platform.cluster.started] == ["algo-1", "algo-2"]
    assert [peer.name for peer in one.spec.peers] == ["algo-1", "algo-2"]
    one.reach(Phase.READY)
    platform.settle()
    assert not one.report().start
    two.reach(Phase.READY)
    platform.settle()
    assert one.report().start
    assert two.report().start


def test_the_first_host_merges_when_the_others_have_ended_well(platform: DrivenPlatform) -> None:
    one, two = platform.start("job", count=2)
    one.reach(Phase.UPLOADING)
    two.reach(Phase.UPLOADING)
    platform.settle()
    assert not one.report().merge
    two.end("Completed")
    platform.settle()
    assert one.report().merge
    assert platform.job("job").status == "InProgress"
    platform.leave(two)
    platform.finish(one, model_artifact="s3://bucket/out/job/output/model.tar.gz")
    assert platform.job("job").status == "Completed"


def test_one_hosts_failure_ends_the_others(platform: DrivenPlatform) -> None:
    one, two = platform.start("job", count=2)
    one.reach(Phase.TRAINING)
    two.reach(Phase.TRAINING)
    two.end("ScriptFailed", exit_code=7, failure_text="diverged")
    platform.settle()
    assert one.report().wanted == "abort"
    assert platform.job("job").status == "InProgress"
    platform.leave(two)
    platform.finish(one, "Stopped")
    job = platform.job("job")
    assert job.status == "Failed"
    assert job.failure_reason == "AlgorithmError: diverged, exit code: 7. On algo-2."


def test_a_host_that_does_not_abort_is_killed(platform: DrivenPlatform) -> None:
    one, two = platform.start("job", count=2)
    one.reach(Phase.TRAINING)
    two.reach(Phase.TRAINING)
    two.end("ScriptFailed", exit_code=7)
    platform.settle()
    with platform.database.transaction() as session:
        for host in session.get_one(TrainingJob, platform.job("job").id).hosts:
            if host.aborted_time:
                host.aborted_time -= dt.timedelta(minutes=1)
    platform.leave(two)
    platform.settle()
    assert one.spec.host_id in platform.cluster.ended
    assert platform.job("job").status == "Failed"


def test_a_stop_reaches_the_host_and_keeps_the_artifact(platform: DrivenPlatform) -> None:
    (host,) = platform.start("job")
    host.reach(Phase.TRAINING)
    platform.settle()
    platform.stop("job")
    assert host.report().wanted == "stop"
    host.enter(Phase.UPLOADING)
    platform.settle()
    platform.finish(host, "Stopped", model_artifact="s3://bucket/out/job/output/model.tar.gz")
    job = platform.job("job")
    assert (job.status, job.secondary_status) == ("Stopped", "Stopped")
    assert job.model_artifact == "s3://bucket/out/job/output/model.tar.gz"
    assert [status for status, _ in platform.transitions("job")] == [
        "Starting",
        "Downloading",
        "Training",
        "Stopping",
        "Uploading",
        "Stopped",
    ]


def test_a_stop_in_the_queue_needs_no_host(platform: DrivenPlatform) -> None:
    (first,) = platform.start("first", instance_type=WHOLE_MACHINE)
    platform.create("second")
    platform.settle()
    platform.stop("second")
    platform.settle()
    assert platform.job("second").status == "Stopped"
    assert platform.hosts("second") == []
    platform.finish(first)


def test_a_job_that_runs_too_long_is_stopped_with_that_status(platform: DrivenPlatform) -> None:
    one, two = platform.start("job", count=2)
    one.reach(Phase.TRAINING)
    two.reach(Phase.TRAINING)
    one.end("MaxRuntimeExceeded")
    platform.settle()
    assert two.report().wanted == "stop"
    assert platform.job("job").status == "Stopping"
    platform.leave(one)
    platform.finish(two, "Stopped")
    job = platform.job("job")
    assert (job.status, job.secondary_status) == ("Stopped", "MaxRuntimeExceeded")
    assert platform.transitions("job")[-1][1] == "Training job runtime exceeded MaxRuntimeInSeconds provided"


def test_a_single_host_that_runs_too_long_stops_the_job(platform: DrivenPlatform) -> None:
    (host,) = platform.start("job")
    host.reach(Phase.TRAINING)
    platform.finish(host, "MaxRuntimeExceeded")
    job = platform.job("job")
    assert (job.status, job.secondary_status) == ("Stopped", "MaxRuntimeExceeded")


def test_a_job_waits_no_longer_than_it_may(platform: DrivenPlatform) -> None:
    (first,) = platform.start("first", instance_type=WHOLE_MACHINE)
    platform.create("pending", StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxPendingTimeInSeconds": 1800})
    platform.create("spot", StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120})
    platform.settle()
    for name in ("pending", "spot"):
        platform.age(name, 3600)
    platform.settle()
    assert platform.job("pending").status == "Stopped"
    assert platform.job("spot").secondary_status == "MaxWaitTimeExceeded"
    platform.finish(first)


def test_a_spot_job_is_stopped_when_its_wait_time_is_over(platform: DrivenPlatform) -> None:
    (host,) = platform.start("spot", StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120})
    host.reach(Phase.TRAINING)
    platform.settle()
    platform.age("spot", 3600)
    platform.settle()
    assert host.report().wanted == "stop"
    platform.finish(host, "Stopped")
    assert platform.job("spot").secondary_status == "MaxWaitTimeExceeded"


def test_a_lost_supervisor_fails_the_job(platform: DrivenPlatform) -> None:
    (host,) = platform.start("job")
    host.reach(Phase.TRAINING)
    platform.leave(host)
    platform.settle()
    job = platform.job("job")
    assert job.status == "Failed"
    assert job.failure_reason == (
        "InternalServerError: We encountered an internal error. Please try again. "
        "The host was lost: killed by the test."
    )


def test_a_lost_supervisor_is_retried_as_often_as_the_strategy_says(platform: DrivenPlatform) -> None:
    platform.start("job", RetryStrategy={"MaximumRetryAttempts": 1})
    platform.leave(platform.hosts("job")[0])
    platform.settle()
    first, second = platform.hosts("job")
    assert second.spec.attempt == 2
    assert second.spec.host_id != first.spec.host_id
    assert platform.transitions("job")[1:] == [
        ("Restarting", "Retrying after an internal error, attempt 2 of 2: The host was lost: killed by the test."),
        ("Starting", "Preparing the instances for training"),
    ]
    assert platform.cluster.cleaned == [first.spec.host_id]
    second.reach(Phase.TRAINING)
    platform.settle()
    assert platform.transitions("job")[-1][0] == "Training"
    platform.leave(second)
    platform.settle()
    assert platform.job("job").status == "Failed"
    assert len(platform.hosts("job")) == 2


def test_a_script_that_fails_is_not_retried(platform: DrivenPlatform) -> None:
    (host,) = platform.start("job", RetryStrategy={"MaximumRetryAttempts": 3})
    host.reach(Phase.TRAINING)
    platform.finish(host, "ScriptFailed", exit_code=1)
    assert platform.job("job").status == "Failed"


def test_a_host_that_cannot_be_started_fails_the_job_with_the_reason(platform: DrivenPlatform) -> None:
    platform.cluster.refuse = OSError(28, "No space left on device")
    platform.create("job")
    platform.settle()
    job = platform.job("job")
    assert job.status == "Failed"
    assert "could not be started: [Errno 28] No space left on device" in (job.failure_reason or "")


def test_a_job_whose_places_others_have_taken_waits_for_them_and_that_is_no_attempt(platform: DrivenPlatform) -> None:
    platform.cluster.refuse = PlacesTaken("others hold them")
    platform.create("job", count=2)
    (due,) = platform.controller.due()
    platform.controller.step(due)
    job = platform.job("job")
    assert (job.stage, job.attempt, job.hosts) == ("queued", 0, [])
    assert platform.transitions("job")[-1] == ("Pending", "Training job waiting for capacity: others hold them")
    platform.cluster.refuse = None
    platform.settle()
    assert platform.job("job").attempt == 1
    assert [host.spec.host for host in platform.hosts("job")] == ["algo-1", "algo-2"]


def test_a_job_whose_places_others_have_taken_can_be_stopped(platform: DrivenPlatform) -> None:
    platform.cluster.refuse = PlacesTaken("others hold them")
    platform.create("job")
    (due,) = platform.controller.due()
    platform.controller.step(due)
    platform.stop("job")
    platform.settle()
    assert platform.job("job").status == "Stopped"


def test_a_job_that_has_a_host_running_does_not_go_back_into_the_queue(platform: DrivenPlatform) -> None:
    class SecondFails(PlayedCluster):
        def start(self, spec: HostSpec, placement: Placement, together: tuple[Placement, ...] = ()) -> str:
            if spec.host == "algo-2":
                raise PlacesTaken("its node has left")
            return super().start(spec, placement, together)

    platform.cluster = SecondFails()
    platform.controller = platform.new_controller()
    platform.create("job", count=2)
    platform.settle()
    (first,) = platform.hosts("job")
    assert first.report().wanted == "abort"
    platform.finish(first, "Stopped")
    assert platform.job("job").status == "Failed"
    assert "could not be started: its node has left" in (platform.job("job").failure_reason or "")


def test_a_host_elsewhere_reaches_the_store_by_way_of_the_server_with_its_jobs_own_keys(
    platform: DrivenPlatform,
) -> None:
    platform.settings = platform.settings.model_copy(update={"hosts_url": "http://10.0.0.1:7700"})
    platform.store = None
    platform.controller = platform.new_controller()
    (host,) = platform.start("job")
    spec = host.spec
    assert spec.store.endpoint == spec.environment["AWS_ENDPOINT_URL"] == "http://10.0.0.1:7700"
    assert spec.report_url == f"http://10.0.0.1:7700/_clary/hosts/{spec.host_id}/report"
    secret, caller = platform.credentials.lookup(spec.store.access_key, spec.store.session_token)
    assert (secret, caller.job_name) == (spec.store.secret_key, "job")


def test_jobs_that_ask_for_parts_of_a_gpu_share_it(platform: DrivenPlatform) -> None:
    platform.cluster.total = Resources(cpus=4, memory_bytes=16 * GIB, gpus=1)
    for name in ("first", "second"):
        (host,) = platform.start(name, instance_type="ml.m5.large", Environment={"CLARY_GPUS": "0.5"})
        assert host.spec.limits.gpu_indices == (0,)
        assert host.spec.environment["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_what_a_dead_host_reported_last_counts(platform: DrivenPlatform) -> None:
    (host,) = platform.start("job")
    host.reach(Phase.UPLOADING)
    host.end("Completed")
    platform.leave(host)
    platform.settle()
    assert platform.job("job").status == "Completed"


def test_a_job_that_another_controller_holds_is_left_to_it(platform: DrivenPlatform) -> None:
    platform.create("job")
    (lease,) = claim(platform.database, TrainingJob, TrainingJob.name == "job")
    platform.controller.step(platform.job("job").id)
    assert platform.hosts("job") == []
    lease.release(platform.database)
    platform.settle()
    assert len(platform.hosts("job")) == 1


def test_a_controller_that_died_before_recording_a_start_starts_nothing_twice(platform: DrivenPlatform) -> None:
    (host,) = platform.start("job")
    with platform.database.transaction() as session:
        session.get_one(TrainingJob, platform.job("job").id).hosts[0].handle = None
    platform.controller = platform.new_controller()
    platform.settle()
    assert len(platform.cluster.started) == 1
    assert host.reach(Phase.TRAINING).wanted == "run"
    platform.finish(host)
    assert platform.job("job").status == "Completed"


def test_a_controller_that_died_before_cleaning_cleans(platform: DrivenPlatform) -> None:
    (host,) = platform.start("job")
    host.reach(Phase.UPLOADING)
    host.end("Completed")
    platform.leave(host)
    job_id = platform.job("job").id
    original, platform.cluster.clean = platform.cluster.clean, _dies
    try:
        platform.controller.step(job_id)
    except RuntimeError:
        pass
    finally:
        platform.cluster.clean = original
    assert platform.job("job").status == "Completed"
    assert platform.job("job").stage == "releasing"
    platform.controller = platform.new_controller()
    platform.settle()
    assert platform.job("job").stage == "settled"
    assert platform.cluster.cleaned == [host.spec.host_id]


def _dies(_handle: str) -> None:
    raise RuntimeError("kill -9")


def test_instance_groups_give_each_host_its_type_and_channels(platform: DrivenPlatform) -> None:
    groups = [
        {"InstanceGroupName": "loaders", "InstanceType": "ml.c5.xlarge", "InstanceCount": 1},
        {"InstanceGroupName": "trainers", "InstanceType": "ml.m5.large", "InstanceCount": 2},
    ]
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/a", "InstanceGroupNames": ["loaders"]}
    hosts = platform.start(
        "job",
        ResourceConfig={"InstanceGroups": groups},
        InputDataConfig=[{"ChannelName": "train", "DataSource": {"S3DataSource": source}}],
    )
    assert [(host.spec.host, len(host.spec.channels)) for host in hosts] == [
        ("algo-1", 1),
        ("algo-2", 0),
        ("algo-3", 0),
    ]
    assert [peer.instance_group for peer in hosts[0].spec.peers] == ["loaders", "trainers", "trainers"]
    assert [peer.instance_type for peer in hosts[0].spec.peers] == ["ml.c5.xlarge", "ml.m5.large", "ml.m5.large"]
